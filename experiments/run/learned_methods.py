"""The methods whose masks or gates are trained, from a configuration: straight-through, movement, L0, CoFi."""

import itertools
from collections.abc import Callable
from typing import Any

import optax
from ml_collections import ConfigDict

from experiments.run.optimizers import rate_shape
from experiments.run.state import Member
from sparsejax import patterns, schedules
from sparsejax.parametrizations.gates import GateGroup
from sparsejax.recipes.learned_masks import cofi, l0, movement, soft_movement, straight_through

_Inner = optax.GradientTransformation
_Transformation = optax.GradientTransformationExtraArgs

#: What `config.gates` names: one gate for each of these, in every prunable layer.
GATES: dict[str, patterns.Pattern] = {
    "input": patterns.Channel("input"),
    "output": patterns.Channel("output"),
    "heads": patterns.Channel("heads"),
    "weights": patterns.Unstructured(),
}

#: Gates of whole sublayers and of the residual width begin open, as in CoFi's code; they decide too much.
_COARSE = {"attention_layer*": 0.01, "mlp_layer*": 0.01, "width*": 0.01}


def build_learned(
    config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]
) -> _Transformation:
    """Builds the optimizer of a method of `LEARNED`.

    Args:
      config: a valid configuration.
      inner: the optimizer of the weights.
      member: draws noise, and has the target sparsity or the penalty; it may be traced.
      options: ``sparsity``, ``distribution`` and ``overrides``, of which each method takes what it knows.

    Returns:
      The optimizer.
    """
    return LEARNED[config.method](config, inner, member, options)


def gate_groups(config: ConfigDict) -> dict[str, GateGroup]:
    """Names the gates of CoFi in the transformers of `experiments.models`.

    Sublayers, heads and feed-forward neurons of each block, and the residual width. A gate multiplies what
    reads the unit, once; what makes the unit falls with it.

    Args:
      config: its ``model`` is a transformer whose blocks are not stacked.

    Returns:
      The groups by name.

    Example:
      >>> from experiments.config.fields import default_config
      >>> sorted(gate_groups(default_config("encoder")))
      ['attention_layer', 'heads', 'mlp_layer', 'neurons', 'width']
    """
    model = config.model
    attention, mlp = "block_*/attention", "block_*/mlp"
    grouped = bool(model.get("kv_heads", 0)) and model.kv_heads != model.heads
    into_heads = [f"{attention}/{name}/kernel" for name in ("query", "key", "value")]
    into_mlp = [f"{mlp}/{name}/kernel" for name in ("up", "gate")[: 1 + (model.get("mlp") == "swiglu")]]
    # Key and value heads that several query heads share outlive any one of these.
    own = into_heads[:1] if grouped else into_heads
    out, down = f"{attention}/out/kernel", f"{mlp}/down/kernel"
    head = [] if model.name == "gpt" and model.tied else ["head/kernel"]
    return {
        "heads": GateGroup(((out, 0),), follows=tuple((path, 1) for path in own)),
        "neurons": GateGroup(((down, 0),), follows=tuple((path, 1) for path in into_mlp)),
        "attention_layer": GateGroup(((out, None),), follows=tuple((path, None) for path in into_heads)),
        "mlp_layer": GateGroup(((down, None),), follows=tuple((path, None) for path in into_mlp)),
        "width": GateGroup(
            tuple((path, 0) for path in [*into_heads, *into_mlp, *head]),
            follows=((out, 2), (down, 1)),
            shared=True,
        ),
    }


def neuron_groups(config: ConfigDict) -> dict[str, GateGroup]:
    """Names the neurons and channels of an `MLP` or a `LeNet` as gates: their input weights fall with them.

    Gates on each layer's inputs alone leave the input weights of a neuron that nothing reads in the count, so
    that high sparsities take too many of the network's own inputs.

    Args:
      config: its ``model`` is an mlp or a lenet.

    Returns:
      The groups by the path of the layer that makes the units; "inputs", the pixels that a dense layer reads.

    Example:
      >>> from experiments.config.fields import default_config
      >>> list(neuron_groups(default_config("mlp")))
      ['inputs', 'dense_0', 'dense_1']
    """
    channels = config.model.get("channels", ())
    kernels = [(f"conv_{i}/kernel", 2, 3) for i in range(len(channels))]
    kernels += [(f"dense_{i}/kernel", 0, 1) for i in range(len(config.model.widths) + 1)]
    groups = {} if channels else {"inputs": GateGroup(((kernels[0][0], 0),))}
    for (makes, _, out), (reads, into, _) in itertools.pairwise(kernels):
        name = makes.removesuffix("/kernel")
        # What the last convolution makes is flattened: its channels, at each place of the image.
        flat = bool(channels) and name == f"conv_{len(channels) - 1}"
        groups[name] = GateGroup(
            ((reads, into),), follows=((makes, out),), units=channels[-1] if flat else None, tiled=flat
        )
    return groups


def _topk(config: ConfigDict, options: dict[str, Any]) -> dict[str, Any]:
    return options | {
        "begin_step": config.begin_step,
        "end_step": config.end_step,
        "update_every": config.update_every,
    }


def _straight_through(
    config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]
) -> _Transformation:
    del member
    return straight_through(inner, **_topk(config, options))


def _movement(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Transformation:
    del member
    return movement(inner, score_optimizer=_score_optimizer(config), **_topk(config, options))


def _soft_movement(
    config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]
) -> _Transformation:
    return soft_movement(
        inner,
        begin_step=config.begin_step,
        end_step=config.end_step,
        threshold=config.threshold,
        penalty_weight=member.penalty_weight,
        score_optimizer=_score_optimizer(config),
        overrides=options["overrides"],
    )


def _l0(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Transformation:
    penalised = bool(config.penalty_weight or config.penalty_weights)
    target = schedules.linear(member.sparsity, begin=config.begin_step, end=config.end_step)
    return l0(
        inner,
        key=member.mask_key,
        penalty_weight=member.penalty_weight if penalised else None,
        sparsity=None if penalised else target,
        gates=neuron_groups(config) if config.gates == "neurons" else GATES[config.gates],
        gate_optimizer=optax.adam(config.gate_learning_rate),
        drop_rate=config.drop_rate,
        overrides=options["overrides"],
    )


def _cofi(config: ConfigDict, inner: _Inner, member: Member, options: dict[str, Any]) -> _Transformation:
    del options
    return cofi(
        inner,
        groups=gate_groups(config),
        sparsity=member.sparsity,
        begin_step=config.begin_step,
        warmup_steps=config.end_step - config.begin_step,
        key=member.mask_key,
        gate_optimizer=optax.adam(config.gate_learning_rate),
        drop_rate=_COARSE | {"*": config.drop_rate},
    )


#: The methods by name.
LEARNED: dict[str, Callable[[ConfigDict, _Inner, Member, dict[str, Any]], _Transformation]] = {
    "straight_through": _straight_through,
    "movement": _movement,
    "soft_movement": _soft_movement,
    "l0": _l0,
    "cofi": _cofi,
}


def _score_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Scores learn on the weights' schedule, at a rate of their own, as in the code of movement pruning."""
    shape = rate_shape(config)
    return optax.adam(lambda step: config.score_learning_rate * shape(step + config.skip_steps))
