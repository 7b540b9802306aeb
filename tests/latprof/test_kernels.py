"""The block-sparse operators, run by the real runtime."""

import threading

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

from latprof.kernels import VERSION, CannotConvert, KernelsMissing, build, check, session
from latprof.kernels.convert import convert, densities
from latprof.kernels.encode import density, encode, memory_order, ungrouped
from latprof.onnx.writer import build as written
from latprof.onnx.writer import random_input
from lookup_tables.network import Network

ACTIVATIONS = {
    "": lambda x: x,
    "Relu": F.relu,
    "LeakyRelu": lambda x: F.leaky_relu(x, 0.1),
    "Sigmoid": torch.sigmoid,
    "HardSigmoid": lambda x: torch.clamp(x * 0.2 + 0.5, 0, 1),
    "HardSwish": F.hardswish,
}


@pytest.fixture(scope="module", autouse=True)
def _built(kernels):
    return kernels


def run(model, feed, threads=1):
    options = session.register(ort.SessionOptions())
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    content = model.SerializeToString()
    opened = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return opened.run(None, feed)


def by_torch(case, feed):
    x = torch.from_numpy(feed["input"])
    top, left, bottom, right = case.pads
    y = F.conv2d(
        F.pad(x, (left, right, top, bottom)), torch.from_numpy(case.weight),
        torch.from_numpy(case.bias), case.stride, 0, case.dilation, case.groups,
    )  # fmt: skip
    if case.residual:
        y = y + torch.from_numpy(feed["residual"])
    return ACTIVATIONS[case.activation](y).numpy()


# -- convolutions ----------------------------------------------------------------------------------


