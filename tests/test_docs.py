"""API pages are built from the docstrings."""

import inspect
import pkgutil
import warnings
from importlib import import_module

import pdoc
import pytest

PACKAGES = ("lookup_tables", "latprof", "pruner")


def modules(package):
    found = pkgutil.walk_packages(import_module(package).__path__, f"{package}.")
    names = [one.name for one in found if not one.name.endswith("__main__")]
    return [import_module(name) for name in (package, *names)]


def test_the_api_pages_are_built_from_the_docstrings(tmp_path):
    with warnings.catch_warnings():
        # Types that exist for type checkers only are shown by their names.
        warnings.filterwarnings("ignore", "(Error parsing|Failed to run).*type annotation")
        pdoc.render.configure(show_source=False)  # half of the time, and nothing is asked of it
        pdoc.pdoc(*PACKAGES, output_directory=tmp_path)
    page = (tmp_path / "lookup_tables" / "model" / "latency_model.html").read_text()
    assert "predict_architectures" in page
    assert "Predicts any architecture of one network on one device." in page
    assert (tmp_path / "pruner" / "run" / "prune.html").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_module_class_and_function_says_what_it_is(package):
    for module in modules(package):
        assert module.__doc__, module.__name__
        for name, one in inspect.getmembers(module):
            own = getattr(one, "__module__", None) == module.__name__
            if (
                own
                and not name.startswith("_")
                and (inspect.isclass(one) or inspect.isfunction(one))
            ):
                assert one.__doc__, f"{module.__name__}.{name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_first_page_names_what_is_there(package):
    words = import_module(package).__doc__.replace("`", " ").replace(",", " ").split()
    for word in words:
        module, _, name = word.strip(".").rpartition(".")
        if module in {one.__name__ for one in modules(package)}:
            assert hasattr(import_module(module), name), word
