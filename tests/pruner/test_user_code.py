"""Functions from a user's own files."""

import pytest

from pruner import ModelError
from pruner.models.user_code import call_function, load_function

BESIDE = "WIDTH = 7\n"
OWN = """
from __future__ import annotations
from dataclasses import dataclass
from layers_beside import WIDTH

@dataclass
class Plan:
    width: int = WIDTH

def make():
    return Plan()

def again():
    return Plan
"""


def test_a_file_may_import_what_lies_beside_it_and_is_run_once(tmp_path):
    (tmp_path / "layers_beside.py").write_text(BESIDE)
    (tmp_path / "mine.py").write_text(OWN)
    made = load_function(f"{tmp_path}/mine.py:make", "--model", ModelError)()
    assert made.width == 7
    assert isinstance(made, load_function(f"{tmp_path}/mine.py:again", "--model", ModelError)())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import nothing_like_this",
            r"ModuleNotFoundError: .*nothing_like_this.*broken.py, line 1",
        ),
        ("x = 1\n1 / 0", r"ZeroDivisionError: .*broken.py, line 2"),
        ("def f(:", r"SyntaxError: .*broken.py, line 1"),
    ],
)
def test_a_file_that_fails_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(ModelError, match=message):
        load_function(f"{tmp_path}/broken.py:f", "--model", ModelError)
    (tmp_path / "broken.py").write_text("def f(): return 3")
    assert load_function(f"{tmp_path}/broken.py:f", "--model", ModelError)() == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f():\n    return 1 / 0", r"mine.py:f failed: ZeroDivisionError.*mine.py, line 2"),
        ("def f(classes):\n    return 3", r"missing 1 required positional argument: 'classes'"),
    ],
)
def test_a_function_that_fails_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ModelError, match=message):
        call_function(f"{tmp_path}/mine.py:f", "--model", ModelError)
