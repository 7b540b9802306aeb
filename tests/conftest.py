"""Tests run on two threads at most and never on a GPU by accident."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _reproducible():
    torch.manual_seed(0)
    torch.set_num_threads(2)
