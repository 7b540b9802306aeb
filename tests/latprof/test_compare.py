"""Which sessions of a comparison count; the timing itself runs in test_journeys."""

import onnx
import pytest

from latprof.compare import compare, quiet_sessions, require_precision
from latprof.detect import this_device
from latprof.measure import Rounds
from latprof.onnx_model import build
from lookup_tables.errors import DeviceMismatch
from tests.toys import chain


def session(dense_s: float, pruned_s: float = 1.0) -> Rounds:
    return Rounds([dense_s] * 5, [pruned_s] * 4, [False] * 4)


def test_sessions_in_which_the_dense_network_was_slow_do_not_count():
    quiet, slow = session(1.0), session(1.4)
    assert quiet_sessions([slow, quiet, slow]) == [quiet]


def test_the_pruned_networks_time_never_decides():
    sessions = [session(1.0, 0.5), session(1.05, 5.0), session(1.02, 0.1)]
    assert quiet_sessions(sessions) == sessions


def test_before_the_first_session_none_is_quiet():
    assert quiet_sessions([]) == []


def test_a_file_of_another_precision_is_not_the_devices(tmp_path):
    network = chain(8, 8)
    for precision in ("fp32", "fp16"):
        model = build(network, network.dense, 1, precision)
        onnx.save(model, tmp_path / f"{precision}.onnx")
        require_precision(tmp_path / f"{precision}.onnx", precision)
    with pytest.raises(DeviceMismatch, match="is fp32, the device computes in fp16"):
        require_precision(tmp_path / "fp32.onnx", "fp16")
    with pytest.raises(DeviceMismatch, match="is fp16, the device computes in fp32"):
        compare(tmp_path / "fp16.onnx", tmp_path / "fp16.onnx", this_device())
