"""ABCP: block-wise and channel-wise pruning by joint search (arXiv 2110.03858).

A recurrent controller walks the network. Where a removable block begins it samples whether the
block stays, a category; for every convolution that is left it samples a prune ratio from a normal
distribution, clipped to [0, 0.9]. Both are one sample with one probability, learned by REINFORCE
with a moving baseline (Williams 1992) and a bonus on entropy. Convolutions that feed one shortcut
take the widest share that any of them drew, so that the addition's inputs fit.

Deviations:
1. Latency from the table stands in place of FLOPs. By default (`--price budget`) it is no part of
   the reward: the drawn shares are scaled together until the network just meets the budget, so that
   every candidate is one that the run may end with. `--price reward` is the published way: the
   reward is −(error + seconds / seconds of the dense network), and nothing is scaled.
2. Published is the loss of the test images; here the score of held-out training images, which is
   told of the candidate that was drawn.
3. One log-probability, of the very sample that was evaluated: of the ratios as they were drawn,
   before they are clipped. (The published code draws again for the update, takes the clipped ratio,
   has the normal distribution's sign turned, and leaves the last convolutions out.)
4. A ratio becomes the nearest width on the table's menu.
5. Where the network with all its drawn blocks cannot meet the budget, those the controller is least
   sure of go as well; what is left of the budget is spent as by all other methods.
6. Filters are kept by `--criterion`, of which the published one is `batch_norm`. A candidate's
   weights are refitted to what is left and its BatchNorms measured anew; published, its heads are
   trained for an epoch.
7. With --no-depth, or on a table without blocks, only ratios are drawn; with --no-widths only
   blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

from lookup_tables.registry import OwnSettings
from pruner.search.methods.base import Method
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search
from pruner.search.space import KEPT, REMOVED, Kind

# As the published files have them.
HIDDEN = 64
INITIAL = 0.1  # weights begin uniform in ± this
MEAN_SCALE, SPREAD_SCALE, LEAST_SPREAD = 3.0, 1.5, 0.1
LOGIT_SCALE = 1.5  # tanh constant of the categories
MOST_PRUNED = 0.9
BASELINE = 0.99
ENTROPY_BONUS = 1e-4
SCALES, HALVINGS = (0.01, 20.0), 9  # by which drawn shares are multiplied to meet a budget


class AbcpSettings(OwnSettings):
    """What may be set of the controller."""

    price: Literal["budget", "reward"] = Field(
        "budget",
        description="How seconds count: drawn shares are scaled to the budget, or seconds are part "
        "of the reward.",
    )
    controller_rate: float = Field(1e-3, gt=0, description="Learning rate of the controller.")


def search_by_abcp(problem: SearchProblem, settings: AbcpSettings) -> Search:
    """Score `problem.episodes` architectures, `problem.at_once` for every update of the controller.

    The last one meets the budget.
    """
    walk = Walk(problem)
    learner = _Learner(walk, settings.controller_rate, problem.seed)
    best, best_reward = None, -np.inf
    in_reward = settings.price == "reward"
    left = problem.episodes - in_reward  # what is best then need not be fast enough
    while left > 0:
        count = min(problem.at_once, left)
        drawn = walk.draw(learner.controller, learner.random, count)
        found = walk.meant(drawn) if in_reward else walk.spent(walk.scaled(drawn))
        scored = yield [walk.completion.architecture(positions) for positions in found]
        left -= len(found)
        rewards = np.array([each.accuracy - 1.0 for each in scored])
        if in_reward:
            rewards -= [each.latency_s / problem.cost.dense_s for each in scored]
        learner.learn(drawn, rewards, learner.moving_baseline(rewards))
        if rewards.max() > best_reward:
            best, best_reward = drawn.only([int(rewards.argmax())]), float(rewards.max())
    if in_reward:
        best = walk.draw(learner.controller, learner.random, 1) if best is None else best
        yield [walk.completion.architecture(each) for each in walk.spent(walk.scaled(best))]


# -- the walk, and the networks that samples mean ----------------------------------------------


@dataclass(frozen=True)
class _Step:
    """One thing to draw: whether a block stays, or the prune ratio of one convolution."""

    decision: int  # which decision of the search space it decides, maybe with others
    is_block: bool
    block: int | None  # the decision on the block that it is in


@dataclass(frozen=True)
class _Samples:
    """What was drawn: (steps, n), NaN where the step's block is gone."""

    values: np.ndarray
    keeps: np.ndarray  # (steps, n): of blocks the probability that they stay, of ratios NaN

    def __len__(self) -> int:
        return self.values.shape[1]

    def only(self, which: Sequence[int]) -> _Samples:
        return _Samples(self.values[:, which], self.keeps[:, which])


