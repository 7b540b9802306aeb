"""The documents' tables, written from the saved results: no figure there is typed by hand.

    python -m benchmarks.figures          rewrites them in README.md and the pages of results
    python -m benchmarks.figures --check  ends with code 1 if they differ from the results

A table stands between `<!-- figures: NAME -->` and `<!-- end -->`; NAME is one of MAKERS.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import typer

from benchmarks.results import RESULTS

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs/results.md", *sorted(ROOT.glob("docs/results/*.md")))
MACHINE = "intel_xeon_processor"
NETWORKS = {
    "resnet20": "ResNet-20, 32×32",
    "resnet56": "ResNet-56, 32×32",
    "mobilenet_v1_32": "MobileNet-V1, 32×32",
    "mobilenet_v2_32": "MobileNet-V2, 32×32",
    "resnet18_32": "ResNet-18, 32×32",
    "resnet50_32": "ResNet-50, 32×32",
    "vgg16_32": "VGG-16, 32×32",
    "mobilenet_v1": "MobileNet-V1, 224×224",
    "mobilenet_v2": "MobileNet-V2, 224×224",
    "resnet18": "ResNet-18, 224×224",
    "resnet50": "ResNet-50, 224×224",
    "vgg16": "VGG-16, 224×224",
    "yolov3": "YOLOv3, 416×416",
}
THREADS = {1: "", 2: ", two threads"}
PUBLISHED = {
    "amc_half_flops": "AMC, half the MACs",
    "amc_half_time": "AMC, half the time",
    "robot": "ABCP robot",
    "sim2real": "ABCP sim2real",
    "ucsd": "ABCP UCSD",
}
GENERATIONS = {  # by maker, family and model, of those that share a name with others
    ("AMD", "25", "1"): "Zen 3",
    ("AMD", "26", "2"): "Zen 5",
}
Row = list[str]


def table_error(device: str = f"{MACHINE}_{{threads}}t") -> Iterator[Row]:
    """Every table's own error, on networks measured right after the designed ones."""
    yield ["network", "on the menu", "MACs line", "any width", "MACs line", "unseen", "profile"]
    tables = _read("table_error")["tables"]
    for name, threads, label in _each():
        found = tables.get(device.format(threads=threads), {}).get("networks", {}).get(name)
        if found:
            menu, any_ = found["menu"], found["any"]
            yield [
                f"{label}, {_three(found['dense_ms'])} ms",
                f"**{_percent(menu['rmspe'])}**",
                _percent(menu["flops_rmspe"]),
                f"**{_percent(any_['rmspe'])}**",
                _percent(any_["flops_rmspe"]),
                f"{menu['architectures']} + {any_['architectures']}",
                f"{menu['measuring_s']:.0f} s",
            ]


def headline() -> Iterator[Row]:
    """What a reader wants to know first, one line each."""
    yield ["question", "answer", "from"]
    tables = _read("table_error")["tables"]
    found = [
        net
        for name in (f"{MACHINE}_1t", f"{MACHINE}_2t")
        for net in tables[name]["networks"].values()
    ]
    for widths, words in (("menu", "candidate widths"), ("any", "any width")):
        errors, lines = ([one[widths][key] for one in found] for key in ("rmspe", "flops_rmspe"))
        worst = max(
            one[widths]["rmspe"]
            for name, table in tables.items()
            for one in table["networks"].values()
            if not name.startswith(MACHINE)
        )
        yield [
            f"How wrong are tables of an Intel Xeon, {words}? ({len(found)} networks' profiles)",
            f"**{_range(errors)}** on unseen networks; on AMD EPYCs up to {_percent(worst)}; a "
            f"straight line in MACs: {_range(lines)}",
            "`table_error.json`",
        ]
    wrong = []
    for when in ("before", "after"):
        cells = [c for c in _read(f"null_test_{when}")["cells"] if c["threads"] == 1]
        told = [c for c in cells if "speedup" in c]
        refused = sum(c["exit_code"] == 6 for c in cells)
        late = len(cells) - len(told) - refused
        answers = f"{sum(c['wrong'] for c in told)} of {len(told)} answers"
        wrong.append(f"{answers} ({refused} refused, {late} without one in time)")
    yield [
        "Is a speedup wrong on a busy machine? (AMD EPYC, one thread, a network against itself)",
        f"wrong: **{wrong[1]}**; by the former rule {wrong[0]}",
        "`null_test_after.json`, `null_test_before.json`",
    ]
    for file, label, trained in (
        ("resnet56_intel_xeon_processor_1t", "ResNet-56", "Intel Xeon, published weights"),
        ("vgg16_32_amd_epyc_1t", "VGG-16", "AMD EPYC, after 14 epochs only"),
        ("mobilenet_v1_32_amd_epyc_1t", "MobileNet-V1", "AMD EPYC, after 11 epochs only"),
    ):
        content = _read(f"compare/{file}")
        dense = next(row["dense_accuracy"] for row in content["rows"] if "dense_accuracy" in row)
        ours = [one for one in content["summary"] if one["method"] == "thompson"]
        ours.sort(key=lambda one: one["asked"])
        yield [
            f"What does pruning {label} cost on CIFAR-10? ({trained}: {_percent(dense, 2)})",
            ", ".join(
                f"**{_percent(one['accuracy'], 2)}** at {one['measured']:.2f}× measured"
                for one in ours
            ),
            f"`compare/{file}.json`",
        ]
    yield _worth_of_densities()
    seconds = _read("first_use")["seconds"]
    minutes = [f"{seconds[step] / 60:.1f} min" for step in seconds]
    yield [
        "How long until the first result? (two cores of an AMD EPYC)",
        "installation {}, a table of ResNet-56 {}, `make demo` {}".format(*minutes),
        "`first_use.json`",
    ]


