"""A comparison's page: its picture, its table, and the way to every run's own report."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from pruner.run.question import Answer
from pruner.run.report import page, pictures
from pruner.run.settings import CHOICES
from pruner.search.methods import METHODS
from pruner.search.space import Kind


def write_comparison(
    path: Path, title: str, content: dict, dense_accuracy: float, answers: Sequence[Answer] = ()
) -> None:
    """Write the page of a comparison; `content` is that of compare.json."""
    names = [
        "network", "predicted", "measured, in pairs", "before fine-tuning", "test accuracy",
        "points lost",
    ]  # fmt: skip
    picture = pictures.comparison(content["summary"], dense_accuracy, content.get("dense_ms"))
    own = _own_settings(content)
    settings = [[name, str(v)] for name, v in content["settings"].items() if name not in own]
    page.write_page(
        path,
        title,
        [
            page.pictures({"Test accuracy against measured latency": picture}),
            *_answered(answers, dense_accuracy),
            page.table_of_html(names, [_cells(row, dense_accuracy) for row in content["rows"]]),
            page.paragraph(
                f"The dense network has {dense_accuracy:.2%}. Bars are ranges over fresh "
                "sessions, and over seeds. Hollow marks were not measured here; the table "
                "predicts them. The broad line joins networks that no faster one surpasses."
                + _never_removing(content)
            ),
            page.heading("What all of them share"),
            page.table(["setting", "value"], settings),
        ],
    )


def _answered(answers: Sequence[Answer], dense_accuracy: float) -> list[str]:
    """Drop layers or thin them: a table of the ways, and a sentence for every budget."""
    if not answers:
        return []
    rows, told = [], []
    for answer in answers:
        budget = asked(vars(answer))
        told.append(page.paragraph(html.escape(f"{budget}: {answer.told}.")))
        for way, row in answer.rows:
            measured = f"{row['measured']:.2f}×" if row["measured"] else "not here"
            spread = f"{row['accuracy_low']:.2%} … {row['accuracy_high']:.2%}"
            lost = f"{100 * (dense_accuracy - row['accuracy']):.2f}"
            cells = [
                budget,
                way,
                str(row["seeds"]),
                measured,
                f"{row['accuracy']:.2%}",
                spread,
                lost,
            ]
            rows.append([html.escape(cell) for cell in cells])
    names = ["asked", "way", "seeds", "measured", "test accuracy", "over seeds", "points lost"]
    title = f"Drop layers or thin them? By {answers[0].criterion.replace('_', ' ')}"
    return [page.heading(title), page.table_of_html(names, rows), *told]


def asked(row: dict) -> str:
    """A row's budget in words, as it was given; empty for a member of the family."""
    if row.get("asked_ms"):
        return f"{row['asked_ms']:g} ms"
    return f"{row['asked']:g}×" if row["asked"] else ""


def _own_settings(content: dict) -> set[str]:
    """What a method has of its own, or was given: not shared by all."""
    given = (row["method"].partition(":")[2] for row in content["rows"])
    words = (part.partition("=")[0] for text in given for part in text.split(","))
    own = {name for method in METHODS.values() for name in method.settings.model_fields}
    return {*words, *own, *(f"{field}_settings" for field in CHOICES)}


def _never_removing(content: dict) -> str:
    """Says which methods had no use for what the others were allowed."""
    used = {row["method"].partition(":")[0] for row in content["rows"]}
    some = [n for n, m in METHODS.items() if n in used and Kind.BLOCK not in m.decides]
    if not content["settings"].get("depth") or not some:
        return ""
    return f" Blocks may be removed, but {' and '.join(some)} decide widths only."


def _cells(row: dict, dense_accuracy: float) -> list[str]:
    """One network: a run, a run whose budget could not be met, or a member of the family."""
    budget = asked(row)
    named = f"{row['method']}, {budget} asked, seed {row['seed']}" if budget else ""
    if "refused" in row:
        return [html.escape(named), html.escape(row["refused"]), "", "", "", ""]
    measured = "not here"
    if row["measured"]:
        spread = f"{row['measured_low']:.2f} … {row['measured_high']:.2f}"
        measured = f"{row['measured']:.2f}× ({spread})"
        if row.get("latency_ms"):
            measured += f", {row['latency_ms']:.3g} ms"
    accuracy, lost = f"{row['accuracy']:.2%}", f"{100 * (dense_accuracy - row['accuracy']):.2f}"
    if not named:
        published = " (published)" if row["published"] else ""
        return [html.escape(row["method"]), "", measured, "", accuracy + published, lost]
    return [
        page.link(named, f"{row['folder']}/report.html"),
        f"{row['predicted']:.2f}×",
        measured,
        f"{row['before_fine_tuning']:.2%}",
        accuracy,
        lost,
    ]
