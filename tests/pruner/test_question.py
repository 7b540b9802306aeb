"""Drop layers, or thin them: what the seeds allow to be said."""

import pytest

from pruner.run.question import answers, methods_of

LAYERS, FILTERS, BOTH = methods_of("depth", "gate_taylor")


def row(method, accuracy, seeds=3, spread=0.0, asked=2.0):
    return {
        "method": method, "asked": asked, "asked_ms": None, "seeds": seeds, "accuracy": accuracy,
        "accuracy_low": accuracy - spread, "accuracy_high": accuracy + spread, "measured": asked,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("layers", "filters", "told"),
    [
        ((0.92, 3, 0.001), (0.90, 3, 0.001), "dropping layers keeps 2.00 points more, in all of 3"),
        ((0.90, 3, 0.001), (0.92, 3, 0.001), "thinning layers keeps 2.00 points more, in all of 3"),
        ((0.92, 3, 0.02), (0.91, 3, 0.02), "no difference beyond the spread of 3 seeds"),
        ((0.92, 1, 0.0), (0.91, 3, 0.0), "keeps 1.00 points more (one seed each"),
    ],
)
def test_an_answer_is_as_sure_as_its_seeds(layers, filters, told):
    found = [row(LAYERS, *layers), row(FILTERS, *filters)]
    (answer,) = answers(found, "depth", "gate_taylor")
    assert told in answer.told


def test_budgets_are_answered_one_by_one_the_best_way_first():
    rows = [row(LAYERS, 0.9), row(FILTERS, 0.92), row(BOTH, 0.93), row("thompson", 0.99)]
    first, second = answers([*rows, row(LAYERS, 0.8, asked=3.0)], "depth", "gate_taylor")
    assert [way for way, _ in first.rows] == ["both", "layers thinned", "layers dropped"]
    assert first.told.endswith("both together: +1.00")
    assert second.told == "no network with layers thinned meets this budget"
