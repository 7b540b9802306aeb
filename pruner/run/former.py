"""What earlier versions called things: their runs and comparisons are read under today's names.

Until version 0.2 `lap` ran Thompson sampling unless another agent was asked for, and every method
had an agent. `criterion` was `ranking`, `learning_rate` was `rate`. Until version 0.3 `lap` was the
agent that learns from scores alone, which `rl` still is.
"""

from __future__ import annotations

from typing import Any

NAMES = 3  # of methods and settings; compare.json says by which it was written
_RENAMED = {"ranking": "criterion", "rate": "learning_rate"}
# What LAP's paper names of its agent, and `rl` is by default; once, every run's settings had these.
PAPER: dict[str, Any] = {
    "agent": "ddpg",
    "actions": "widths",
    "reward": "error_sensitivity",
    "sensitivity": True,
}
_AMCS = ("agent", "actions")  # what AMC could be given
_FIRST = "lap/ddpg/widths"  # what lap:agent=ddpg was called before it had settings


def settings_of_today(before: dict) -> dict:
    """A run's settings as this version writes them; today's are returned as they are."""
    now = {_RENAMED.get(name, name): value for name, value in before.items()}
    own = {name: now.pop(name) for name in PAPER if name in now}
    if "method" in now:
        now["method"], own = _method_of_today(now["method"], own)
    smoothing, regenerate = now.pop("label_smoothing", None), now.pop("regenerate", None)
    if own and "method" in now:
        now["method_settings"] = own
    if regenerate is not None and now.get("criterion") == "dynamic":
        now["criterion_settings"] = {"regenerate": regenerate}
    if smoothing:
        now["task_settings"] = {"label_smoothing": smoothing}
    return now


def _method_of_today(method: str, own: dict) -> tuple[str, dict]:
    """The method that ran, and what it had of its own."""
    if own.get("agent") == "thompson":
        return ("thompson" if method in ("lap", "amc") else method), {}
    if method == "lap" and own:
        return "rl", own
    if method == "amc" and any(own.get(k, PAPER[k]) != PAPER[k] for k in _AMCS):
        return "rl", own | {"reward": "error", "sensitivity": False}  # by MACs, once
    return method, (own if method == "rl" else {})


def method_of_today(label: str, names: int = 1) -> str:
    """A row's method, with the settings of its own, as this version names it.

    `label`: as an earlier version wrote it into compare.json or a benchmark's result, by `names`.
    """
    if names > 1:
        is_lap = label.partition(":")[0] == "lap" and names < NAMES
        return label.replace("lap", "rl", 1) if is_lap else label
    if label == _FIRST:
        return "rl"
    name, _, rest = label.partition(":")
    own = dict(part.partition("=")[::2] for part in rest.split(",") if part)
    agent = own.pop("agent", "thompson" if name == "lap" else None)
    if name == "amc" and agent == "thompson":
        return "thompson on MACs"  # which this version does not offer, nor the next
    if name == "amc" and (agent not in (None, "ddpg") or own.get("actions", "widths") != "widths"):
        parts = ",".join(f"{k}={v}" for k, v in ({"agent": agent or "ddpg"} | own).items())
        return f"rl on MACs:{parts}"
    if agent == "thompson":
        name = "thompson"
    elif name == "lap" and agent is not None:
        varied = {k: v for k, v in own.items() if str(PAPER.get(k, v)).lower() != v.lower()}
        own = {k: v for k, v in own.items() if k not in PAPER or k in varied}
        if agent != PAPER["agent"]:
            own = {"agent": agent} | own
        name = "rl"
    settings = ",".join(f"{_RENAMED.get(k, k)}={v}" for k, v in own.items())
    return f"{name}:{settings}" if settings else name


def comparison_of_today(content: dict) -> dict:
    """The content of a compare.json, or of a benchmark's result like it, by today's names."""
    names = content.get("names", 1)
    if names == NAMES:
        return content
    named = {
        part: [row | {"method": method_of_today(row["method"], names)} for row in content[part]]
        for part in ("rows", "summary")
        if part in content
    }
    settings = {k: v for k, v in settings_of_today(content["settings"]).items() if k != "method"}
    return content | named | {"names": NAMES, "settings": settings}
