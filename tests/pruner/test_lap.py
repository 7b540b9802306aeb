"""LAP's agent: the walks it decides, what it sees, how it learns, and a user's own parts."""

import re
from itertools import product

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import DDPG
from stable_baselines3.common.logger import Logger

from lookup_tables.model.latency_model import LatencyModel
from pruner import SearchError
from pruner.models.user_code import load_function
from pruner.search.completion import Completion
from pruner.search.methods import METHODS
from pruner.search.methods.lap import Agent, LapSettings
from pruner.search.sensitivity import local_slope
from pruner.search.space import Kind, SearchSpace
from pruner.search.walks import Prices
from tests.searching import problem_of, search
from tests.toys import SPARSE_DEVICE, by_kept_weights, synthetic_table, tiny_network

TINY = tiny_network()
SHARES = st.floats(0.0, 1.0)


@pytest.fixture(scope="module")
def latency(tmp_path_factory):
    table = synthetic_table(tmp_path_factory.mktemp("t") / "t", TINY, levels=4)
    return LatencyModel(TINY, table)


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory):
    """Widths, blocks and densities."""
    table = synthetic_table(
        tmp_path_factory.mktemp("t") / "t", TINY, by_kept_weights, levels=4, device=SPARSE_DEVICE
    )
    model = LatencyModel(TINY, table)
    densities = dict.fromkeys(TINY.sparse_layers, (0.2, 0.5, 1.0))
    return Completion(model, SearchSpace.of(TINY, frozenset(Kind), densities))


# -- walks -------------------------------------------------------------------------------------


@given(share=st.lists(SHARES, min_size=3, max_size=3), budget=st.floats(0.3, 1.0))
def test_walks_cost_what_the_completion_and_the_model_say(every_kind, share, budget):
    prices, dense_s = Prices(every_kind), every_kind.model.dense_s
    walks = prices.walk(max(budget * dense_s, every_kind.latency_s([fastest(every_kind)])[0]), 3)
    while not walks.is_over:
        assert walks.now_s == pytest.approx(every_kind.latency_s(walks.positions.tolist()))
        for row, bounds in zip(walks.positions.tolist(), walks.cheapest_s, strict=True):
            known = every_kind.cheapest_s(row[: walks.index])
            assert bounds == pytest.approx(known)
        slopes = [local_slope(every_kind, row, walks.index) for row in walks.positions.tolist()]
        assert walks.slopes()[~walks.is_gone] == pytest.approx(np.array(slopes)[~walks.is_gone])
        walks.take(walks.nearest(np.array(share)))
    assert every_kind.latency_s(walks.positions.tolist()).max() <= walks.budget_s * (1 + 1e-6)


def fastest(completion):
    return completion.positions(completion.fastest())


def test_walks_that_keep_everything_end_in_the_dense_network(every_kind):
    walks = Prices(every_kind).walk(every_kind.model.dense_s, 2)
    while not walks.is_over:
        walks.take(walks.nearest(np.ones(2)))
    assert walks.positions.tolist() == [list(every_kind.space.dense)] * 2


# -- the agent ---------------------------------------------------------------------------------


