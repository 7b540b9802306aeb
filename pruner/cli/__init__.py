"""The `pruner` command. Its options follow from settings and registries (`options.py`)."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lookup_tables.errors import ContractError
from pruner.cli import anchors, front, networks, options, prune, train
from pruner.cli.progress import console
from pruner.run.settings import OF_FINISHING, WHERE
from pruner.train.compute import keep_freed_memory


def build_app() -> typer.Typer:
    """The commands, with options for all that is registered now."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        help="Finds, trains and exports a smaller network that meets a latency budget, offline.",
    )
    app.callback()(_common)
    app.command()(networks.trace)
    app.command()(options.with_settings(train.train, options.own(["task"])))
    every_own = [*options.common(), *options.own(["method", "criterion", "task"])]
    app.command()(options.with_settings(prune.prune, iter(every_own)))
    shared = [*options.common(prune.SEVERAL), *options.own(["criterion", "task"])]
    app.command()(options.with_settings(prune.compare, iter(shared)))
    for_ways = [
        *options.common(prune.NOT_RECOMMENDED_BY),
        *options.own(["method", "criterion", "task"]),
    ]
    app.command()(options.with_settings(prune.recommend, iter(for_ways)))
    for_search = [
        *options.common((*OF_FINISHING, *front.NOT_SEARCHED), method=front.METHOD),
        *options.own(["method", "criterion", "task"]),
    ]
    app.command()(options.with_settings(front.search, iter(for_search)))
    app.command()(front.front)
    app.command()(options.with_settings(front.pick, options.changes((*OF_FINISHING, *WHERE))))
    app.command()(options.with_settings(networks.evaluate, options.own(["task"])))
    app.command()(networks.export)
    app.command()(anchors.anchors)
    return app


def _common(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress; answers and errors only.")
    ] = False,
) -> None:
    console.quiet = quiet
    keep_freed_memory()


def main() -> None:
    """Run the command; a user's mistake is one line on standard error, not a traceback."""
    try:
        build_app()()
    except ContractError as error:
        sys.exit(_complain(error))
    except OSError as error:  # a full disk, a folder that may not be written
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_complain(f"{where}{error.strerror or error}; files written so far are kept"))


def _complain(error: Exception | str) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 1
