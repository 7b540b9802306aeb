import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookup_tables.architecture import Architecture
from lookup_tables.errors import ArchitectureError, NetworkError
from lookup_tables.network import Block, Layer, Network, network_names
from tests.toys import chain

RESNET20 = Network.load("resnet20")


@pytest.mark.parametrize("name", network_names())
def test_a_shipped_network_survives_being_written_and_read(name, tmp_path):
    network = Network.load(name)
    network.save(tmp_path / "net.json")
    assert Network.load(tmp_path / "net.json") == network


def test_mobilenet_v1_has_the_published_multiply_accumulates():
    network = Network.load("mobilenet_v1")
    macs = network.macs(network.widths(network.dense))
    assert macs == pytest.approx(569e6, rel=0.001)  # Howard et al. 2017, table 4


@given(st.data())
def test_the_specs_of_any_architecture_fit_together(data):
    widths = {g.name: data.draw(st.integers(1, g.width), g.name) for g in RESNET20.groups}
    removed = data.draw(st.lists(st.sampled_from([b.name for b in RESNET20.blocks]), unique=True))
    architecture = Architecture(widths=widths, removed=tuple(removed))
    specs = {layer.name: spec for layer, spec in RESNET20.layer_specs(architecture)}
    for layer, spec in RESNET20.layer_specs(architecture):
        for source in layer.inputs:
            if source != "input":
                assert specs[source].out_channels == spec.in_channels
        if layer.residual:
            assert specs[layer.residual].out_channels == spec.out_channels
            assert specs[layer.residual].out_size == spec.out_size


@given(st.data())
def test_macs_of_an_architecture_are_those_of_its_specs(data):
    widths = {g.name: data.draw(st.sampled_from(g.choices), g.name) for g in RESNET20.groups}
    specs = RESNET20.layer_specs(Architecture(widths=widths))
    assert RESNET20.macs(widths) == sum(spec.macs for _, spec in specs)


def test_a_removed_block_takes_its_layers_along_and_its_readers_read_its_input():
    architecture = Architecture(removed=("layer1.1",))
    layers = {layer.name: layer for layer in RESNET20.kept_layers(architecture)}
    assert "layer1.1.conv1" not in layers
    assert layers["layer1.2.conv1"].inputs == ("layer1.0.conv2",)
    assert layers["layer1.2.conv2"].residual == "layer1.0.conv2"


def test_removing_neighbouring_blocks_rewires_through_both():
    architecture = Architecture(removed=("layer1.0", "layer1.1", "layer1.2"))
    layers = {layer.name: layer for layer in RESNET20.kept_layers(architecture)}
    assert layers["layer2.0.conv1"].inputs == ("conv1",)


def test_an_unknown_group_is_named_with_the_known_ones():
    with pytest.raises(ArchitectureError, match=r"no group 'g9'; it has g0, g1"):
        chain(8, 8, 8).check(Architecture(widths={"g9": 4}))


@pytest.mark.parametrize("width", [0, -3, 9])
def test_a_width_outside_the_group_is_refused(width):
    with pytest.raises(ArchitectureError, match=rf"group g0: width {width} is outside 1 … 8"):
        chain(8, 8).check(Architecture(widths={"g0": width}))


def test_an_unknown_block_is_refused():
    with pytest.raises(ArchitectureError, match="no removable block 'layer9'"):
        RESNET20.check(Architecture(removed=("layer9",)))


def test_an_architecture_that_removes_everything_is_refused():
    pool = Layer(name="pool", kind="max_pool", inputs=("input",))
    inner = [
        Layer(
            name=n, kind="conv", inputs=(i,), channels=3, kernel=(3, 3), padding=(1, 1), residual=r
        )
        for n, i, r in (("a", "pool", None), ("b", "a", "pool"))
    ]
    block = Block(name="all", input="pool", output="b", layers=("a", "b"))
    network = Network(
        name="n", input_shape=(3, 8, 8), groups=(), blocks=(block,), layers=(pool, *inner)
    )
    with pytest.raises(ArchitectureError, match="removes every layer with weights"):
        network.check(Architecture(removed=("all",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not an architecture"),
        ('{"widths": {"g0": "many"}}', r"widths\.g0"),
        ('{"breadths": {}}', "breadths"),
    ],
)
def test_a_broken_architecture_file_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ArchitectureError, match=message):
        Architecture.load(path)


def test_a_missing_architecture_file_is_named(tmp_path):
    with pytest.raises(ArchitectureError, match="no such architecture file"):
        Architecture.load(tmp_path / "none.json")