def test_a_step_has_the_gradients_of_stable_baselines_ddpg():
    """Theirs acts in (−1, 1), ours in (0, 1): a = (their a + 1) / 2, in both networks."""
    steps, features = 16, 5
    rng = np.random.default_rng(0)
    states = rng.random((steps, features), dtype=np.float32)
    actions, returns = (rng.random((steps, 1), dtype=np.float32) for _ in range(2))
    theirs = their_agent(features, states, actions, returns)
    ours = Agent(features, seed=1)
    pairs = list(zip((0, 2, 4), (0, 2, 4), strict=True))
    with torch.no_grad():
        for own, other in pairs:
            for kind in ("weight", "bias"):
                for net, its in ((ours.actor, theirs.actor.mu), (ours.critic, theirs.critic.qf0)):
                    getattr(net[own], kind).copy_(getattr(its[other], kind))
        ours.actor[4].weight.mul_(2)  # (tanh x + 1) / 2 = sigmoid 2x
        ours.actor[4].bias.mul_(2)
        ours.critic[0].bias.sub_(ours.critic[0].weight[:, -1])
        ours.critic[0].weight[:, -1] *= 2
    for optimizer in (ours._for_actor, ours._for_critic):
        optimizer.param_groups[0]["lr"] = 0.0
    of_critic = []  # before the actor's loss adds to it
    theirs.critic.optimizer.register_step_pre_hook(
        lambda *_: of_critic.append(theirs.critic.qf0[4].weight.grad.clone())
    )
    theirs.train(gradient_steps=1, batch_size=steps)
    ours.learn(*map(torch.from_numpy, (states, actions, returns)))
    for layer in (0, 2):
        found, known = ours.actor[layer].weight.grad, theirs.actor.mu[layer].weight.grad
        assert torch.allclose(found, known, rtol=1e-3, atol=1e-7)
    assert torch.allclose(ours.critic[4].weight.grad, of_critic[0], rtol=1e-3, atol=1e-6)


def their_agent(features, states, actions, returns):
    """Stable-Baselines3's agent, its memory full of episodes of one step, without momentum."""

    class Room(gym.Env):
        observation_space = gym.spaces.Box(0.0, 1.0, (features,), np.float32)
        action_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)

    agent = DDPG(
        "MlpPolicy", Room(), learning_rate=0.0, gamma=1.0, buffer_size=len(states),
        policy_kwargs={"net_arch": [300, 300]}, device="cpu", seed=0,
    )  # fmt: skip
    agent.set_logger(Logger(folder=None, output_formats=[]))
    for state, action, reward in zip(states, 2 * actions - 1, returns, strict=True):
        agent.replay_buffer.add(state, state, action, reward, np.array([True]), [{}])
    every = agent.replay_buffer._get_samples(np.arange(len(states)))
    agent.replay_buffer.sample = lambda *_, **__: every
    return agent


def test_the_agent_learns_which_share_is_rewarded():
    agent, rng = Agent(2, seed=0), np.random.default_rng(0)
    states = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
    best = 0.2 + 0.5 * states[:, :1]
    for _ in range(250):
        actions = torch.from_numpy(rng.random((64, 1), dtype=np.float32))
        agent.learn(states, actions, -((actions - best) ** 2))
    decided = torch.from_numpy(agent.act(states.numpy()))
    assert (decided - best[:, 0]).abs().mean() < 0.1


def test_an_agent_that_imitates_does_as_it_was_shown():
    agent = Agent(2, seed=0)
    states, shares = torch.eye(2), torch.tensor([[0.2], [0.9]])
    agent.imitate(states, shares, 150)
    assert agent.act(states.numpy()) == pytest.approx([0.2, 0.9], abs=0.02)


def test_making_an_agent_leaves_the_callers_random_state_alone():
    before = torch.random.get_rng_state()
    Agent(3, seed=5)
    assert torch.equal(before, torch.random.get_rng_state())


# -- the search --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem(latency):
    """The importance known beforehand is the wrong way round, so that scores must tell."""
    wrong = {g.name: np.arange(1.0, g.width + 1) / (1 + i) for i, g in enumerate(TINY.groups)}
    wrong |= {TINY.key_of(block.name): np.ones(4) for block in TINY.blocks}
    return problem_of(
        latency, latency.dense_s / 1.5, depth=True, episodes=16, importance=lambda: wrong
    )