def _worth_of_densities() -> Row:
    """What leaving out half, and seven tenths, of the weights is worth, in FP32 and in INT8."""
    names = {"sparse_networks": "speedup", "sparse_networks_int8": "over_fp32"}
    found = {
        file: {
            (row["network"], row["density"]): row[field]
            for row in _read(file)["rows"]
            if row["threads"] == 1
        }
        for file, field in names.items()
    }
    parts = []
    for network in ("resnet56", "resnet18", "mobilenet_v1"):
        pairs = [
            " / ".join(f"{of[network, density]:.1f}" for density in (0.5, 0.3))
            for of in found.values()
        ]
        parts.append(f"{NETWORKS[network].split(',')[0]} {pairs[0]}×, in INT8 **{pairs[1]}×**")
    return [
        "How much faster with 0.5 / 0.3 of the weights, on our kernels? (AMD EPYC, one thread, "
        "over dense FP32; random masks)",
        "; ".join(parts),
        ", ".join(f"`{file}.json`" for file in names),
    ]


def demo() -> Iterator[Row]:
    """How `make demo` ended when it was timed on a fresh machine."""
    found = _read("first_use")["demo"]
    asked, predicted, measured = (found[key] for key in ("asked", "predicted", "measured"))
    accuracy = found["accuracy"]

    def row(label: str, ms: float, speedup: float, right: float | None = None) -> Row:
        shown = "" if right is None else _percent(right, 2)
        return [label, f"{speedup:.2f}×", f"{ms:.3f} ms", shown]

    yield ["", "speedup", "latency", "test accuracy"]
    yield row("dense", measured["dense_ms"], 1.0, accuracy["dense"])
    yield row("asked", asked["latency_ms"], asked["speedup"])
    yield row("predicted, cut", predicted["latency_ms"], predicted["speedup"], accuracy["pruned"])
    yield row(
        "measured, fine-tuned", measured["latency_ms"], measured["speedup"], accuracy["fine_tuned"]
    )
    yield ["exported to ONNX", "", "", _percent(accuracy["exported"], 2)]


def latency_error() -> Iterator[Row]:
    """The tables and their alternatives on networks measured in fresh sessions."""
    yield [
        "unseen networks", "table", "within ±5 %", "rank correlation", "in the 90 % interval",
        "MACs line", "layers alone, summed",
    ]  # fmt: skip
    for name, threads, label in _each():
        path = RESULTS / f"latency_error/{name}_{MACHINE}_{threads}t.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text())
        for widths, kind in (("menu", "on the menu"), ("any", "any width")):
            one = found[widths]
            alone = one["alone"]
            yield [
                f"{label}: {one['architectures']} {kind}",
                f"**{_percent(one['rmspe'])}**",
                _percent(one["within_5_percent"], 0),
                f"{one['rank_correlation']:.3f}",
                _percent(one["coverage_90"], 0),
                _percent(one["flops_rmspe"]),
                f"{_percent(alone['rmspe'])} ({_percent(alone['rmspe_after_best_line'])})",
            ]


def revalidate() -> Iterator[Row]:
    """Tables against the machine as it was later."""
    yield ["table, later", "on the menu", "bias", "any width", "bias"]
    for name, found in _read("revalidate")["networks"].items():
        row = [NETWORKS[name]]
        for widths in ("menu", "any"):
            row += [f"**{_percent(found[widths]['rmspe'])}**", _signed(found[widths]["bias"])]
        yield row


