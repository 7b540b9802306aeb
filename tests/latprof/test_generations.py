"""Processors of one name are told apart in words."""

import pytest

from latprof.machine.generations import generation_of


def detail(family, model, stepping=1):
    return {"cpu_family": str(family), "model": str(model), "stepping": str(stepping)}


@pytest.mark.parametrize(
    ("processor", "numbers", "word"),
    [
        ("AMD EPYC", detail(23, 49), "zen2"),
        ("AMD EPYC", detail(25, 1), "zen3"),
        ("AMD EPYC", detail(25, 17), "zen4"),
        ("AMD EPYC", detail(26, 2), "zen5"),
        ("Intel(R) Xeon(R) Processor", detail(6, 207, 2), "emerald_rapids"),
        ("Intel(R) Xeon(R) Processor", detail(6, 85, 4), "skylake"),
        ("Intel(R) Xeon(R) Processor", detail(6, 85, 7), "cascadelake"),
    ],
)
def test_a_processor_whose_name_says_nothing_is_named_by_its_generation(processor, numbers, word):
    assert generation_of(processor, numbers) == word


@pytest.mark.parametrize(
    ("processor", "numbers"),
    [
        ("AMD EPYC 7763 64-Core Processor", detail(25, 1)),
        ("AMD EPYC", detail(99, 1)),
        ("AMD EPYC", {"machine": "x86_64"}),
        ("Intel(R) Xeon(R) Processor", detail(7, 207)),
        ("Cortex", detail(6, 207)),
    ],
)
def test_what_has_a_number_or_is_unknown_is_named_as_before(processor, numbers):
    assert generation_of(processor, numbers) == ""
