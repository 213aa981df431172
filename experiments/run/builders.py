"""What each method makes of a configuration: a recipe of the library, with the fields that it reads as arguments."""

from typing import Any

import optax
from ml_collections import ConfigDict

from experiments.run.gates import COARSE, GATES, gate_groups
from experiments.run.named import load_named
from experiments.run.optimizers import rate_shape
from experiments.run.state import Member
from sparsejax import recipes, schedules
from sparsejax.rules.constant import fixed_masks
from sparsejax.transforms import SparseTransformation
from sparsejax.transforms.sparsify import sparsify

_Inner = optax.GradientTransformation
_Options = dict[str, Any]


def dense(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> Any:
    del config, member, options
    return optax.with_extra_args_support(inner)


def gmp(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> SparseTransformation:
    del member
    return recipes.gmp(inner, **_ramp(config), **options)


def drop_and_grow(
    config: ConfigDict, inner: _Inner, member: Member, options: _Options
) -> SparseTransformation:
    recipe = {"rigl": recipes.rigl, "set": recipes.set_}[config.method]
    return recipe(
        inner,
        total_steps=config.end_step,
        stop_fraction=1.0,
        update_every=config.update_every,
        drop_fraction=config.drop_fraction,
        second_moment=config.second_moment,
        key=member.mask_key,
        **options,
    )


def static(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> SparseTransformation:
    del config
    return recipes.static_random(inner, key=member.mask_key, **options)


def snip(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> SparseTransformation:
    del config, member
    return recipes.snip(inner, **options)


def one_shot(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> SparseTransformation:
    del member
    return recipes.one_shot(inner, at_step=config.begin_step, **options)


def fixed(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> SparseTransformation:
    del config
    return sparsify(inner, fixed_masks(member.masks), **options)


def rule(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> SparseTransformation:
    rule = load_named("rule", config.rule)
    return sparsify(inner, rule, key=member.mask_key, second_moment=config.second_moment, **options)


def ac_dc(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> SparseTransformation:
    del member
    return recipes.ac_dc(
        inner,
        total_steps=config.steps,
        phase_steps=config.update_every,
        warmup_steps=config.begin_step,
        final_steps=config.steps - config.end_step,
        **options,
    )


def straight_through(
    config: ConfigDict, inner: _Inner, member: Member, options: _Options
) -> SparseTransformation:
    del member
    return recipes.straight_through(inner, **_ramp(config), **options)


def movement(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> SparseTransformation:
    del member
    return recipes.movement(inner, score_optimizer=_score_optimizer(config), **_ramp(config), **options)


def soft_movement(
    config: ConfigDict, inner: _Inner, member: Member, options: _Options
) -> SparseTransformation:
    return recipes.soft_movement(
        inner,
        begin_step=config.begin_step,
        end_step=config.end_step,
        threshold=config.threshold,
        penalty_weight=member.penalty_weight,
        score_optimizer=_score_optimizer(config),
        **options,
    )


def l0(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> SparseTransformation:
    penalised = bool(config.penalty_weight or config.penalty_weights)
    target = schedules.linear(member.sparsity, begin=config.begin_step, end=config.end_step)
    return recipes.l0(
        inner,
        key=member.mask_key,
        penalty_weight=member.penalty_weight if penalised else None,
        gates=GATES[config.gates](config),
        gate_optimizer=optax.adam(config.gate_learning_rate),
        drop_rate=config.drop_rate,
        **options | {"sparsity": None if penalised else target},
    )


def cofi(config: ConfigDict, inner: _Inner, member: Member, options: _Options) -> SparseTransformation:
    return recipes.cofi(
        inner,
        groups=gate_groups(config),
        begin_step=config.begin_step,
        warmup_steps=config.end_step - config.begin_step,
        key=member.mask_key,
        gate_optimizer=optax.adam(config.gate_learning_rate),
        drop_rate=COARSE | {"*": config.drop_rate},
        **options | {"sparsity": member.sparsity},
    )


def _ramp(config: ConfigDict) -> dict[str, int]:
    return {name: config[name] for name in ("begin_step", "end_step", "update_every")}


def _score_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Scores learn on the weights' schedule, at a rate of their own, as in the code of movement pruning."""
    shape = rate_shape(config)
    return optax.adam(lambda step: config.score_learning_rate * shape(step + config.skip_steps))
