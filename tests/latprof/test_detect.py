import os

import pytest

from latprof.detect import this_device
from latprof.errors import DeviceNotHere


def test_cpu_is_this_machine():
    device = this_device("cpu")
    assert device.kind == "cpu"
    assert device.threads == 1
    assert device.name.endswith("_1t")


def test_the_machines_own_name_is_accepted():
    device = this_device("cpu")
    assert this_device(device.name) == device


def test_a_device_that_is_not_here_says_what_is_and_where_a_table_may_come_from():
    with pytest.raises(
        DeviceNotHere, match=r"device titan_rtx is not here\. This machine has: CPU"
    ):
        this_device("titan_rtx")
    with pytest.raises(DeviceNotHere, match="make profile DEVICE=titan_rtx"):
        this_device("titan_rtx")


def test_more_threads_than_cores_are_refused():
    with pytest.raises(DeviceNotHere, match=f"this machine has {os.cpu_count()} cores"):
        this_device("cpu", threads=10_000)


def test_half_precision_is_refused_on_cpu():
    with pytest.raises(DeviceNotHere, match="fp16 is not supported on CPU"):
        this_device("cpu", precision="fp16")


def test_threads_and_batch_are_part_of_the_name():
    assert this_device("cpu", batch=4).name.endswith("_1t_b4")
