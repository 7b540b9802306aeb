"""The run's report: what was asked, predicted and measured, what it cost, and how it came about."""

from __future__ import annotations

import html
import shlex
from collections.abc import Sequence
from pathlib import Path

from lookup_tables.architecture import Architecture
from lookup_tables.model.latency_model import LatencyModel
from pruner.run.report import page, pictures
from pruner.run.settings import Settings

DEPLOYED = """\
# Once, on the device: latprof kernels build --out libblock_sparse.so
import onnxruntime as ort
options = ort.SessionOptions()
options.register_custom_ops_library("./libblock_sparse.so")
session = ort.InferenceSession("model.onnx", options)
outputs = session.run(None, {"input": images})"""


def write_report(
    path: Path,
    result: dict,
    latency: LatencyModel,
    architecture: Architecture,
    tried: Sequence[dict],
    shown: bytes | None = None,
) -> None:
    """Write report.html.

    `tried`: the rows of the search log, in their order. `shown`: a PNG of the answers to some test
    images, where a task can be looked at.
    """
    page.write_page(
        path,
        f"{result['settings']['model']} on {result['device']['name']}",
        [
            page.table(*result_rows(result)),
            *_looked_at(shown),
            page.heading("Where the time went"),
            _layers(latency, architecture),
            page.heading("The widths chosen"),
            _widths(latency, architecture),
            *_search(result, tried, architecture),
            *_training(result["training"], result.get("metric", "accuracy")),
            *_deploy(latency),
            *_reproduce(result),
        ],
    )


def result_rows(result: dict) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the one table that tells a run: asked, predicted, measured, accuracy."""
    asked, predicted, measured = (result[name] for name in ("asked", "predicted", "measured"))
    details = result.get("details", {})
    accuracy = {
        name: f"{value:.2%}"
        + "".join(f" ({share:.2%} {word})" for word, share in details.get(name, {}).items())
        for name, value in result["accuracy"].items()
        if name != "test_images"
    }
    in_int8 = "dense_int8" in accuracy
    final, named = ("exported", "in INT8") if in_int8 else ("fine_tuned", "fine-tuned")
    dense = ["dense in INT8" if in_int8 else "dense", "1.00×", f"{asked['dense_ms']:.3f} ms", ""]
    rows = [
        [*dense, accuracy["dense_int8" if in_int8 else "dense"]],
        ["asked", *_speed(asked), "", ""],
        [
            "predicted, cut",
            *_speed(predicted),
            f"{predicted['low_ms']:.3f} … {predicted['high_ms']:.3f} ms",
            accuracy["pruned"],
        ],
    ]
    if measured is None:
        rows.append([f"not measured here, {named}", "", "", "", accuracy[final]])
    else:
        rows.append([*_measured(measured, named), accuracy[final]])
    if in_int8:
        rows += _beside_fp32(accuracy, (measured or {}).get("over_fp32"))
    else:
        rows.append(["exported to ONNX", "", "", "", accuracy["exported"]])
    return ["", "speedup", "latency", "range", f"test {result.get('metric', 'accuracy')}"], rows


def _measured(measured: dict, named: str) -> list[str]:
    """A measured pair: what, speedup, latency, range."""
    when, low, high = "measured", measured["speedup_low"], measured["speedup_high"]
    if measured.get("slow_phase"):
        when, low, high = (
            "measured in a slow phase (range: expected when quiet)",
            measured["expected_low"],
            measured["expected_high"],
        )
    return [f"{when}, {named}", *_speed(measured), f"{low:.2f} … {high:.2f}×"]


def _beside_fp32(accuracy: dict[str, str], over: dict | None) -> list[list[str]]:
    """What a network in INT8 is beside those in FP32; `over`: timed beside the dense one."""
    rows = [["fine-tuned, in FP32", "", "", "", accuracy["fine_tuned"]]]
    dense = "dense in FP32"
    if over is None:
        return [*rows, [dense, "", "", "", accuracy["dense"]]]
    rows.append([*_measured(over, f"in INT8, over {dense}"), accuracy["exported"]])
    return [*rows, [dense, "", f"{over['dense_ms']:.3f} ms", "", accuracy["dense"]]]


def _speed(entry: dict) -> list[str]:
    return [f"{entry['speedup']:.2f}×", f"{entry['latency_ms']:.3f} ms"]


def _layers(latency: LatencyModel, architecture: Architecture) -> str:
    """Every layer's time before and after, as bars."""
    dense = {layer.name: layer for layer in latency.layers(latency.network.dense)}
    now = {layer.name: layer for layer in latency.layers(architecture)}
    longest = max(layer.seconds for layer in dense.values())
    rows = []
    for name, before in dense.items():
        after = now.get(name)
        bars = "<br>".join(
            f"<span class='bar {kind}' style='width:{100 * seconds / longest:.1f}px'></span>"
            for kind, seconds in (("was", before.seconds), ("", after.seconds if after else 0.0))
        )
        shape = f"{after.spec.in_channels} → {after.spec.out_channels}" if after else "removed"
        was = f"{before.spec.in_channels} → {before.spec.out_channels}"
        spent = f"{after.seconds * 1e6:.0f}" if after else "0"
        row = [html.escape(name), was, shape, f"{before.seconds * 1e6:.0f}", spent, bars]
        if architecture.density:
            row.insert(3, f"{architecture.density.get(name, 1.0):.0%}" if after else "")
        rows.append(row)
    names = ["layer", "dense", "pruned", "dense µs", "pruned µs", "grey: dense, green: pruned"]
    if architecture.density:
        names.insert(3, "weights kept")
    return page.table_of_html(names, rows)


