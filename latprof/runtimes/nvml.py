"""What the NVIDIA driver says about a card while it is measured: clocks, heat, power, throttling.

NVML is the driver's own library (package nvidia-ml-py, module pynvml). Samples taken while the
card held its clocks down are dropped and counted: an average over them would belong to no state
the card stays in.
"""

from __future__ import annotations

from collections import Counter
from statistics import median
from types import ModuleType

from latprof import DeviceNotHere
from latprof.runtimes.cards import uuid_of
from lookup_tables.device import Device
from lookup_tables.table.rows import Conditions

# Bits of nvmlDeviceGetCurrentClocksEventReasons that mean: slower than the card could be.
# Idling, application clocks and display clocks are no faults of the moment.
THROTTLING = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


# What the driver keeps count of, nanosecond by nanosecond: nvmlPerfPolicyType_t.
VIOLATIONS = {0: "software power cap", 1: "software thermal slowdown"}


def reasons(mask: int) -> tuple[str, ...]:
    """The throttling reasons in a bit mask, by name; other bits are ignored."""
    return tuple(name for bit, name in THROTTLING.items() if mask & bit)


def library() -> ModuleType:
    """NVML, started; raises DeviceNotHere where there is no driver or no binding to it."""
    try:
        import pynvml
    except ImportError:
        raise DeviceNotHere(
            "measuring a GPU needs nvidia-ml-py: pip install 'latprof-pruner[gpu]'"
        ) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise DeviceNotHere(f"no NVIDIA driver answers: {error}") from None
    return pynvml


class Monitor:
    """Asks the card after every sample; `conditions` sums up since it was last asked."""

    def __init__(self, device: Device, nvml: ModuleType | None = None) -> None:
        self._nvml = nvml or library()
        self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid_of(device))
        self._kept: list[dict[str, float | None]] = []
        self._dropped: Counter[str] = Counter()
        self._dropped_samples = 0
        self._violations_ns = self._violations()

    def begin(self) -> None:
        """A series of samples begins: what throttled before it is not charged to it."""
        self._violations_ns = self._violations()

    def throttled(self) -> bool:
        """Whether the sample just taken must be dropped; it is counted either way.

        What throttles at this moment tells, and what the driver counted since the last sample.
        """
        nvml, handle = self._nvml, self._handle
        before_ns, self._violations_ns = self._violations_ns, self._violations()
        counted = (name for name, ns in self._violations_ns.items() if ns > before_ns.get(name, ns))
        why = tuple(dict.fromkeys([*reasons(_event_reasons(nvml, handle)), *counted]))
        if why:
            self._dropped.update(why)
            self._dropped_samples += 1
            return True
        power_mw = self._reading("nvmlDeviceGetPowerUsage")
        self._kept.append(
            {
                "sm_clock_mhz": self._reading("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
                "memory_clock_mhz": self._reading("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
                "temperature_c": self._reading(
                    "nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU
                ),
                "power_w": None if power_mw is None else power_mw / 1e3,
            }
        )
        return False

    def _violations(self) -> dict[str, int]:
        """For how long each of VIOLATIONS has held the card back; only those that it can tell."""
        found = {}
        for policy, name in VIOLATIONS.items():
            try:
                status = self._nvml.nvmlDeviceGetViolationStatus(self._handle, policy)
            except (AttributeError, self._nvml.NVMLError):
                continue
            found[name] = int(status.violationTime)
        return found

    def _reading(self, question: str, *details) -> float | None:
        """None of what the card cannot tell, as virtual ones and slices (MIG) cannot."""
        try:
            return float(getattr(self._nvml, question)(self._handle, *details))
        except _untold(self._nvml):
            return None

    def conditions(self) -> Conditions | None:
        """Medians over the samples kept since the last call, then it starts anew; None of none."""
        if not self._kept:
            return None
        told = {name: [sample[name] for sample in self._kept] for name in self._kept[0]}
        found = Conditions(
            **{name: _median(values) for name, values in told.items()},
            throttled=self._dropped_samples,
            reasons=tuple(sorted(self._dropped)),
        )
        self._kept.clear()
        self._dropped.clear()
        self._dropped_samples = 0
        return found

    def complaint(self) -> str:
        """Why measuring was given up, and what to do."""
        why = ", ".join(sorted(self._dropped)) or "an unknown reason"
        return (
            f"the GPU throttled ({why}) in all of the last samples, so none was kept. Let it cool "
            "down, raise its power limit or lock a lower clock. Then run the same command again"
        )


def _event_reasons(nvml: ModuleType, handle) -> int:
    """The mask; older drivers know the question by its name before 2023 only."""
    ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    if ask is not None:
        try:
            return int(ask(handle))
        except nvml.NVMLError:
            pass
    try:
        return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    except _untold(nvml):
        return 0  # it cannot tell


def _median(values: list[float | None]) -> float | None:
    """None where the card could not tell every one of them."""
    told = [value for value in values if value is not None]
    return median(told) if len(told) == len(values) else None


def _untold(nvml: ModuleType) -> tuple[type[Exception], ...]:
    """What the library raises where a card cannot tell something."""
    names = ("NotSupported", "InvalidArgument", "NoPermission")
    found = (getattr(nvml, f"NVMLError_{name}", None) for name in names)
    return tuple(one for one in found if one is not None)
