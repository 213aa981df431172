"""What a user might write: a rule, a score, a pattern and a distribution of their own, as configurations name them."""

import jax
import jax.numpy as jnp

import sparsejax
from sparsejax import patterns, rules, schedules, scores


def rule():
    """Half of the weights, once, at step 3."""
    return rules.prune(scores.magnitude(), lambda step: 0.5, schedules.update_every(1, begin=3, end=3))


def smallest():
    """Keeps the smallest weights, which no method of the library does."""
    return scores.stateless(lambda params, grads, key: jax.tree.map(lambda leaf: -jnp.abs(leaf), params))


def two_of_four():
    """N:M along the inputs."""
    return patterns.NM(2, 4)


def needs_something(size):
    """A function that cannot be called without arguments."""
    return size


def text():
    """No score at all."""
    return sparsejax.__name__


def uncalled():
    """The class, not one of it."""
    return patterns.NM
