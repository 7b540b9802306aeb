"""LAP: latency-aware automated pruning (Neural Networks 152, 2022), the search.

A DDPG agent (Lillicrap et al. 2016, arXiv 1509.02971) walks over the network and decides what every
group keeps. It knows latency sensitivity in its state, in its feedback beside the accuracy error,
and in its exploration, whose prior cuts where that buys time. The paper's filter criterion, dynamic
selection with regeneration, is `--criterion dynamic` (`pruner/criteria/dynamic.py`).

From top to bottom: what may be set, what the agent sees, the agent, what it imagines, the search.

Deviations (the paper's code and further tables could not be found):
1. The formula of latency sensitivity is ours (`pruner/search/sensitivity.py`), and so are the
   rewards (`rewards.py`).
2. The budget is met by construction instead of by a penalty (`pruner/search/walks.py`), and what a
   walk leaves of it is spent.
3. A reward comes once, at the episode's end, and nothing is discounted: so it is the return of
   every step, and the critic learns that instead of bootstrapping. Hyperparameters are AMC's (arXiv
   1802.03494, section 4) as far as the names below say so.
4. The agent learns from imagined episodes. Latency is the table's, so an episode costs an accuracy
   only, and a model of accuracy (`additive.py`) is learned from the scores: between two scores the
   agent walks `imagined` times, and one draw from what the model holds possible is the accuracy
   (Dyna: Sutton 1991; a new draw every time keeps the agent from exploiting one model's errors).
   Exploration by noise happens there; what is scored is what the policy decides.
5. It also imitates (behaviour cloning): before its first episode the knapsack over the importance
   known beforehand, then the best of every imagination, where the knapsack's answer takes part.
6. With `depth` it decides on removable blocks too, with `density` on the weights of layers.
Where 4 and 5 are switched off it learns from scores alone, as published: the prior's episodes
first, then its own with noise. `docs/decisions/search.md` has what each part is worth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator, Field
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from lookup_tables.registry import OwnSettings
from pruner import SearchError
from pruner.models.user_code import guarded_function
from pruner.search.completion import Completion
from pruner.search.facts import static_features
from pruner.search.knapsack import solve_nearly, worth
from pruner.search.methods.additive import AdditiveLosses
from pruner.search.methods.base import Method
from pruner.search.methods.rewards import REWARD_HELP, EpisodeResult, RewardName, reward_by
from pruner.search.methods.thompson import REFIT, TEMPERATURES
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Scored, Search
from pruner.search.sensitivity import latency_sensitivity
from pruner.search.space import REMOVED, Decision
from pruner.search.walks import Prices, Walks

# AMC's.
HIDDEN = 300
CRITIC_RATE = 1e-3
BATCH = 64
NOISE = 0.5  # deviation of the normal that is added to actions
PRIOR_LEVEL, PRIOR_FALL, PRIOR_SPREAD = (0.3, 1.0), 0.2, 0.25
# Ours.
ACTOR_RATE = 3e-4  # AMC's is 1e-4
NOISE_DECAY, LEAST_NOISE = 0.97, 0.05  # an episode; AMC's is 0.95, without an end
WARM_UP = 100  # AMC's number of the prior's episodes, a third of all at most
REMEMBERED = 12  # imaginations
CLONING, IMITATION = 300, 20  # steps: of the knapsack, of the best of an imagination
ELSEWHERE = (0.05, 0.1, 0.2, 0.4)  # noise, in turn, where a proposal was scored already


# -- what may be set ---------------------------------------------------------------------------


def _names_a_function(name: str) -> str:
    if name and ":" not in name:
        raise ValueError("expected file.py:function")
    return name


class LapSettings(OwnSettings):
    """What may be set of LAP's agent."""

    reward: RewardName = Field("error_sensitivity", description=REWARD_HELP)
    sensitivity: bool = Field(
        True, description="Whether the agent knows each layer's latency sensitivity."
    )
    features: Annotated[str, AfterValidator(_names_a_function)] = Field(
        "",
        description="What the agent sees beside its state: file.py:function, which is given a Step "
        "and returns numbers from 0 to 1, (walks, features).",
    )
    imagined: int = Field(
        64, ge=0, description="Episodes that the agent imagines after every score. 0: none."
    )
    imitates: bool = Field(
        True, description="Whether the agent imitates the knapsack and what it imagined best."
    )


