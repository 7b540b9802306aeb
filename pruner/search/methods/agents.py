"""Agents that decide an architecture step by step, and learn from what its accuracy was.

Gradient agents are Stable-Baselines3's: DDPG (Lillicrap et al. 2016, arXiv 1509.02971), TD3 and
SAC. CMA-ES (Ros and Hansen 2008) learns one action a decision, without networks. `amc` and `rl`
run them; the hyperparameters are AMC's (arXiv 1802.03494, section 4): hidden layers of 300,
discount 1, batch 64, 100 warm-up episodes, noise 0.5 decaying by 0.95 per episode.

Deviations from AMC's agent:
1. The reward comes once, at the end of an episode, and nothing is discounted: so it is the return
   of every step, and the critic learns that instead of bootstrapping towards it through some fifty
   steps. (AMC gives it to every step, equation 3, and bootstraps as well.) Target networks, and
   what TD3 and SAC do to their targets, then have no part.
2. The baseline that AMC takes from rewards (equation 3) is one number here, the first episode's
   reward, and no moving average: the critic learns from episodes of all times at once, and they
   stay comparable.
"""

from __future__ import annotations

import cma
import gymnasium as gym
import numpy as np
from scipy.stats import truncnorm
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.callbacks import StopTrainingOnMaxEpisodes
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from pruner.search.methods.agent_settings import AgentSettings
from pruner.search.methods.env import ENVIRONMENTS, PruningEnv
from pruner.search.methods.rewards import reward_by
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Score

HIDDEN = (300, 300)
ACTOR_RATE, CRITIC_RATE = 1e-4, 1e-3
WARM_UP_EPISODES = 100
NOISE, NOISE_DECAY = 0.5, 0.95
PRIOR_LEVEL, PRIOR_FALL, PRIOR_SPREAD = (0.3, 1.0), 0.2, 0.25


def run_agent(problem: SearchProblem, settings: AgentSettings, score: Score) -> None:
    """`problem.episodes` episodes of the agent that the settings name."""
    make = ENVIRONMENTS[settings.actions]
    env = make(problem, score, reward_by(settings.reward), settings.sensitivity)
    if settings.agent == EVOLUTION:
        evolve(env, problem)
        return
    last = StopTrainingOnMaxEpisodes(problem.episodes)
    steps = problem.episodes * len(env.decisions)
    learner(env, settings).learn(steps, callback=last)


def learner(env: PruningEnv, settings: AgentSettings) -> OffPolicyAlgorithm:
    """The gradient agent that `settings` name, before its first episode."""
    steps, problem = len(env.decisions), env.problem
    agent = _LEARNERS[settings.agent](
        "MlpPolicy",
        _RewardBaseline(env),
        batch_size=64,
        buffer_size=problem.episodes * steps,
        learning_starts=np.inf,  # the agent begins when its warm-up episodes are over
        gamma=1.0,
        n_steps=steps,  # the whole episode
        train_freq=(1, "episode"),
        gradient_steps=steps,
        policy_kwargs={"net_arch": list(HIDDEN)},
        seed=problem.seed,
        device="cpu",
    )
    agent.set_logger(Logger(folder=None, output_formats=[]))  # its own makes a folder in /tmp
    agent.prior = env
    agent.warm_up = warm_up(settings, problem.episodes)
    return agent


def warm_up(settings: AgentSettings, episodes: int) -> int:
    """How many episodes an agent explores before it decides anything by what it learned."""
    if settings.agent not in _LEARNERS:
        return 0
    return min(WARM_UP_EPISODES, episodes // 3)


def evolve(env: PruningEnv, problem: SearchProblem) -> None:
    """One action a decision, learned by separable CMA-ES."""
    start = env.centres(float(np.mean(PRIOR_LEVEL)), PRIOR_FALL)
    _episode(env, start)
    strategy = cma.CMAEvolutionStrategy(
        start, PRIOR_SPREAD,
        {"bounds": [0, 1], "CMA_diagonal": True, "seed": problem.seed + 1, "verbose": -9},
    )  # fmt: skip
    while env.episode < problem.episodes:
        population = strategy.ask()[: problem.episodes - env.episode]
        rewards = [_episode(env, actions) for actions in population]
        if len(population) == strategy.popsize:
            strategy.tell(population, [-reward for reward in rewards])


def _episode(env: PruningEnv, actions) -> float:
    env.reset()
    done, reward = False, 0.0
    while not done:
        _, reward, done, _, _ = env.step([actions[env.next]])
    return reward


class _RewardBaseline(gym.Wrapper):
    """Takes the first episode's reward from all, so that the critic sees an advantage."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._first: float | None = None

    def step(self, action):
        state, given, done, truncated, info = self.env.step(action)
        reward = float(given)
        if done:
            self._first = reward if self._first is None else self._first
            reward -= self._first
        return state, reward, done, truncated, info


class _Explores(OffPolicyAlgorithm):
    """AMC's exploration: a prior first, then truncated noise that decays by episode."""

    prior: PruningEnv
    warm_up: int  # episodes
    noise = NOISE

    def _update_learning_rate(self, optimizers) -> None:
        """Separate rates for actor and critic; the library knows one schedule for all."""
        actor, *others = optimizers
        for optimizer, rate in ((actor, ACTOR_RATE), *((other, CRITIC_RATE) for other in others)):
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _sample_action(self, learning_starts, action_noise=None, n_envs=1):
        rng = np.random.default_rng([self.seed or 0, self.num_timesteps])
        learned = self.prior.episode - 1 - self.warm_up
        if learned < 0:
            centres = self.prior.centres(self._level(), PRIOR_FALL)
            centre, spread = centres[self.prior.next], PRIOR_SPREAD
            if self.prior.episode == 1 and self.prior.knows_a_start:
                spread = 0.0
        else:
            self.learning_starts = 0
            assert self._last_obs is not None  # learning begins with a reset
            (centre,), _ = self.predict(self._last_obs, deterministic=self.noise > 0)
            spread = self.noise * NOISE_DECAY**learned
        share = _truncated_normal(float(np.squeeze(centre)), spread, rng)
        action = np.array([[share]], dtype=np.float32)
        return action, self.policy.scale_action(action)

    def _level(self) -> float:
        """Drawn once an episode, so that episodes differ as wholes."""
        rng = np.random.default_rng([self.seed or 0, self.prior.episode, 1])
        return float(rng.uniform(*PRIOR_LEVEL))


class _DDPG(_Explores, DDPG):
    pass


class _TD3(_Explores, TD3):
    pass


class _SAC(_Explores, SAC):
    noise = 0.0  # its policy is random by itself


_LEARNERS = {"ddpg": _DDPG, "td3": _TD3, "sac": _SAC}
EVOLUTION = "cma"
AGENTS = (*_LEARNERS, EVOLUTION)


def _truncated_normal(centre: float, spread: float, rng: np.random.Generator) -> float:
    """One draw in [0, 1]."""
    if spread < 1e-3:
        return float(np.clip(centre, 0.0, 1.0))
    low, high = (0.0 - centre) / spread, (1.0 - centre) / spread
    return float(truncnorm.rvs(low, high, loc=centre, scale=spread, random_state=rng))
