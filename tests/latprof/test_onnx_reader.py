import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper, numpy_helper

from latprof.onnx.reader import is_half, read_onnx
from latprof.onnx.writer import build, layer_models
from lookup_tables.architecture import Architecture
from lookup_tables.errors import NetworkError
from lookup_tables.network import Network, network_names
from pruner.graph.trace import trace
from tests.toys import Branches, Gated, tiny_resnet

SMALL = [
    name for name in network_names() if name not in ("yolov3", "vgg16", "resnet50", "resnet50_32")
]


def saved(model, folder, name="net"):
    onnx.save(model, str(folder / f"{name}.onnx"))
    return folder / f"{name}.onnx"


def shapes(network, architecture=None):
    return [spec for _, spec in network.layer_specs(architecture or network.dense)]


@pytest.mark.parametrize("name", SMALL)
def test_a_network_survives_the_way_through_onnx(tmp_path, name):
    network = Network.load(name)
    again = read_onnx(saved(build(network, network.dense), tmp_path))
    assert shapes(again) == shapes(network)
    assert [(g.width, g.choices) for g in again.groups] == [
        (g.width, g.choices) for g in network.groups
    ]
    assert len(again.blocks) == len(network.blocks)
    assert again.input_shape == network.input_shape


def test_groups_and_blocks_mean_the_same_after_the_way_through_onnx(tmp_path):
    network = Network.load("resnet20")
    again = read_onnx(saved(build(network, network.dense), tmp_path))
    rng = np.random.default_rng(0)
    for _ in range(5):
        widths = [int(rng.choice(group.choices)) for group in network.groups]
        removed = [i for i in range(len(network.blocks)) if rng.random() < 0.3]
        pair = [
            Architecture(
                widths={g.name: w for g, w in zip(net.groups, widths, strict=True)},
                removed=tuple(net.blocks[i].name for i in removed),
            )
            for net in (network, again)
        ]
        assert shapes(network, pair[0]) == shapes(again, pair[1])


@pytest.mark.parametrize(
    ("module", "shape"),
    [(tiny_resnet(), (1, 8, 8)), (Branches(), (3, 8, 8)), (Gated(), (3, 8, 8))],
    ids=["tiny_resnet", "branches", "gated"],
)
def test_what_pytorch_exports_is_read_like_the_model_itself(tmp_path, module, shape):
    expected = trace(module, shape, "net").network
    path = tmp_path / "net.onnx"
    torch.onnx.export(
        module.eval(), (torch.zeros(1, *shape),), path, dynamo=True, opset_version=18,
        external_data=False, verbose=False,
    )  # fmt: skip
    found = read_onnx(path)
    assert [(s.kind, s.in_channels, s.out_channels) for s in shapes(found)] == [
        (s.kind, s.in_channels, s.out_channels) for s in shapes(expected)
    ]
    assert sorted(g.width for g in found.groups) == sorted(g.width for g in expected.groups)


def test_the_models_names_are_safe_for_the_profiler(tmp_path):
    network = Network.load("resnet20")
    again = read_onnx(saved(build(network, network.dense), tmp_path))
    assert not any("@" in layer.name for layer in again.layers)


def one_node(
    tmp_path, op, weights=(), shape=(1, 4, 8, 8), out=(1, 4, 8, 8), behind=(), **attributes
):
    constants = [numpy_helper.from_array(np.asarray(w), f"w{i}") for i, w in enumerate(weights)]
    read = behind[-1].output[0] if behind else "x"
    node = helper.make_node(op, [read, *(t.name for t in constants)], ["y"], "n", **attributes)
    if behind:
        constants.append(numpy_helper.from_array(np.zeros((4, 4, 1, 1), np.float32), "point"))
    graph = helper.make_graph(
        [*behind, node],
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, out)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return saved(model, tmp_path)