def truth(problem):
    """Every option loses something of its own."""
    rng = np.random.default_rng(3)
    completion = problem.completion
    losses = [
        0.02 * (1 + i % 3) * np.append(np.sort(rng.random(len(d.options) - 1))[::-1], 0.0)
        for i, d in enumerate(completion.decisions)
    ]

    def score(architecture):
        positions = completion.positions(architecture)
        lost = (
            loss[p]
            for i, (loss, p) in enumerate(zip(losses, positions, strict=True))
            if not completion.is_gone(i, positions)
        )
        return 0.9 * float(np.exp(-sum(lost)))

    return score


def best_of_all(problem, score):
    completion = problem.completion
    options = (range(len(d.options)) for d in completion.decisions)
    every = {tuple(completion.canonical(row)) for row in product(*options)}
    latency_s = completion.latency_s([*every])
    within = [row for row, s in zip(every, latency_s, strict=True) if s <= problem.budget_s]
    return max(score(completion.architecture(row)) for row in within)


def test_the_search_comes_within_a_hundredth_of_the_best_of_all(problem):
    score = truth(problem)
    found = search("lap", problem, score)
    assert len(found) == problem.episodes
    assert max(map(problem.cost.latency_s, found)) <= problem.budget_s * (1 + 1e-6)
    assert max(map(score, found)) >= 0.99 * best_of_all(problem, score)


@pytest.mark.parametrize(
    "own", [{"imagined": 0, "imitates": False}, {"imitates": False, "imagined": 2}, {"imagined": 0}]
)
def test_each_way_of_learning_can_be_left_out(problem, own):
    score = truth(problem)
    found = search("lap", problem, score, **own)
    assert max(map(problem.cost.latency_s, found)) <= problem.budget_s * (1 + 1e-6)
    assert len({str(architecture) for architecture in found}) > 5


MINE = """
import numpy as np

seen = []

def reward(result):
    seen.append(result.macs)
    return result.accuracy - 1e-9 * result.macs

def words(result):
    return "much"

def features(step):
    completion = step.problem.completion
    assert step.decision is completion.decisions[step.index]
    assert np.allclose(step.now_s, completion.latency_s(step.positions.tolist()))
    return np.stack([step.now_s / step.now_s.max(), step.positions.mean(axis=1) * 0], axis=1)

def flat(step):
    return step.now_s

def ragged(step):
    return np.zeros((len(step.now_s), 1 + step.index))

def broken(result):
    return result.nothing
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def test_a_users_own_reward_and_features_take_part(problem, mine):
    score = truth(problem)
    own = {"reward": f"{mine}:reward", "features": f"{mine}:features", "imagined": 2}
    assert len(search("lap", problem, score, **own)) == problem.episodes
    seen = load_function(own["reward"], "--reward", SearchError).__globals__["seen"]
    assert len(seen) == problem.episodes * 3  # two imagined, and the knapsack's answer


@pytest.mark.parametrize("name", ["lap", "rl"])
def test_a_function_that_is_missing_is_told_before_anything_is_scored(problem, mine, name):
    method = METHODS[name]
    with pytest.raises(SearchError, match="has no function 'none'"):
        method.check(problem, method.settings(reward=f"{mine}:none"))


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"reward": "words"}, "--reward expects one finite number"),
        ({"features": "flat"}, "--features expects finite numbers, (walks, features)"),
        ({"features": "none"}, "has no function 'none'"),
        ({"features": "ragged"}, "expects as many for every decision"),
        ({"reward": "broken"}, "mine.py, line 26); --reward calls it with an EpisodeResult"),
    ],
)
def test_what_a_user_gives_and_cannot_be_used_is_told(problem, mine, own, said):
    ((name, function),) = own.items()
    with pytest.raises(SearchError, match=re.escape(said)):
        search("lap", problem, lambda _: 0.5, **{name: f"{mine}:{function}"})


def test_a_reward_of_no_known_name_is_refused():
    with pytest.raises(ValueError, match=r"choose one of error, .* or your own: file\.py:function"):
        LapSettings(reward="accuracy")
    with pytest.raises(ValueError, match=r"expected file\.py:function"):
        LapSettings(features="mine")