# -- what the agent sees -----------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """Walks before one decision, as a user's own `features` are given them."""

    problem: SearchProblem
    index: int
    decision: Decision
    positions: np.ndarray  # (walks, decisions) options taken; of what is not decided, the dense one
    now_s: np.ndarray  # (walks,) seconds that such a network takes


class _Sight:
    """States: the features of `facts.STATE`, which decision it is, and a user's own."""

    def __init__(self, problem: SearchProblem, settings: LapSettings) -> None:
        completion = problem.completion
        self._problem, self._settings = problem, settings
        self._facts = static_features(problem.network, completion.decisions)
        self.sensitivity = latency_sensitivity(completion) * settings.sensitivity
        self._fastest_s = completion.model.latency_s(completion.fastest())
        self._own, self._count = None, -1  # how many features a user's function returns
        if settings.features:
            self._own = _own_features(settings.features)

    def of(self, walks: Walks, previous: np.ndarray, weights_left: np.ndarray) -> np.ndarray:
        """(walks, features) in [0, 1]. `previous`: shares kept; `weights_left`: of all."""
        index, dense_s = walks.index, walks.prices.dense_s
        which = np.zeros(len(self.sensitivity))
        which[index] = 1.0
        known = [
            (dense_s - walks.now_s) / dense_s,
            (walks.now_s - self._fastest_s) / dense_s,
            previous,
            np.full(len(walks), self.sensitivity[index]),
            walks.slopes() * self._settings.sensitivity,
            weights_left,
        ]
        every = np.tile(np.concatenate([self._facts[index], which]), (len(walks), 1))
        state = np.hstack([every, np.column_stack(known), *self._of_user(walks)])
        return np.clip(state, 0.0, 1.0).astype(np.float32)

    def _of_user(self, walks: Walks) -> list[np.ndarray]:
        if self._own is None:
            return []
        decision = self._problem.completion.decisions[walks.index]
        step = Step(
            self._problem, walks.index, decision, walks.positions.copy(), walks.now_s.copy()
        )
        found = np.asarray(self._own(step), dtype=float)
        if found.ndim != 2 or len(found) != len(walks) or not np.isfinite(found).all():
            raise SearchError(
                f"{self._settings.features} returned an array of shape {found.shape} for "
                f"{len(walks)} walks; --features expects finite numbers, (walks, features)"
            )
        if self._count not in (-1, found.shape[1]):
            raise SearchError(
                f"{self._settings.features} returned {found.shape[1]} features for {decision.name} "
                f"and {self._count} before; --features expects as many for every decision"
            )
        self._count = found.shape[1]
        return [found]


def _own_features(name: str) -> Callable[[Step], np.ndarray]:
    return guarded_function(name, "--features", SearchError, "with a Step")


@dataclass(frozen=True)
class _Episodes:
    """What was seen and done: arrays by decision, then by walk."""

    states: np.ndarray  # (decisions, walks, features)
    actions: np.ndarray  # (decisions, walks)
    asked: np.ndarray  # (decisions, walks) False where a removed block took the decision
    positions: np.ndarray  # (walks, decisions)
    latency_s: np.ndarray  # (walks,)