def transfer() -> Iterator[Row]:
    """Tables begun from another device's, and what would be without it."""
    yield ["from → to", "network", "widths", "transferred", "these alone", "as it is", "time"]
    for path in sorted(RESULTS.glob("transfer/*.json")):
        result = json.loads(path.read_text())
        devices = " → ".join(_short(result[end]) for end in ("from", "to"))
        for name, found in result["networks"].items():
            for widths, kind in (("menu", "on the menu"), ("any", "any")):
                one = found[widths]
                yield [
                    devices,
                    NETWORKS[name],
                    kind,
                    f"**{_percent(one['transferred'])}**",
                    _percent(one["without_the_other_table"]),
                    _percent(one["other_table_as_it_is"]),
                    f"{found['seconds']:.0f} s",
                ]


def devices() -> Iterator[Row]:
    """Tables of two devices against each other."""
    yield [
        "from → to", "network", "dense network's time", "predicted speedups differ, median", "most",
        "layers that differ",
    ]  # fmt: skip
    result = _read("devices")
    for pair, networks in result["pairs"].items():
        named = " → ".join(_short(result["devices"][name]) for name in pair.split())
        for name, one in networks.items():
            yield [
                named,
                NETWORKS[name],
                f"{one['dense_ratio']:.2f}×",
                f"**{_percent(one['median_change_of_speedups'])}**",
                _percent(one["worst_change_of_speedups"], 0),
                f"{one['changed_entries']} of {one['entries']}",
            ]


def transfer_replayed() -> Iterator[Row]:
    """Transfers from the committed tables' own runs, over several draws of twenty."""
    yield ["to", "network", "on the menu", "worst", "whole table", "any", "worst", "whole table"]
    for device, networks in _read("transfer_replayed")["to"].items():
        for name, found in networks.items():
            row = [f"`{device}`", NETWORKS[name]]
            for widths in ("menu", "any"):
                drawn = found["transferred"][widths]
                (whole,) = found["whole_table"][widths]
                row += [
                    f"**{_percent(float(np.median(drawn)))}**",
                    _percent(max(drawn)),
                    _percent(whole),
                ]
            yield row


def _short(device: dict) -> str:
    maker = device["processor"].split()[0].removesuffix("(R)")
    detail = device["processor_detail"]
    only = "AVX2" if detail.get("vector_units") == "avx2" else None
    only = GENERATIONS.get((maker, detail.get("cpu_family"), detail.get("model")), only)
    return f"{maker} ({only}), {device['threads']}" if only else f"{maker}, {device['threads']}"


def anchors() -> Iterator[Row]:
    """Networks that others pruned and published."""
    yield ["network", "predicted", "90 % interval", "measured", "error"]
    for networks in _read(f"anchors_{MACHINE}_1t")["networks"].values():
        for name, one in networks.items():
            yield [
                PUBLISHED[name],
                f"{_three(one['predicted_speedup'])}×",
                f"{_three(one['predicted_low'])} … {_three(one['predicted_high'])}",
                f"{_three(one['measured_speedup'])}×",
                _signed(one["error"]),
            ]


def found(device: str) -> Iterator[Row]:
    """Networks that a search chose by the table, and random ones: how its predictions hold."""
    yield [
        "network", "found", "bias", "worst", "0.97 of what was asked", "random", "bias", "networks",
    ]  # fmt: skip
    networks = _read(f"found_{device}")["networks"]
    for name in (name for name in NETWORKS if name in networks):
        best, drawn = networks[name]["found"], networks[name]["random"]
        yield [
            NETWORKS[name],
            f"**{_percent(best['rmspe'])}**",
            _signed(best["bias"]),
            _signed(best["worst"]),
            _percent(best["kept_what_was_asked"], 0),
            _percent(drawn["rmspe"]),
            _signed(drawn["bias"]),
            f"{best['networks']} + {drawn['networks']}",
        ]


def one_channel(result: str) -> Iterator[Row]:
    """What the network's time changes by where one group is narrower by a channel, by a block."""
    rows = _read(f"one_channel_{result}")["rows"]
    steps = sorted({row["fewer"] for row in rows})
    yield ["layer", "channels"] + [
        f"{n} fewer: {what}" for n in steps for what in ("predicted", "measured")
    ]
    for group in dict.fromkeys(row["group"] for row in rows):
        of = {row["fewer"]: row for row in rows if row["group"] == group}
        shown = []
        for n in steps:
            ends = (of[n]["predicted"] - 1, of[n]["measured"] - 1) if n in of else None
            shown += [_signed(ends[0]), f"**{_signed(ends[1])}**"] if ends else ["", ""]
        width = next(iter(of.values()))["width"]
        yield [f"`{group}`", str(width), *shown]


