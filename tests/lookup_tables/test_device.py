import pytest

from lookup_tables.device import Device
from lookup_tables.errors import DeviceMismatch, TableError
from lookup_tables.table import LatencyTable
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
        ("method", 2),
    ],
)
def test_a_table_of_another_device_is_refused_naming_what_differs(tmp_path, field, value):
    LatencyTable.create(tmp_path / "t", DEVICE)
    other = DEVICE.model_copy(update={field: value})
    expected = f"{field}: expected {value}, found {getattr(DEVICE, field)}"
    with pytest.raises(DeviceMismatch, match=expected):
        LatencyTable.create(tmp_path / "t", other)


def test_a_device_survives_being_written_and_read(tmp_path):
    DEVICE.save(tmp_path / "device.json")
    assert Device.load(tmp_path / "device.json") == DEVICE


def test_another_name_is_not_another_device():
    assert not DEVICE.differences(DEVICE.model_copy(update={"name": "mine"}))


def test_a_folder_without_identity_is_no_table(tmp_path):
    with pytest.raises(TableError, match=r"is no latency table: device.json is missing"):
        LatencyTable.open(tmp_path)


def test_a_newer_identity_file_is_refused(tmp_path):
    text = DEVICE.model_dump_json().replace('"format":1', '"format":2,"clocks":[1,2]')
    (tmp_path / "device.json").write_text(text)
    with pytest.raises(TableError, match="format 2 is newer"):
        LatencyTable.open(tmp_path)


def test_an_unknown_field_of_the_identity_is_named(tmp_path):
    DEVICE.save(tmp_path / "device.json")
    path = tmp_path / "device.json"
    path.write_text(path.read_text().replace('"batch"', '"batches"'))
    with pytest.raises(TableError, match="batches"):
        LatencyTable.open(tmp_path)
