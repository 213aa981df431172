# %% [markdown]
# # Masks that are learned: movement, L0 and CoFi
#
# **Question.** Magnitude asks how large a weight is. Can training itself decide what goes: by where weights move
# (movement pruning), by gates with a price (L0), or by gates on traced units with a target that rises
# (CoFi)?

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from experiments.data.loading import load_splits
from experiments.report import plots
from sparsejax.patterns import Channel

STEPS = 400  # @param {type:"integer"}
SEEDS = 3  # @param {type:"integer"}
SPARSITIES = (0.8, 0.95)  # @param {type:"raw"}

train, test = load_splits("digits")
everything = test.take(jnp.arange(test.size))
WIDTHS = (64, 300, 100, 10)


def make_params(key):
    keys = jax.random.split(key, 3)
    return {
        f"layer_{i}": {
            "kernel": jax.nn.initializers.he_normal()(keys[i], WIDTHS[i : i + 2]),
            "bias": jnp.zeros(WIDTHS[i + 1]),
        }
        for i in range(3)
    }


def apply_fn(params, images):
    x = images.reshape(len(images), -1)
    for i in range(3):
        x = x @ params[f"layer_{i}"]["kernel"] + params[f"layer_{i}"]["bias"]
        x = jax.nn.relu(x) if i < 2 else x
    return x


def loss_fn(params, batch):
    logits = apply_fn(params, batch.inputs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets).mean()


# %% [markdown]
# ## The loop stays, the end differs
#
# Latent weights, scores and gates live in the optimizer state, and `params` is what they come to. `finalize` gives the
# pruned weights with their masks; with gates drawn at random nothing else has exact zeros.


# %%
def trained(make_tx, learned=True):
    """A row for each seed: accuracy, sparsity, inputs that each layer still reads, connections a pixel."""

    @jax.jit
    def run(seed):
        key = jax.random.key(seed)
        tx = make_tx(jax.random.fold_in(key, 1))
        params, state = sparsejax.init(tx, make_params(key))

        def step(carry, key):
            params, state = carry
            grads = jax.grad(loss_fn)(params, train.take(jax.random.randint(key, (128,), 0, train.size)))
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.fold_in(key, 2), STEPS)
        return jax.lax.scan(step, (params, state), keys)[0]

    rows = []
    for seed in range(SEEDS):
        params, state = run(seed)
        final = sparsejax.finalize(state)[0] if learned else params
        accuracy = jnp.mean(jnp.argmax(apply_fn(final, everything.inputs), -1) == everything.targets)
        kernels = [np.asarray(final[f"layer_{i}"]["kernel"]) != 0 for i in range(3)]
        sparsity = 1 - sum(k.sum() for k in kernels) / sum(k.size for k in kernels)
        live = [int(k.any(1).sum()) for k in kernels]
        rows.append((float(accuracy), float(sparsity), *live, kernels[0].sum(1).reshape(8, 8)))
    return rows


# %% [markdown]
# ## Four ways
#
# Magnitude and movement keep single weights. L0 has a gate for each input of each layer, a pixel or a neuron, and a
# Lagrangian that meets the target. CoFi's gates here are on the traced neurons, tied over the layer that makes one and
# the one that reads it, and its target rises over half of the steps. (Its coarse gates, on whole sublayers, need a
# network with skip connections.)

# %%
adam, end = optax.adam(2e-3), STEPS * 3 // 4
shapes = jax.eval_shape(make_params, jax.random.key(0))
groups = sparsejax.prunable_groups(apply_fn, shapes, everything.inputs[:8])
METHODS = {
    "magnitude": lambda s: lambda key: sparsejax.gmp(adam, sparsity=s, end_step=end, update_every=20),
    "movement": lambda s: (
        lambda key: sparsejax.movement(adam, sparsity=s, begin_step=STEPS // 10, end_step=end)
    ),
    "L0, pixels and neurons": lambda s: (
        lambda key: sparsejax.l0(
            adam, sparsity=s, gates=Channel("input"), gate_optimizer=optax.adam(0.1), key=key
        )
    ),
    "CoFi, neurons": lambda s: (
        lambda key: sparsejax.cofi(
            adam, groups=groups, sparsity=s, warmup_steps=STEPS // 2, gate_optimizer=optax.adam(0.1), key=key
        )
    ),
}
found = {
    (name, s): trained(make(s), name != "magnitude") for name, make in METHODS.items() for s in SPARSITIES
}
dense = trained(lambda key: sparsejax.gmp(adam, sparsity=0.0, end_step=end), learned=False)
print(f"{'dense':24} test accuracy {np.mean([row[0] for row in dense]):.3f}")
print(f"{'':24} asked for  came to  accuracy (lowest to highest)  pixels  neurons  neurons that are read")
for (name, s), rows in found.items():
    accuracy, sparsity, *live = np.array([row[:5] for row in rows]).T
    spread = f"{accuracy.mean():.3f} ({accuracy.min():.3f} to {accuracy.max():.3f})"
    counts = "  ".join(f"{one.mean():7.1f}" for one in live)
    print(f"{name:24} {s:9.0%}  {sparsity.mean():7.1%}  {spread:29} {counts}")

# %%
curves = [
    plots.Curve.of_seeds(
        name,
        [float(np.mean([row[1] for row in found[name, s]])) for s in SPARSITIES],
        [[row[0] for row in found[name, s]] for s in SPARSITIES],
        floor=0.0,
    )
    for name in METHODS
]
plots.sparsity_curves(
    "digits, at the sparsity that each came to",
    curves,
    metric="test accuracy",
    dense=[row[0] for row in dense],
)

# %% [markdown]
# ## Which pixels are read
#
# Single weights leave a few connections nearly everywhere; a gate on a pixel takes all of its connections at once.

# %%
maps = {name: np.mean([row[5] for row in found[name, SPARSITIES[-1]]], 0) for name in METHODS}
plots.heat_maps(f"first layer at {SPARSITIES[-1]:.0%}", maps, unit="connections a pixel")

# %% [markdown]
# ## Finding
#
# All four meet what was asked for to a tenth of a point, gates too. At 80 % three of them are not told apart by three
# seeds: magnitude 0.914, movement 0.914, CoFi 0.910, the dense network 0.922. At 95 % movement has 0.880 and magnitude
# 0.860, which three seeds do not settle. What gates lose in accuracy buys structure: at 80 % CoFi needs 77.3 of the
# 300 neurons and 58.3 of the 100, where magnitude still reads all 300 and 90.3. Gates on pixels are the wrong price
# here: L0 meets its target by giving up pixels, 16.3 of 64 are left at 80 % and 4.0 at 95 %, and reads too little to
# tell digits apart (0.235). Runs of 400 steps from new weights are short for gates; the longer study of L0, with
# gates tied over two layers, is below.
#
# **Next**: these methods where they were meant to be, on networks that were pretrained:
# movement on a GPT, L0, and CoFi with heads, layers and distillation are `configs/studies/movement.py`,
# `l0_digits_mlp.py` and `cofi.py` for `python -m experiments.study`; what they came to: [methods](../docs/methods.md),
# [results](../docs/results.md).

# %% [markdown]
# ## Exercise
#
# Give L0 a price, not a target: `sparsejax.l0(adam, penalty_weight=3e-6, key=key)`. Which sparsity does it come to, and
# how does that depend on the price? Then cut the gated network for real: `sparsejax.tracing.keep_from_masks` with the
# masks of CoFi, and `sparsejax.shrink`.
