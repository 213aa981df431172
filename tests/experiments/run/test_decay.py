"""Two fields of full-size recipes: a learning rate that falls in steps, and weight decay of kernels alone."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.config.fields import default_config
from experiments.config.validation import validate_config
from experiments.errors import ConfigError
from experiments.run.optimizers import build_optimizer


def _config(**fields):
    config = default_config()
    config.steps, config.warmup_steps, config.optimizer, config.weight_decay = 12, 2, "sgd", 0.0
    config.momentum = 0.0
    config.update(fields)
    return config


def _rates(config, steps=12):
    """The learning rate of each step, read off sgd's updates of a gradient of 1."""
    tx, params = build_optimizer(config, 2.0), {"kernel": jnp.zeros(())}
    state, rates = tx.init(params), []
    for _ in range(steps):
        updates, state = tx.update({"kernel": jnp.ones(())}, state, params)
        rates.append(-float(updates["kernel"]))
    return rates


def test_the_rate_falls_to_a_tenth_at_each_step_that_is_named():
    rates = _rates(_config(decay_steps=(5, 9)))
    np.testing.assert_allclose(rates, [0, 1, 2, 2, 2, 0.2, 0.2, 0.2, 0.2, 0.02, 0.02, 0.02], rtol=1e-6)


def test_without_them_it_is_a_cosine():
    wanted = [float(2 * optax.warmup_cosine_decay_schedule(0.0, 1.0, 2, 12)(step)) for step in range(12)]
    np.testing.assert_allclose(_rates(_config()), wanted, rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_weight_decay_of_kernels_alone(optimizer, everywhere):
    config = _config(optimizer=optimizer, weight_decay=0.5, decay_all=everywhere)
    params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
    tx = build_optimizer(config, 1.0)
    state = tx.init(params)
    for _ in range(2):  # the rate of the first step is 0
        updates, state = tx.update(
            {k: {n: jnp.zeros_like(x) for n, x in v.items()} for k, v in params.items()}, state, params
        )
    assert (updates["dense"]["kernel"] == -0.25).all()  # rate 1/2, decay 1/2
    assert ((updates["dense"]["bias"] == 0) == (not everywhere)).all()
    assert ((updates["norm"]["scale"] == 0) == (not everywhere)).all()


@pytest.mark.parametrize("steps", [(5, 5), (9, 5), (2, 5), (12,), (5.5,)])
def test_falls_outside_of_training_are_refused(steps):
    with pytest.raises(ConfigError, match="decay_steps"):
        validate_config(_config(decay_steps=steps, begin_step=0, end_step=0))
    validate_config(_config(decay_steps=(5, 9), begin_step=0, end_step=0))
