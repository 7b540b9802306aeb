"""Runtime: what opens networks, runs them and times their layers, and which device that makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from latprof.onnx.writer import BLOCK
from lookup_tables.architecture import Architecture
from lookup_tables.device import Device
from lookup_tables.network import Network
from lookup_tables.noise import Timing
from lookup_tables.table.rows import Conditions, LayerTime

GRAPH = "enable_cuda_graph"
SEARCHES = ("EXHAUSTIVE", "HEURISTIC", "DEFAULT")
PRECISIONS = ("fp32", "fp16", "int8")
ONNX_RUNTIME, SPARSE_RUNTIME = "onnxruntime", "ort_sparse"
BLOCK_SPARSE = "block_sparse"  # the kernels that are registered with the second

Feed = Mapping[str, np.ndarray]  # input → its value


@dataclass(frozen=True, slots=True)
class Usage:
    """How networks are to be run on a device; all of it is part of the device's identity."""

    threads: int = 1
    batch: int = 1
    precision: str = "fp32"
    cuda_graph: bool = False
    algorithm_search: str = SEARCHES[0]  # cuDNN's
    runtime: str = ONNX_RUNTIME
    block: int = BLOCK  # of kernels that leave out weights: output channels kept together

    @classmethod
    def of(cls, device: Device) -> Usage:
        """How a table's device is used."""
        options = device.provider_options
        return cls(
            threads=device.threads,
            batch=device.batch,
            precision=device.precision,
            cuda_graph=options.get(GRAPH) == "1",
            algorithm_search=options.get("cudnn_conv_algo_search", SEARCHES[0]),
            runtime=device.runtime,
            block=device.block or BLOCK,
        )


class Session(Protocol):
    """A network opened in a runtime and ready to be called again and again."""

    @property
    def has_graph(self) -> bool:
        """Whether its calls can be captured and replayed (CUDA graphs)."""

    def run(self) -> Timing:
        """Run once; what it took, and for how much of that it waited."""

    def run_s(self) -> float:
        """The seconds of `run`."""

    def graph_s(self) -> float:
        """Seconds of one replay; for networks that have a graph."""


class LayerTimer(Protocol):
    """A network opened so that its layers are timed inside of it."""

    def run(self) -> Timing: ...

    def layer_times(self, dense_s: np.ndarray, kept: np.ndarray) -> tuple[LayerTime, ...]:
        """Every layer's seconds; ends the session.

        `dense_s`: (rounds,) the dense network's seconds beside the last runs; `kept`: (rounds,)
        which of them count. Runs before those were warm-up.
        """


class Monitor(Protocol):
    """What a device tells of its clocks while it is measured."""

    def begin(self) -> None:
        """A series of rounds begins."""

    def throttled(self) -> bool:
        """Whether it ran below its own clocks since it was asked last."""

    def conditions(self) -> Conditions | None:
        """Of the series, for its row; None of what a device does not tell."""

    def complaint(self) -> str:
        """Why a series in which it was always throttled is no measurement."""


class Runtime(Protocol):
    """An entry of the registry: one runtime on one kind of device."""

    name: str
    summary: str  # one line of --help
    runtime: str  # as a device's identity has it
    kind: str  # of the device
    on_processor: bool  # its work runs on the cores of this process

    def identify(self, asked: str, usage: Usage) -> Device | None:
        """The device of this machine that `asked` names, None where it names none of this kind.

        Raises DeviceNotHere for a use that is not possible.
        """

    def like(self, device: Device) -> Device:
        """This machine's device, used as that one is; raises DeviceNotHere."""

    def here(self, usage: Usage) -> list[str]:
        """What this machine has of this kind, in words for a message."""

    def options(self, device: Device) -> list[str]:
        """The options of `latprof profile` that use a device in its way."""

    def deployed(self, model: bytes, device: Device) -> bytes:
        """A pruned network's file of plain ONNX as it is run: as it is, or on kernels of its own.

        The dense network beside it always runs as it is.
        """

    def open(self, model: bytes | str, feed: Feed, device: Device) -> Session: ...

    def open_layers(
        self,
        network: Network,
        architecture: Architecture,
        model: bytes,
        feed: Feed,
        device: Device,
    ) -> LayerTimer: ...

    def monitor(self, device: Device) -> Monitor: ...
