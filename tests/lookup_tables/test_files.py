import multiprocessing
import os
import signal
import time

import pytest

from lookup_tables.errors import TableError
from lookup_tables.files import only_writer, write_whole


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


def test_a_file_is_replaced_as_a_whole(tmp_path):
    write_whole(tmp_path / "a", "before")
    write_whole(tmp_path / "a", b"after")
    assert (tmp_path / "a").read_text() == "after"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
