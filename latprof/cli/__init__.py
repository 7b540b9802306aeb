"""The `latprof` command."""

from __future__ import annotations

import sys

import typer

from latprof import DISTURBED_EXIT, DeviceNotHere, Disturbed
from latprof.cli import measure, read, share
from latprof.cli.kernels import build_kernels_app
from latprof.cli.options import QuietOption, console
from lookup_tables.errors import ContractError, DeviceMismatch


def build_app() -> typer.Typer:
    """The commands, in the order in which one needs them."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        help="Measures a device once and writes a latency table, which pruning then reads offline.",
    )
    app.callback()(_common)
    for command in (
        read.devices, read.doctor, read.networks, measure.profile, measure.validate, read.predict,
        read.steps, read.explain, measure.repeat, measure.transfer, read.diff, read.export,
        measure.compare,
    ):  # fmt: skip
        app.command()(command)
    app.command("push")(share.push_command)
    app.command("pull")(share.pull_command)
    app.command("list")(share.list_command)
    app.command("verify")(share.verify_command)
    app.command("merge")(share.merge_command)
    app.command("convert")(share.convert_command)
    app.command("card")(share.card_command)
    app.command("plot")(share.plot_command)
    app.add_typer(
        build_kernels_app(), name="kernels",
        help="Operators for ONNX Runtime that make networks with sparse weights faster.",
    )  # fmt: skip
    return app


def _common(quiet: QuietOption = False) -> None:
    console.quiet = quiet


def main() -> None:
    """Run the command; a user's mistake is one line on standard error, not a traceback.

    Exit codes: 0 done, 1 wrong input, 2 wrong usage, 3 this machine is not the device asked for,
    4 the error asked for was not reached, 5 two tables differ, 6 this machine is too busy to be
    measured on.
    """
    try:
        build_app()()
    except (DeviceNotHere, DeviceMismatch) as error:
        sys.exit(_complain(error, 3))
    except Disturbed as error:
        sys.exit(_complain(error, DISTURBED_EXIT))
    except ContractError as error:
        sys.exit(_complain(error, 1))
    except OSError as error:  # a full disk, a folder that may not be written
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_complain(f"{where}{error.strerror or error}; files written so far are kept", 1))


def _complain(error: Exception | str, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
