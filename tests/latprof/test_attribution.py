import pytest

from latprof.attribution import UnmeasuredLayer, attribute
from latprof.cpu import NodeTime
from tests.toys import chain

LAYERS = chain(8, 8, 8).layer_specs(chain(8, 8, 8).dense)


def nodes(*pairs):
    return [NodeTime(name, op, seconds) for name, op, seconds in pairs]


def test_layout_changes_go_to_the_layer_they_prepare_or_follow():
    found = attribute(
        nodes(
            ("ReorderInput_1", "ReorderInput", 1.0),
            ("conv0@activation_nchwc", "Conv", 2.0),
            ("ReorderOutput_7", "ReorderOutput", 4.0),
            ("conv1@conv_nchwc", "Conv", 8.0),
            ("conv2@conv", "FusedConv", 16.0),
            ("output", "Identity", 32.0),
        ),
        LAYERS,
    )
    assert [entry.seconds for entry in found] == [7.0, 8.0, 48.0]
    assert [entry.nodes for entry in found] == [3, 1, 2]


def test_a_layer_without_a_node_is_an_error_not_a_zero():
    with pytest.raises(UnmeasuredLayer, match="no runtime node belongs to layer conv1"):
        attribute(nodes(("conv0@conv", "Conv", 1.0), ("conv2@conv", "Conv", 1.0)), LAYERS)
