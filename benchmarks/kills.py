"""A profile killed at 50 random moments: is any complete row lost, is anything corrupt?

    python -m benchmarks.kills [--kills 50]

Each time the same command is started again on the same table and killed after a random while; when
a profile ends before that, a new table is begun.
After every kill the file must begin with all complete lines that were there before, and must be
readable. At last the profile is finished. Nothing here is a timing.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import typer

from benchmarks.results import save
from lookup_tables.network import Network
from lookup_tables.table.store import LatencyTable

NETWORK = "digits_resnet"
LONGEST_S = 4.0  # of one life: long enough to open the networks and write some rows


def main(kills: int = 50, seed: int = 0) -> None:
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        tables, cut_lines, lost, rows = 1, 0, 0, []
        folder, complete = Path(place) / "1", b""
        while len(rows) < kills:
            path = folder / f"{NETWORK}.jsonl"
            process = start(folder)
            time.sleep(moments.uniform(0.0, LONGEST_S))
            if process.poll() is not None:  # finished before it was killed: a new table
                lost += not path.read_bytes().startswith(complete)
                tables += 1
                folder, complete = Path(place) / str(tables), b""
                continue
            process.send_signal(signal.SIGKILL)
            process.wait()
            content = path.read_bytes() if path.exists() else b""
            lost += not content.startswith(complete)
            complete = content[: content.rfind(b"\n") + 1]
            cut_lines += content != complete
            if complete and content == complete:
                LatencyTable.open(folder).rows(NETWORK)
            rows.append(complete.count(b"\n"))
            print(f"kill {len(rows)}: {rows[-1]} rows, last line cut: {content != complete}")
        process = start(folder)
        assert process.wait() == 0, "the profile could not be finished"
        table = LatencyTable.open(folder)
        network = Network.load(NETWORK)
        lost += not (folder / f"{NETWORK}.jsonl").read_bytes().startswith(complete)
        content = {
            "kills": kills,
            "tables": tables,
            "seed": seed,
            "rows_after_each": rows,
            "kills_that_cut_a_line": cut_lines,
            "kills_that_lost_a_complete_row": lost,
            "runs_in_the_finished_table": len(table.runs(network)),
            "validated": table.validation(NETWORK) is not None,
        }
    print(save("kills", content))


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "latprof", "profile", "--network", NETWORK]
    command += ["--levels", "4", "--samples", "10", "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    typer.run(main)
