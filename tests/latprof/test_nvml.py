"""What NVML says, without a card: the library is played back."""

from types import SimpleNamespace

import pytest

from latprof.runtimes.nvml import THROTTLING, Monitor, reasons
from lookup_tables.table.rows import Conditions
from tests.toys import DEVICE

GPU = DEVICE.model_copy(update={"kind": "cuda"})


@pytest.fixture(autouse=True)
def _one_card(monkeypatch):
    monkeypatch.setattr("latprof.runtimes.nvml.uuid_of", lambda device: "GPU-1")


def played_back(masks):
    """A library that reports these throttle masks, one a sample, and rising clocks."""
    clocks = iter(range(1000, 2000, 10))
    remaining = iter(masks)
    return SimpleNamespace(
        NVMLError=(fault := type("NVMLError", (Exception,), {})),
        NVMLError_NotSupported=type("NotSupported", (fault,), {}),
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetClockInfo=lambda handle, kind: next(clocks) if kind == 1 else 7000,
        nvmlDeviceGetTemperature=lambda handle, kind: 61,
        nvmlDeviceGetPowerUsage=lambda handle: 180_000,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: next(remaining),
    )


def test_idling_and_application_clocks_are_no_throttling():
    assert reasons(0x1 | 0x2 | 0x100) == ()


@pytest.mark.parametrize(("bit", "name"), THROTTLING.items())
def test_every_reason_to_run_slower_is_named(bit, name):
    assert reasons(bit | 0x1) == (name,)


def test_throttled_samples_are_dropped_and_counted():
    monitor = Monitor(GPU, played_back([0, 0x04, 0x20 | 0x04, 0]))
    assert [monitor.throttled() for _ in range(4)] == [False, True, True, False]
    found = monitor.conditions()
    assert (found.throttled, found.reasons) == (
        2, ("software power cap", "software thermal slowdown"),
    )  # fmt: skip
    assert found.sm_clock_mhz == 1005  # the median of the two that were kept
    assert (found.temperature_c, found.power_w) == (61, 180)


def test_what_the_driver_counted_between_two_samples_is_throttling_too():
    nvml = played_back([0, 0, 0])
    counted = iter([{0: 5}, {0: 5}, {0: 9}, {0: 9}])
    now = {}

    def violations(handle, policy):
        if policy == 0:  # the first that is asked
            now.update(next(counted))
        if policy not in now:
            raise nvml.NVMLError_NotSupported
        return SimpleNamespace(violationTime=now[policy])

    nvml.nvmlDeviceGetViolationStatus = violations
    monitor = Monitor(GPU, nvml)
    assert [monitor.throttled() for _ in range(3)] == [False, True, False]
    assert monitor.conditions().reasons == ("software power cap",)


def test_conditions_start_anew_for_every_run():
    monitor = Monitor(GPU, played_back([0x04, 0, 0]))
    monitor.throttled(), monitor.throttled()
    assert monitor.conditions().throttled == 1
    monitor.throttled()
    assert monitor.conditions().throttled == 0


def test_a_run_without_a_kept_sample_has_no_conditions():
    monitor = Monitor(GPU, played_back([0x40]))
    monitor.throttled()
    assert monitor.conditions() is None


def test_an_older_driver_is_asked_by_the_older_name():
    nvml = played_back([0x04])

    def unknown(handle):
        raise nvml.NVMLError

    nvml.nvmlDeviceGetCurrentClocksEventReasons = unknown
    assert Monitor(GPU, nvml).throttled()


def test_what_a_card_cannot_tell_is_left_out():
    nvml = played_back([0, 0])

    def cannot(handle):
        raise nvml.NVMLError_NotSupported

    nvml.nvmlDeviceGetPowerUsage = nvml.nvmlDeviceGetCurrentClocksThrottleReasons = cannot
    monitor = Monitor(GPU, nvml)
    assert not monitor.throttled()
    found = monitor.conditions()
    assert (found.power_w, found.temperature_c, found.sm_clock_mhz) == (None, 61, 1000)
    assert Conditions.model_validate_json(found.model_dump_json(exclude_none=True)) == found


def test_a_card_that_only_throttles_is_complained_about_with_the_reason():
    monitor = Monitor(GPU, played_back([0x40]))
    monitor.throttled()
    assert "hardware thermal slowdown" in monitor.complaint()
