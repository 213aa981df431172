"""From a configuration to everything a run is made of, before its first step."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from experiments.teach import load_teacher
from sparsejax import models, training


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

    source: training.Split | training.Stream
    test: training.Split | training.TestStream
    apply: training.Apply
    groups: tuple[training.Group, ...]
    recipes: tuple[training.Recipe, ...]
    states: tuple[training.TrainState, ...]
    method: training.Method
    meter: training.MaskMeter
    mesh: Mesh | None

    @property
    def runs(self) -> list[training.Run]:
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

    apply: training.Apply
    draw: Callable[[jax.Array], tuple[Any, Any]]
    groups: tuple[training.Group, ...]
    recipes: tuple[training.Recipe, ...]
    method: training.Method
    meter: training.MaskMeter


def prepare(config: ConfigDict) -> Setup:
    """Loads the data, draws the models and puts them on their first masks."""
    if config.teacher:
        training.teacher_config(config.teacher)  # refuses one that is not there before any data is read
    mesh = training.make_mesh(config.mesh)
    sharding = training.batch_sharding(mesh, population=bool(config.population))
    training.check_batch("batch_size", config.batch_size, sharding, config.accumulate)
    training.check_batch("eval_batch_size", config.eval_batch_size, sharding)
    with training.together():
        source, test = _data(config, mesh, sharding)
    made = outline(config, test.input_shape, test.classes, text=bool(test.window), mesh=mesh)
    # One program for the groups of a recipe: the functions that learned methods keep in the state are then the same.
    beginnings: dict[Any, Any] = {}
    states = tuple(_begin(config, made, group, mesh, beginnings) for group in made.groups)
    return Setup(source, test, made.apply, made.groups, made.recipes, states, made.method, made.meter, mesh)


def outline(
    config: ConfigDict, input_shape: Sequence[int], classes: int, *, text: bool, mesh: Mesh | None
) -> Outline:
    """Makes a run's model, groups and recipes without any data.

    Args:
      config: a valid configuration.
      input_shape: of one example.
      classes: of a target.
      text: whether inputs are tokens.
      mesh: None on one device.

    Returns:
      The outline.
    """
    population = bool(config.population)
    apply, draw = _model(config, input_shape, classes)
    abstract = jax.eval_shape(draw, jax.random.key(0))
    sample = jax.ShapeDtypeStruct((config.batch_size, *input_shape), np.int32 if text else np.float32)
    stepwise = training.needs_host_steps(lambda p, s, x: apply(p, s, x, True), *abstract, sample)
    place = training.place_members if population else training.replicate
    groups = training.groups_of(config, stepwise=stepwise and not config.streaming)  # a stream is read once
    groups = tuple(_with_masks(config, group, abstract[0]) for group in groups)
    groups = tuple(group._replace(members=place(group.members, mesh)) for group in groups)
    run, first = groups[0].runs[0], training.member_of(groups[0].members, 0 if population else None)
    method = training.build_method(config, first, run.sparsity)
    masks = jax.eval_shape(lambda params: method.masks(*method.init(params)), abstract[0])
    meter = training.make_meter(abstract[0], masks, method.times)
    sharding = training.batch_sharding(mesh, population=population)
    objective = training.make_objective(
        apply,
        compute_dtype=config.compute_dtype,
        label_smoothing=config.label_smoothing,
        distillation=load_teacher(config, input_shape, classes),
    )
    recipes: dict[Any, training.Recipe] = {}
    for group in groups:
        made = _recipe(config, group, objective, classes, meter, sharding, stepwise)
        recipes.setdefault(_key(group), made)
    return Outline(apply, draw, groups, tuple(recipes[_key(group)] for group in groups), method, meter)


def first_state(
    config: ConfigDict, group: training.Group, meter: training.MaskMeter
) -> Callable[[training.Member, Any, Any], training.TrainState]:
    """Makes the function that puts a group's parameters on their first masks.

    Args:
      config: of the run.
      group: of the run.
      meter: reads masks.

    Returns:
      ``(members, params, batch_stats) -> state``; its leaves may share buffers.
    """

    def begin(member: training.Member, params: Any) -> tuple[Any, Any, jax.Array]:
        method = training.build_method(config, member, group.sparsity)
        params, opt_state = method.init(params)
        return params, opt_state, meter.kept(method.masks(params, opt_state))

    lifted = training.over_members(begin, bool(config.population), (0, 0))

    def state(members: training.Member, params: Any, stats: Any) -> training.TrainState:
        params, opt_state, kept = lifted(members, params)
        ema = params if config.ema_decay else ()
        return training.TrainState(params, stats, opt_state, ema, kept, jnp.int32(0))

    return state


def _data(config: ConfigDict, mesh: Mesh | None, sharding: NamedSharding | None) -> tuple[Any, Any]:
    if config.streaming:
        return _streams(config, sharding)
    splits = (config.train_split, config.test_split)
    source, test = training.load(config.dataset, splits, config.data_dir, window=config.window)
    training.steps_per_epoch(source.size, config.batch_size)  # refuses a batch that cannot be filled
    return training.replicate(source, mesh), training.replicate(test, mesh)


def _streams(
    config: ConfigDict, sharding: NamedSharding | None
) -> tuple[training.Stream, training.TestStream]:
    shared = {"image_size": config.image_size, "window": config.window, "data_dir": config.data_dir}

    def open_split(split: str, size: int, **rest: Any) -> training.Stream:
        index, count = training.data_share(sharding, size)
        return training.stream(
            config.dataset, split, batch_size=size, process_index=index, process_count=count, **shared, **rest
        )

    def test() -> training.Stream:
        return open_split(config.test_split, config.eval_batch_size, train=False)

    opened = test()
    inputs = next(opened).inputs
    window = inputs.shape[1] if np.issubdtype(inputs.dtype, np.integer) else 0
    source = open_split(config.train_split, config.batch_size, seed=config.seed)
    return source, training.TestStream(test, opened.size, opened.classes, inputs.shape[1:], window)


def _model(config: ConfigDict, input_shape: Sequence[int], classes: int) -> tuple[training.Apply, Any]:
    def build(key: jax.Array) -> nnx.Module:
        return models.build_model(config.model, input_shape=input_shape, classes=classes, rngs=nnx.Rngs(key))

    @jax.jit
    def draw(key: jax.Array) -> tuple[Any, Any]:
        drawn = models.stateful(build(key))
        return drawn.params, drawn.batch_stats

    return models.stateful(nnx.eval_shape(lambda: build(jax.random.key(0)))).apply, draw


def _recipe(
    config: ConfigDict,
    group: training.Group,
    objective: training.Objective,
    classes: int,
    meter: training.MaskMeter,
    sharding: NamedSharding | None,
    stepwise: bool,
) -> training.Recipe:
    return training.Recipe(
        objective=objective,
        build=lambda member: training.build_method(config, member, group.sparsity),
        meter=meter,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
        augment=training.build_augment(config.augment, classes),
        population=bool(config.population),
        batch_sharding=sharding,
        stepwise=stepwise,
    )


def _with_masks(config: ConfigDict, group: training.Group, template: Any) -> training.Group:
    """Gives each member the masks that an earlier run left it."""
    if config.method != "fixed":
        return group
    masks = [training.initial_masks(config.init_from, run, template) for run in group.runs]
    masks = training.stack(masks) if config.population else jax.tree.map(jnp.asarray, masks[0])
    return group._replace(members=group.members._replace(masks=masks))


def _key(group: training.Group) -> Any:
    return group.sparsity if isinstance(group.sparsity, float) else tuple(group.sparsity)


def _begin(
    config: ConfigDict, made: Outline, group: training.Group, mesh: Mesh | None, programs: dict[Any, Any]
) -> training.TrainState:
    """The state before the first step, every array where it belongs; compiled ones are put into `programs`."""
    population = bool(config.population)
    # Each host draws the whole model for itself, so that its bits depend on no layout.
    keys = [run.member().model_key for run in group.runs]
    parts = [made.draw(key) for key in keys]
    if config.init_from:
        parts = [
            (
                training.initial_params(config.init_from, run, params),
                training.initial_batch_stats(config.init_from, run, stats),
            )
            for run, (params, stats) in zip(group.runs, parts, strict=True)
        ]
    params, stats = training.stack(parts) if population else parts[0]
    params = training.place_params(params, mesh, population=population)
    stats = (training.place_members if population else training.replicate)(stats, mesh)
    begin = first_state(config, group, made.meter)
    places = None
    if mesh is not None:
        shapes = jax.eval_shape(begin, group.members, params, stats)
        places = training.state_shardings(shapes, mesh, population=population)
    program = programs.setdefault((_key(group), len(group.runs)), jax.jit(begin, out_shardings=places))
    return training.copy_state(program(group.members, params, stats))
