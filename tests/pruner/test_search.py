"""Sensitivity, completion, environment and methods, on a table from a known cost."""

from itertools import product

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from lookup_tables.architecture import Architecture
from lookup_tables.errors import BudgetError
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from pruner import RunError
from pruner.search import completion as completion_module
from pruner.search.completion import Completion
from pruner.search.log import SearchLog, read_log
from pruner.search.methods import METHODS
from pruner.search.methods.agent_settings import AgentSettings
from pruner.search.methods.agents import learner
from pruner.search.methods.env import PruningEnv
from pruner.search.methods.rewards import REWARDS, EpisodeResult
from pruner.search.searcher import evaluated_here
from pruner.search.sensitivity import latency_sensitivity, local_slope
from tests.searching import QUICK, completion_of, problem_of
from tests.toys import chain, synthetic_table, tiny_network

CHAIN = chain(16, 32, 16, 8)


@pytest.fixture(scope="module")
def latency(tmp_path_factory):
    table = synthetic_table(tmp_path_factory.mktemp("t") / "t", CHAIN, levels=8)
    return LatencyModel(CHAIN, table)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    network = tiny_network()
    network = network.with_menu({g.name: (g.width // 2, g.width) for g in network.groups})
    return LatencyModel(
        network, synthetic_table(tmp_path_factory.mktemp("t") / "t", network, levels=2)
    )


@pytest.fixture(scope="module")
def small_latency(tmp_path_factory):
    """Few decisions: an agent's episode is as many steps."""
    network = chain(16, 32, 24, 40, 16, 8)
    return LatencyModel(
        network, synthetic_table(tmp_path_factory.mktemp("s") / "t", network, levels=8)
    )


@pytest.fixture(scope="module")
def resnet_latency(tmp_path_factory):
    network = Network.load("resnet20")
    return LatencyModel(
        network, synthetic_table(tmp_path_factory.mktemp("r") / "t", network, levels=8)
    )


def wide_is_good(architecture: Architecture) -> float:
    """An accuracy that grows with every width, so that the budget is worth spending."""
    return 0.5 + 0.4 * float(np.mean([np.sqrt(w / 32) for w in architecture.widths.values()]))


def problem_for(latency, speedup, **fields):
    return problem_of(latency, latency.dense_s / speedup, **fields)


def test_channels_that_go_with_a_block_are_not_charged_for(tiny):
    charged = []
    shallow = Architecture(removed=tuple(block.name for block in tiny.network.blocks))
    enough_s = tiny.latency_s(shallow) * (1 + 1e-9)  # and too little for any block to come back
    problem = problem_of(tiny, enough_s, depth=True)
    completion = problem.completion

    def reward(outcome):
        charged.append(outcome.kept)
        return 0.0

    env = PruningEnv(problem, lambda architecture: 0.5, reward)
    env.reset()
    done = False
    while not done:
        _, _, done, _, _ = env.step([0.0 if completion.decisions[env.next].is_block else 1.0])
    for index, decision in enumerate(completion.decisions):
        gone = decision.inside is not None or decision.is_block
        assert bool(charged[0][index] == 0.0) is gone, decision.name


# -- latency sensitivity ---------------------------------------------------------------------------


def test_the_group_whose_channels_cost_most_has_sensitivity_1(latency):
    sensitivity = latency_sensitivity(Completion(latency))
    assert sensitivity.max() == 1.0
    assert sensitivity.argmax() == 1  # the 32 channels in the middle feed and read most
    assert ((sensitivity >= 0) & (sensitivity <= 1)).all()


def test_sensitivity_is_the_documented_mean(latency):
    full = {g.name: g.width for g in CHAIN.groups}
    dense_s = latency.latency_s(Architecture(widths=full))
    means = []
    for group in CHAIN.groups:
        thinner = [w for w in group.choices if w < group.width]
        saved = [
            (dense_s - latency.latency_s(Architecture(widths=full | {group.name: w}))) / dense_s
            for w in thinner
        ]
        means.append(
            np.mean([s / (1 - w / group.width) for s, w in zip(saved, thinner, strict=True)])
        )
    assert latency_sensitivity(Completion(latency)) == pytest.approx(np.array(means) / max(means))


def test_the_local_slope_sees_the_staircase(latency):
    completion = Completion(latency)
    assert local_slope(completion, [2, 2, 2], 1) > 0
    assert local_slope(completion, [2, 0, 2], 1) == 0  # nothing thinner is on the menu


# -- completion ------------------------------------------------------------------------------------


def brute_force(latency, completion, positions):
    rest = [range(len(menu)) for menu in completion.menus[len(positions) :]]
    return min(
        latency.latency_s(completion.architecture([*positions, *tail])) for tail in product(*rest)
    )


@given(st.lists(st.integers(0, 2), min_size=0, max_size=2))
@settings(deadline=None, max_examples=20)
def test_the_cheapest_completion_is_that_of_brute_force(latency, positions):
    completion = Completion(latency)
    found = completion.cheapest_s(positions)
    expected = [brute_force(latency, completion, [*positions, c]) for c in range(3)]
    assert found == pytest.approx(expected)
    assert completion.exact


@given(st.integers(0, 10_000), st.floats(1.05, 2.2))
@settings(deadline=None, max_examples=25)
def test_any_walk_through_allowed_widths_meets_the_budget(resnet_latency, seed, speedup):
    completion = Completion(resnet_latency)
    budget_s = resnet_latency.dense_s / speedup
    rng, positions = np.random.default_rng(seed), []
    for _ in completion.menus:
        allowed = np.flatnonzero(completion.allowed(positions, budget_s))
        positions.append(int(rng.choice(allowed)))
    architecture = completion.architecture(positions)
    assert resnet_latency.latency_s(architecture) <= budget_s * (1 + 1e-6)


def test_where_tables_grow_too_large_the_bound_is_safe(resnet_latency, monkeypatch):
    monkeypatch.setattr(completion_module, "LARGEST", 8)
    completion = Completion(resnet_latency)
    assert not completion.exact
    budget_s = resnet_latency.dense_s / 1.5
    positions = []
    for _ in completion.menus:
        positions.append(int(np.flatnonzero(completion.allowed(positions, budget_s))[-1]))
    assert resnet_latency.latency_s(completion.architecture(positions)) <= budget_s


@given(st.lists(st.integers(0, 2), min_size=3, max_size=3), st.floats(1.0, 2.0))
@settings(deadline=None, max_examples=25)
def test_what_is_left_of_a_budget_is_spent_and_never_overspent(latency, positions, speedup):
    completion = Completion(latency)
    budget_s = latency.dense_s / speedup
    spent = completion.spend(positions, budget_s)
    assert all(after >= before for after, before in zip(spent, positions, strict=True))
    before_s, after_s = (latency.latency_s(completion.architecture(p)) for p in (positions, spent))
    assert after_s <= max(budget_s, before_s)
    for group, position in enumerate(spent):
        if position + 1 < len(completion.menus[group]):
            wider = [*spent[:group], position + 1, *spent[group + 1 :]]
            assert latency.latency_s(completion.architecture(wider)) > budget_s


def test_the_fastest_network_is_the_fastest(latency):
    completion = Completion(latency)
    assert latency.latency_s(completion.fastest()) == pytest.approx(
        brute_force(latency, completion, [])
    )


def test_a_budget_that_nothing_meets_names_the_fastest_and_its_price(latency):
    with pytest.raises(
        BudgetError, match=r"The fastest with candidate widths takes .* ms \(.*×\), but it keeps"
    ):
        Completion(latency).require(latency.dense_s / 1000)
    with pytest.raises(BudgetError, match=r"45\.0% of held-out images right before"):
        Completion(latency).require(latency.dense_s / 1000, lambda architecture: 0.45)


# -- environment -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes")
def test_the_environment_passes_gymnasiums_checker(latency):
    env = PruningEnv(problem_for(latency, 1.5), wide_is_good, REWARDS["error"])
    check_env(env)
    assert env.episode > 0  # it was played


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
@settings(deadline=None, max_examples=20)
def test_any_episode_meets_the_budget_and_stays_in_its_state_space(latency, actions):
    env = PruningEnv(problem_for(latency, 1.8), wide_is_good, REWARDS["error"])
    state, _ = env.reset()
    for action in actions:
        assert env.observation_space.contains(state)
        state, reward, done, _, info = env.step(np.array([action], np.float32))
    assert done
    assert latency.latency_s(info["architecture"]) <= latency.dense_s / 1.8 * (1 + 1e-6)
    assert reward == info["accuracy"] - 1


def test_full_actions_without_a_tight_budget_keep_the_dense_network(latency):
    env = PruningEnv(problem_for(latency, 0.9), wide_is_good, REWARDS["error"])
    env.reset()
    for _ in CHAIN.groups:
        *_, info = env.step(np.array([1.0], np.float32))
    assert info["architecture"].widths == CHAIN.dense.widths


def ended(completion, accuracy=0.9, latency_s=1e-3, kept=(0.5, 1.0), positions=None):
    return EpisodeResult(
        accuracy, latency_s, 2e-3, np.array(kept), np.array([1.0, 0.2]), completion,
        completion.space.dense if positions is None else positions,
    )  # fmt: skip


def test_every_reward_prefers_the_more_accurate_of_two_equally_fast_networks(latency):
    completion = completion_of(latency)
    for reward in REWARDS.values():
        assert reward(ended(completion, 0.9)) > reward(ended(completion, 0.6))


def test_a_reward_of_macs_prefers_fewer_macs_and_one_of_seconds_fewer_seconds(latency):
    completion = completion_of(latency)
    slow = ended(completion, latency_s=2e-3, positions=[0] * len(completion.decisions))
    heavy = ended(completion, latency_s=1e-3)
    assert slow.macs < heavy.macs == CHAIN.macs_of(CHAIN.dense)
    assert REWARDS["error_log_macs"](slow) > REWARDS["error_log_macs"](heavy)
    assert REWARDS["error_log_latency"](slow) < REWARDS["error_log_latency"](heavy)


def test_the_sensitivity_reward_charges_for_sensitive_channels(latency):
    reward, completion = REWARDS["error_sensitivity"], completion_of(latency)
    wide, thin = ended(completion, kept=(1.0, 0.5)), ended(completion, kept=(0.5, 1.0))
    assert reward(thin) > reward(wide)


# -- methods and the log ---------------------------------------------------------------------------


def run_method(method, latency, path, score=wide_is_good, episodes=24, seed=0, at_once=1):
    """`method`: a method's name, and after a slash the agent of `rl`."""
    log = SearchLog(path, evaluated_here(score), latency)
    groups = {g.name: np.arange(1.0, g.width + 1) for g in latency.network.groups}
    problem = problem_for(
        latency, 1.6, importance=lambda: groups, episodes=episodes, seed=seed, at_once=at_once
    )
    name, *agent = method.split("/")
    entry = METHODS[name]
    own = {"agent": agent[0]} if agent else QUICK.get(name, {})
    log.run(entry.make(problem, entry.settings(**own)), at_once)
    return log


@pytest.mark.parametrize("method", ["thompson", "lap", "uniform", "random"])
def test_these_methods_propose_only_networks_within_the_budget(method, resnet_latency, tmp_path):
    log = run_method(method, resnet_latency, tmp_path / "log.jsonl")
    assert log.asked == (1 if method == "uniform" else 24)
    for _, architecture in log.ranked():
        assert resnet_latency.latency_s(architecture) <= resnet_latency.dense_s / 1.6 * (1 + 1e-6)


@pytest.mark.parametrize("method", ["thompson", "lap", "random"])
def test_the_same_seed_searches_the_same_and_another_differently(method, resnet_latency, tmp_path):
    logs = [
        run_method(method, resnet_latency, tmp_path / f"{i}.jsonl", seed=seed)
        for i, seed in enumerate((0, 0, 1))
    ]
    first, second, other = (log.ranked() for log in logs)
    assert first == second
    assert first != other


@pytest.mark.parametrize("method", ["thompson", "lap", "rl/sac", "rl/cma", "random", "amc"])
def test_an_interrupted_search_continues_to_the_same_result(method, small_latency, tmp_path):
    whole = run_method(method, small_latency, tmp_path / "whole.jsonl")
    calls = []

    def interrupted(architecture):
        calls.append(architecture)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return wide_is_good(architecture)

    with pytest.raises(KeyboardInterrupt):
        run_method(method, small_latency, tmp_path / "log.jsonl", interrupted)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"architecture": {"wid')  # killed while writing
    evaluated = []
    again = run_method(
        method,
        small_latency,
        tmp_path / "log.jsonl",
        lambda a: evaluated.append(a) or wide_is_good(a),
    )
    assert again.ranked() == whole.ranked()
    assert len(evaluated) == len(whole.scores) - 4


@pytest.mark.parametrize("method", ["thompson", "lap"])
def test_a_finished_search_replays_without_a_single_evaluation(method, resnet_latency, tmp_path):
    run_method(method, resnet_latency, tmp_path / "log.jsonl")

    def never(architecture):
        raise AssertionError("the log knows every answer")

    assert run_method(method, resnet_latency, tmp_path / "log.jsonl", never).asked == 24


@pytest.mark.parametrize("method", ["thompson", "lap", "random", "rl/cma"])
def test_several_candidates_at_once_are_different_ones_within_the_budget(
    method, resnet_latency, tmp_path
):
    log = run_method(method, resnet_latency, tmp_path / "log.jsonl", at_once=4)
    assert log.asked > 10
    assert max(map(resnet_latency.latency_s, log.scores)) <= resnet_latency.dense_s / 1.6 * 1.000001
    again = run_method(method, resnet_latency, tmp_path / "again.jsonl", at_once=4)
    assert again.scores == log.scores


def test_of_a_batch_each_score_is_on_disk_and_told_before_the_next_is_waited_for(
    resnet_latency, tmp_path
):
    networks = [
        Architecture(widths={"conv1": width})
        for width in resnet_latency.network.group["conv1"].choices[-2:]
    ]
    told = []

    def evaluate(batch):
        for number, _ in enumerate(batch):
            assert len(told) == len(read_log(tmp_path / "log.jsonl")) == number
            yield 0.5

    log = SearchLog(tmp_path / "log.jsonl", evaluate, resnet_latency, told.append)
    assert [each.architecture for each in log.score_all([*networks, *networks])] == networks * 2
    assert len(told) == log.asked == 4


def test_reading_a_log_changes_nothing_of_it(resnet_latency, tmp_path):
    path = tmp_path / "log.jsonl"
    log = run_method("random", resnet_latency, path, episodes=5)
    with path.open("a") as file:
        file.write('{"architecture": {"wid')  # another process is writing it
    before = path.read_bytes()
    assert len(read_log(path)) == len(log.scores)
    assert path.read_bytes() == before


def test_equal_architectures_are_scored_once(resnet_latency, tmp_path):
    asked = []
    score = lambda architecture: asked.append(architecture) or 0.5  # noqa: E731 - shorter than a def
    log = SearchLog(tmp_path / "log.jsonl", evaluated_here(score), resnet_latency)
    names = [group.name for group in resnet_latency.network.groups][:2]
    widths = {name: resnet_latency.network.group[name].choices[-2] for name in names}
    log.score(Architecture(widths=widths))
    log.score(Architecture(widths=dict(reversed(widths.items()))))
    assert len(asked) == len(log.scores) == 1


def test_a_gradient_agent_leaves_no_folder_behind(small_latency, tmp_path, monkeypatch):
    (litter := tmp_path / "litter").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(litter))
    monkeypatch.delenv("SB3_LOGDIR", raising=False)
    run_method("rl/ddpg", small_latency, tmp_path / "log.jsonl")
    assert list(litter.iterdir()) == []


@pytest.mark.parametrize("agent", ["ddpg", "td3", "sac"])
def test_every_step_of_an_episode_is_taught_how_the_episode_ended(agent, latency):
    scores = iter([0.2, 0.4, 0.1, 0.7])
    problem = problem_for(latency, 1.6, episodes=4)
    env = PruningEnv(problem, lambda architecture: next(scores), REWARDS["error"])
    learning = learner(env, AgentSettings(agent=agent))
    ends = []

    def note(found, _):
        ends.extend(found["rewards"][found["dones"]].tolist())
        return True

    learning.learn(4 * len(env.decisions), callback=note)
    taught = learning.replay_buffer.sample(300)
    assert len(set(ends)) == 4
    assert set(taught.rewards.flatten().tolist()) == set(ends)
    assert (
        taught.rewards == 0
    ).float().mean() < 0.5  # those of the first episode, by which all are judged
    assert taught.dones.all()  # nothing is left to be guessed


def test_the_best_so_far_is_one_within_the_budget(resnet_latency, tmp_path):
    seen = []
    log = SearchLog(
        tmp_path / "log.jsonl", evaluated_here(wide_is_good), resnet_latency,
        lambda log: seen.append(log.best),
        limit_s=resnet_latency.dense_s / 1.2,
    )  # fmt: skip
    dense = resnet_latency.network.dense
    half = Architecture(widths={g.name: g.width // 2 for g in resnet_latency.network.groups})
    assert log.score(dense) > log.score(half)
    assert seen == [None, (wide_is_good(half), half)]


def test_a_broken_search_log_is_named(resnet_latency, tmp_path):
    (tmp_path / "log.jsonl").write_text("nonsense\n")
    with pytest.raises(RunError, match="not a search log line"):
        SearchLog(tmp_path / "log.jsonl", evaluated_here(wide_is_good), resnet_latency)


def test_uniform_takes_the_widest_share_that_fits_and_spends_the_rest(latency, tmp_path):
    log = run_method("uniform", latency, tmp_path / "log.jsonl")
    ((_, found),) = log.ranked()
    shares = {w / CHAIN.group[name].width for name, w in found.widths.items()}
    assert min(shares) >= 0.5  # a share of a half fits, the next one does not
    completion = Completion(latency)
    half = [int(np.argmin(np.abs(np.array(m) / m[-1] - 0.5))) for m in completion.menus]
    spent = completion.spend(half, latency.dense_s / 1.6)
    assert found == completion.architecture(spent)
    assert completion.spend(spent, latency.dense_s / 1.6) == spent
