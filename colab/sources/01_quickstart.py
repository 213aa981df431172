# %% [markdown]
# # sparsejax in one line
#
# **Question.** What does a small network of your own lose when 95 % of its weights are zero, from the first step to
# the last? Handwritten digits, an nnx model, an optax optimizer, and one more line.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sparsejax
from experiments.data.loading import load_splits
from experiments.report import plots

STEPS = 1_500  # @param {type:"integer"}
SEEDS = 3  # @param {type:"integer"}
SPARSITY = 0.95  # @param {type:"slider", min:0.5, max:0.99, step:0.01}

train, test = load_splits("digits")  # 8x8 images by many hands, prepared once from scikit-learn's copy
everything = test.take(jnp.arange(test.size))  # a batch: inputs in [0, 1] and targets
print(f"{train.size} images to train on, {test.size} to test on, of shape {train.input_shape}")

# %% [markdown]
# ## Your model
#
# Any JAX model will do. What sparsejax needs is a tree of parameters; here it is `nnx.state(model, nnx.Param)`.


# %%
class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden_0 = nnx.Linear(64, 256, rngs=rngs)
        self.hidden_1 = nnx.Linear(256, 128, rngs=rngs)
        self.output = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, images):
        x = images.reshape(len(images), -1)
        return self.output(nnx.relu(self.hidden_1(nnx.relu(self.hidden_0(x)))))


graph = nnx.graphdef(Net(nnx.Rngs(0)))


def loss_fn(params, images, labels):
    logits = nnx.merge(graph, params)(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@jax.jit
def accuracy(params):
    return jnp.mean(jnp.argmax(nnx.merge(graph, params)(everything.inputs), -1) == everything.targets)


# %% [markdown]
# ## The training loop stays as it is
#
# `fit` knows nothing of sparsity: gradient, `tx.update`, `optax.apply_updates`.


# %%
def fit(tx, params, opt_state, seed):
    @jax.jit
    def step(params, opt_state, key):
        batch = train.take(jax.random.randint(key, (128,), 0, train.size))
        grads = jax.grad(loss_fn)(params, batch.inputs, batch.targets)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    steps, curve = [], []
    for t in range(1, STEPS + 1):
        params, opt_state = step(params, opt_state, jax.random.fold_in(jax.random.key(seed), t))
        if t % max(STEPS // 15, 1) == 0:
            steps.append(t)
            curve.append(float(accuracy(params)))
    return params, opt_state, steps, curve


# %% [markdown]
# ## The one line
#
# `sparsejax.rigl` wraps the optimizer, `sparsejax.init` puts the parameters on their first masks. RigL drops the
# smallest weights now and then, and grows as many where the gradient is largest.

# %%
adamw = optax.adamw(1e-3)
dense_curves, sparse_curves = [], []
for seed in range(SEEDS):
    params = nnx.state(Net(nnx.Rngs(seed)), nnx.Param)
    *_, steps, curve = fit(adamw, params, adamw.init(params), seed)
    dense_curves.append(curve)

    tx = sparsejax.rigl(
        adamw, sparsity=SPARSITY, total_steps=STEPS, update_every=50, key=jax.random.key(seed)
    )
    sparse_params, opt_state = sparsejax.init(tx, params)
    first_masks = sparsejax.get_masks(opt_state)
    sparse_params, opt_state, _, curve = fit(tx, sparse_params, opt_state, seed)
    sparse_curves.append(curve)

masks = sparsejax.get_masks(opt_state)
print(sparsejax.summarize(sparse_params, masks))
for name, curves in {"dense": dense_curves, "RigL": sparse_curves}.items():
    last = [curve[-1] for curve in curves]
    print(f"{name:5} test accuracy {np.mean(last):.3f} (seeds from {min(last):.3f} to {max(last):.3f})")

# %%
curves = [
    plots.Curve.of_seeds(name, steps, np.transpose(found))
    for name, found in {"dense": dense_curves, f"RigL, {SPARSITY:.0%} sparse": sparse_curves}.items()
]
plots.draw_panels("digits", [plots.Panel("step", "test accuracy", curves, bands=True)])

# %% [markdown]
# ## What it learned to look at
#
# The input layer begins with its connections spread at random over the 64 pixels, and moves them.

# %%
connections = {
    name: np.asarray(tree["hidden_0"]["kernel"][...]).sum(1).reshape(8, 8)
    for name, tree in {"first step": first_masks, "last step": masks}.items()
}
border = {name: count[:, [0, -1]].mean() for name, count in connections.items()}
inside = {name: count[:, 1:-1].mean() for name, count in connections.items()}
for name in connections:
    print(
        f"{name}: {border[name]:.1f} connections a pixel in the outer columns, {inside[name]:.1f} elsewhere"
    )
plots.heat_maps("connections of the first layer", connections, unit="connections a pixel")

# %% [markdown]
# ## Zero means zero
#
# The parameters are exactly zero off their masks, at every step, under any optax optimizer.

# %%
for path in ("hidden_0", "hidden_1", "output"):
    kernel, mask = sparse_params[path]["kernel"][...], masks[path]["kernel"][...]
    assert bool(jnp.all(jnp.where(mask, 0.0, kernel) == 0.0))
total = sparsejax.summarize(sparse_params, masks)
print(f"{total.kept:,} of {total.size:,} parameters are left; sparsity over the kernels {total.sparsity:.4f}")

# %% [markdown]
# ## Finding
#
# With 2,521 of 50,432 kernel weights RigL ends at 0.910 test accuracy (mean of three seeds, from 0.897 to 0.922), the
# dense network at 0.919 (0.917 to 0.922): on 360 test images three seeds do not tell the two
# apart. Sparse training is slower to begin with: at step 100 it lies far below. The sparsity is not the
# same everywhere: Erdős–Rényi shares leave the small output layer at 0.6773 and take 0.9649 of the large one. And the
# masks have moved to where digits differ: pixels of the two outer columns began with 14.6 connections each and end
# with 5.8, the others end with 18.0.
#
# **Next**: `sparsejax.gmp`, `set_`, `snip`, `ac_dc` wrap an optimizer the same way
# ([all methods](../docs/methods.md)); `pattern=sparsejax.patterns.NM(2, 4)` or `Block(16, 16)` changes what is kept
# together, `overrides={"output/*": sparsejax.dense}` what is left out ([the guide](../docs/guide.md)).

# %% [markdown]
# ## Exercise
#
# Leave the small output layer dense: `overrides={"output/*": sparsejax.dense}` in the call of `rigl`. How many
# weights do the two hidden layers give up for it at the same total, and does the accuracy move by more than the seeds
# differ? Then find the sparsity at which RigL falls below 90 %.
