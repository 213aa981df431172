"""The teacher's part of a step's loss, worked out by hand, and the refusal of teachers that are not there."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.split import Batch
from experiments.errors import WorkdirError
from experiments.run.distillation import Distillation, teacher_config
from experiments.run.objective import make_objective
from sparsejax.distillation import distill_layers, distill_logits

STUDENT, TEACHER = (jax.random.normal(jax.random.key(seed), (4, 3)) for seed in (0, 1))
BATCH = Batch(jax.random.normal(jax.random.key(2), (5, 4)), jnp.array([0, 1, 2, 1, 0]))


def _apply(w, stats, x, train):
    return x @ w, stats


def _hidden(w, stats, x, train):
    return (x @ w, jnp.stack([x, x @ w @ w.T])), stats


def test_the_loss_is_the_mixture_and_the_teacher_has_no_gradient():
    def total(w, teacher_w):
        taught = Distillation(lambda w, x: (x @ w, None), teacher_w, weight=0.3, temperature=4.0)
        return make_objective(_apply, distillation=taught).train(w, {}, BATCH)[0]

    labels = make_objective(_apply).train(STUDENT, {}, BATCH)[0]
    soft = distill_logits(BATCH.inputs @ STUDENT, BATCH.inputs @ TEACHER, temperature=4.0)
    assert float(total(STUDENT, TEACHER)) == pytest.approx(float(0.7 * labels + 0.3 * soft), rel=1e-6)
    assert not np.any(jax.grad(total, argnums=1)(STUDENT, TEACHER))
    assert np.any(jax.grad(total)(STUDENT, TEACHER))


def test_layers_are_added_and_evaluation_knows_no_teacher():
    taught = Distillation(
        lambda w, x: _hidden(w, {}, x, False)[0], TEACHER, weight=0.0, layers=2.0, hidden=_hidden
    )
    objective = make_objective(_apply, distillation=taught)
    labels = make_objective(_apply).train(STUDENT, {}, BATCH)[0]
    (_, ours), (_, theirs) = (_hidden(w, {}, BATCH.inputs, True)[0] for w in (STUDENT, TEACHER))
    apart = distill_layers(ours, theirs)[0]
    found = objective.train(STUDENT, {}, BATCH)[0]
    assert float(found) == pytest.approx(float(labels + 2.0 * apart), rel=1e-6)
    plain = make_objective(_apply).evaluate(STUDENT, {}, BATCH)
    np.testing.assert_array_equal(objective.evaluate(STUDENT, {}, BATCH)[0], plain[0])


def test_a_program_gets_the_teacher_as_an_argument():
    taught = make_objective(_apply, distillation=Distillation(lambda w, x: (x @ w, None), TEACHER))

    def step(w, frozen):
        return taught.bind(frozen).train(w, {}, BATCH)[0]

    constants = jax.make_jaxpr(step)(STUDENT, taught.frozen).consts
    assert not any(np.array_equal(constant, TEACHER) for constant in constants if np.shape(constant))
    assert float(step(STUDENT, taught.frozen)) == float(taught.train(STUDENT, {}, BATCH)[0])
    assert float(step(STUDENT, 2 * TEACHER)) != float(step(STUDENT, TEACHER))
    plain = make_objective(_apply)
    assert plain.frozen == ()
    assert float(plain.bind(()).train(STUDENT, {}, BATCH)[0]) == float(plain.train(STUDENT, {}, BATCH)[0])


def test_a_teacher_that_is_not_there_is_refused_and_a_population_names_its_members(tmp_path):
    with pytest.raises(WorkdirError, match=r"holds no params.npz: give that of a finished run"):
        teacher_config(str(tmp_path))
    member = tmp_path / "seed_3-sparsity_0-rate_0.1"
    member.mkdir()
    np.savez(member / "params.npz", w=np.ones(2))
    with pytest.raises(WorkdirError, match=r"give one of its members, such as .*seed_3"):
        teacher_config(str(tmp_path))
    with pytest.raises(WorkdirError, match=r"no config.json names its model"):
        teacher_config(str(member))
    (tmp_path / "config.json").write_text(json.dumps({"model": {"name": "mlp", "widths": [3]}}))
    assert teacher_config(str(member)).model.widths == (3,)
