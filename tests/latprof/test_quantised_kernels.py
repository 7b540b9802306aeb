"""The operators in INT8: against integers reckoned one by one, and against ONNX Runtime's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from latprof.kernels import DOMAIN, CannotConvert
from latprof.kernels.check import drop_taps, run
from latprof.kernels.check_quantised import QuantisedCase, expected, is_exact, random_case
from latprof.kernels.convert import convert, densities
from latprof.kernels.encode import INPUTS, encode_bytes
from latprof.kernels.quantised import Scale
from latprof.onnx.quantise import quantise
from latprof.onnx.writer import build as written
from latprof.onnx.writer import random_input
from lookup_tables.network import Network


@pytest.fixture(scope="module", autouse=True)
def _built(kernels):
    return kernels


# -- layers ----------------------------------------------------------------------------------------


def test_a_thousand_random_layers_are_bit_exact():
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        case = random_case(rng)
        assert is_exact(case, rng, threads=1 + seed % 2), f"seed {seed}: {case}"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_random_layer_gives_what_plain_integers_give(seed):
    rng = np.random.default_rng(seed)
    assert is_exact(random_case(rng), rng)


def one_layer(weight, activation="", added=None, size=(2, 2), pads=(0, 0, 0, 0), **changes):
    usual = {
        "weight": weight, "scale": np.full(len(weight), 0.5, np.float32),
        "bias": np.zeros(len(weight), np.int32), "groups": 1, "stride": (1, 1), "pads": pads,
        "dilation": (1, 1), "size": size, "batch": 1, "activation": activation,
        "read": Scale(0.25, 10), "added": added, "before": Scale(1.0, 100),
        "written": Scale(1.0, 100),
    }  # fmt: skip
    return QuantisedCase(**usual | changes)


def test_a_small_layer_worked_by_hand():
    weight = np.array([[[[2]], [[3]]]], np.int8)  # two inputs, one output
    case = one_layer(weight, size=(1, 2))
    x = np.array([[[[1.0, -2.0]], [[0.25, 50.0]]]], np.float32)  # steps 4, -8 and 1, 200
    # sums 11 and 584 → by 0.25 · 0.5: 1.375 and 73 → 1 and 73 steps of 1.0
    assert run(convert(case.model()), {"input": x}).tolist() == [[[[1.0, 73.0]]]]


def test_ties_go_to_the_even_number_whatever_the_zero():
    weight = np.array([[[[1]]]], np.int8)
    for zero in (100, 101):
        case = one_layer(
            weight, size=(1, 4), read=Scale(1.0, 10), scale=np.array([0.5], np.float32),
            written=Scale(1.0, zero),
        )  # fmt: skip
        x = np.array([[[[1.0, 3.0, 5.0, -3.0]]]], np.float32)  # 0.5, 1.5, 2.5, -1.5
        assert run(convert(case.model()), {"input": x}).tolist() == [[[[0.0, 2.0, 2.0, -2.0]]]]


def test_outputs_beyond_the_scale_stay_at_its_ends():
    weight = np.array([[[[127]]]], np.int8)
    x = np.array([[[[50.0, -50.0]]]], np.float32)
    assert run(convert(one_layer(weight, size=(1, 2)).model()), {"input": x}).tolist() == [
        [[[155.0, -100.0]]]
    ]


def test_a_border_stands_for_zero():
    """Padding adds nothing, although the byte for 0 is 10."""
    weight = np.ones((1, 1, 3, 3), np.int8)
    case = one_layer(weight, size=(1, 1), pads=(1, 1, 1, 1))
    assert run(convert(case.model()), {"input": np.full((1, 1, 1, 1), 2.0, np.float32)}) == 1.0


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_a_layer_whose_inputs_outgrow_the_first_cache_is_bit_exact(kernel, stride, threads):
    rng = np.random.default_rng(kernel + stride)
    weight = rng.integers(-127, 128, (40, 260, kernel, kernel)).astype(np.int8)
    drop_taps(weight, 0.1, 16, rng)
    case = one_layer(
        weight, "Relu", Scale(0.02, 120), (28, 7), (kernel // 2,) * 4, stride=(stride, stride),
        scale=rng.uniform(0.01, 0.02, 40).astype(np.float32), batch=2,
    )  # fmt: skip
    assert is_exact(case, rng, threads)


@pytest.mark.parametrize("width", [1, 2, 3, 8, 9, 16, 17])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_rows_of_any_length_are_bit_exact(width, stride):
    rng = np.random.default_rng(width)
    case = one_layer(
        rng.integers(-127, 128, (33, 1, 3, 3)).astype(np.int8), "Relu", size=(4, width),
        pads=(1, 1, 1, 1), groups=33, stride=(stride, stride), batch=3,
        scale=rng.uniform(0.01, 0.02, 33).astype(np.float32),
    )  # fmt: skip
    assert is_exact(case, rng)


def test_what_the_runtime_computes_alone_is_the_same():
    """Without a residual and without a curve nothing is rounded but once."""
    rng = np.random.default_rng(5)
    for seed in range(30):
        case = random_case(np.random.default_rng(seed))
        if case.added or case.activation not in ("", "Relu"):
            continue
        feed = case.feed(rng)
        assert np.array_equal(run(case.model(), feed), expected(case, feed)), f"seed {seed}"


# -- taps ------------------------------------------------------------------------------------------


@given(
    st.integers(1, 40), st.integers(1, 20), st.integers(1, 3), st.booleans(),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_taps_hold_every_weight_that_is_not_0(outputs, inputs, kernel, planar, seed):
    rng = np.random.default_rng(seed)
    weight = rng.integers(-2, 3, (outputs, inputs, kernel, kernel)).astype(np.int8)
    drop_taps(weight, 0.5, 16, rng)
    kept = encode_bytes(weight, 1, planar)
    again = np.zeros(
        (-(-outputs // 16) * 16, -(-inputs // INPUTS) * INPUTS, kernel * kernel), np.int8
    )
    for block in range(len(kept.starts) - 1):
        for i in range(kept.starts[block], kept.starts[block + 1]):
            four, place = divmod(int(kept.taps[i]), kernel * kernel)
            at = slice(16 * block, 16 * block + 16), slice(4 * four, 4 * four + 4), place
            assert kept.weights[i].any()
            again[at] = kept.weights[i]
    assert np.array_equal(again[:outputs, :inputs].reshape(weight.shape), weight)
    assert not again[outputs:].any()
    assert not again[:, inputs:].any()


# -- networks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["digits_resnet", "resnet20", "mobilenet_v1_32", "mobilenet_v2_32"]
)
def test_a_network_is_as_near_to_its_float_form_as_the_runtimes_own(name):
    """To a fifth: between an addition's two parts the operators do not round."""
    network = Network.load(name)
    plain = written(network, network.dense, batch=16)
    model = quantise(plain, network.layers[0].name)
    made = convert(model)
    assert all(node.domain == DOMAIN for node in made.graph.node if "Conv" in node.op_type)
    feed = {"input": random_input(network, batch=16)}
    exact, theirs, ours = (run(each, feed) for each in (plain, model, made))
    assert np.std(ours - exact) <= 1.2 * np.std(theirs - exact)
    assert np.corrcoef(ours.ravel(), exact.ravel())[0, 1] > 0.9


