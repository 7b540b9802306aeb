"""What the committed tables predict stays what it was, until the predictor is raised on purpose."""

import json

import numpy as np
import pytest

from lookup_tables.model.latency_model import PREDICTOR
from lookup_tables.table.home import DATA
from lookup_tables.table.store import LatencyTable
from tests.lookup_tables.golden import GOLDEN, committed, predictions

KNOWN = json.loads(GOLDEN.read_text())


def test_the_predictions_written_down_are_of_this_predictor_and_of_every_table():
    assert KNOWN["predictor"] == PREDICTOR, (
        "write them down anew: python -m tests.lookup_tables.golden"
    )
    assert {*KNOWN["seconds"]} == {f"{device}/{name}" for device, name in committed()}


@pytest.mark.parametrize(("device", "name"), committed())
def test_a_committed_table_is_of_the_network_that_it_was_measured_on(device, name):
    table = LatencyTable.open(DATA / device)
    assert table.plan(name).fingerprint == table.load_network(name).fingerprint


@pytest.mark.parametrize(("device", "network"), committed())
def test_a_committed_table_predicts_what_it_did(device, network):
    found = predictions(device, network)
    np.testing.assert_allclose(found, KNOWN["seconds"][f"{device}/{network}"], rtol=1e-9)
