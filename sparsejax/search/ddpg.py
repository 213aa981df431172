"""DDPG: an actor and a critic that learn a continuous action in [0, 1] from transitions, as pure functions."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax.errors import SearchError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.typing import Array


class Transitions(NamedTuple):
    """Steps of episodes; every leaf has the same leading axes.

    Attributes:
      state: float32 (…, features).
      action: float32 (…,), in [0, 1].
      reward: float32 (…,).
      following: the state after, float32 (…, features).
      last: float32 (…,), 1 where the episode ended.
    """

    state: Any
    action: Any
    reward: Any
    following: Any
    last: Any


class Agent(NamedTuple):
    """The state of learning; a pytree.

    Attributes:
      actor: parameters of μ(s).
      critic: parameters of Q(s, a).
      target_actor: their moving averages.
      target_critic: likewise.
      actor_state: of its optimizer.
      critic_state: likewise.
      baseline: moving average of the batches' mean reward; NaN before the first.
    """

    actor: Any
    critic: Any
    target_actor: Any
    target_critic: Any
    actor_state: Any
    critic_state: Any
    baseline: Array


class DDPG(NamedTuple):
    """The numbers of DDPG.

    Attributes:
      hidden: units of both hidden layers.
      actor_rate: Adam's, of the actor.
      critic_rate: likewise.
      discount: γ in [0, 1].
      tau: share of the new parameters in a target's moving average, (0, 1].
      baseline_decay: α of the rewards' moving average, in [0, 1); it is subtracted from rewards.

    Source: Lillicrap et al., arXiv 1509.02971, algorithm 1; numbers and the baseline from the code of He et al., "AMC".
    """

    hidden: int = 300
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    discount: float = 1.0
    tau: float = 0.01
    baseline_decay: float = 0.5

    def check(self) -> None:
        """Refuses numbers out of their ranges.

        Raises:
          SearchError: one is.
        """
        require_numbers(SearchError, least=1, whole=True, hidden=self.hidden)
        require_numbers(SearchError, above=True, actor_rate=self.actor_rate, critic_rate=self.critic_rate)
        require_numbers(SearchError, most=1, discount=self.discount)
        require_numbers(SearchError, above=True, most=1, tau=self.tau)
        require_numbers(SearchError, most=math.nextafter(1, 0), baseline_decay=self.baseline_decay)

    def init(self, key: Array, features: int) -> Agent:
        """A new agent.

        Args:
          key: a random key.
          features: numbers of a state.

        Returns:
          The agent.
        """
        keys, h = jax.random.split(key, 7), self.hidden
        actor = [_linear(keys[0], features, h), _linear(keys[1], h, h), _linear(keys[2], h, 1)]
        critic = [
            _linear(keys[3], features, h),
            _linear(keys[4], 1, h),
            _linear(keys[5], h, h),
            _linear(keys[6], h, 1),
        ]
        return Agent(
            actor, critic, actor, critic, optax.adam(self.actor_rate).init(actor),
            optax.adam(self.critic_rate).init(critic), jnp.float32(jnp.nan),
        )  # fmt: skip

    def update(self, agent: Agent, batches: Transitions) -> Agent:
        """One update on each batch: ``y = r − b + γ(1 − last)·Q'(s', μ'(s'))``, then the actor climbs Q(s, μ(s)).

        Args:
          agent: before.
          batches: leaves (updates, batch, …).

        Returns:
          The agent after.
        """

        def step(agent: Agent, batch: Transitions) -> tuple[Agent, None]:
            return self._step(agent, batch), None

        return jax.lax.scan(step, agent, batches)[0]

    def _step(self, agent: Agent, batch: Transitions) -> Agent:
        mean, alpha = batch.reward.mean(), self.baseline_decay
        baseline = jnp.where(jnp.isnan(agent.baseline), mean, alpha * agent.baseline + (1 - alpha) * mean)
        ahead = value(agent.target_critic, batch.following, act(agent.target_actor, batch.following))
        goal = batch.reward - baseline + self.discount * (1 - batch.last) * ahead

        def critic_loss(critic: Any) -> Array:
            return jnp.mean((value(critic, batch.state, batch.action) - goal) ** 2)

        critic, critic_state = _adam(self.critic_rate, critic_loss, agent.critic, agent.critic_state)

        def actor_loss(actor: Any) -> Array:
            return -jnp.mean(value(critic, batch.state, act(actor, batch.state)))

        actor, actor_state = _adam(self.actor_rate, actor_loss, agent.actor, agent.actor_state)
        follow = lambda old, new: optax.incremental_update(new, old, self.tau)  # noqa: E731
        return Agent(
            actor, critic, follow(agent.target_actor, actor), follow(agent.target_critic, critic),
            actor_state, critic_state, baseline,
        )  # fmt: skip


def act(actor: Any, state: Array) -> Array:
    """μ(s): two hidden layers with ReLU, then a sigmoid.

    Args:
      actor: parameters.
      state: float32 (…, features).

    Returns:
      Actions (…,), in (0, 1).
    """
    first, second, last = actor
    x = jax.nn.relu(_apply(second, jax.nn.relu(_apply(first, state))))
    return jax.nn.sigmoid(_apply(last, x))[..., 0]


def value(critic: Any, state: Array, action: Array) -> Array:
    """Q(s, a): state and action meet in the first hidden layer.

    Args:
      critic: parameters.
      state: float32 (…, features).
      action: (…,).

    Returns:
      Values (…,).
    """
    of_state, of_action, second, last = critic
    x = jax.nn.relu(_apply(of_state, state) + _apply(of_action, action[..., None]))
    return _apply(last, jax.nn.relu(_apply(second, x)))[..., 0]


def _linear(key: Array, inputs: int, outputs: int) -> dict[str, Array]:
    edge = inputs**-0.5
    kernel, bias = jax.random.split(key)
    return {
        "kernel": jax.random.uniform(kernel, (inputs, outputs), minval=-edge, maxval=edge),
        "bias": jax.random.uniform(bias, (outputs,), minval=-edge, maxval=edge),
    }


def _apply(layer: dict[str, Array], x: Array) -> Array:
    return x @ layer["kernel"] + layer["bias"]


def _adam(rate: float, loss: Any, params: Any, state: Any) -> tuple[Any, Any]:
    updates, state = optax.adam(rate).update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state