class _World:
    """Walks over one network within one budget."""

    def __init__(self, problem: SearchProblem, settings: LapSettings) -> None:
        self.problem, self.sight = problem, _Sight(problem, settings)
        self.prices = Prices(problem.completion)
        self._weights = Prices(Completion(problem.cost.in_weights(), problem.space))

    def play(self, count: int, act: Callable[[np.ndarray, int], np.ndarray]) -> _Episodes:
        """`count` episodes; `act(states, index)` has the shares to keep, (count,)."""
        walks = self.prices.walk(self.problem.budget_s, count)
        all_weights, every = self._weights.dense_s, np.arange(count)
        left, previous = np.full(count, all_weights), np.ones(count)
        states, actions, asked = [], [], []
        while not walks.is_over:
            state = self.sight.of(walks, previous, left / all_weights)
            action = act(state, walks.index)
            options = walks.nearest(action)
            states.append(state)
            actions.append(action)
            asked.append(~walks.is_gone)
            left = left + self._weights.differences(walks.positions, walks.index)[every, options]
            previous = np.where(walks.is_gone, previous, walks.shares[options])
            walks.take(options)
        return _Episodes(
            np.array(states), np.array(actions), np.array(asked), walks.positions, walks.now_s
        )

    def shares(self, positions: Sequence[int]) -> np.ndarray:
        """(decisions,) what an architecture's options keep."""
        return np.array([of[p] for of, p in zip(self.prices.shares, positions, strict=True)])

    def results(
        self, positions: np.ndarray, accuracies: np.ndarray, latency_s: np.ndarray
    ) -> Iterator[EpisodeResult]:
        """Finished walks, (walks, decisions), as rewards see them."""
        kept = np.column_stack(
            [of[p] for of, p in zip(self.prices.shares, positions.T, strict=True)]
        )
        kept[self.gone(positions)] = 0.0
        for row, accuracy, seconds, shares in zip(
            positions.tolist(), accuracies.tolist(), latency_s.tolist(), kept, strict=True
        ):
            yield EpisodeResult(
                accuracy=accuracy,
                latency_s=seconds,
                budget_s=self.problem.budget_s,
                kept=shares,
                sensitivity=self.sight.sensitivity,
                completion=self.problem.completion,
                positions=row,
            )

    def gone(self, positions: np.ndarray) -> np.ndarray:
        """(walks, decisions) whether a removed block takes a decision with it."""
        space, found = self.problem.space, np.zeros(positions.shape, dtype=bool)
        for index in range(positions.shape[1]):
            block = space.block_around(index)
            if block is not None:
                found[:, index] = positions[:, block] == REMOVED
        return found


# -- the agent ---------------------------------------------------------------------------------


