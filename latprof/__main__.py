"""The `latprof` command, where it can run."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; on Windows it says in one line what to do instead."""
    if sys.platform == "win32":
        print(
            "error: latprof measures on Linux and macOS only: Windows tells too little of who has "
            "the processors. Run it in WSL 2; tables are read everywhere",
            file=sys.stderr,
        )
        sys.exit(1)
    from latprof.cli import main as run  # imports what Windows lacks

    run()


if __name__ == "__main__":
    main()
