"""LAP: latency-aware automated pruning (Neural Networks 152, 2022), the search.

A DDPG agent (Lillicrap et al. 2016, arXiv 1509.02971) decides every group's width. Latency
sensitivity is in its state, in its reward, and in its exploration prior.

Deviations (the paper's code and further tables could not be found):
1. Latency sensitivity, state and reward follow pruner.sensitivity, pruner.env, pruner.rewards.
2. The budget is met by construction instead of by a penalty.
3. Hyperparameters are AMC's (arXiv 1802.03494, section 4): hidden layers of 300, discount 1, soft
   update 0.01, batch 64, 100 warm-up episodes, noise 0.5 decaying by 0.95 per episode.
4. The moving-average baseline (AMC, equation 3) is taken from the reward when it is received, not
   when it is replayed.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from scipy.stats import truncnorm
from stable_baselines3 import DDPG

from pruner.completion import Completion
from pruner.env import PruningEnv
from pruner.methods.settings import SearchSettings
from pruner.rewards import REWARDS
from pruner.task import Task

HIDDEN = (300, 300)
ACTOR_RATE, CRITIC_RATE = 1e-4, 1e-3
WARM_UP_EPISODES = 100
NOISE, NOISE_DECAY = 0.5, 0.95
BASELINE_DECAY = 0.95
PRIOR_LEVEL, PRIOR_FALL, PRIOR_SPREAD = (0.3, 1.0), 0.2, 0.25


def search_lap(task: Task, settings: SearchSettings) -> None:
    """Run the agent for `settings.episodes` episodes; raises BudgetError."""
    completion = Completion(task.latency)
    completion.require(task.budget_s, task.score)
    env = PruningEnv(task, completion, REWARDS[settings.reward])
    steps = len(completion.menus)
    warm_up = min(WARM_UP_EPISODES, settings.episodes // 3)
    agent = _Agent(
        "MlpPolicy",
        _RewardBaseline(env),
        batch_size=64,
        buffer_size=settings.episodes * steps,
        learning_starts=warm_up * steps,
        gamma=1.0,
        tau=0.01,
        train_freq=(1, "episode"),
        gradient_steps=steps,
        policy_kwargs={"net_arch": list(HIDDEN)},
        seed=settings.seed,
        device="cpu",
    )
    agent.prior = env
    agent.learn(settings.episodes * steps)


class _RewardBaseline(gym.Wrapper):
    """Takes a moving average from the final reward, so that the critic sees an advantage."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._average: float | None = None

    def step(self, action):
        state, reward, done, truncated, info = self.env.step(action)
        if done:
            average = reward if self._average is None else self._average
            self._average = BASELINE_DECAY * average + (1 - BASELINE_DECAY) * reward
            reward -= average
        return state, reward, done, truncated, info


class _Agent(DDPG):
    """DDPG with AMC's exploration: a prior first, then truncated noise that decays by episode."""

    prior: PruningEnv

    def _update_learning_rate(self, optimizers) -> None:
        """Separate rates for actor and critic; the library knows one schedule for both."""
        for optimizer, rate in zip(optimizers, (ACTOR_RATE, CRITIC_RATE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _sample_action(self, learning_starts, action_noise=None, n_envs=1):
        rng = np.random.default_rng([self.seed or 0, self.num_timesteps])
        if self.num_timesteps < learning_starts:
            centre, spread = self._prior_centre(), PRIOR_SPREAD
        else:
            (centre,), _ = self.predict(self._last_obs, deterministic=True)
            steps = len(self.prior.full)
            spread = NOISE * NOISE_DECAY ** ((self.num_timesteps - learning_starts) // steps)
        share = _truncated_normal(float(np.squeeze(centre)), spread, rng)
        action = np.array([[share]], dtype=np.float32)
        return action, self.policy.scale_action(action)

    def _prior_centre(self) -> float:
        """The share to explore around falls with latency sensitivity: cut where it buys time.

        Its level is drawn once an episode, so that episodes differ as wholes.
        """
        episode = self.num_timesteps // len(self.prior.full)
        level = np.random.default_rng([self.seed or 0, episode, 1]).uniform(*PRIOR_LEVEL)
        return level * (1.0 - PRIOR_FALL * self.prior.sensitivity[self.prior.group])


def _truncated_normal(centre: float, spread: float, rng: np.random.Generator) -> float:
    """One draw in [0, 1]."""
    if spread < 1e-3:
        return float(np.clip(centre, 0.0, 1.0))
    low, high = (0.0 - centre) / spread, (1.0 - centre) / spread
    return float(truncnorm.rvs(low, high, loc=centre, scale=spread, random_state=rng))