class Walk:
    """The steps of one network in the order in which it is executed."""

    def __init__(self, problem: SearchProblem) -> None:
        self.completion, self.budget_s = problem.completion, problem.budget_s
        self.steps = [*_steps(problem)]
        self.are_blocks = torch.tensor([step.is_block for step in self.steps])
        self._shares = [np.array(d.options) / d.full for d in self.completion.decisions]

    @torch.no_grad()
    def draw(self, controller: Controller, random: torch.Generator, count: int) -> _Samples:
        """So many joint samples."""
        values, keeps = torch.full((2, len(self.steps), count), torch.nan)
        gone: dict[int, Tensor] = {}
        told, state = controller.begins.expand(count, HIDDEN), None
        for number, step in enumerate(self.steps):
            read, state = controller.cell(told[None], state)
            if step.is_block:
                keeps[number] = controller.logit(read[0]).sigmoid()
                value = torch.bernoulli(keeps[number], generator=random)
                gone[step.decision] = value == REMOVED
            else:
                mean, spread = controller.ratio(read[0])
                value = mean + spread * torch.randn(count, generator=random)
            if step.block is not None:
                value = torch.where(gone[step.block], torch.nan, value)
            values[number] = value
            told = controller.told(value, torch.tensor(step.is_block))
        return _Samples(values.numpy(), keeps.numpy())

    def meant(self, samples: _Samples) -> list[list[int]]:
        """The options that samples mean, whatever they take."""
        shares, options = self._meant(samples)
        return self._at(shares, options, np.ones(len(samples)))

    def spent(self, found: Sequence[list[int]]) -> list[list[int]]:
        """The same with the rest of the budget spent."""
        return [self.completion.spend(positions, self.budget_s) for positions in found]

    def scaled(self, samples: _Samples) -> list[list[int]]:
        """The options that samples mean, all shares of one multiplied so that the budget is met."""
        shares, options = self._meant(samples)
        narrowest = np.full(len(samples), SCALES[0])
        slow = self._too_slow(self._at(shares, options, narrowest))
        while sum(self._give_up_a_block(samples, options, row) for row in slow):
            slow = self._too_slow(self._at(shares, options, narrowest))
        low, high = np.log(np.outer(SCALES, np.ones(len(samples))))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            slow = self._too_slow(self._at(shares, options, np.exp(middle)))
            fits = np.ones(len(samples), dtype=bool)
            fits[slow] = False
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        found = self._at(shares, options, np.exp(low))
        for row in self._too_slow(found):
            found[row] = self.completion.positions(self.completion.fastest())
        return found

    def _too_slow(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        return np.flatnonzero(self.completion.latency_s(rows) > self.budget_s * (1 + 1e-9))

    def _meant(self, samples: _Samples) -> tuple[np.ndarray, np.ndarray]:
        """(n, decisions): shares that stay, the widest of each stage; and options of blocks."""
        count, decisions = len(samples), self.completion.decisions
        shares = np.zeros((count, len(decisions)))
        options = np.full((count, len(decisions)), KEPT)
        for step, value in zip(self.steps, samples.values, strict=True):
            if step.is_block:
                options[:, step.decision] = value
                continue
            share = np.nan_to_num(1.0 - np.clip(value, 0.0, MOST_PRUNED), nan=0.0)
            shares[:, step.decision] = np.maximum(shares[:, step.decision], share)
        return np.where(shares > 0, shares, 1.0), options

    def _at(self, shares: np.ndarray, options: np.ndarray, scale: np.ndarray) -> list[list[int]]:
        """The options nearest to shares that are multiplied by a sample's `scale` (n,)."""
        found = np.empty(shares.shape, dtype=int)
        wanted = np.minimum(1.0, scale[:, None] * shares)
        for i, decision in enumerate(self.completion.decisions):
            if decision.is_block:
                found[:, i] = options[:, i]
            else:
                found[:, i] = np.abs(self._shares[i] - wanted[:, i, None]).argmin(1)
        return [self.completion.canonical(row) for row in found.tolist()]

    def _give_up_a_block(self, samples: _Samples, options: np.ndarray, row: int) -> bool:
        """Remove the block that the controller was least sure of; False if there is none left."""
        staying = [
            (samples.keeps[number, row], step.decision)
            for number, step in enumerate(self.steps)
            if step.is_block and options[row, step.decision] == KEPT
        ]
        if staying:
            options[row, min(staying)[1]] = REMOVED
        return bool(staying)


def _steps(problem: SearchProblem) -> Iterator[_Step]:
    """Blocks where they begin, and every layer that writes a group's channels."""
    network, at = problem.network, problem.space.at
    block_of = network.block_of
    begun: set[str] = set()
    for layer in network.layers:
        block = block_of.get(layer.name)
        decided = at.get((Kind.BLOCK, block)) if block is not None else None
        if block is not None and decided is not None and block not in begun:
            begun.add(block)
            yield _Step(decided, True, None)
        own = at.get((Kind.WIDTH, layer.group)) if layer.group is not None else None
        writes = layer.group is not None and layer.channels is not None
        if own is not None and writes and len(problem.space.decisions[own].options) > 1:
            yield _Step(own, False, decided)


# -- the controller ----------------------------------------------------------------------------


class Controller(nn.Module):
    """One LSTM layer; what was drawn last is what it reads next, and nothing where it was gone."""

    def __init__(self, random: torch.Generator) -> None:
        super().__init__()
        self.cell = nn.LSTM(HIDDEN, HIDDEN)
        self.begins = nn.Parameter(torch.empty(HIDDEN))
        self.of_block = nn.Embedding(2, HIDDEN)
        self.of_ratio = nn.Linear(1, HIDDEN)
        self.stays = nn.Linear(HIDDEN, 2)
        self.mean = nn.Linear(HIDDEN, 1)
        self.spread = nn.Linear(HIDDEN, 1)
        with torch.no_grad():
            for weights in self.parameters():
                weights.uniform_(-INITIAL, INITIAL, generator=random)

    def told(self, drawn: Tensor, is_block: Tensor) -> Tensor:
        """What was drawn (…), as it is read: (…, HIDDEN)."""
        known = drawn.nan_to_num(0.0)
        as_block = self.of_block(known.round().clamp(REMOVED, KEPT).long())
        as_ratio = self.of_ratio(known.clamp(0.0, MOST_PRUNED)[..., None])
        found = torch.where(is_block[..., None], as_block, as_ratio)
        return torch.where(drawn.isnan()[..., None], 0.0, found)

    def logit(self, read: Tensor) -> Tensor:
        """Of a block's staying: (…, HIDDEN) → (…)."""
        both = LOGIT_SCALE * self.stays(read).tanh()
        return both[..., KEPT] - both[..., REMOVED]

    def ratio(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the share of filters that goes: (…, HIDDEN) → (…)."""
        mean = MEAN_SCALE * self.mean(read).tanh()[..., 0]
        variance = (SPREAD_SCALE * self.spread(read).tanh()[..., 0]).exp()
        return mean, LEAST_SPREAD + variance.sqrt()

    def joint(self, drawn: Tensor, are_blocks: Tensor) -> tuple[Tensor, Tensor]:
        """(log probability, entropy) of samples (steps, n), each (n,): one sum over all steps."""
        of_each = are_blocks[:, None].expand_as(drawn)
        begun = self.begins.expand(1, drawn.shape[1], HIDDEN)
        read, _ = self.cell(torch.cat([begun, self.told(drawn, of_each)[:-1]]))
        stays = Bernoulli(logits=self.logit(read))
        ratios = Normal(*self.ratio(read))
        known = drawn.nan_to_num(0.0)
        of_blocks = stays.log_prob(known.round().clamp(REMOVED, KEPT))
        probable = torch.where(of_each, of_blocks, ratios.log_prob(known))
        entropy = torch.where(of_each, stays.entropy(), ratios.entropy())
        is_here = ~drawn.isnan()
        return (probable * is_here).sum(0), (entropy * is_here).sum(0)


class _Learner:
    """REINFORCE: a step along the mean of (reward − baseline) · ∇ log probability."""

    def __init__(self, walk: Walk, rate: float, seed: int) -> None:
        self._are_blocks = walk.are_blocks
        self.random = torch.Generator().manual_seed(seed)
        self.controller = Controller(self.random)
        self._optimizer = torch.optim.Adam(self.controller.parameters(), lr=rate)
        self._baseline: float | None = None

    def moving_baseline(self, rewards: np.ndarray) -> float:
        """The moving mean of rewards, these included."""
        mean = float(np.mean(rewards))
        before = mean if self._baseline is None else self._baseline
        self._baseline = BASELINE * before + (1 - BASELINE) * mean
        return self._baseline

    def learn(self, samples: _Samples, rewards: np.ndarray, baseline: float) -> None:
        advantage = torch.tensor(rewards - baseline, dtype=torch.float32)
        drawn = torch.tensor(samples.values, dtype=torch.float32)
        probable, entropy = self.controller.joint(drawn, self._are_blocks)
        gain = advantage * probable + ENTROPY_BONUS * entropy
        self._optimizer.zero_grad()
        (-gain.mean()).backward()
        self._optimizer.step()


METHOD = Method(
    "abcp",
    "ABCP's recurrent controller: blocks and prune ratios in one sample",
    search_by_abcp,
    AbcpSettings,
    decides=frozenset({Kind.WIDTH, Kind.BLOCK}),
)
