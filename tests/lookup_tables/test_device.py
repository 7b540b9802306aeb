import pytest

from lookup_tables.device import SHOWN, Device
from lookup_tables.errors import DeviceMismatch, TableError
from lookup_tables.table.store import LatencyTable
from tests.toys import DEVICE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("processor", "another"),
        ("runtime_version", "2.0"),
        ("precision", "fp16"),
        ("batch", 8),
        ("threads", 2),
        ("provider", "CUDAExecutionProvider"),
        ("method", 1),
    ],
)
def test_a_table_of_another_device_is_refused_naming_what_differs(tmp_path, field, value):
    LatencyTable.create(tmp_path / "t", DEVICE)
    other = DEVICE.model_copy(update={field: value})
    expected = f"{field}: expected {value}, found {getattr(DEVICE, field)}"
    with pytest.raises(DeviceMismatch, match=expected):
        LatencyTable.create(tmp_path / "t", other)


def test_of_a_very_different_device_the_first_differences_are_named_and_the_others_counted():
    changes = {"processor": "another", "threads": 2, "batch": 8, "precision": "fp16", "method": 1}
    with pytest.raises(DeviceMismatch) as refused:
        DEVICE.require(DEVICE.model_copy(update=changes), "it")
    assert str(refused.value).count("expected") == SHOWN
    assert "; and 2 more)" in str(refused.value)


def test_a_device_survives_being_written_and_read(tmp_path):
    DEVICE.save(tmp_path / "device.json")
    assert Device.load(tmp_path / "device.json") == DEVICE


def test_another_name_is_not_another_device():
    assert not DEVICE.differences(DEVICE.model_copy(update={"name": "mine"}))


def test_a_folder_without_identity_is_no_table(tmp_path):
    with pytest.raises(TableError, match=r"is not a latency table: device.json is missing"):
        LatencyTable.open(tmp_path)


def test_a_newer_identity_file_is_refused(tmp_path):
    text = DEVICE.model_dump_json().replace('"format":2', '"format":3,"clocks":[1,2]')
    (tmp_path / "device.json").write_text(text)
    with pytest.raises(TableError, match="format 3 is newer"):
        LatencyTable.open(tmp_path)


def test_an_identity_of_the_former_method_is_refused_with_what_to_do(tmp_path):
    text = DEVICE.model_dump_json().replace('"format":2', '"format":1')
    (tmp_path / "device.json").write_text(text)
    with pytest.raises(
        TableError, match=r"format 1 comes from an older method.*Move the folder away"
    ):
        LatencyTable.open(tmp_path)


def test_nested_options_are_compared_one_by_one():
    options = {"cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": "0"}
    here = DEVICE.model_copy(update={"provider_options": options})
    there = DEVICE.model_copy(update={"provider_options": options | {"use_tf32": "1"}})
    assert here.differences(there) == {"provider_options.use_tf32": ("0", "1")}
    assert DEVICE.differences(here) == {
        "provider_options.cudnn_conv_algo_search": (None, "EXHAUSTIVE"),
        "provider_options.use_tf32": (None, "0"),
    }


def test_the_tools_version_makes_no_other_device():
    older = DEVICE.model_copy(update={"tool_version": "0.0.1"})
    assert DEVICE.differences(older) == {}


def test_one_thread_is_the_same_device_on_whichever_core_it_runs():
    pinned = DEVICE.model_copy(update={"affinity": "0", "threads": 1})
    free = DEVICE.model_copy(update={"affinity": "0-1", "threads": 1})
    assert pinned.differences(free) == {}
    two = [device.model_copy(update={"threads": 2}) for device in (pinned, free)]
    assert two[0].differences(two[1]) == {"affinity": ("0", "0-1")}


def test_an_unknown_field_of_the_identity_is_named(tmp_path):
    DEVICE.save(tmp_path / "device.json")
    path = tmp_path / "device.json"
    path.write_text(path.read_text().replace('"batch"', '"batches"'))
    with pytest.raises(TableError, match="batches"):
        LatencyTable.open(tmp_path)
