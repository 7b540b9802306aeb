"""PruningEnv: one episode decides every group's width, in the network's order.

The latency comes from the table, so an episode costs one accuracy evaluation and no device. The
budget is met by construction: a step offers only widths that some completion of the network can
still afford. What a finished walk leaves of the budget is spent before it is scored.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from lookup_tables.network import Architecture
from pruner.completion import Completion
from pruner.rewards import Outcome, Reward
from pruner.sensitivity import latency_sensitivity, local_slope
from pruner.task import Task

STATE = (
    "index", "is_depthwise", "in_channels", "out_channels", "kernel", "stride", "parameters",
    "time_saved", "time_open", "previous_action", "latency_sensitivity", "local_slope",
    "remaining_parameters",
)  # fmt: skip


class PruningEnv(gym.Env):
    """State: STATE's 13 features in [0, 1]. Action: (1,), the share of the next group to keep."""

    metadata = {"render_modes": []}  # noqa: RUF012 - gymnasium's own contract is a plain dict

    def __init__(self, task: Task, completion: Completion, reward: Reward) -> None:
        self.task, self.completion = task, completion
        self.reward = reward
        self.network, self.latency = task.network, task.latency
        self.sensitivity = latency_sensitivity(task.latency)
        self.full = np.array([group.width for group in self.network.groups])
        self._facts = _static_features(self.network)
        self._fastest_s = task.latency.latency_s(completion.fastest())
        self.observation_space = gym.spaces.Box(0.0, 1.0, (len(STATE),), np.float32)
        self.action_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self._positions: list[int] = []
        self._previous = 1.0

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self._positions, self._previous = [], 1.0
        return self._state(), {}

    def step(self, action):
        """Decide the next group; `info` of the last step holds architecture and accuracy."""
        share = float(np.clip(np.asarray(action).reshape(-1)[0], 0.0, 1.0))
        self._positions.append(self.nearest_allowed(share))
        group = len(self._positions) - 1
        self._previous = self.completion.menus[group][self._positions[-1]] / self.full[group]
        if len(self._positions) < len(self.full):
            return self._state(), 0.0, False, False, {}
        positions = self.completion.spend(self._positions, self.task.budget_s)
        architecture = self.completion.architecture(positions)
        outcome = self._outcome(architecture)
        info = {"architecture": architecture, "accuracy": outcome.accuracy}
        return self._state(), self.reward(outcome), True, False, info

    def nearest_allowed(self, share: float) -> int:
        """The menu position closest to this share of the next group that the budget allows."""
        group = len(self._positions)
        allowed = self.completion.allowed(self._positions, self.task.budget_s)
        distance = np.abs(np.array(self.completion.menus[group]) / self.full[group] - share)
        return int(np.where(allowed, distance, np.inf).argmin())

    @property
    def group(self) -> int:
        """The group to be decided next."""
        return min(len(self._positions), len(self.full) - 1)

    def _outcome(self, architecture: Architecture) -> Outcome:
        widths = np.array(list(self.network.widths(architecture).values()))
        return Outcome(
            accuracy=self.task.score(architecture),
            latency_s=self.latency.latency_s(architecture),
            budget_s=self.task.budget_s,
            kept=widths / self.full,
            sensitivity=self.sensitivity,
        )

    def _state(self) -> np.ndarray:
        widths = self.full.copy()
        for i, position in enumerate(self._positions):
            widths[i] = self.completion.menus[i][position]
        group = self.group
        now_s = float(self.latency.predict(widths[None]).latency_s[0])
        parameters = _parameters(self.network, widths)
        values = [
            *self._facts[group],
            (self.latency.dense_s - now_s) / self.latency.dense_s,
            (now_s - self._fastest_s) / self.latency.dense_s,
            self._previous,
            self.sensitivity[group],
            local_slope(self.latency, widths, group),
            parameters / _parameters(self.network, self.full),
        ]
        return np.clip(values, 0.0, 1.0).astype(np.float32)


def _static_features(network) -> np.ndarray:
    """(groups, 7): index, kind and shape of the first layer that writes each group, scaled."""
    rows = []
    for index, group in enumerate(network.groups):
        layer = next(layer for layer in network.layers if layer.group == group.name)
        spec = dict(network.layer_specs(network.dense))[layer]
        feeds_depthwise = any(
            other.kind == "depthwise" and layer.name in other.inputs for other in network.layers
        )
        parameters = spec.in_channels * spec.out_channels * spec.kernel[0] * spec.kernel[1]
        rows.append(
            [
                index,
                float(feeds_depthwise),
                spec.in_channels,
                spec.out_channels,
                spec.kernel[0],
                spec.stride[0],
                parameters,
            ]
        )
    table = np.array(rows, dtype=float)
    return table / np.maximum(table.max(axis=0), 1.0)


def _parameters(network, widths: np.ndarray) -> float:
    """Weights of all layers, biases and BatchNorm not counted."""
    named = dict(zip((group.name for group in network.groups), widths, strict=True))
    total = 0
    for layer in network.layers:
        geometry = network.geometry[layer.name]
        area = layer.kernel[0] * layer.kernel[1]
        if layer.kind == "depthwise":
            total += geometry.out_form(named) * area
        elif layer.kind in ("conv", "linear"):
            total += geometry.in_form(named) * geometry.out_form(named) * area // layer.groups
    return float(total)