KERNEL = np.zeros((8, 4, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("op", "weights", "attributes", "message"),
    [
        ("Softmax", (), {}, "Softmax n is not supported"),
        ("ConvTranspose", (KERNEL[:4],), {"auto_pad": "SAME_UPPER"}, "numbers are needed"),
        ("ConvTranspose", (KERNEL[:4],), {"output_shape": [9, 9]}, "names its output's size"),
        ("Clip", (np.float32(0), np.float32(3)), {}, r"clips to \[0.0, 3.0\]"),
        ("Add", (np.zeros((1, 4, 8, 8), np.float32),), {}, r"takes a constant of \(1, 4, 8, 8\)"),
        ("Relu", (), {"domain": "my.ops"}, "Relu n is of the domain 'my.ops'"),
        ("Conv", (KERNEL,), {"domain": "my.ops"}, "Conv n is of the domain 'my.ops'"),
        ("Pad", (np.array([1, 0, 0, 0, 0, 0, 0, 0]),), {}, "constants around maps or channels"),
        ("Pad", (np.array([0, 1, 1, 0, 0, 0, 0, 0]),), {}, "pads maps and channels at once"),
        ("Pad", (np.array([0] * 4 + [0, 0, 1, 1]),), {"mode": "reflect"}, "only constants around"),
        (
            "Transpose",
            (),
            {"perm": [0, 1, 3, 2]},
            r"transposes to \[0, 1, 3, 2\]; only channels to",
        ),
        ("Transpose", (), {}, r"transposes to \[3, 2, 1, 0\]"),
        ("Slice", (*map(np.array, ([1], [5], [2])),), {}, "parts of the channels and every nth"),
        ("Split", (), {"axis": 2, "num_outputs": 1}, "does not split channels"),
        ("Resize", (np.float32([]), np.float32([1, 1, 2, 2])), {"mode": "cubic"}, "by cubic"),
        ("LayerNormalization", (np.ones(8, np.float32),), {}, "not over channels that lie last"),
        ("MatMul", (np.ones((8, 4), np.float32),), {}, "on maps whose channels lie last"),
        ("Unsqueeze", (np.array([2]),), {}, "only maps of features may be"),
    ],
)
def test_what_cannot_be_pruned_is_refused_by_node_and_reason(
    tmp_path, op, weights, attributes, message
):
    with pytest.raises(NetworkError, match=message):
        read_onnx(one_node(tmp_path, op, weights, out=None, **attributes))


def test_an_open_image_size_is_refused(tmp_path):
    with pytest.raises(NetworkError, match="leaves channels, height or width open"):
        read_onnx(one_node(tmp_path, "Relu", shape=(1, 4, "h", "w")))


def test_weights_that_were_not_copied_along_are_missed_by_name(tmp_path):
    network = Network.load("resnet20")
    model = build(network, network.dense)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data")
    assert read_onnx(tmp_path / "m.onnx").layers
    (tmp_path / "m.onnx.data").write_bytes(b"")
    with pytest.raises(NetworkError, match="weights are missing or damaged"):
        read_onnx(tmp_path / "m.onnx")
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(NetworkError, match=r"weights are missing or damaged.*m\.onnx\.data"):
        read_onnx(tmp_path / "m.onnx")


def test_a_missing_and_a_broken_file_are_told_apart(tmp_path):
    with pytest.raises(NetworkError, match="no such ONNX file"):
        read_onnx(tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"\x12\x34 not onnx")
    with pytest.raises(NetworkError, match="not a readable ONNX file"):
        read_onnx(tmp_path / "broken.onnx")


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2_32"])
def test_the_layers_one_by_one_are_the_network(tmp_path, name):
    """What the GPU's profiler chains: same shapes, and each runs on its predecessors' outputs."""
    network = Network.load(name)
    tensors = {"input": np.random.default_rng(0).standard_normal((1, *network.input_shape))}
    tensors["input"] = tensors["input"].astype(np.float32)
    specs = shapes(network)
    models = layer_models(network, network.dense)
    assert [model.spec for model in models] == specs
    for model in models:
        session = ort.InferenceSession(
            model.model().SerializeToString(), providers=["CPUExecutionProvider"]
        )
        feed = dict(
            zip(model.input_names, (tensors[source] for source in model.sources), strict=True)
        )
        (tensors[model.name],) = session.run(None, feed)
        assert tensors[model.name].shape == model.out_shape
        assert np.isfinite(tensors[model.name]).all()


def test_layers_of_one_shape_share_one_model():
    models = layer_models(Network.load("resnet20"), Architecture())
    first, second = (m for m in models if m.name in ("layer1.1.conv1", "layer1.2.conv1"))
    assert first.spec == second.spec
    assert first.model().SerializeToString() == second.model().SerializeToString()


@pytest.mark.parametrize(
    ("op", "weights", "attributes", "kind", "size"),
    [
        ("Conv", (KERNEL,), {"dilations": [2, 2]}, "conv", (4, 4)),
        ("Conv", (KERNEL,), {"pads": [0, 0, 1, 1]}, "conv", (7, 7)),
        ("Conv", (KERNEL,), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, "conv", (4, 4)),
        ("ConvTranspose", (KERNEL[:4],), {"strides": [2, 2]}, "conv_transpose", (17, 17)),
        (
            "ConvTranspose",
            (KERNEL[:4],),
            {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
            "conv_transpose",
            (16, 16),
        ),
        (
            "MaxPool",
            (),
            {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
            "max_pool",
            (4, 4),
        ),
        ("Pad", (np.array([0, 0, 0, 1, 0, 0, 1, 1]),), {}, "pad", (9, 10)),
        ("Mul", (np.float32(2),), {}, "scale", (8, 8)),
        ("Add", (np.zeros((4, 1, 1), np.float32),), {}, "channel_shift", (8, 8)),
        ("PRelu", (np.zeros((4, 1, 1), np.float32),), {}, "conv", (8, 8)),
    ],
)
def test_rarer_operators_are_read_with_the_size_that_they_write(
    tmp_path, op, weights, attributes, kind, size
):
    first = helper.make_node("Conv", ["x", "point"], ["first"], "first")
    path = one_node(tmp_path, op, weights, out=None, behind=[first], **attributes)
    network = read_onnx(path)
    layer, spec = network.layer_specs(network.dense)[-1]
    assert (layer.kind, spec.out_size) == (kind, size)
    x = np.zeros((1, 4, 8, 8), np.float32)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = build(network, network.dense).SerializeToString()
    profiled = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,), (made,) = session.run(None, {"x": x}), profiled.run(None, {"input": x})
    assert found.shape == made.shape == (1, spec.out_channels, *size)


def test_a_constant_added_behind_an_activation_is_no_bias(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Add", ["b", "c"], ["y"], "more"),
    ]
    constants = {"w": KERNEL, "c": np.ones((1, 8, 1, 1), np.float32)}
    kinds = [layer.kind for layer in read_onnx(from_nodes(tmp_path, nodes, constants)).layers]
    assert kinds == ["conv", "channel_shift"]


def from_nodes(tmp_path, nodes, constants, shape=(1, 4, 8, 8), opset=17):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return saved(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path)


FLATTENED = [
    helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
    helper.make_node("GlobalAveragePool", ["a"], ["b"], "pool"),
    helper.make_node("Shape", ["b"], ["s"], "shape"),
    helper.make_node("Gather", ["s", "zero"], ["n"], "images"),
    helper.make_node("Unsqueeze", ["n", "axes"], ["n1"], "as_list"),
    helper.make_node("Concat", ["n1", "rest"], ["size"], "size", axis=0),
    helper.make_node("Reshape", ["b", "size"], ["f"], "view"),
    helper.make_node("Gemm", ["f", "v", "bias"], ["y"], "fc"),
]
WEIGHTS = {
    "w": KERNEL, "zero": np.int64(0), "axes": np.array([0]), "rest": np.array([-1]),
    "v": np.zeros((8, 5), np.float32), "bias": np.zeros(5, np.float32),
}  # fmt: skip


def test_a_reshape_to_computed_sizes_is_read_with_the_number_of_images_known(tmp_path):
    path = from_nodes(tmp_path, FLATTENED, WEIGHTS, ("images", 4, 8, 8))
    network = read_onnx(path)
    assert [layer.kind for layer in network.layers] == ["conv", "global_avg_pool", "linear"]
    assert [layer.name for layer in network.layers] == ["conv", "pool", "fc"]


def test_a_condition_on_a_constant_is_read_as_the_branch_that_is_taken(tmp_path):
    def branch(op, name):
        node = helper.make_node(op, ["a"], [name], f"{name}_node")
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, 1, None)])

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node(
            "If", ["yes"], ["y"], "if", then_branch=branch("Relu", "then"),
            else_branch=branch("Softmax", "else"),
        ),
    ]  # fmt: skip
    (layer,) = read_onnx(from_nodes(tmp_path, nodes, {"w": KERNEL, "yes": np.array(True)})).layers
    assert (layer.kind, layer.activation) == ("conv", "relu")