def repeatability() -> Iterator[Row]:
    """Tables rebuilt in fresh processes: relative spreads, and what `latprof diff` flagged."""
    yield [
        "rebuilt table", "predicted speedups, median", "95 %", "entries, median", "95 %", "flagged",
    ]  # fmt: skip
    for name, threads, label in _each():
        path = RESULTS / f"repeatability_{name}_{MACHINE}_{threads}t.json"
        if path.exists():
            found = json.loads(path.read_text())
            networks, entries = found["predictions"], found["entries"]
            yield [
                f"{label}, {found['tables']} processes",
                f"**{_percent(networks['median_spread'], 2)}**",
                f"**{_percent(networks['p95_spread'])}**",
                _percent(entries["median_spread"]),
                _percent(entries["p95_spread"]),
                f"{sum(found['flagged'])} of {entries['count']}",
            ]


def compare(what: str, folder: str = "compare") -> Iterator[Row]:
    """A network on CIFAR-10 by each method, beside smaller members of its family; means of seeds,
    and their range."""
    found = _read(f"{folder}/{what}")
    rows = found["rows"]
    yield [
        "method", "predicted", "measured, in pairs", "before fine-tuning", "test accuracy",
        "search", "fine-tuning",
    ]  # fmt: skip
    dense = next(row["dense_accuracy"] for row in rows if "dense_accuracy" in row)
    yield ["dense", "", "1.00×", "", f"**{_percent(dense, 2)}**", "", ""]
    for one in sorted(found["summary"], key=lambda one: one["asked"] or one["measured"]):
        seeds = [
            row
            for row in rows
            if (row["method"], row["asked"]) == (one["method"], one["asked"])
            and "refused" not in row
        ]
        measured = f"**{one['measured']:.2f}×**"
        measured += f" ({one['measured_low']:.2f} … {one['measured_high']:.2f})"
        accuracy = f"**{_percent(one['accuracy'], 2)}**"
        if one["asked"] is None:
            label = one["method"].replace("resnet", "ResNet-")
            source = " (published)" if seeds[0]["published"] else ""
            yield [label, "", measured, "", accuracy + source, "", ""]
            continue
        if len(seeds) > 1:
            accuracy += f" ({_span(one['accuracy_low'], one['accuracy_high'])})"
        search_s, fine_tune_s = (
            float(np.mean([row["seconds"][step] for row in seeds]))
            for step in ("search", "fine_tune")
        )
        which = "seed" if len(seeds) == 1 else "seeds"
        yield [
            f"`{one['method']}`, {one['asked']:g}× asked, {which} "
            + ", ".join(str(row["seed"]) for row in seeds),
            f"{np.mean([row['predicted'] for row in seeds]):.2f}×",
            measured,
            _percent(float(np.mean([row["before_fine_tuning"] for row in seeds]))),
            accuracy,
            f"{search_s / 60:.1f} min",
            f"{fine_tune_s / 60:.0f} min",
        ]
    for row in rows:
        if "refused" in row:
            yield [f"`{row['method']}`, {row['asked']:g}× asked", "not reached", *[""] * 5]


def regret(label: str = "") -> Iterator[Row]:
    """Searches where the optimum is known: what accuracy they miss, mean and worst of all seeds."""
    found = {s: _read(f"regret{label}_resnet56_depth_{s}x")["methods"] for s in (2, 3)}
    yield ["search", *(f"{speedup}×: regret, mean (worst)" for speedup in found)]
    names = {name: one["mean"] for methods in found.values() for name, one in methods.items()}
    for method in sorted(names, key=lambda name: (names[name], name)):
        row = [f"`{method}`"]
        for methods in found.values():
            one = methods.get(method)
            row.append(
                f"**{_percent(one['mean'], 2)}** ({_percent(one['worst'], 2)})" if one else ""
            )
        yield row


def scores_until_near() -> Iterator[Row]:
    """What the searches of `regret_lap` miss, and how many scores each seed took to come near."""
    found = {s: _read(f"regret_lap_resnet56_depth_{s}x")["methods"] for s in (2, 3)}
    heads = ("regret, mean (worst)", "scores to within 1 %")
    yield ["search", *(f"{speedup}×: {head}" for speedup in found for head in heads)]
    for method in sorted(found[2], key=lambda name: found[2][name]["mean"]):
        row = [f"`{method}`"]
        for one in (methods[method] for methods in found.values()):
            needed = ", ".join("–" if n is None else str(n) for n in one["scores_until_near"])
            row += [f"**{_percent(one['mean'], 2)}** ({_percent(one['worst'], 2)})", needed]
        yield row


