"""The `latprof` command, where it can run."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; on Windows it says in one line what to do instead."""
    if sys.platform == "win32":
        print(
            "error: latprof measures on Linux and macOS only: Windows does not report which "
            "processes use the cores. Run it in WSL 2; tables can be read on any system",
            file=sys.stderr,
        )
        sys.exit(1)
    from latprof.cli import main as run  # imports what Windows lacks

    run()


if __name__ == "__main__":
    main()
