"""A network small enough to compile in a blink, and all that a chunk of steps needs around it."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config.fields import default_config
from experiments.config.validation import validate_config
from experiments.data.split import Split
from experiments.run.chunk import ChunkRecipe, compile_chunk
from experiments.run.loop import train_chunks
from experiments.run.mask_meter import make_meter
from experiments.run.methods import build_method
from experiments.run.objective import make_objective
from experiments.run.population import groups_of
from experiments.run.state import TrainState, copy_state, make_member, over_members, stack_members

STEPS, BATCH = 12, 4


def apply(params, stats, x, train):
    """Two layers without biases."""
    return jax.nn.relu(x @ params["a"]["kernel"]) @ params["b"]["kernel"], stats


def draw(key):
    """Its parameters."""
    first, second = jax.random.split(key)
    return {
        "a": {"kernel": jax.random.normal(first, (5, 8))},
        "b": {"kernel": jax.random.normal(second, (8, 3))},
    }


def make_split(size=19):
    """Examples whose class is the largest of their first three numbers."""
    images = jax.random.normal(jax.random.key(1), (size, 5))
    labels = jnp.argmax(images[:, :3], axis=1).astype(jnp.int32)
    return Split({"image": images, "label": labels}, size=size, classes=3)


def make_config(**changes):
    """A short run of RigL that changes its masks at steps 2, 4, 6 and 8."""
    config = default_config()
    config.steps, config.batch_size, config.eval_every = STEPS, BATCH, 4
    config.learning_rate, config.warmup_steps = 0.05, 1
    config.method, config.sparsity = "rigl", 0.5
    config.update_every, config.begin_step, config.end_step = 2, 2, 10
    for name, value in changes.items():
        config[name] = value
    validate_config(config)
    return config


def begin(config, group, model=apply, draw_params=draw, batch_stats=None, **options):
    """The recipe and the first state of a group of runs."""
    population = bool(config.population)
    batch_stats = {} if batch_stats is None else batch_stats
    run = group.runs[0]
    method = build_method(config, make_member(run.seed, run.learning_rate), run.sparsity)
    abstract = jax.eval_shape(draw_params, jax.random.key(0))
    masks = jax.eval_shape(lambda params: method.masks(*method.init(params)), abstract)
    meter = make_meter(abstract, masks, method.times)

    def start(member):
        built = build_method(config, member, group.sparsity)
        params, opt_state = built.init(draw_params(member.model_key))
        return params, opt_state, meter.kept(built.masks(params, opt_state))

    params, opt_state, kept = jax.jit(over_members(start, population, (0,)))(group.members)
    ema = params if config.ema_decay else ()
    if population:
        batch_stats = stack_members([batch_stats] * len(group.runs))
    state = TrainState(params, batch_stats, opt_state, ema, kept, jnp.int32(0))
    recipe = ChunkRecipe(
        objective=make_objective(model),
        build=lambda member: build_method(config, member, group.sparsity),
        meter=meter,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
        population=population,
        **options,
    )
    return recipe, copy_state(state)


def train(config, split, *, chunk=None, until=None, refresh=None, **options):
    """Trains all groups; returns host copies of each group's last state, and the metrics of all steps."""
    groups = groups_of(config, stepwise=False)
    starts = [begin(config, group, **options) for group in groups]
    recipes = {group.sparsity if isinstance(group.sparsity, float) else tuple(group.sparsity): recipe
               for group, (recipe, _) in zip(groups, starts, strict=True)}  # fmt: skip
    chosen = [
        recipes[group.sparsity if isinstance(group.sparsity, float) else tuple(group.sparsity)]
        for group in groups
    ]
    found = [
        (jax.tree.map(on_host, c.states), c.metrics)
        for c in train_chunks(
            lambda group, recipe, state, count: compile_chunk(recipe, state, group.members, split, count),
            chosen,
            groups,
            [state for _, state in starts],
            steps=until or config.steps,
            chunk=chunk or config.eval_every,
            refresh=refresh,
        )
    ]
    metrics = jax.tree.map(lambda *parts: np.concatenate(parts), *[metrics for _, metrics in found])
    return found[-1][0], metrics


def on_host(leaf):
    """A copy that outlives its device's buffer; of a random key its data."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf)


def assert_same(left, right):
    """Bitwise, leaf by leaf."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True)
    for (path, a), b in pairs:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=jax.tree_util.keystr(path))
