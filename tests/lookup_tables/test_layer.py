import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from lookup_tables.layer import LayerSpec

specs = st.builds(
    LayerSpec,
    kind=st.sampled_from(["conv", "depthwise", "max_pool", "add"]),
    in_channels=st.integers(1, 512),
    out_channels=st.integers(1, 512),
    in_size=st.tuples(st.integers(8, 64), st.integers(8, 64)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    activation=st.sampled_from(["none", "relu"]),
    residual=st.booleans(),
)


@given(specs)
def test_a_spec_survives_being_written_and_read(spec):
    assert TypeAdapter(LayerSpec).validate_python(spec.to_json()) == spec


@given(specs)
def test_specs_of_one_family_differ_only_in_width(spec):
    other = LayerSpec(**{**spec.to_json(), "in_channels": 7, "out_channels": 9})
    assert other.family == spec.family


def test_a_3x3_convolution_of_stride_2_halves_the_size_and_counts_its_macs():
    spec = LayerSpec("conv", 16, 32, (32, 32), kernel=(3, 3), stride=(2, 2), padding=(1, 1))
    assert spec.out_size == (16, 16)
    assert spec.macs == 16 * 32 * 9 * 16 * 16


def test_a_depthwise_convolution_counts_one_filter_per_channel():
    spec = LayerSpec("depthwise", 32, 32, (8, 8), kernel=(3, 3), padding=(1, 1))
    assert spec.macs == 32 * 9 * 8 * 8


def test_glue_has_no_macs():
    assert LayerSpec("add", 16, 16, (8, 8)).macs == 0


def test_upsampling_multiplies_the_size():
    assert LayerSpec("upsample", 8, 8, (13, 13), stride=(2, 2)).out_size == (26, 26)


@pytest.mark.parametrize("field", ["in_channels", "out_channels"])
def test_a_layer_without_channels_is_refused(field):
    with pytest.raises(ValidationError, match=field):
        LayerSpec(
            **{"kind": "conv", "in_channels": 1, "out_channels": 1, "in_size": (8, 8), field: 0}
        )
