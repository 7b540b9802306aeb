"""The run's report: one HTML file without anything from outside."""

from __future__ import annotations

import html
from pathlib import Path

from lookup_tables.estimate import LatencyModel
from lookup_tables.network import Architecture

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
.bar { display: inline-block; height: .7em; background: #4a8; }
.was { background: #8886; }
.scroll { overflow-x: auto; }
svg { width: 100%; height: auto; }
polyline { fill: none; stroke-width: 2; }
.loss { stroke: #4a8; } .right { stroke: #58c; } .held-out { stroke: #c74; }
"""


def write_report(
    path: Path, result: dict, latency: LatencyModel, architecture: Architecture
) -> None:
    """Write report.html: asked, predicted and measured, accuracy, and where the time went."""
    title = f"{result['settings']['model']} on {result['device']['name']}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _table(*result_rows(result)),
        "<h2>Layer by layer</h2>",
        _layers(latency, architecture),
        *_training(result["training"]),
        "<h2>How it was made</h2>",
        _table(["setting", "value"], [[k, str(v)] for k, v in result["settings"].items()]),
        f"<p>commit {html.escape(str(result['commit']))}</p>",
    ]
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    body = "\n".join(parts)
    path.write_text(
        f"<!doctype html><html lang='en'><head>{head}<title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def result_rows(result: dict) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the one table that tells a run: asked, predicted, measured, accuracy."""
    asked, predicted, measured = (result[name] for name in ("asked", "predicted", "measured"))
    accuracy = {
        name: f"{value:.2%}" for name, value in result["accuracy"].items() if name != "test_images"
    }
    rows = [
        ["dense", "1.00×", f"{asked['dense_ms']:.3f} ms", "", accuracy["dense"]],
        ["asked", *_speed(asked), "", ""],
        [
            "predicted, cut",
            *_speed(predicted),
            f"{predicted['low_ms']:.3f} … {predicted['high_ms']:.3f} ms",
            accuracy["pruned"],
        ],
    ]
    if measured is None:
        rows.append(["not measured here, fine-tuned", "", "", "", accuracy["fine_tuned"]])
    else:
        spread = f"{measured['speedup_low']:.2f} … {measured['speedup_high']:.2f}×"
        rows.append(["measured, fine-tuned", *_speed(measured), spread, accuracy["fine_tuned"]])
    rows.append(["exported to ONNX", "", "", "", accuracy["exported"]])
    return ["", "speedup", "latency", "range", "test accuracy"], rows


def _speed(entry: dict) -> list[str]:
    return [f"{entry['speedup']:.2f}×", f"{entry['latency_ms']:.3f} ms"]


def _layers(latency: LatencyModel, architecture: Architecture) -> str:
    dense = {layer.name: layer for layer in latency.layers(latency.network.dense)}
    now = {layer.name: layer for layer in latency.layers(architecture)}
    longest = max(layer.seconds for layer in dense.values())
    rows = []
    for name, before in dense.items():
        after = now.get(name)
        bars = "".join(
            f"<span class='bar {kind}' style='width:{100 * s / longest:.1f}px'></span><br>"
            for kind, s in (("was", before.seconds), ("", after.seconds if after else 0.0))
        )
        shape = f"{after.spec.in_channels} → {after.spec.out_channels}" if after else "removed"
        was = f"{before.spec.in_channels} → {before.spec.out_channels}"
        spent = f"{after.seconds * 1e6:.0f}" if after else "0"
        cells = [html.escape(name), was, shape, f"{before.seconds * 1e6:.0f}", spent, bars]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    heading = ["layer", "dense", "pruned", "dense µs", "pruned µs", "grey: dense, green: pruned"]
    return _rows(heading, rows)


def _training(epochs: list[dict]) -> list[str]:
    """The course of fine-tuning, if there was any: loss and accuracies, epoch by epoch."""
    if not epochs:
        return []
    spent = sum(epoch["seconds"] for epoch in epochs)
    parts = [
        "<h2>Fine-tuning, epoch by epoch</h2>",
        _curve("loss", "loss", [epoch["loss"] for epoch in epochs], ".3f"),
        _curve("right", "training images right", [epoch["accuracy"] for epoch in epochs], ".1%"),
        f"<p>{len(epochs)} epochs, {spent / 60:.1f} minutes in training steps</p>",
    ]
    held_out = [epoch["held_out"] for epoch in epochs]
    if None not in held_out:
        parts.insert(-1, _curve("held-out", "held-out images right", held_out, ".1%"))
    return parts


def _curve(style: str, name: str, values: list[float], form: str) -> str:
    """A line over epochs from the lowest to the highest value, and in words what it shows."""
    width, height = 720, 90
    low, high = min(values), max(values)
    x = [width * (i + 0.5) / len(values) for i in range(len(values))]
    y = [height - 5 - (height - 10) * (v - low) / (high - low or 1.0) for v in values]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    said = f"{name}: {values[0]:{form}} → {values[-1]:{form}} ({low:{form}} … {high:{form}})"
    return (
        f"<p>{said}</p><svg viewBox='0 0 {width} {height}' role='img' aria-label='{said}'>"
        f"<polyline class='{style}' points='{points}'/></svg>"
    )


def _table(heading: list[str], rows: list[list[str]]) -> str:
    cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return _rows(heading, cells)


def _rows(heading: list[str], rows: list[str]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heading)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<div class='scroll'><table><tr>{head}</tr>{body}</table></div>"
