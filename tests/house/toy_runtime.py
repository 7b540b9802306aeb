"""A runtime: ONNX Runtime on the processor under another name, a device of its own."""

from latprof.runtimes.base import Usage
from latprof.runtimes.ort_cpu import OrtCpu
from lookup_tables.device import Device


class Slowpoke(OrtCpu):
    """The registry's entry."""

    name, summary, runtime = "slowpoke", "a toy of the tests", "slowpoke"

    def identify(self, asked: str, usage: Usage) -> Device | None:
        found = super().identify(asked, usage)
        changes = {"runtime": self.runtime, "name": f"slowpoke_{usage.threads}t"}
        return found and found.model_copy(update=changes)


RUNTIME = Slowpoke()
