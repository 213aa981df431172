"""AMC: an agent walks over the sites and learns from each episode's reward how much of every site to keep."""

import math
from collections.abc import Sequence

import jax
import numpy as np

from sparsejax.errors import SearchError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import one_or_several, require_kind
from sparsejax.search.ddpg import DDPG, Agent, Transitions, act
from sparsejax.search.problem import Choice, Request
from sparsejax.search.running import Asking, Searcher
from sparsejax.search.space import Space

REWARDS = ("loss", "flops")


def amc(
    *,
    least: float = 0.2,
    warmup: int | None = None,
    sigma: float = 0.5,
    decay: float = 0.95,
    batch: int = 64,
    replay: int | None = None,
    reward: str = "loss",
    features: Sequence[str] | None = None,
    skip_first: bool = False,
    agent: DDPG = DDPG(),  # noqa: B008 (a tuple of numbers)
) -> Searcher:
    """An episode decides the kept share of each site in turn; DDPG learns the decisions from the episodes' rewards.

    The state of a site is its number, its features (each scaled to [0, 1] over the sites), what was saved so far and
    what the sites left could still save, both as shares of the whole cost, and the action before. An action is
    bounded so that the sites left, at their least, still meet the budget; as the bound looks at levels, not at
    shares, rounding does not break it. Every step gets the episode's reward. An episode is one evaluation.

    Args:
      least: share of a site that stays at least, where it has such a level.
      warmup: episodes of uniformly random actions; None: an eighth of the evaluations, as 100 of 800.
      sigma: of the truncated normal noise on [0, 1] after that, falling by `decay` an episode.
      decay: in (0, 1].
      batch: transitions of an update; as many updates as sites are made after each episode.
      replay: transitions that are remembered: None as the code has it, 100 for each site; the paper says 2000.
      reward: ``"loss"``: −loss, the code's and the paper's accuracy-guaranteed one without its constant; ``"flops"``:
        −loss·ln(cost), the paper's for no budget, where the loss must be an error rate.
      features: which of the sites' features the state has; None: all.
      skip_first: as the code does by accident, never learns from the first site's transitions.
      agent: the numbers of DDPG.

    Returns:
      The searcher. Like the code's, its result is the best episode seen, those of the warm-up included.

    Raises:
      SearchError: numbers out of range; when used, a budget that `least` rules out, or unknown features.

    Source: He et al., "AMC", arXiv 1802.03494, section 3 and its code; there the bound is on shares, and the published
    policy for 50 % of MobileNet's multiply-adds has 51.7 % after rounding.
    """
    if not isinstance(reward, str) or reward not in REWARDS:
        raise SearchError(f"reward={reward!r}: choose one of {', '.join(REWARDS)}.")
    require_numbers(SearchError, most=math.nextafter(1, 0), **{"least share": least})
    require_numbers(SearchError, above=True, most=1, decay=decay)
    require_numbers(SearchError, above=True, sigma=sigma)
    replayed = 1 if replay is None else replay
    require_numbers(SearchError, least=1, whole=True, batch=batch, replay=replayed)
    require_numbers(SearchError, whole=True, warmup=0 if warmup is None else warmup)
    features = None if features is None else one_or_several(features, "features", SearchError)
    require_kind(agent, DDPG, "agent", "DDPG(hidden=300)", SearchError)
    agent.check()

    def ask(space: Space, rng: np.random.Generator, evaluations: float) -> Asking:
        episodes = int(evaluations)
        random_until = max(1, episodes // 8) if warmup is None else warmup
        walk, memory = Walk(space, least, features), Memory(replay or 100 * len(space.sites), skip_first)
        learner = agent.init(jax.random.key(int(rng.integers(2**31))), walk.state(0, (), 1.0).size)
        for episode in range(episodes):
            noise = None if episode < random_until else sigma * decay ** (episode - random_until)
            states, actions, choice = _episode(walk, learner, rng, noise)
            loss = (yield [Request(choice)])[0]
            if not math.isfinite(loss):
                continue
            gained = -loss if reward == "loss" else -loss * math.log(max(space.cost(choice), 1.0))
            memory.add(states, actions, gained)
            if noise is not None:
                learner = _update(agent, learner, memory.draw(rng, len(actions), batch))

    options = {
        "least": least, "warmup": warmup, "sigma": sigma, "decay": decay, "batch": batch, "replay": replay,
        "reward": reward, "features": None if features is None else tuple(features), "skip_first": skip_first,
        "agent": tuple(agent),
    }  # fmt: skip
    return Searcher("amc", options, ask)


class Walk:
    """The environment: states, and actions that keep the budget within reach.

    Args:
      space: the choices and the budget.
      least: share of a site that stays at least.
      features: names; None: all.

    Raises:
      SearchError: unknown features, or a budget that `least` rules out.
    """

    def __init__(self, space: Space, least: float, features: Sequence[str] | None = None) -> None:
        known = list(space.sites[0].features)
        names = known if features is None else list(features)
        if unknown := sorted(set(names) - set(known)):
            raise SearchError(
                f"The sites have no feature {unknown[0]!r}; they have {', '.join(known) or 'none'}."
            )
        self._space = space
        self._floor = tuple(_floor(site.removed, least) for site in space.sites)
        if not space.fits(self._floor):
            raise SearchError(
                f"With least={least} kept of each site the cost is {space.cost(self._floor):g} "
                f"{space.budget.resource}, more than the budget of {space.budget.at_most:g}: give a smaller least."
            )
        columns = np.array([[site.features[name] for name in names] for site in space.sites], np.float64)
        columns = np.column_stack([np.arange(len(space.sites), dtype=np.float64), columns])
        low, high = columns.min(0), columns.max(0)
        self._static = (columns - low) / np.where(high > low, high - low, 1.0)

    def __len__(self) -> int:
        return len(self._space.sites)

    def state(self, site: int, decided: Choice, action: float) -> np.ndarray:
        """What the agent sees before it decides on a site."""
        space, rest = self._space, len(self) - site
        whole = space.cost(space.whole)
        now = space.cost((*decided, *space.whole[site:])) if rest else space.cost(decided)
        least = space.cost((*decided, *self._floor[site:]))
        static = self._static[min(site, len(self) - 1)]
        return np.array([*static, (whole - now) / whole, (now - least) / whole, action], np.float32)

    def bounded(self, site: int, decided: Choice, action: float) -> int:
        """The level for a kept share: the nearest, or the first below it with which the budget stays within reach."""
        removed = self._space.sites[site].removed
        level = min(int(np.argmin(np.abs(np.asarray(removed) - (1 - action)))), self._floor[site])
        while level < self._floor[site]:
            if self._space.fits((*decided, level, *self._floor[site + 1 :])):
                return level
            level += 1
        return level

    def kept(self, site: int, level: int) -> float:
        """The share that a level keeps."""
        return 1.0 - self._space.sites[site].removed[level]


class Memory:
    """The replay buffer, in NumPy.

    Args:
      size: transitions; the oldest are forgotten.
      skip_first: whether the first step of an episode is never drawn.
    """

    def __init__(self, size: int, skip_first: bool = False) -> None:
        self._size, self._skip = size, skip_first
        self._steps: list[tuple[np.ndarray, float, float, np.ndarray, float]] = []

    def add(self, states: Sequence[np.ndarray], actions: Sequence[float], reward: float) -> None:
        """Keeps an episode; `states` has one more than `actions`."""
        for step, action in enumerate(actions):
            if step or not self._skip or len(actions) == 1:
                last = float(step == len(actions) - 1)
                self._steps.append((states[step], action, reward, states[step + 1], last))
        self._steps = self._steps[-self._size :]

    def draw(self, rng: np.random.Generator, updates: int, batch: int) -> Transitions:
        """Batches at random, with repetition: leaves (updates, batch, …)."""
        places = rng.integers(len(self._steps), size=(updates, batch))
        columns = [np.asarray(column, np.float32) for column in zip(*self._steps, strict=True)]
        return Transitions(*(column[places] for column in columns))


def _floor(removed: Sequence[float], least: float) -> int:
    """The last level that keeps at least so much."""
    return max((level for level, share in enumerate(removed) if 1 - share >= least - 1e-9), default=0)


def _episode(
    walk: Walk, learner: Agent, rng: np.random.Generator, noise: float | None
) -> tuple[list[np.ndarray], list[float], Choice]:
    states, actions, decided, action = [walk.state(0, (), 1.0)], [], (), 1.0
    for site in range(len(walk)):
        if noise is None:
            wanted = float(rng.uniform())
        else:
            wanted = truncated_normal(rng, float(_act(learner.actor, states[-1])), noise)
        level = walk.bounded(site, decided, wanted)
        decided, action = (*decided, level), walk.kept(site, level)
        actions.append(action)
        states.append(walk.state(site + 1, decided, action))
    return states, actions, decided


# Compiled once for all searches of the same numbers and shapes.
_act = jax.jit(act)
_update = jax.jit(DDPG.update, static_argnums=0)


def truncated_normal(rng: np.random.Generator, mean: float, sigma: float) -> float:
    """Draws from a normal distribution cut to [0, 1], by rejection.

    Args:
      rng: draws.
      mean: in [0, 1], so that at least a quarter of the draws lie inside where sigma is at most 1.
      sigma: above 0.

    Returns:
      The number.
    """
    while True:
        drawn = rng.normal(mean, sigma, 32)
        inside = drawn[(drawn >= 0) & (drawn <= 1)]
        if inside.size:
            return float(inside[0])
