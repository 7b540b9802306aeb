"""The committed tables against this machine as it is now: fresh processes, other architectures.

A table's own validation is measured right after it; this is what a user meets later. `bias` is the
mean relative error, what the machine's state has moved all networks alike.
"""

from __future__ import annotations

from datetime import UTC, datetime

from benchmarks.here import table_here
from benchmarks.results import save
from latprof.profile.judge import validate
from lookup_tables.network import Network

NETWORKS, SAMPLES, SEED = ("resnet56", "resnet20", "mobilenet_v1", "vgg16_32"), 40, 1


def main() -> None:
    _, table = table_here()
    results = {}
    for name in NETWORKS:
        results[name] = {
            "table_measured_at": table.validation(name).measured_at,
            "now": datetime.now(UTC).isoformat(timespec="seconds"),
        } | {
            found.widths: found.model_dump(exclude={"row", "widths"}, exclude_none=True)
            for found in validate(Network.load(name), table, SAMPLES, SEED)
        }
    print(save("revalidate", {"networks": results, "samples": SAMPLES, "seed": SEED}))


if __name__ == "__main__":
    main()