class Agent:
    """Actor μ(state) → share to keep, in (0, 1); critic Q(state, share) → return."""

    def __init__(self, features: int, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = nn.Sequential(*_layers(features), nn.Sigmoid())
            self.critic = nn.Sequential(*_layers(features + 1))
        self._for_actor = torch.optim.Adam(self.actor.parameters(), ACTOR_RATE, fused=True)
        self._for_critic = torch.optim.Adam(self.critic.parameters(), CRITIC_RATE, fused=True)

    def act(self, states: np.ndarray) -> np.ndarray:
        """(n, features) → (n,) shares, without noise."""
        with torch.inference_mode():
            return self.actor(torch.from_numpy(states)).squeeze(1).numpy().astype(float)

    def learn(self, states: Tensor, actions: Tensor, returns: Tensor) -> None:
        """One step of DDPG (its algorithm 1; the target of the critic is the return itself).

        `states`: (n, features); `actions` and `returns`: (n, 1).
        """
        found = self.critic(torch.cat([states, actions], dim=1))
        _step(self._for_critic, nn.functional.mse_loss(found, returns))
        decided = self.critic(torch.cat([states, self.actor(states)], dim=1))
        _step(self._for_actor, -decided.mean())

    def imitate(self, states: Tensor, shares: Tensor, steps: int) -> None:
        """Behaviour cloning: move the actor's answers towards `shares`, (n, 1)."""
        for _ in range(steps):
            _step(self._for_actor, nn.functional.mse_loss(self.actor(states), shares))


def _layers(inputs: int) -> list[nn.Module]:
    return [
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
        nn.Linear(HIDDEN, 1),
    ]  # fmt: skip


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Move this optimizer's parameters alone: of the actor's loss the critic's learn nothing."""
    parameters = optimizer.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()


# -- what it imagines, and the search ----------------------------------------------------------


def require_functions(problem: SearchProblem, settings: LapSettings) -> None:
    """Raise SearchError for functions of a user's that cannot be loaded."""
    reward_by(settings.reward)
    if settings.features:
        _own_features(settings.features)


def search_lap(problem: SearchProblem, settings: LapSettings) -> Search:
    """Scores `problem.episodes` architectures; where nothing new is found, known ones again."""
    lap, done = _Lap(problem, settings), 0
    while done < problem.episodes:
        batch: list[list[int]] = []
        for episode in range(done, min(done + problem.at_once, problem.episodes)):
            batch.append(lap.propose(episode, batch))
        scored = yield [problem.completion.architecture(positions) for positions in batch]
        with threadpool_limits(1):  # small matrices: more threads only wait for PyTorch's
            lap.observe(done, batch, scored)
        done += len(batch)


class _Lap:
    def __init__(self, problem: SearchProblem, settings: LapSettings) -> None:
        self._problem, self._settings = problem, settings
        self._reward = reward_by(settings.reward)
        self._world = _World(problem, settings)
        self._rng = np.random.default_rng(problem.seed)
        self._memory: deque[tuple[Tensor, Tensor, Tensor]] = deque()
        self._seen: set[tuple[int, ...]] = set()
        self._first_reward: float | None = None
        self._values = worth(problem.completion, problem)
        self._losses = AdditiveLosses(problem.completion, self._values)
        dense = self._world.play(1, lambda states, _: np.ones(len(states)))
        self._agent = Agent(dense.states.shape[2], problem.seed)
        if settings.imitates:
            known = solve_nearly(problem.completion, self._values, problem.budget_s)
            self._imitate(known, CLONING)

    def propose(self, episode: int, beside: Sequence[list[int]]) -> list[int]:
        """Positions to score next; not those that are scored `beside`, if others are found."""
        for positions in self._candidates(episode):
            taken = self._problem.completion.spend(positions, self._problem.budget_s)
            if tuple(taken) not in self._seen and taken not in beside:
                break
        return taken

    def observe(self, episode: int, batch: Sequence[list[int]], scored: Sequence[Scored]) -> None:
        """Learn from what was proposed and scored."""
        for positions, each in zip(batch, scored, strict=True):
            if tuple(positions) not in self._seen:
                self._seen.add(tuple(positions))
                self._losses.observe(positions, each.accuracy)
            if not self._settings.imagined:
                self._remember_what_was_scored(positions, each)
        if self._settings.imagined:
            self._imagine(range(episode, episode + len(batch)))
        if self._memory and not self._explores_by_prior(episode + len(batch)):
            self._learn()

    def _candidates(self, episode: int) -> Iterator[list[int]]:
        """Walks, tried in turn: by the prior, or the policy with more and more noise."""
        if self._explores_by_prior(episode):
            for _ in ELSEWHERE:
                yield self._walk(self._by_prior())
            return
        alone = not self._settings.imagined  # then nothing else explores
        yield self._walk(self._by_policy(self._noise(episode) if alone else 0.0))
        for noise in ELSEWHERE:
            yield self._walk(self._by_policy(noise))

    def _explores_by_prior(self, episode: int) -> bool:
        warm_up = min(WARM_UP, self._problem.episodes // 3)
        return not self._settings.imitates and episode < warm_up

    def _walk(self, act: Callable[[np.ndarray, int], np.ndarray]) -> list[int]:
        return [int(option) for option in self._world.play(1, act).positions[0]]

    def _by_policy(self, noise: float | np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
        """The actor's shares; `noise`: the deviation of what is added, of all walks or of each."""

        def act(states: np.ndarray, _: int) -> np.ndarray:
            added = noise * self._rng.standard_normal(len(states))
            return np.clip(self._agent.act(states) + added, 0.0, 1.0)

        return act

    def _by_prior(self) -> Callable[[np.ndarray, int], np.ndarray]:
        """Shares around a centre that is lower where cutting buys time."""
        level = self._rng.uniform(*PRIOR_LEVEL)
        centres = level * (1.0 - PRIOR_FALL * self._world.sight.sensitivity)

        def act(states: np.ndarray, index: int) -> np.ndarray:
            drawn = centres[index] + PRIOR_SPREAD * self._rng.standard_normal(len(states))
            return np.clip(drawn, 0.0, 1.0)

        return act

    def _noise(self, episode: int) -> float:
        return max(LEAST_NOISE, NOISE * NOISE_DECAY**episode)

    def _imagine(self, scored: range) -> None:
        """Episodes whose accuracies are a draw from what is known; the best one is imitated.

        `scored`: the numbers of the episodes that were scored just now.
        """
        if any(episode % REFIT == 0 for episode in scored):
            self._losses.fit()
        episode = scored[-1]
        temperature = TEMPERATURES[episode % len(TEMPERATURES)]
        losses, dense = self._losses.draw_losses(self._rng, temperature)
        noise = self._noise(episode) * self._rng.random(self._settings.imagined)
        episodes = self._world.play(self._settings.imagined, self._by_policy(noise))
        rewards = self._imagined(episodes.positions, episodes.latency_s, losses, dense)
        self._remember(episodes, rewards)
        if not self._settings.imitates:
            return
        completion = self._problem.completion
        values = self._losses.worth_of(losses)
        found = np.array([solve_nearly(completion, values, self._problem.budget_s)])
        (reward,) = self._imagined(found, completion.latency_s(found.tolist()), losses, dense)
        best = found[0] if reward >= rewards.max() else episodes.positions[rewards.argmax()]
        self._imitate(best.tolist(), IMITATION)

    def _imagined(
        self,
        positions: np.ndarray,
        latency_s: np.ndarray,
        losses: Sequence[np.ndarray],
        dense: float,
    ) -> np.ndarray:
        """(walks,) rewards if these losses were the truth."""
        each = [lost[p] for lost, p in zip(losses, positions.T, strict=True)]
        lost = np.where(self._world.gone(positions), 0.0, np.column_stack(each)).sum(axis=1)
        accuracies = np.exp(-np.maximum(lost + dense, 0.0))
        return self._rewards(positions, accuracies, latency_s)

    def _rewards(
        self, positions: np.ndarray, accuracies: np.ndarray, latency_s: np.ndarray
    ) -> np.ndarray:
        results = self._world.results(positions, accuracies, latency_s)
        return np.array([self._reward(result) for result in results])

    def _remember_what_was_scored(self, positions: Sequence[int], scored: Scored) -> None:
        """One real episode, as it was walked after all was spent."""
        shares = self._world.shares(positions)
        episode = self._world.play(1, lambda states, index: np.full(len(states), shares[index]))
        accuracy, latency_s = np.array([scored.accuracy]), np.array([scored.latency_s])
        self._remember(episode, self._rewards(np.array([positions]), accuracy, latency_s))

    def _remember(self, episodes: _Episodes, rewards: np.ndarray) -> None:
        """Every step's return is its episode's reward, less the first of all (AMC's baseline)."""
        if self._first_reward is None:
            self._first_reward = float(rewards[0])
        returns = np.tile(rewards - self._first_reward, (len(episodes.actions), 1))
        asked = episodes.asked
        self._memory.append(
            (
                torch.from_numpy(episodes.states[asked]),
                torch.from_numpy(episodes.actions[asked].astype(np.float32))[:, None],
                torch.from_numpy(returns[asked].astype(np.float32))[:, None],
            )
        )
        if self._settings.imagined and len(self._memory) > REMEMBERED:
            self._memory.popleft()  # what was imagined grows stale, what was scored does not

    def _learn(self) -> None:
        """As many steps as an episode has."""
        states, actions, returns = (torch.cat(parts) for parts in zip(*self._memory, strict=True))
        for _ in self._problem.completion.decisions:
            chosen = torch.from_numpy(self._rng.integers(0, len(states), BATCH))
            self._agent.learn(states[chosen], actions[chosen], returns[chosen])

    def _imitate(self, positions: Sequence[int], steps: int) -> None:
        """An architecture's own walk, as an example."""
        shares = self._world.shares(positions)
        episode = self._world.play(1, lambda states, index: np.full(len(states), shares[index]))
        asked = episode.asked[:, 0]
        states = torch.from_numpy(episode.states[asked, 0])
        kept = torch.from_numpy(shares[asked].astype(np.float32))[:, None]
        self._agent.imitate(states, kept, steps)


METHOD = Method(
    "lap",
    "LAP's agent: DDPG that knows latency sensitivity, and learns from imagined episodes",
    search_lap,
    LapSettings,
    check=require_functions,
)