def test_taps_of_four_inputs_are_left_out_and_counted():
    weight = np.ones((16, 8, 1, 1), np.int8)
    weight[:, 4:] = 0
    assert dict(densities(convert(one_layer(weight).model()))) == {"conv": 0.5}


def test_a_quantised_network_knows_one_width_of_blocks():
    with pytest.raises(CannotConvert, match="block 8: a quantised network runs in blocks of 16"):
        convert(one_layer(np.ones((1, 1, 1, 1), np.int8)).model(), 8)


def test_a_convolution_without_scales_stays_as_it_was():
    case = one_layer(np.ones((4, 4, 1, 1), np.int8))
    model = case.model()
    plain = helper.make_node("Conv", [model.graph.output[0].name, "w"], ["last"], name="plain")
    model.graph.node.append(plain)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 4, 1, 1), np.float32), "w"))
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info("last", TensorProto.FLOAT, (1, 2, 2, 2))
    )
    made = convert(model)
    assert [node.op_type for node in made.graph.node] == [
        "QToBlocked", "QSparseConv", "QFromBlocked", "DequantizeLinear", "Conv",
    ]  # fmt: skip
    feed = case.feed(np.random.default_rng(0))
    assert np.array_equal(run(made, feed), run(model, feed))


def test_a_tensor_whose_bytes_are_read_stays_plain():
    model = one_layer(np.ones((4, 4, 1, 1), np.int8)).model()
    read = helper.make_node("Cast", ["conv/quantised"], ["steps"], to=TensorProto.FLOAT)
    model.graph.node.append(read)
    model.graph.output.append(
        helper.make_tensor_value_info("steps", TensorProto.FLOAT, (1, 4, 2, 2))
    )
    with pytest.raises(CannotConvert, match="no convolution of this model can be converted"):
        convert(model)


def test_a_branch_reads_what_operators_wrote():
    case = one_layer(np.ones((4, 4, 1, 1), np.int8))
    model = case.model()
    last = model.graph.output[0].name
    info = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, (1, 4, 2, 2))
    node = helper.make_node("Neg", [last], ["chosen"])
    branch = helper.make_graph([node], "branch", [], [info])
    model.graph.input.append(helper.make_tensor_value_info("turn", TensorProto.BOOL, ()))
    model.graph.node.append(
        helper.make_node("If", ["turn"], ["out"], then_branch=branch, else_branch=branch)
    )
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, (1, 4, 2, 2)))
    feed = case.feed(np.random.default_rng(0)) | {"turn": np.array(True)}
    made = convert(model)
    assert "QSparseConv" in {node.op_type for node in made.graph.node}
    assert np.array_equal(run(made, feed), run(model, feed))


def replaced(part, change):
    """The model with one of a convolution's constants changed."""

    def damage(model):
        tensor = next(t for t in model.graph.initializer if t.name.endswith(f"/{part}"))
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (replaced("weights", lambda w: w[:-1]), "weights has"),
        (replaced("taps", lambda t: t + 100), "tap 0 is 100"),
        (replaced("starts", lambda s: s[:-1]), "starts has 1 entries, expected 2"),
        (replaced("bias", lambda b: b[:5]), "bias has 5 entries"),
        (replaced("lookup", lambda t: np.zeros(7, np.uint8)), "lookup has 7 entries"),
    ],
)
def test_constants_that_do_not_fit_are_refused_when_the_session_opens(damage, said):
    model = convert(one_layer(np.ones((4, 8, 1, 1), np.int8)).model())
    damage(model)
    with pytest.raises(Exception, match=said):
        run(model, {"input": np.zeros((1, 8, 2, 2), np.float32)})