def test_an_unknown_network_names_the_known_ones_and_the_way_to_ones_own():
    with pytest.raises(NetworkError, match=r"resnet56.*pruner trace"):
        Network.load("resnet57")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["layers"][1].update(inputs=["nowhere"]), "reads nowhere"),
        (lambda d: d["layers"][1].update(group="g7"), "no known group"),
        (lambda d: d["groups"][0].update(choices=[4, 2, 8]), "choices must ascend"),
        (lambda d: d["groups"][0].update(choices=[2, 4]), "must end at 8"),
        (lambda d: d["layers"].append(d["layers"][0]), "layer named twice"),
        (lambda d: d.update(format=2, outputs=[]), "format 2 is newer than the 1"),
        (lambda d: d["layers"][0].update(channels=5), "its group"),
    ],
)
def test_an_inconsistent_network_file_is_refused(tmp_path, change, message):
    path = tmp_path / "net.json"
    chain(8, 8, 8).save(path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(NetworkError, match=message):
        Network.load(path)


def test_the_fingerprint_ignores_name_and_menu_but_not_layers():
    network = chain(8, 8, 8)
    renamed = network.model_copy(update={"name": "other"})
    assert renamed.fingerprint == network.fingerprint
    assert chain(8, 8, 16).fingerprint != network.fingerprint


def test_another_menu_changes_choices_and_nothing_else():
    network = Network.load("resnet20")
    menu = {group.name: (group.width // 2, group.width) for group in network.groups}
    network.group  # noqa: B018 - derived from the old menu, and must not be kept
    other = network.with_menu(menu)
    assert {g.name: g.choices for g in other.groups} == menu
    assert other.group["conv1"].choices == (8, 16)
    assert other.fingerprint == network.fingerprint
    assert other.layers == network.layers


def with_head(network, **changes):
    data = network.model_dump()
    data["layers"][-1].update(changes)
    return Network.model_validate(data)


def test_a_network_prices_one_that_is_alike_but_for_fewer_outputs():
    known = chain(8, 16, 8)
    assert known.tells_more_apart(with_head(known, channels=3))
    assert not known.tells_more_apart(known)
    assert not known.tells_more_apart(with_head(known, channels=9))
    assert not known.tells_more_apart(with_head(known, channels=3, kernel=(1, 1)))
    assert not known.tells_more_apart(chain(8, 12, 8))
    assert not known.tells_more_apart(chain(8, 16))
    assert not chain(8, 16).tells_more_apart(known)


@pytest.mark.parametrize("name", ["../../evil", "a/b", "a\\b", ".hidden", "", "a\nb", "é" * 150])
def test_a_name_that_leaves_its_folder_is_refused(tmp_path, name):
    data = chain(8, 8).model_dump() | {"name": name}
    (tmp_path / "net.json").write_text(json.dumps(data))
    with pytest.raises(NetworkError, match="name"):
        Network.load(tmp_path / "net.json")


@pytest.mark.parametrize("name", ["my net", "net-2.1", "réseau"])
def test_a_name_of_ones_own_is_read(tmp_path, name):
    chain(8, 8).model_copy(update={"name": name}).save(tmp_path / "net.json")
    assert Network.load(tmp_path / "net.json").name == name


def test_a_network_beside_rows_is_called_like_its_file(tmp_path):
    chain(8, 8).save(tmp_path / "chain.network.json")
    assert Network.load(tmp_path / "chain.network.json").name == "chain"
    (tmp_path / "chain.network.json").rename(tmp_path / "other.network.json")
    assert Network.load(tmp_path / "other.network.json").name == "chain"  # no rows: a user's file
    (tmp_path / "other.jsonl").touch()
    with pytest.raises(NetworkError, match="holds a network called 'chain', not 'other'"):
        Network.load(tmp_path / "other.network.json")


class LaterLayer(Layer):
    """A layer as a later version might know it."""

    tone: int = 0


class LaterNetwork(Network):
    layers: tuple[LaterLayer, ...]


@pytest.mark.parametrize("name", network_names())
def test_a_field_that_is_added_changes_no_fingerprint_unless_it_is_used(name):
    now = Network.load(name)
    later = LaterNetwork.model_validate(now.model_dump())
    assert later.fingerprint == now.fingerprint
    data = now.model_dump()
    data["layers"][0]["tone"] = 1
    assert LaterNetwork.model_validate(data).fingerprint != now.fingerprint


def test_an_architecture_is_the_same_in_whatever_order_it_was_written():
    one = Architecture(widths={"a": 1, "b": 2}, removed=("x", "y"), density={"l": 0.5, "m": 1.0})
    other = Architecture(widths={"b": 2, "a": 1}, removed=("y", "x"), density={"m": 1.0, "l": 0.5})
    assert one == other
    assert len({one, other, Architecture()}) == 2
    assert one != Architecture(widths={"a": 1, "b": 2})
    assert one.model_copy(update={"removed": ()}) != one