def fronts() -> Iterator[Row]:
    """Ways to a front where each budget's optimum is known: what it misses, means of all seeds."""
    content = _read("fronts_resnet56_depth")
    yield ["search", "scored", "hypervolume", *(f"{s:g}×" for s in content["speedups"])]
    found = content["methods"].items()
    for name, one in sorted(found, key=lambda entry: -np.mean(entry[1]["hypervolume"])):
        missed = []
        for within in zip(*one["missed"], strict=True):
            known = [share for share in within if share is not None]
            missed.append(_percent(float(np.mean(known)), 2) if known else "none fits")
        shown = re.sub(",?least_[a-z_]*=0", "", name).rstrip(":").replace(":,", ":")
        scored = f"{np.mean(one['scored']):,.0f}"
        yield [f"`{shown}`", scored, f"**{np.mean(one['hypervolume']):.3f}**", *missed]


def front_error() -> Iterator[Row]:
    """A front of ResNet-56 with widths, blocks and densities: some of its networks, measured."""
    content = _read("front_error_resnet56_amd_epyc_zen4_1t_sparse16")
    yield [
        "predicted",
        "measured",
        "before fine-tuning",
        "MACs kept",
        "blocks gone",
        "sparse layers",
    ]
    rows = content["rows"]
    for row in rows[:: max(1, len(rows) // 10)]:
        yield [
            f"{row['predicted']:.2f}×", f"**{row['measured']:.2f}×**", _percent(row["accuracy"]),
            _percent(row["macs_kept"]), str(row["removed"]), str(row["sparse_layers"]),
        ]  # fmt: skip


def score_found() -> Iterator[Row]:
    """How scores rank what searches found as fine-tuning did, comparison by comparison."""
    ways = {
        "as_it_is": "as cut", "recalibrated": "BatchNorm anew",
        "channels_refitted": "and weights refitted", "blocks_taken_over": "and blocks taken over",
        "as_searched": "as searches score",
    }  # fmt: skip
    yield ["comparison, asked", "networks", *ways.values()]
    ranks = _read("score_found_resnet56")["rank_correlation"]
    for name, rank in ranks.items():
        yield [
            f"`{name.split(',')[0]}`, {name.split()[-1].replace('x', '×')}",
            str(rank["networks"]),
            *(f"{rank[way]:.2f}" for way in ways),
        ]
    means = (float(np.mean([rank[way] for rank in ranks.values()])) for way in ways)
    yield ["mean", "", *(f"**{mean:.2f}**" for mean in means)]


def filter_selection() -> Iterator[Row]:
    """Accuracy of one architecture by what chose its filters, the best first."""
    yield ["chosen by", "after 400 steps with masks", "after fine-tuning, mean", "seeds"]
    content = _read("filter_selection_resnet20_1.5x")
    for way, entry in sorted(content["summary"].items(), key=lambda pair: -pair[1]["mean"]):
        rows = [row for row in content["rows"] if row["way"] == way]
        masked = float(np.mean([row["selected"] for row in rows]))
        each = ", ".join(_percent(row["fine_tuned"]) for row in rows)
        yield [way, _percent(masked), f"**{_percent(entry['mean'])}**", each]


def null_test() -> Iterator[Row]:
    """Networks against themselves, before and after: answers, wrong ones, refusals."""
    yield ["disturbance", "threads", "before: wrong", "worst", "after: wrong", "worst", "refused"]
    both = {when: _read(f"null_test_{when}")["cells"] for when in ("before", "after")}
    keys = dict.fromkeys((cell["threads"], cell["disturbance"]) for cell in both["after"])
    for threads, disturbance in keys:
        row = [disturbance, str(threads)]
        for when, cells in both.items():
            some = [c for c in cells if (c["threads"], c["disturbance"]) == (threads, disturbance)]
            told = [c for c in some if "speedup" in c]
            worst = max(told, key=lambda c: abs(np.log(c["speedup"])), default=None)
            wrong = sum(c["wrong"] for c in told)
            row += [f"{wrong} of {len(told)}" if some else "", worst and f"{worst['speedup']:.3f}×"]
            if when == "after":
                row.append(str(sum(c["exit_code"] == 6 for c in some)))
        yield [each or "" for each in row]


def fresh_process() -> Iterator[Row]:
    """Errors as the table publishes them, and as fresh processes find them later."""
    yield ["network", "when", "on the menu", "all rounds", "any width", "all rounds"]
    for name, found in _read("fresh_process")["networks"].items():
        for row in (found["published"], *found["later"]):
            minutes = row.get("minutes_after")
            when = "as published" if minutes is None else f"{minutes:.0f} minutes after"
            if "menu" not in row:
                yield [NETWORKS[name], when, "refused", "", "", ""]
                continue
            each = (row[w][k] for w in ("menu", "any") for k in ("rmspe", "unselected_rmspe"))
            menu, menu_all, any_, any_all = map(_percent, each)
            yield [NETWORKS[name], when, f"**{menu}**", menu_all, f"**{any_}**", any_all]


def busy_profile() -> Iterator[Row]:
    """A profile beside busy loops."""
    yield ["beside", "ended", "seconds", "menu", "any width", "idle later: menu", "any width"]
    for row in _read("busy_profile")["rows"]:
        if "menu" not in row:
            yield [row["beside"], "refused", f"{row['seconds']:.0f}", "", "", "", ""]
            continue
        errors = [_percent(at[w]["rmspe"]) for at in (row, row["fresh"]) for w in ("menu", "any")]
        yield [row["beside"], "finished", f"{row['seconds']:.0f}", *errors]


def rule_cost(result: str = "rule_cost") -> Iterator[Row]:
    """Time to a table and its error by fresh networks, by the former rule and the present one."""
    yield ["network", "rule", "seconds", "menu", "any width"]
    for row in sorted(_read(result)["rows"], key=lambda row: [*NETWORKS].index(row["network"])):
        fresh = row.get("fresh", {})
        errors = [_percent(fresh[w]["rmspe"]) if w in fresh else "" for w in ("menu", "any")]
        seconds = f"{row['seconds']:.0f}" if "menu" in row else "refused"
        yield [NETWORKS[row["network"]], row["rule"], seconds, *errors]


def slow_phases() -> Iterator[Row]:
    """How far ratios move where something shares the core."""
    yield [
        "rounds",
        "sessions",
        "divisions slower",
        "dense network slower",
        "ratio moves, 5 … 95 %",
    ]
    content = _read("slow_phases")["summary"]
    for kind, label in (("ours", "on our own core"), ("shared", "on a shared one")):
        some = content[kind]
        low, high = some["ratio_moved_p5_p95"]
        yield [
            label,
            str(some["sessions"]),
            _signed(some["slowness_median"] - 1),
            _signed(some["dense_slower_median"]),
            f"{_signed(low)} … {_signed(high)}",
        ]
    low, high = content["all_rounds"]["ratio_moved_p5_p95"]
    yield ["all", "", "", "", f"{_signed(low)} … {_signed(high)}"]


def kernels(block: int = 16, built_for: str = "native", threads: int = 1) -> Iterator[Row]:
    """Layer by layer: the dense rate, the kernels' speedup, and what proportional would be."""
    some = [
        row
        for row in _read("kernels")["rows"]
        if (row["block"], row["built_for"], row["threads"]) == (block, built_for, threads)
    ]
    densities = sorted({row["density"] for row in some}, reverse=True)
    yield [
        "layers",
        "dense GFLOP/s",
        "kept GFLOP/s",
        *(f"{density:g}" for density in densities),
        "off at 0.2",
        "off at 0.1",
    ]
    for layer in dict.fromkeys(row["layer"] for row in some):
        of = {row["density"]: row for row in some if row["layer"] == layer}
        full = of[1.0]
        off = [
            _signed(of[d]["sparse_us"] / (d * full["sparse_us"]) - 1) if d in of else ""
            for d in (0.2, 0.1)
        ]
        yield [
            layer,
            f"{full['dense_gflops']:.0f}",
            f"{full['kept_gflops']:.0f}",
            *(f"{of[d]['speedup']:.2f}×" if d in of else "" for d in densities),
            *off,
        ]


def sparse_networks(result: str = "sparse_networks") -> Iterator[Row]:
    """Whole networks at one density: the speedup over plain ONNX Runtime.

    In INT8 over the dense network in FP32, then over the quantised one.
    """
    rows = _read(result)["rows"]
    densities = sorted({row["density"] for row in rows}, reverse=True)
    yield ["network", "threads", "block", "dense ms", *(f"{density:g}" for density in densities)]
    keys = dict.fromkeys((row["network"], row["threads"], row["block"]) for row in rows)
    for key in keys:
        of = {r["density"]: r for r in rows if (r["network"], r["threads"], r["block"]) == key}
        name, threads, block = key
        dense_ms = float(np.median([row["dense_ms"] for row in of.values()]))
        cells = [_over(of[d]) if d in of else "" for d in densities]
        yield [NETWORKS[name], str(threads), str(block), _three(dense_ms), *cells]


def _over(row: dict) -> str:
    over_fp32 = f"{row['over_fp32']:.2f} / " if "over_fp32" in row else ""
    return f"{over_fp32}{row['speedup']:.2f}×"


def sparse_tables(result: str = "sparse_tables") -> Iterator[Row]:
    """Tables that price densities: errors on held-out networks, and what they took to make."""
    yield ["network", "seconds", "candidate widths and densities", "any", "worst"]
    for row in _read(result)["rows"]:
        if "menu" not in row:
            yield [NETWORKS[row["network"]], "refused", "", "", ""]
            continue
        worst = max(row[widths]["worst"] for widths in ("menu", "any"))
        errors = [f"**{_percent(row[widths]['rmspe'])}**" for widths in ("menu", "any")]
        yield [NETWORKS[row["network"]], f"{row['seconds']:.0f}", *errors, _percent(worst)]


def sparse_training() -> Iterator[Row]:
    """Patterns, criteria and schedules at one density: accuracy after the same training."""
    yield [
        "network", "kept", "schedule", "mask", "block", "rate", "epochs", "before", "held out",
        "test",
    ]  # fmt: skip
    for row in _read("sparse_training")["rows"]:
        block = f"{row['block']} × {row['inputs']}" if row["block"] > 1 else "none"
        yield [
            NETWORKS[row["model"]], f"{row['density']:g}", row["schedule"], row["mask"], block,
            f"{row['rate']:g}", str(row["epochs"]),
            *(f"{row[part]:.2%}" for part in ("before", "held_out", "test")),
        ]  # fmt: skip


def traced() -> Iterator[Row]:
    """Models of others: how many are traced, and right when they are cut and exported."""
    yield ["from", "models", "traced", "right when cut", "right when exported", "refused"]
    rows = _read("traced")["rows"]
    for source in dict.fromkeys(row["source"] for row in rows):
        own = [row for row in rows if row["source"] == source]
        refused = [row["model"] for row in own if "refused" in row]
        yield [
            source, str(len(own)), f"**{len(own) - len(refused)}**",
            str(sum("cut_differs" in row for row in own)),
            str(sum("export_differs" in row for row in own)), ", ".join(refused) or "none",
        ]  # fmt: skip


def others_pruned() -> Iterator[Row]:
    """Models of others, profiled and pruned by the commands: what was asked, and what came."""
    yield [
        "network", "measured for", "dense, ms", "table's error", "any width", "asked", "predicted",
        "measured", "of asked",
    ]  # fmt: skip
    for row in _read("others_pruned")["rows"]:
        if "refused" in row:
            yield [row["model"], row["budget"], "", "", "", "", "", "refused", ""]
            continue
        yield [
            row["model"], row["budget"], _three(row["dense_ms"]), _percent(row["rmspe_menu"]),
            _percent(row["rmspe_any"]), f"{row['asked']:.2f}×", f"{row['predicted']:.2f}×",
            f"**{row['measured']:.2f}×** ({row['measured_low']:.2f} … {row['measured_high']:.2f})",
            f"{row['of_asked']:.2f}",
        ]  # fmt: skip


def abcp_networks() -> Iterator[Row]:
    """ABCP's published networks beside the same ones cut here."""
    yield [
        "network", "classes", "convolutions", "shortcuts", "M parameters", "published", "GFLOPs",
        "published",
    ]  # fmt: skip
    for name, row in _read("abcp_networks")["networks"].items():
        yield [
            name, str(row["classes"]), str(row["convolutions"]), str(row["shortcuts"]),
            f"{row['mparams']:.3f}", f"{row['published_mparams']:.3f}", f"{row['gflops']:.3f}",
            f"{row['published_gflops']:.3f}",
        ]  # fmt: skip


def detectors() -> Iterator[Row]:
    """Detectors that were trained here, and how much faster the smaller ones are."""
    yield ["detector", "M parameters", "GMACs", "mAP@0.5", "mAP@0.5:0.95", "ms", "speedup"]
    rows = _read("detectors")["rows"]
    for row in rows:
        own = row if "ms" in row else {"ms": rows[-1].get("first_ms"), "speedup": 1.0}
        known = own["ms"] is not None
        yield [
            f"`{row['model']}`", f"{row['parameters'] / 1e6:.1f}", f"{row['macs'] / 1e9:.2f}",
            f"**{row['map_50']:.2%}**", f"{row['mAP@0.5:0.95']:.2%}",
            _three(own["ms"]) if known else "", f"{own['speedup']:.1f}×" if known else "",
        ]  # fmt: skip


def depths() -> Iterator[Row]:
    """Predicted against measured where whole layers go."""
    yield [
        "network", "can go", "went (median)", "networks", "error", "all channels", "mixed widths",
        "worst",
    ]  # fmt: skip
    for row in _read("depths")["rows"]:
        yield [
            NETWORKS[row["network"]], str(row["blocks"]),
            f"{row['removed']:.0f}", str(row["networks"]), f"**{_percent(row['rmspe'])}**",
            _percent(row["full_rmspe"]), _percent(row["mixed_rmspe"]), _percent(row["worst"]),
        ]  # fmt: skip


def merging() -> Iterator[Row]:
    """Whether neighbouring convolutions are faster as one."""
    yield ["from", "maps", "layers", "as one", "weights", "speedup"]
    for row in _read("merging")["rows"]:
        faster = f"{row['speedup']:.2f}×"
        yield [
            row["network"], f"{row['size']}×{row['size']}", ", ".join(row["layers"]),
            ", ".join(row["merged"]), f"{row['weights']:.2f}×",
            f"**{faster}**" if row["low"] > 1 else faster,
        ]  # fmt: skip


def layer_rank(model: str = "resnet20") -> Iterator[Row]:
    """How each layer criterion ranks layers, beside what they are worth after an epoch."""
    content = _read(f"layer_rank_{model}")
    yield ["criterion", "rank correlation"]
    found = sorted(content["rank_correlation"].items(), key=lambda entry: -entry[1])
    for name, rank in found:
        yield [f"`{name}`", f"{rank:.2f}"]


def _each() -> Iterator[tuple[str, int, str]]:
    for name, label in NETWORKS.items():
        for threads, way in THREADS.items():
            yield name, threads, label + way


def _read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _range(shares: list[float]) -> str:
    return f"{100 * min(shares):.1f} … {100 * max(shares):.1f} %"


def _span(low: float, high: float) -> str:
    return f"{100 * low:.2f} … {100 * high:.2f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f} %".replace("-", "−")


def _three(value: float) -> str:
    """Three significant digits, zeros included."""
    return f"{value:#.3g}".rstrip(".")


MAKERS = {
    make.__name__: make
    for make in (
        headline,
        demo,
        table_error,
        latency_error,
        revalidate,
        repeatability,
        devices,
        transfer,
        transfer_replayed,
        anchors,
        regret,
        scores_until_near,
        fronts,
        front_error,
        score_found,
        filter_selection,
        null_test,
        fresh_process,
        busy_profile,
        rule_cost,
        slow_phases,
        kernels,
        sparse_networks,
        sparse_tables,
        sparse_training,
        traced,
        others_pruned,
        depths,
        merging,
        layer_rank,
        abcp_networks,
        detectors,
    )
}
MAKERS["regret_abcp"] = partial(regret, "_abcp")
MAKERS["sparse_tables_int8"] = partial(sparse_tables, "sparse_tables_int8")
MAKERS["sparse_networks_int8"] = partial(sparse_networks, "sparse_networks_int8")
MAKERS["rule_cost_any_core"] = partial(rule_cost, "rule_cost_any_core")
MAKERS["found_amd_epyc"] = partial(found, "amd_epyc_1t")
MAKERS["found_amd_epyc_zen5"] = partial(found, "amd_epyc_1t_26")
MAKERS["one_channel_vgg16"] = partial(one_channel, "vgg16_32_amd_epyc_1t_26")
MAKERS["table_error_amd_epyc"] = partial(table_error, "amd_epyc_{threads}t")
MAKERS["table_error_amd_epyc_avx2"] = partial(table_error, "amd_epyc_{threads}t_avx2")
MAKERS["table_error_amd_epyc_zen3"] = partial(table_error, "amd_epyc_{threads}t_1")
MAKERS["table_error_amd_epyc_zen5"] = partial(table_error, "amd_epyc_{threads}t_26")
for compared in (RESULTS / "compare").glob("*.json"):  # compare_<network>_<device>
    MAKERS[f"compare_{compared.stem}"] = partial(compare, compared.stem)
for compared in (RESULTS / "depth").glob("*.json"):
    MAKERS[f"depth_{compared.stem}"] = partial(compare, compared.stem, "depth")


def markdown(rows: Iterator[Row]) -> str:
    head, *rest = rows
    lines = [head, ["---"] * len(head), *rest]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def renewed(text: str) -> str:
    """A page with its tables as the results have them now."""

    def replace(match: re.Match) -> str:
        return f"{match[1]}\n{markdown(MAKERS[match[2]]())}{match[3]}"

    return re.sub(r"(<!-- figures: (\w+) -->)\n.*?(<!-- end -->)", replace, text, flags=re.DOTALL)


def main(check: bool = False) -> None:
    for page in PAGES:
        before = page.read_text()
        now = renewed(before)
        if check and now != before:
            print(f"{page.name} does not show what benchmarks/results/ holds; run: make figures")
            sys.exit(1)
        page.write_text(now)


if __name__ == "__main__":
    typer.run(main)
