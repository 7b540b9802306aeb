"""Activations, norms and shuffles that exporters write out, each in its own way."""

import onnx
import pytest
from onnx import parser

from latprof.onnx.reader import read_onnx
from lookup_tables.errors import NetworkError

WAYS = {  # of one activation: nodes from c to a
    "gelu": """
        r = Constant <value_float = 0.70710678> ()
        one = Constant <value = float {1.0}> ()
        half = Constant <value = float {0.5}> ()
        root = Constant <value = float {0.70710678}> ()
        s = Mul (c, root)
        e = Erf (s)
        p = Add (one, e)
        h = Mul (half, c)
        a = Mul (p, h)""",
    "gelu, by tanh": """
        one = Constant <value = float {1.0}> ()
        half = Constant <value = float {0.5}> ()
        three = Constant <value = float {3.0}> ()
        k = Constant <value = float {0.044715}> ()
        root = Constant <value = float {0.79788456}> ()
        cube = Pow (c, three)
        m = Mul (k, cube)
        s = Add (c, m)
        r = Mul (root, s)
        t = Tanh (r)
        p = Add (one, t)
        q = Mul (c, p)
        a = Mul (half, q)""",
    "silu": """
        n = Neg (c)
        e = Exp (n)
        one = Constant <value = float {1.0}> ()
        d = Add (e, one)
        a = Div (c, d)""",
    "hard_swish": """
        three = Constant <value = float {3.0}> ()
        zero = Constant <value = float {0.0}> ()
        six = Constant <value = float {6.0}> ()
        s = Add (c, three)
        b = Clip (s, zero, six)
        m = Mul (b, c)
        a = Div (m, six)""",
    "mish": """
        s = Softplus (c)
        t = Tanh (s)
        a = Mul (t, c)""",
}


def of(nodes, folder, behind="y = Identity (a)"):
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
    net (float[1, 3, 8, 8] x) => (float[1, 4, N, M] y)
    <float[4, 3, 3, 3] w = {{{", ".join("0" for _ in range(108))}}}> {{
        c = Conv (x, w)
        {nodes}
        {behind}
    }}"""
    onnx.save(parser.parse_model(text), str(folder / "net.onnx"))
    return read_onnx(folder / "net.onnx")


@pytest.mark.parametrize("way", WAYS)
def test_an_activation_is_recognised_by_what_it_computes(way, tmp_path):
    (layer,) = of(WAYS[way], tmp_path).layers
    assert (layer.kind, layer.activation) == ("conv", way.split(",")[0])


def test_what_computes_something_else_is_no_activation(tmp_path):
    almost = WAYS["gelu"].replace("half = Constant <value = float {0.5}>", "half = Constant "
                                  "<value = float {0.4}>")  # fmt: skip
    with pytest.raises(NetworkError, match=r"Erf e is not supported"):
        of(almost, tmp_path)
    other = WAYS["mish"].replace("Tanh", "Sigmoid")
    assert [layer.kind for layer in of(other, tmp_path).layers][-1] == "multiply"


def test_a_part_that_is_read_by_something_else_keeps_the_whole_apart(tmp_path):
    network = of(WAYS["mish"], tmp_path, behind="y = Add (t, a)")
    assert [layer.activation for layer in network.layers].count("mish") == 0


def test_a_number_behind_an_activation_is_a_layer_of_its_own(tmp_path):
    nodes = """two = Constant <value = float {2.0}> ()
        r = Relu (c)
        a = Mul (r, two)"""
    layers = of(nodes, tmp_path).layers
    assert [(layer.kind, layer.activation) for layer in layers] == [
        ("conv", "relu"), ("scale", "none"),
    ]  # fmt: skip
