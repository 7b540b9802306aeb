"""Removable blocks: what the network answers is never inside of one."""

import torch
from torch import nn

from lookup_tables.graph.blocks import find_blocks
from lookup_tables.network import Layer
from pruner.graph.shortcuts import heirs
from pruner.graph.surgery import shrink
from pruner.graph.trace import trace


def conv(name, source, residual=None):
    return Layer(
        name=name, kind="conv", inputs=(source,), channels=8, kernel=(3, 3), padding=(1, 1),
        residual=residual,
    )  # fmt: skip


LAYERS = (
    conv("stem", "input"),
    conv("a", "stem"),
    conv("b", "a", residual="stem"),
    conv("head", "b"),
)


def test_a_block_in_the_middle_may_go():
    assert [block.layers for block in find_blocks(LAYERS)] == [("a", "b")]


def test_a_block_that_holds_an_output_stays():
    assert find_blocks(LAYERS, outputs={"a"}) == ()
    assert find_blocks(LAYERS, outputs={"b"}) == ()


def test_a_block_that_ends_the_network_stays():
    assert find_blocks(LAYERS[:-1]) == ()


class Features(nn.Module):
    """Answers a middle tensor beside the classes: of the stem, in the first block, behind it."""

    def __init__(self, returned: str) -> None:
        super().__init__()
        self.returned = returned
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.outer = nn.Conv2d(8, 8, 3, padding=1)
        self.later = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        stem = torch.relu(self.stem(x))
        inner = torch.relu(self.inner(stem))
        first = torch.relu(stem + self.outer(inner))
        second = torch.relu(first + self.later(first))
        answered = {"stem": stem, "inner": inner, "first": first}[self.returned]
        return self.head(second.mean((2, 3))), answered


def traced(returned):
    torch.manual_seed(0)
    return trace(Features(returned).eval(), (1, 8, 8), "features")


def test_whatever_goes_both_answers_stay():
    for returned, blocks in (("stem", 2), ("inner", 1), ("first", 1)):
        found = traced(returned)
        assert len(found.network.blocks) == blocks
        for block in found.network.blocks:
            removed = found.network.dense.model_copy(update={"removed": (block.name,)})
            answer = shrink(found, removed)(torch.randn(1, 1, 8, 8))
            assert [tuple(each.shape) for each in answer] == [(1, 10), (1, 8, 8, 8)]


def test_a_layer_that_the_user_reads_takes_over_from_no_block():
    assert [heir.path for heir in heirs(traced("inner"))] == ["outer"]
    assert "stem" not in [heir.path for heir in heirs(traced("stem"))]
    assert "outer" not in [heir.path for heir in heirs(traced("first"))]
