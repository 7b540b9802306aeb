"""PruningEnv: one episode decides every group's width, and which blocks stay, in order.

The latency comes from the table, so an episode costs one accuracy evaluation and no device. The
budget is met by construction: a step offers only widths that some completion of the network can
still afford. What a finished walk leaves of the budget is spent before it is scored.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from lookup_tables.architecture import Architecture
from pruner.search.facts import STATE, static_features
from pruner.search.knapsack import solve_nearly, worth
from pruner.search.methods.rewards import EpisodeResult, Reward
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Score
from pruner.search.sensitivity import latency_sensitivity, local_slope

RANGE = 10.0  # by which an agent may value a decision more or less than its importance says


class PruningEnv(gym.Env):
    """State: STATE's features in [0, 1]. Action: (1,), the share to keep of what comes next.

    A block stays if that share is more than a half; what goes with a removed block is not asked.
    """

    knows_a_start = False  # whether the centre is an architecture worth trying as it is
    metadata = {"render_modes": []}  # noqa: RUF012 - gymnasium's own contract is a plain dict

    def __init__(
        self, problem: SearchProblem, score: Score, reward: Reward, sensitive: bool = True
    ) -> None:
        """Without `sensitive` latency sensitivity is 0 everywhere: state, prior and reward."""
        self.problem, self.score, self._sensitive = problem, score, sensitive
        self.reward, self.completion = reward, problem.completion
        self.network, self.latency = problem.network, problem.cost
        self._weights = problem.cost.in_weights()
        self.decisions = self.completion.decisions
        self.sensitivity = latency_sensitivity(self.completion) * sensitive
        self._facts = static_features(self.network, self.decisions)
        self._fastest_s = problem.cost.latency_s(self.completion.fastest())
        self.observation_space = gym.spaces.Box(0.0, 1.0, (len(STATE),), np.float32)
        self.action_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.episode = 0  # counted from 1
        self._positions: list[int] = []
        self._previous = 1.0

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self._positions, self._previous = [], 1.0
        self.episode += 1
        return self._state(), {}

    def step(self, action):
        """Make the next decision; `info` of the last step holds architecture and accuracy."""
        share = float(np.clip(np.asarray(action).reshape(-1)[0], 0.0, 1.0))
        decision = self.decisions[self.next]
        self._positions.append(self.nearest_allowed(share))
        self._previous = decision.options[self._positions[-1]] / decision.full
        self._skip_what_is_gone()
        if len(self._positions) < len(self.decisions):
            return self._state(), 0.0, False, False, {}
        positions = self.completion.spend(self._positions, self.problem.budget_s)
        result, architecture = self._result(positions)
        info = {"architecture": architecture, "accuracy": result.accuracy}
        return self._state(), self.reward(result), True, False, info

    def nearest_allowed(self, share: float) -> int:
        """The option closest to this share of the next one's full width that the budget allows."""
        decision = self.decisions[self.next]
        allowed = self.completion.allowed(self._positions, self.problem.budget_s)
        distance = np.abs(np.array(decision.options) / decision.full - share)
        return int(np.where(allowed, distance, np.inf).argmin())

    def centres(self, level: float, fall: float) -> np.ndarray:
        """Shares to explore around, (decisions,): cut where that buys time."""
        return level * (1.0 - fall * self.sensitivity)

    @property
    def next(self) -> int:
        """The decision to be made next; the last one after the end."""
        return min(len(self._positions), len(self.decisions) - 1)

    def _skip_what_is_gone(self) -> None:
        for index in range(len(self._positions), len(self.decisions)):
            if not self.completion.is_gone(index, self._positions):
                return
            self._positions.append(len(self.decisions[index].options) - 1)

    def _result(self, positions: list[int]) -> tuple[EpisodeResult, Architecture]:
        architecture = self.completion.architecture(positions)
        (latency_s,) = self.completion.latency_s([positions])
        kept = [
            0.0 if self.completion.is_gone(i, positions) else each.options[position] / each.full
            for i, (each, position) in enumerate(zip(self.decisions, positions, strict=True))
        ]
        result = EpisodeResult(
            accuracy=self.score(architecture),
            latency_s=float(latency_s),
            budget_s=self.problem.budget_s,
            kept=np.array(kept),
            sensitivity=self.sensitivity,
            completion=self.completion,
            positions=positions,
        )
        return result, architecture

    def _so_far(self) -> list[int]:
        """What was decided, and the others as they are in the dense network."""
        return [*self._positions, *self.completion.space.dense[len(self._positions) :]]

    def _state(self) -> np.ndarray:
        positions = self._so_far()
        architecture = self.completion.architecture(positions)
        (now_s,) = self.completion.latency_s([positions])
        values = [
            *self._facts[self.next],
            (self.latency.dense_s - now_s) / self.latency.dense_s,
            (now_s - self._fastest_s) / self.latency.dense_s,
            self._previous,
            self.sensitivity[self.next],
            local_slope(self.completion, positions, self.next) * self._sensitive,
            self._weights.latency_s(architecture) / self._weights.dense_s,
        ]
        return np.clip(values, 0.0, 1.0).astype(np.float32)


class ValuingEnv(PruningEnv):
    """Actions say what decisions are worth, not what they keep; the budget does the rest.

    An action a multiplies the importance of the next decision, known beforehand, by
    RANGE^(2a − 1). The architecture is then that of the greatest worth within the budget
    (`pruner/search/knapsack.py`), so that no episode is spent on learning what time costs. Actions
    of 1/2 are the knapsack's own answer; from there the agent learns what importance does not know.
    """

    knows_a_start = True

    def __init__(
        self, problem: SearchProblem, score: Score, reward: Reward, sensitive: bool = True
    ) -> None:
        super().__init__(problem, score, reward, sensitive)
        self._values = worth(self.completion, problem)
        self._known = solve_nearly(self.completion, self._values, problem.budget_s)
        self._actions: list[float] = []

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        self._actions = []
        return super().reset(seed=seed, options=options)

    def step(self, action):
        """Value the next decision; `info` of the last step holds architecture and accuracy."""
        share = float(np.clip(np.asarray(action).reshape(-1)[0], 0.0, 1.0))
        self._actions.append(share)
        self._previous = share
        if len(self._actions) < len(self.decisions):
            return self._state(), 0.0, False, False, {}
        factors = RANGE ** (2 * np.array(self._actions) - 1)
        values = [value * factor for value, factor in zip(self._values, factors, strict=True)]
        positions = solve_nearly(self.completion, values, self.problem.budget_s)
        result, architecture = self._result(positions)
        info = {"architecture": architecture, "accuracy": result.accuracy}
        return self._state(), self.reward(result), True, False, info

    @property
    def next(self) -> int:
        return min(len(self._actions), len(self.decisions) - 1)

    def centres(self, level: float, fall: float) -> np.ndarray:
        """The knapsack's own answer."""
        return np.full(len(self.decisions), 0.5)

    def _so_far(self) -> list[int]:
        """The knapsack's answer: its share of the next decision is what the agent may correct."""
        return self._known


ENVIRONMENTS = {"widths": PruningEnv, "values": ValuingEnv}