def test_a_quantised_file_is_refused_with_what_to_give_instead(tmp_path):
    quantised = helper.make_node("QuantizeLinear", ["x", "scale"], ["q"], "q_in")
    back = helper.make_node("DequantizeLinear", ["q", "scale"], ["y"], "q_out")
    path = from_nodes(tmp_path, [quantised, back], {"scale": np.float32(0.1)})
    with pytest.raises(NetworkError, match=r"q_in: the file is quantised\. .* --precision int8"):
        read_onnx(path)


def test_maps_that_would_be_empty_are_refused_naming_the_layer(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    path = from_nodes(tmp_path, nodes, {"w": np.zeros((8, 4, 9, 9), np.float32)})
    with pytest.raises(NetworkError, match="layer conv would write maps of 0×0"):
        read_onnx(path)


def test_a_file_in_half_precision_is_known(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    assert not is_half(from_nodes(tmp_path, nodes, {"w": KERNEL}))
    casts = [
        helper.make_node("Cast", ["x"], ["h"], "down", to=onnx.TensorProto.FLOAT16),
        helper.make_node("Conv", ["h", "w"], ["c"], "conv"),
        helper.make_node("Cast", ["c"], ["y"], "up", to=onnx.TensorProto.FLOAT),
    ]
    path = from_nodes(tmp_path, casts, {"w": KERNEL.astype(np.float16)})
    assert is_half(path)
    assert [layer.kind for layer in read_onnx(path).layers] == ["conv"]
