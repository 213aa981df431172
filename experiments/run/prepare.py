"""From a configuration to everything a run is made of, before its first step."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from experiments.data.augment_recipes import build_augment
from experiments.data.batches import steps_per_epoch
from experiments.data.loading import load_splits
from experiments.data.split import Split
from experiments.data.streaming import Stream, open_stream
from experiments.devices.hosts import data_share, together
from experiments.devices.mesh import (
    batch_sharding,
    check_batch,
    make_mesh,
    place_members,
    place_params,
    replicate,
)
from experiments.models.build import build_model
from experiments.models.saved import is_saved, model_of_run
from experiments.run.chunk import ChunkRecipe, needs_host_steps
from experiments.run.compute_dtype import Apply
from experiments.run.distillation import load_teacher, teacher_config
from experiments.run.evaluation import TestStream
from experiments.run.initial import initial_batch_stats, initial_masks, initial_params
from experiments.run.mask_meter import MaskMeter, make_meter
from experiments.run.methods import Method, build_method
from experiments.run.objective import Objective, make_objective
from experiments.run.placing import state_shardings
from experiments.run.population import MemberGroup, Run, groups_of
from experiments.run.state import Member, TrainState, copy_state, member_of, over_members, stack_members
from sparsejax.interop.flax import stateful
from sparsejax.kernels import with_rows


class Setup(NamedTuple):
    """What a run is made of.

    Attributes:
      source: the training split on the devices, or a stream of host batches.
      test: the split to evaluate on.
      apply: ``(params, batch_stats, inputs, train) -> (logits, batch_stats)``.
      groups: the runs, cut into those computed together.
      recipes: of each group; equal ones are the same object.
      states: of each group; consumed by the first chunk.
      method: of the first run; what it says of masks and times holds for all.
      meter: reads masks.
      mesh: None on one device.
    """

    source: Split | Stream
    test: Split | TestStream
    apply: Apply
    groups: tuple[MemberGroup, ...]
    recipes: tuple[ChunkRecipe, ...]
    states: tuple[TrainState, ...]
    method: Method
    meter: MaskMeter
    mesh: Mesh | None

    @property
    def runs(self) -> list[Run]:
        """All members, in order."""
        return [run for group in self.groups for run in group.runs]


class Outline(NamedTuple):
    """What a run is made of besides its data and its arrays: made from shapes alone.

    Attributes:
      apply: as in `Setup`.
      draw: ``key -> (params, batch_stats)``.
      groups: likewise.
      recipes: likewise.
      method: likewise.
      meter: likewise.
    """

    apply: Apply
    draw: Callable[[jax.Array], tuple[Any, Any]]
    groups: tuple[MemberGroup, ...]
    recipes: tuple[ChunkRecipe, ...]
    method: Method
    meter: MaskMeter


def prepare(config: ConfigDict) -> Setup:
    """Loads the data, draws the models and puts them on their first masks."""
    if config.teacher:
        teacher_config(config.teacher)  # refuses one that is not there before any data is read
    mesh = make_mesh(config.mesh)
    sharding = batch_sharding(mesh, population=bool(config.population))
    check_batch("batch_size", config.batch_size, sharding, config.accumulate)
    check_batch("eval_batch_size", config.eval_batch_size, sharding)
    with together():
        source, test = _data(config, mesh, sharding)
    made = outline(config, test.input_shape, test.classes, text=bool(test.window), mesh=mesh)
    # One program for the groups of a recipe: the functions that learned methods keep in the state are then the same.
    beginnings: dict[Any, Any] = {}
    states = tuple(_begin(config, made, group, mesh, beginnings) for group in made.groups)
    return Setup(source, test, made.apply, made.groups, made.recipes, states, made.method, made.meter, mesh)


def outline(
    config: ConfigDict,
    input_shape: Sequence[int],
    classes: int,
    *,
    text: bool,
    mesh: Mesh | None,
    described: Mesh | None = None,
) -> Outline:
    """Makes a run's model, groups and recipes without any data.

    Args:
      config: a valid configuration.
      input_shape: of one example.
      classes: of a target.
      text: whether inputs are tokens.
      mesh: None on one device.
      described: devices that are elsewhere, on which nothing can be placed but for which a step is compiled.

    Returns:
      The outline.
    """
    population = bool(config.population)
    apply, draw = _model(config, input_shape, classes)
    apply = _on_own_rows(apply, config, mesh or described)
    abstract = jax.eval_shape(draw, jax.random.key(0))
    sample = jax.ShapeDtypeStruct((config.batch_size, *input_shape), np.int32 if text else np.float32)
    stepwise = needs_host_steps(lambda p, s, x: apply(p, s, x, True), *abstract, sample)
    place = place_members if population else replicate
    groups = groups_of(config, stepwise=stepwise and not config.streaming)  # a stream is read once
    groups = tuple(_with_masks(config, group, abstract[0]) for group in groups)
    groups = tuple(group._replace(members=place(group.members, mesh)) for group in groups)
    run, first = groups[0].runs[0], member_of(groups[0].members, 0 if population else None)
    method = build_method(config, first, run.sparsity)
    masks = jax.eval_shape(lambda params: method.masks(*method.init(params)), abstract[0])
    meter = make_meter(abstract[0], masks, method.times)
    sharding = batch_sharding(mesh, population=population)
    taught = load_teacher(config, input_shape, classes)
    if taught is not None:
        taught = taught._replace(variables=replicate(taught.variables, mesh))
    objective = make_objective(
        apply,
        compute_dtype=config.compute_dtype,
        label_smoothing=config.label_smoothing,
        distillation=taught,
    )
    recipes: dict[Any, ChunkRecipe] = {}
    for group in groups:
        made = _recipe(config, group, objective, classes, meter, sharding, stepwise)
        recipes.setdefault(_key(group), made)
    return Outline(apply, draw, groups, tuple(recipes[_key(group)] for group in groups), method, meter)


def first_state(
    config: ConfigDict, group: MemberGroup, meter: MaskMeter
) -> Callable[[Member, Any, Any], TrainState]:
    """Makes the function that puts a group's parameters on their first masks.

    Args:
      config: of the run.
      group: of the run.
      meter: reads masks.

    Returns:
      ``(members, params, batch_stats) -> state``; its leaves may share buffers.
    """

    def begin(member: Member, params: Any) -> tuple[Any, Any, jax.Array]:
        method = build_method(config, member, group.sparsity)
        params, opt_state = method.init(params)
        return params, opt_state, meter.kept(method.masks(params, opt_state))

    lifted = over_members(begin, bool(config.population), (0, 0))

    def state(members: Member, params: Any, stats: Any) -> TrainState:
        params, opt_state, kept = lifted(members, params)
        ema = params if config.ema_decay else ()
        return TrainState(params, stats, opt_state, ema, kept, jnp.int32(0))

    return state


def _data(config: ConfigDict, mesh: Mesh | None, sharding: NamedSharding | None) -> tuple[Any, Any]:
    if config.streaming:
        return _streams(config, sharding)
    splits = (config.train_split, config.test_split)
    source, test = load_splits(config.dataset, splits, config.data_dir, window=config.window)
    steps_per_epoch(source.size, config.batch_size)  # refuses a batch that cannot be filled
    return replicate(source, mesh), replicate(test, mesh)


def _streams(config: ConfigDict, sharding: NamedSharding | None) -> tuple[Stream, TestStream]:
    shared = {"image_size": config.image_size, "window": config.window, "data_dir": config.data_dir}

    def open_split(split: str, size: int, **rest: Any) -> Stream:
        index, count = data_share(sharding, size)
        return open_stream(
            config.dataset, split, batch_size=size, process_index=index, process_count=count, **shared, **rest
        )

    def test() -> Stream:
        return open_split(config.test_split, config.eval_batch_size, train=False)

    opened = test()
    inputs = next(opened).inputs
    window = inputs.shape[1] if np.issubdtype(inputs.dtype, np.integer) else 0
    source = open_split(config.train_split, config.batch_size, seed=config.seed)
    return source, TestStream(test, opened.size, opened.classes, inputs.shape[1:], window)


def _model(config: ConfigDict, input_shape: Sequence[int], classes: int) -> tuple[Apply, Any]:
    def build(key: jax.Array) -> nnx.Module:
        return build_model(config.model, input_shape=input_shape, classes=classes, rngs=nnx.Rngs(key))

    @jax.jit
    def draw(key: jax.Array) -> tuple[Any, Any]:
        drawn = stateful(build(key))
        return drawn.params, drawn.batch_stats

    made = stateful(model_of_run(config.model, config.init_from, input_shape, classes))
    if is_saved(config.init_from):  # its widths are its own, and nothing drawn would be used
        drawn = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (made.params, made.batch_stats))
        return made.apply, lambda key: drawn
    return made.apply, draw


def _on_own_rows(apply: Apply, config: ConfigDict, mesh: Mesh | None) -> Apply:
    """Tells block-sparse kernels how a batch lies: XLA cuts plain operations by itself, and no kernel."""
    blocks = config.model.get("sparse_compute") == "blocks"
    if not blocks or mesh is None or config.population:  # members do not share out a batch
        return apply
    axes = batch_sharding(mesh, population=False).spec[0]

    @functools.wraps(apply)
    def on_own_rows(params: Any, *rest: Any, **named: Any) -> Any:
        return apply(with_rows(params, mesh, axes), *rest, **named)

    return on_own_rows


def _recipe(
    config: ConfigDict,
    group: MemberGroup,
    objective: Objective,
    classes: int,
    meter: MaskMeter,
    sharding: NamedSharding | None,
    stepwise: bool,
) -> ChunkRecipe:
    return ChunkRecipe(
        objective=objective,
        build=lambda member: build_method(config, member, group.sparsity),
        meter=meter,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
        augment=build_augment(config.augment, classes),
        population=bool(config.population),
        batch_sharding=sharding,
        stepwise=stepwise,
    )


def _with_masks(config: ConfigDict, group: MemberGroup, template: Any) -> MemberGroup:
    """Gives each member the masks that an earlier run left it."""
    if config.method != "fixed":
        return group
    masks = [initial_masks(config.init_from, run, template) for run in group.runs]
    masks = stack_members(masks) if config.population else jax.tree.map(jnp.asarray, masks[0])
    return group._replace(members=group.members._replace(masks=masks))


def _key(group: MemberGroup) -> Any:
    return group.sparsity if isinstance(group.sparsity, float) else tuple(group.sparsity)


def _begin(
    config: ConfigDict, made: Outline, group: MemberGroup, mesh: Mesh | None, programs: dict[Any, Any]
) -> TrainState:
    """The state before the first step, every array where it belongs; compiled ones are put into `programs`."""
    population = bool(config.population)
    # Each host draws the whole model for itself, so that its bits depend on no layout.
    keys = [run.member().model_key for run in group.runs]
    parts = [made.draw(key) for key in keys]
    if config.init_from:
        parts = [
            (
                initial_params(config.init_from, run, params),
                initial_batch_stats(config.init_from, run, stats),
            )
            for run, (params, stats) in zip(group.runs, parts, strict=True)
        ]
    params, stats = stack_members(parts) if population else parts[0]
    params = place_params(params, mesh, population=population)
    stats = (place_members if population else replicate)(stats, mesh)
    begin = first_state(config, group, made.meter)
    places = None
    if mesh is not None:
        shapes = jax.eval_shape(begin, group.members, params, stats)
        places = state_shardings(shapes, mesh, population=population)
    program = programs.setdefault((_key(group), len(group.runs)), jax.jit(begin, out_shardings=places))
    return copy_state(program(group.members, params, stats))
