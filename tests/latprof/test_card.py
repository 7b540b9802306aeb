import json

import pytest

from latprof import OptionError
from latprof.share.card import write_card
from latprof.share.plot import plot
from lookup_tables.model.latency_model import DENSITIES
from lookup_tables.table.store import repeats_path
from tests.latprof.test_share import finished, judge
from tests.toys import DEVICE, SPARSE_DEVICE, by_kept_weights, chain, synthetic_table

NETWORK = chain(8, 16, 8, 8)


@pytest.fixture
def table(tmp_path):
    made = finished(tmp_path / "table", samples=6)
    NETWORK.save(made.network_path("chain"))
    return made


def test_a_card_tells_device_error_repeatability_and_method(table):
    text = write_card(table).read_text()
    assert text.startswith(f"# Latency table: {DEVICE.name}\n")
    assert DEVICE.processor in text
    assert "| chain |" in text
    assert "**1.0%** | 10.0%" in text
    assert "Not measured yet: `latprof repeat` does" in text
    assert "![chain: time over width, and predicted against measured](chain.svg)" in text
    assert (table.folder / "chain.svg").read_text().startswith("<?xml")


def test_repeats_are_on_the_card_once_they_were_measured(table):
    spread = {"count": 9, "median_spread": 0.01, "p95_spread": 0.02, "worst_spread": 0.03}
    repeats_path(table.folder, "chain").write_text(
        json.dumps(
            {
                "network": "chain",
                "tables": 5,
                "entries": spread,
                "predictions": spread,
                "flagged": [0],
            }
        )
    )
    assert "| chain | 5 | 1.00% | 2.00% | 1.00% | 2.00% |" in write_card(table, False).read_text()


def test_every_row_of_a_card_has_as_many_cells_as_its_heading(table):
    tables = [
        [line.count("|") for line in part.splitlines() if line.startswith("|")]
        for part in write_card(table, False).read_text().split("\n\n")
    ]
    assert sum(map(bool, tables)) == 3  # the error, the device, the method
    assert all(len(set(counts)) <= 1 for counts in tables)


def test_the_same_table_gives_the_same_card_and_picture(table):
    write_card(table)
    before = {path.name: path.read_bytes() for path in table.folder.iterdir()}
    write_card(table)
    assert {path.name: path.read_bytes() for path in table.folder.iterdir()} == before


def test_pictures_come_as_png_too(table, tmp_path):
    plot(NETWORK, table, tmp_path / "deep" / "picture.png")
    assert (tmp_path / "deep" / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_a_picture_of_another_kind_is_refused(table, tmp_path):
    with pytest.raises(
        OptionError, match=r"the file's name must end in one of \.svg, \.png, \.pdf"
    ):
        plot(NETWORK, table, tmp_path / "picture.jpeg")


def test_the_card_of_a_sparse_table_tells_what_densities_are_worth(tmp_path):
    network = chain(32, 64, 32, 8)
    table = synthetic_table(
        tmp_path / "table", network, by_kept_weights, levels=4, device=SPARSE_DEVICE
    )
    judge(table, network.name)
    network.save(table.network_path("chain"))
    card = write_card(table).read_text()
    worth = card.partition("## What leaving out weights is worth")[2].partition("## Device")[0]
    head, _, row = (line for line in worth.splitlines() if line.startswith("|"))
    densities = [float(cell) for cell in head.split("|")[2:-2]]
    speedups = [float(cell.strip(" ×")) for cell in row.split("|")[2:-2]]
    assert densities == sorted(DENSITIES, reverse=True)
    assert speedups == sorted(speedups)
    assert speedups[-1] > 2 * speedups[0]
    assert row.rstrip(" |").endswith("3 of 3 layers")
    assert "leaving out weights" in (table.folder / "chain.svg").read_text()
