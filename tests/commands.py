"""The commands, run as the shell would."""

import sys

from tests.toys import small_resnet

FACTORY = f"{small_resnet.__code__.co_filename}:small_resnet"


def command(monkeypatch, main, *arguments) -> int:
    """Run a command; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["x", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def prune_arguments(workshop, out, **changes):
    """Options of `pruner prune` for the workshop's network; None leaves one out."""
    options = {
        "model": FACTORY, "weights": workshop / "dense.safetensors", "data": "digits",
        "table": workshop / "table", "speedup": 1.2, "episodes": 6, "epochs": 1, "out": out,
    } | changes  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    return [a for name, value in given.items() for a in (f"--{name.replace('_', '-')}", value)]
