import multiprocessing
import os
import signal
import time

import pytest

from lookup_tables.errors import TableError
from lookup_tables.storage.files import only_writer, write_whole


def hold_and_die(folder, locked):
    with only_writer(folder):
        locked.set()
        os._exit(9)


def hold_fork_and_die(folder, forked, child):
    with only_writer(folder):
        number = os.fork()
        if not number:
            forked.set()
            time.sleep(60)
            os._exit(0)
        child.value = number
        forked.wait(60)
        os._exit(9)


def test_of_two_writers_of_a_folder_the_second_is_refused(tmp_path):
    with only_writer(tmp_path), pytest.raises(TableError, match="another process is writing"):
        only_writer(tmp_path).__enter__()
    with only_writer(tmp_path):
        assert not [*tmp_path.iterdir()]


def test_a_writer_that_died_holds_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    locked = context.Event()
    writer = context.Process(target=hold_and_die, args=(tmp_path, locked))
    writer.start()
    assert locked.wait(60)
    writer.join(60)
    assert writer.exitcode == 9
    with only_writer(tmp_path):
        pass


def test_what_a_dead_writer_leaves_behind_holds_nothing_either(tmp_path):
    """Processes that read images ahead outlive a killed training by seconds."""
    context = multiprocessing.get_context("spawn")
    forked, child = context.Event(), context.Value("i")
    writer = context.Process(target=hold_fork_and_die, args=(tmp_path, forked, child))
    writer.start()
    writer.join()  # with a time limit it would wait for the forked process too
    assert writer.exitcode == 9
    with only_writer(tmp_path):
        os.kill(child.value, signal.SIGKILL)  # it was there all the time


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("lookup_tables.storage.files.fcntl.flock", unsupported)
    with (
        pytest.warns(UserWarning, match="does not support locks; make sure"),
        only_writer(tmp_path),
    ):
        pass


def write_often(path, letter, go):
    go.wait(60)
    for _ in range(200):
        write_whole(path, letter * 10_000)


def test_of_writers_at_once_one_file_is_there_whole(tmp_path):
    context = multiprocessing.get_context("spawn")
    go = context.Event()
    letters = "abc"
    writers = [
        context.Process(target=write_often, args=(tmp_path / "f", letter, go)) for letter in letters
    ]
    for writer in writers:
        writer.start()
    go.set()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert (tmp_path / "f").read_text() in {letter * 10_000 for letter in letters}
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_what_a_killed_writer_left_is_cleared_by_the_next(tmp_path):
    kept = [
        "mine.partial",
        "x.download.partial",
        "g.json.0123abcd.partial",
    ]  # the last is written now
    for name in ["f.json.0123abcd.partial", *kept]:
        (tmp_path / name).write_text("half")
    for name in ["f.json.0123abcd.partial", *kept[:2]]:
        os.utime(tmp_path / name, (0, 0))
    with only_writer(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_file_is_replaced_as_a_whole(tmp_path):
    write_whole(tmp_path / "a", "before")
    write_whole(tmp_path / "a", b"after")
    assert (tmp_path / "a").read_text() == "after"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