def test_a_thousand_random_layers_give_what_pytorch_gives():
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        case = check.random_case(rng)
        feed = case.feed(rng)
        expected = by_torch(case, feed)
        found = run(check.converted(case), feed, threads=1 + seed % 2)[0]
        scale = max(1.0, np.abs(expected).max())
        assert np.abs(found - expected).max() < 1e-4 * scale, f"seed {seed}: {case}"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_random_layer_gives_what_the_plain_runtime_gives(seed):
    rng = np.random.default_rng(seed)
    assert check.difference(check.random_case(rng), rng) < check.MOST_OFF


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "share"),
    [(1, 1, 1, 0.1), (1, 2, 1, 0.5), (3, 1, 1, 0.05), (3, 2, 1, 0.02), (3, 1, 2, 0.02)],
)
def test_a_layer_whose_inputs_outgrow_the_first_cache(kernel, stride, dilation, share, threads):
    rng = np.random.default_rng(kernel + stride + dilation)
    weight = rng.standard_normal((40, 66, kernel, kernel), dtype=np.float32)
    check.drop_taps(weight, share, 16, rng)
    pads = (dilation * (kernel // 2),) * 4
    case = check.Case(
        weight, np.zeros(40, np.float32), 1, (stride, stride), pads, (dilation, dilation),
        (29, 7), 3, "Relu", True, 16,
    )  # fmt: skip
    assert check.difference(case, rng, threads) < check.MOST_OFF


def test_a_small_convolution_worked_by_hand():
    weight = np.zeros((2, 1, 1, 2), np.float32)
    weight[:, 0, 0] = [[1, 0], [2, 0]]  # of the two taps the second is dropped
    case = check.Case(
        weight, np.array([10, 20], np.float32), 1, (1, 1), (0, 0, 0, 0), (1, 1), (1, 3), 1, "",
        False, 4,
    )  # fmt: skip
    model = check.converted(case)
    found = run(model, {"input": np.array([[[[1, 2, 3]]]], np.float32)})[0]
    assert found.tolist() == [[[[11, 12]], [[22, 24]]]]
    assert dict(densities(model)) == {"conv": 0.5}


def test_a_nan_stays_a_nan_behind_every_activation():
    for activation in ("Relu", "LeakyRelu", "Sigmoid", "HardSwish"):
        case = check.Case(
            np.ones((4, 4, 1, 1), np.float32), np.zeros(4, np.float32), 1, (1, 1), (0, 0, 0, 0),
            (1, 1), (2, 2), 1, activation, False, 4,
        )  # fmt: skip
        x = np.ones((1, 4, 2, 2), np.float32)
        x[0, 0, 0, 0] = np.nan
        found = run(check.converted(case), {"input": x})[0]
        assert np.isnan(found[:, :, 0, 0]).all(), activation
        assert not np.isnan(found[:, :, 1, 1]).any()


def test_a_layer_without_a_single_weight_gives_its_bias():
    case = check.Case(
        np.zeros((17, 3, 3, 3), np.float32), np.arange(17, dtype=np.float32), 1, (1, 1),
        (1, 1, 1, 1), (1, 1), (5, 5), 2, "", False, 16,
    )  # fmt: skip
    found = run(check.converted(case), case.feed(np.random.default_rng(0)))[0]
    assert (found == np.arange(17).reshape(1, 17, 1, 1)).all()


# -- networks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["resnet20", "mobilenet_v2_32", "vgg16_32", "resnet50_32", "digits_resnet"]
)
@pytest.mark.parametrize("block", [16, 8])
def test_a_whole_network_gives_what_it_gives_in_the_plain_runtime(name, block):
    network = Network.load(name)
    model = thinned(written(network, network.dense), 0.4, block)
    feed = {"input": random_input(network)}
    plain, sparse = (run(each, feed) for each in (model, convert(model, block)))
    for a, b in zip(plain, sparse, strict=True):
        assert np.abs(a - b).max() < 1e-4 * np.abs(a).max()


def test_a_detector_with_joins_and_upsampling_gives_what_it_gives_in_the_plain_runtime():
    rng = np.random.default_rng(0)
    model = branches(rng, leaving=20, joining=13)
    feed = {"input": rng.standard_normal((2, 3, 8, 8), dtype=np.float32)}
    converted = convert(model, 8)
    used = {node.op_type for node in converted.graph.node}
    assert {"Concat", "Upsample", "Pool", "Combine", "SparseConv", "DepthwiseConv"} <= used
    for a, b in zip(run(model, feed), run(converted, feed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([4, 8, 16]), st.integers(0, 99))
def test_channels_that_fill_no_block_are_joined_all_the_same(leaving, joining, block, seed):
    rng = np.random.default_rng(seed)
    model = branches(rng, leaving, joining)
    feed = {"input": rng.standard_normal((2, 3, 8, 8), dtype=np.float32)}
    for a, b in zip(run(model, feed), run(convert(model, block), feed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_nodes_that_are_to_stay_plain_stay_and_the_answer_is_the_same():
    network = Network.load("resnet20")
    model = written(network, network.dense)
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    mixed = convert(model, plain=convolutions[:5])
    kinds = [node.op_type for node in mixed.graph.node]
    assert kinds.count("Conv") == 5
    assert kinds.count("SparseConv") == len(convolutions) - 5
    feed = {"input": random_input(network)}
    np.testing.assert_allclose(run(model, feed)[0], run(mixed, feed)[0], rtol=1e-3, atol=1e-4)


def test_an_open_batch_and_several_threads_at_once_give_what_one_run_gives():
    network = Network.load("resnet20")
    model = written(network, network.dense)
    for entry in (*model.graph.input, *model.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_param = "batch"
    options = session.register(ort.SessionOptions())
    content = convert(thinned(model, 0.5, 16)).SerializeToString()
    opened = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = [rng.standard_normal((n, 3, 32, 32), dtype=np.float32) for n in (1, 2, 5, 3)]
    alone = [np.concatenate([opened.run(None, {"input": x[None]})[0] for x in f]) for f in feeds]
    together: list = [None] * len(feeds)

    def work(i):
        for _ in range(3):
            together[i] = opened.run(None, {"input": feeds[i]})[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(feeds))]
    [each.start() for each in threads], [each.join() for each in threads]
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_a_model_was_made_for_stands_in_its_metadata():
    network = Network.load("resnet20")
    converted = convert(written(network, network.dense), 8)
    told = {entry.key: entry.value for entry in converted.metadata_props}
    assert told["latprof.block_sparse.block"] == "8"
    assert told["latprof.block_sparse.opset"] == "1"


def small(nodes, outputs, weights=(), shapes=None, functions=()):
    """A model of these nodes; `input` is 2 images of 3 channels, 8 × 8."""
    shapes = {"input": (2, 3, 8, 8)} | (shapes or {})
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    tensors = [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in weights]
    graph = helper.make_graph(nodes, "small", given, outs, tensors)
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def same_answers(model, block=4):
    """Both runtimes' answers agree; the operators' nodes, in their order."""
    rng = np.random.default_rng(0)
    feed = {
        entry.name: rng.standard_normal(
            [d.dim_value for d in entry.type.tensor_type.shape.dim], dtype=np.float32
        )
        for entry in model.graph.input
    }
    converted = convert(model, block)
    for a, b in zip(run(model, feed), run(converted, feed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    return [node.op_type for node in converted.graph.node]


node = helper.make_node
RNG = np.random.default_rng(1)
FIRST = node("Conv", ["input", "w"], ["c"], "first", pads=[1, 1, 1, 1])
W = ("w", RNG.standard_normal((6, 3, 3, 3)))


@pytest.mark.parametrize("after", ["Relu", "Sigmoid", "HardSwish"])
@pytest.mark.parametrize(
    "middle",
    [
        node("MaxPool", ["c"], ["m"], "middle", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["c"], ["m"], "middle"),
        node("Concat", ["c", "c"], ["m"], "middle", axis=1),
        node("Relu", ["c"], ["m"], "middle"),
    ],
    ids=lambda each: each.op_type,
)
def test_an_activation_behind_any_operator_is_kept(middle, after):
    second = node("Conv", ["c", "v"], ["d"], "second")  # so that the first keeps its output
    nodes = [FIRST, second, middle, node(after, ["m"], ["y"], "after")]
    same_answers(small(nodes, ["y", "d"], [W, ("v", RNG.standard_normal((2, 6, 1, 1)))]))


def test_one_activation_behind_another_is_kept():
    nodes = [
        FIRST, node("Relu", ["c"], ["r"], "relu"), node("Clip", ["r", "", "six"], ["y"], "clip"),
        node("Conv", ["c", "v"], ["d"], "second"),
    ]  # fmt: skip
    weights = [W, ("v", RNG.standard_normal((2, 6, 1, 1))), ("six", 0.6)]
    same_answers(small(nodes, ["y", "d"], weights))


def test_constants_are_joined_as_the_file_says():
    nodes = [FIRST, node("Concat", ["c", "k"], ["j"], "join", axis=1),
             node("Conv", ["j", "v"], ["y"], "second")]  # fmt: skip
    weights = [
        W,
        ("k", RNG.standard_normal((2, 2, 8, 8))),
        ("v", RNG.standard_normal((5, 8, 1, 1))),
    ]
    same_answers(small(nodes, ["y"], weights))


@pytest.mark.parametrize("scale", [2.0, 2.1])
def test_only_whole_factors_repeat_pixels(scale):
    resize = node("Resize", ["c", "", "s"], ["y"], "up", mode="nearest",
                  coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    used = same_answers(small([FIRST, resize], ["y"], [W, ("s", [1, 1, scale, scale])]))
    assert ("Upsample" in used) == (scale == 2.0)


def test_a_constant_of_one_image_is_added_to_all_images():
    nodes = [FIRST, node("Add", ["c", "k"], ["y"], "add")]
    used = same_answers(small(nodes, ["y"], [W, ("k", RNG.standard_normal((1, 6, 8, 8)))]))
    assert "Add" in used


def test_the_image_itself_may_be_added_to_what_reads_it():
    nodes = [node("Conv", ["input", "v"], ["c"], "first", pads=[1, 1, 1, 1]),
             node("Add", ["c", "input"], ["y"], "add")]  # fmt: skip
    same_answers(small(nodes, ["y"], [("v", RNG.standard_normal((3, 3, 3, 3)))]))


def test_what_only_a_branch_reads_is_left_to_it():
    branches = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        inner = [node(op, ["c"], ["i"]), node("Mul", ["i", "two"], [name])]
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        branches[name] = helper.make_graph(inner, name, [], [out])
    nodes = [
        FIRST, node("ReduceSum", ["c"], ["s"], keepdims=0), node("Greater", ["s", "zero"], ["b"]),
        node("If", ["b"], ["y"], "if", **branches),
    ]  # fmt: skip
    same_answers(small(nodes, ["y"], [W, ("two", 2.0), ("zero", 0.0)]))


def test_functions_and_constant_outputs_stay_in_the_file():
    opset = [helper.make_opsetid("", 17)]
    doubled = helper.make_function("own", "Doubled", ["x"], ["y"], [node("Add", ["x", "x"], ["y"])],
                                   opset)  # fmt: skip
    nodes = [FIRST, node("Doubled", ["c"], ["y"], "call", domain="own")]
    model = small(nodes, ["y", "k"], [W, ("k", [1.0, 2.0])], functions=[doubled])
    model.graph.output[1].type.tensor_type.shape.dim.add().dim_value = 2
    used = same_answers(model)
    assert "Doubled" in used


def test_names_that_meet_are_told_apart():
    nodes = [
        node("Conv", ["input", "w"], ["a"], pads=[1, 1, 1, 1]),  # unnamed: goes by its output
        node("Conv", ["a", "a/weights"], ["a/blocked"], "a"),
        node("Relu", ["a/blocked"], ["y"], "a/blocked/from_blocked"),
    ]
    same_answers(
        small(nodes, ["y", "a/blocked"], [W, ("a/weights", RNG.standard_normal((4, 6, 1, 1)))])
    )


def test_a_normalisation_by_itself_is_a_depthwise_convolution():
    nodes = [FIRST, node("MaxPool", ["c"], ["p"], "pool", kernel_shape=[2, 2]),
             node("BatchNormalization", ["p", "s", "b", "m", "v"], ["n"], "norm"),
             node("Relu", ["n"], ["y"], "relu")]  # fmt: skip
    weights = [W, *((n, RNG.uniform(0.5, 2, 6)) for n in "sbmv")]
    assert same_answers(small(nodes, ["y"], weights))[-2:] == ["DepthwiseConv", "FromBlocked"]


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_a_mean_over_maps_that_drops_them_is_a_pool(axes):
    nodes = [FIRST, node("ReduceMean", ["c"], ["m"], "mean", axes=axes, keepdims=0),
             node("Gemm", ["m", "g"], ["y"], "linear")]  # fmt: skip
    used = same_answers(small(nodes, ["y"], [W, ("g", RNG.standard_normal((6, 4)))]))
    assert used[1:] == ["SparseConv", "GlobalPool", "FromBlocked", "Flatten", "Gemm"]


def test_a_mean_of_more_dimensions_stays_what_it_is():
    nodes = [FIRST, node("Reshape", ["c", "shape"], ["f"], "five"),
             node("ReduceMean", ["f"], ["y"], "mean", axes=[2, 3], keepdims=0)]  # fmt: skip
    model = small(nodes, ["y"], [W])
    sizes = numpy_helper.from_array(np.array([2, 6, 2, 4, 8], np.int64), "shape")
    model.graph.initializer.append(sizes)
    assert "ReduceMean" in same_answers(model)


def test_a_node_that_is_not_there_cannot_stay_plain():
    with pytest.raises(CannotConvert, match="no node called 'typo'"):
        convert(small([FIRST], ["c"], [W]), plain=["typo"])


# -- encoding --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 20), st.integers(1, 12), st.integers(1, 3), st.sampled_from([4, 8, 16]),
    st.sampled_from([1, 2, 3]), st.integers(0, 9999),
)  # fmt: skip
def test_the_kept_taps_are_the_weights_again(out, channels, kernel, block, groups, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((out * groups, channels, kernel, kernel), dtype=np.float32)
    check.drop_taps(weight, rng.uniform(), block, rng)
    encoded = encode(weight, groups, block)
    whole = ungrouped(weight, groups).reshape(len(weight), -1)
    again = np.zeros((-(-len(weight) // block) * block, whole.shape[1]), np.float32)
    for b, (start, end) in enumerate(zip(encoded.starts[:-1], encoded.starts[1:], strict=True)):
        rows = slice(b * block, (b + 1) * block)
        again[rows, encoded.taps[start:end]] = encoded.weights[start:end].T
    assert (again[: len(weight)] == whole).all()
    assert encoded.kept <= len(encoded.starts[1:]) * whole.shape[1]


def test_taps_ascend_in_memory():
    for lanes in (1, 4, 16):
        taps = memory_order(40, 9, lanes)
        channel, place = np.divmod(taps, 9)
        at = (channel // lanes * 9 + place) * lanes + channel % lanes
        assert sorted(taps) == list(range(360))
        assert (np.diff(at) > 0).all()


def test_density_counts_taps_of_whole_blocks():
    weight = np.zeros((6, 2, 1, 1), np.float32)
    weight[1, 0] = 1  # one of two taps of the first block of four, none of the second
    assert density(weight, 4) == 0.25


# -- faults ----------------------------------------------------------------------------------------


def harmed(change):
    """A converted convolution of which something was changed."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((32, 8, 3, 3), dtype=np.float32)
    case = check.Case(
        weight, np.zeros(32, np.float32), 1, (1, 1), (1, 1, 1, 1), (1, 1), (6, 6), 1, "", False, 16
    )
    model = check.converted(case)
    change(model)
    return model, case.feed(rng)


def replaced(part, make):
    def change(model):
        for tensor in model.graph.initializer:
            if tensor.name == f"conv/{part}":
                tensor.CopyFrom(
                    numpy_helper.from_array(make(numpy_helper.to_array(tensor)), tensor.name)
                )

    return change


def attribute(name, value):
    def change(model):
        for node in model.graph.node:
            if node.op_type == "SparseConv":
                for entry in node.attribute:
                    if entry.name == name:
                        entry.i = value

    return change


def both(first, second):
    def change(model):
        first(model), second(model)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replaced("weights", lambda w: w[:-1]), "weights has"),
        (replaced("taps", lambda t: t[:-1]), "starts must go from 0"),
        (replaced("taps", lambda t: t + 72), "expected 0 to 71"),
        (replaced("taps", lambda t: t - 1), "tap 0 is -1"),
        (replaced("starts", lambda s: s[:-1]), "starts has 2 entries, expected 3"),
        (replaced("starts", lambda s: s[[0, 2, 1]]), "starts must go from 0"),
        (replaced("starts", lambda s: s + np.array([0, 200, 0], np.int32)), "must not descend"),
        (replaced("bias", lambda b: b[:5]), "bias has 5 entries"),
        (attribute("in_border", 0), "less than the padding needs"),
        (attribute("block", 5), "block must be 4, 8 or 16"),
        (attribute("kernel_h", 0), "expected 1 to"),
        (attribute("out_channels", 1 << 19), "starts has"),
        (both(attribute("in_height", 1 << 16), attribute("in_width", 1 << 16)), "2^31"),
        (attribute("activation", 99), "attribute activation is 99"),
    ],
)  # fmt: skip
def test_inconsistent_weights_are_refused_when_the_session_opens(change, said):
    model, feed = harmed(change)
    with pytest.raises(Exception, match="SparseConv") as caught:
        run(model, feed)
    assert said in str(caught.value)


def test_an_input_of_another_size_is_refused_when_it_is_run():
    model, _ = harmed(attribute("in_width", 7))
    with pytest.raises(Exception, match="values, expected a multiple of"):
        run(model, {"input": np.zeros((1, 8, 6, 6), np.float32)})


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["weights", "taps", "starts", "bias"]), st.integers(0, 10_000),
    st.integers(-(2**31), 2**31 - 1), st.booleans(),
)  # fmt: skip
def test_whatever_weights_hold_is_run_or_refused(part, where, value, cut):
    def make(array):
        flat = array.copy().reshape(-1)
        if cut:
            return flat[: where % (len(flat) + 1)]
        flat[where % len(flat)] = value
        return flat.reshape(array.shape)

    model, feed = harmed(replaced(part, make))
    said = complaint(model, feed)
    assert not said or "SparseConv" in said


def complaint(model, feed):
    try:
        run(model, feed)
    except Exception as error:
        return str(error)
    return ""


def test_weights_that_are_computed_are_refused():
    def change(model):
        (node,) = (n for n in model.graph.node if n.op_type == "SparseConv")
        (weights,) = (t for t in model.graph.initializer if t.name == node.input[1])
        given = helper.make_tensor_value_info(weights.name, TensorProto.FLOAT, weights.dims)
        model.graph.initializer.remove(weights)
        model.graph.input.append(given)

    model, _ = harmed(change)
    with pytest.raises(Exception, match="weights must be an initializer"):
        run(model, {})


def test_a_model_without_a_convolution_is_refused_in_our_words():
    node = helper.make_node("Relu", ["input"], ["out"])
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 4, 4]) for n in ("input", "out")
    ]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]))
    with pytest.raises(CannotConvert, match="no convolution of this model"):
        convert(model)
    with pytest.raises(CannotConvert, match="expected one of 16, 8, 4"):
        convert(model, block=3)


def test_an_open_height_is_refused_in_our_words():
    network = Network.load("digits_resnet")
    model = written(network, network.dense)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(CannotConvert, match="known height and width"):
        convert(model)


# -- the build -------------------------------------------------------------------------------------


def test_without_a_compiler_whoever_asks_reads_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.delenv("LATPROF_KERNELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    build.compiler.cache_clear(), build.compiler_version.cache_clear()
    with pytest.raises(KernelsMissing, match=r"no C\+\+ compiler .* was found"):
        build.library()
    build.compiler.cache_clear(), build.compiler_version.cache_clear()


def test_a_build_that_fails_leaves_nothing(monkeypatch, tmp_path):
    out = tmp_path / "lib.so"
    with pytest.raises(KernelsMissing, match="do not compile"):
        build.build(out, ("-march=no_such_processor",))
    assert [*tmp_path.iterdir()] == []


def test_a_library_tells_what_it_was_built_for(kernels):
    told = build.about(kernels)
    assert told.version == VERSION
    assert told.vector_bytes in (16, 32, 64)
    with pytest.raises(KernelsMissing, match="is not a library of these kernels"):
        build.about(kernels.parent)


# -- models ----------------------------------------------------------------------------------------


def thinned(model, share, block, seed=0):
    """A model of which only a share of the taps of every convolution but the first is kept."""
    rng = np.random.default_rng(seed)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in convolutions[1:]:
        tensor = weights[node.input[1]]
        values = numpy_helper.to_array(tensor).copy()
        if values.shape[1] > 1:
            check.drop_taps(values, share, block, rng)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def branches(rng, leaving, joining):
    """Two branches that meet: pool, upsampling, join, addition, depthwise, and two outputs."""

    def weight(name, *shape):
        values = rng.standard_normal(shape, dtype=np.float32) / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(values.astype(np.float32), name)

    both = leaving + joining
    weights = [
        weight("w0", leaving, 3, 3, 3), weight("w1", joining, leaving, 1, 1),
        weight("w2", both, 1, 3, 3), weight("w3", 5, both, 1, 1), weight("b3", 5),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
    ]  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["input", "w0"], ["a"], name="n0", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"], name="n1"),
        node("MaxPool", ["b"], ["c"], name="n2", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        node("Conv", ["c", "w1"], ["d"], name="n3"),
        node("Sigmoid", ["d"], ["e"], name="n4"),
        node("Mul", ["d", "e"], ["f"], name="n5"),
        node("Resize", ["f", "", "scales"], ["g"], name="n6", mode="nearest",
             coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Concat", ["b", "g"], ["h"], name="n7", axis=1),
        node("Conv", ["h", "w2"], ["i"], name="n8", group=both, pads=[1, 1, 1, 1]),
        node("Add", ["i", "h"], ["j"], name="n9"),
        node("Tanh", ["j"], ["k"], name="n10"),
        node("AveragePool", ["j"], ["l"], name="n11", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["l", "w3", "b3"], ["m"], name="n12"),
        node("GlobalAveragePool", ["j"], ["o"], name="n13"),
        node("Mul", ["j", "o"], ["p"], name="n14"),
    ]  # fmt: skip
    shapes = {"input": (2, 3, 8, 8), "k": (2, both, 8, 8), "m": (2, 5, 4, 4), "p": (2, both, 8, 8)}
    given, *outs = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    graph = helper.make_graph(nodes, "branches", [given], outs, weights)
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    return model