def _widths(latency: LatencyModel, architecture: Architecture) -> str:
    """On the staircase, where they matter most; all of them in a table."""
    network = latency.network
    chosen = network.widths(architecture)
    removed = ", ".join(architecture.removed) or "none"
    rows = [[g.name, str(g.width), str(chosen[g.name])] for g in network.groups]
    picture = pictures.staircase(latency, architecture)
    return "".join(
        (
            page.pictures({"Time over width: rings were chosen, dots are right edges": picture}),
            page.paragraph(f"Removed blocks: {removed}."),
            "<details><summary>Every group</summary>",
            page.table(["group", "dense", "kept"], rows),
            "</details>",
        )
    )


def _search(result: dict, tried: Sequence[dict], architecture: Architecture) -> list[str]:
    """Every score in its order, and over its time; nothing where there was no search."""
    if len(tried) < 2:
        return []
    accuracies = [row["accuracy"] for row in tried]
    latencies_s = [row["latency_s"] for row in tried]
    asked_s = result["asked"]["latency_ms"] / 1e3
    known = [row["architecture"] == architecture for row in tried]
    chosen = known.index(True) if True in known else None
    return [
        page.heading("What the search tried"),
        page.pictures(
            {
                "Score by score": pictures.search_course(
                    accuracies, [seconds <= asked_s for seconds in latencies_s]
                ),
                "Accuracy against time": pictures.search_cloud(
                    latencies_s, accuracies, chosen, asked_s
                ),
            }
        ),
        page.paragraph(
            f"{len(tried)} networks scored by {result['settings']['method']} on held-out training "
            f"images, before fine-tuning.{_front(result)}"
        ),
    ]


def _front(result: dict) -> str:
    """Says where the front is, of a method that gives one."""
    if not result.get("front"):
        return ""
    return f" A front of {result['front']} networks, none surpassed by a faster one: front.json."


def _looked_at(shown: bytes | None) -> list[str]:
    """What the networks answer to some test images."""
    if shown is None:
        return []
    return [
        page.heading("Some test images"),
        page.paragraph("From left to right: the truth, the dense network, the pruned one."),
        page.png(shown, "test images with the boxes that were labelled and found"),
    ]


def _training(epochs: Sequence[dict], metric: str) -> list[str]:
    """The course of fine-tuning, if there was any: loss and accuracies, epoch by epoch."""
    if not epochs:
        return []
    first, last = epochs[0], epochs[-1]
    spent_s = sum(epoch["seconds"] for epoch in epochs)
    return [
        page.heading("Fine-tuning, epoch by epoch"),
        page.pictures(
            {
                "Loss": pictures.loss_course([epoch["loss"] for epoch in epochs]),
                "Images right" if metric == "accuracy" else "Score": pictures.accuracy_course(
                    [epoch["accuracy"] for epoch in epochs],
                    [epoch["held_out"] for epoch in epochs],
                ),
            }
        ),
        page.paragraph(
            f"{len(epochs)} epochs, {spent_s / 60:.1f} minutes in training steps: loss "
            f"{first['loss']:.3f} → {last['loss']:.3f}, "
            f"{_of_training(metric)}: {first['accuracy']:.1%} → {last['accuracy']:.1%}."
        ),
    ]


def _of_training(metric: str) -> str:
    """What training tells of its own images."""
    if metric == "accuracy":
        return "training images right"
    return f"a quick stand-in for {metric} on training images"


def _deploy(latency: LatencyModel) -> list[str]:
    """How to run a network on sparse kernels; nothing for plain ones."""
    if latency.device.block is None:
        return []
    return [
        page.heading("How to run it"),
        page.code(DEPLOYED),
        page.paragraph(
            "model_dense.onnx is the same network of plain ONNX, its zeros in place: any runtime "
            "runs it, as slowly as the dense one."
        ),
    ]


def _reproduce(result: dict) -> list[str]:
    """The command, the versions and what it started from."""
    settings = Settings(**result["settings"])
    table = {f"table: {name}": value for name, value in result["table"].items()}
    facts = {"commit": result["commit"]} | table | result["versions"]
    return [
        page.heading("How to reproduce it"),
        page.code(shlex.join(["pruner", "prune", *settings.options(), "--out", "RUN"])),
        page.table(["what", "value"], [[name, str(value)] for name, value in facts.items()]),
        "<details><summary>Every setting</summary>",
        page.table(["setting", "value"], [[k, str(v)] for k, v in result["settings"].items()]),
        "</details>",
    ]
