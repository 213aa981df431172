# %% [markdown]
# # Lottery tickets
#
# **Question.** A trained network can be pruned hard. Could the small network that is left have been trained by
# itself, from the start? Frankle and Carbin (arXiv 1803.03635) found: yes, if its weights begin where they began. This
# notebook prunes and rewinds in rounds, and trains two controls beside each ticket.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from experiments.data.loading import load_splits
from experiments.report import plots
from sparsejax.recipes import shuffle_masks

STEPS = 600  # @param {type:"integer"}
SEEDS = 4  # @param {type:"integer"}
LEVELS = 6  # @param {type:"integer"}
FRACTION = 0.4  # @param {type:"number"}

train, test = load_splits("digits")
everything = test.take(jnp.arange(test.size))
WIDTHS = (64, 300, 100, 10)


def make_params(key):
    keys = jax.random.split(key, 3)
    return {
        f"layer_{i}": {
            "kernel": jax.nn.initializers.glorot_normal()(keys[i], WIDTHS[i : i + 2]),
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
# ## Training inside a mask
#
# `find_tickets` leaves training to you: a function of parameters, masks and the level. The masks are arguments of one
# compiled program, so that all levels, arms and seeds share it.

# %%
adam = optax.adam(1.2e-3)


@jax.jit
def fit(params, masks, seed):
    tx = sparsejax.sparsify(adam, sparsejax.rules.fixed_masks(masks))
    params, state = sparsejax.init(tx, params)

    def step(carry, key):
        params, state = carry
        grads = jax.grad(loss_fn)(params, train.take(jax.random.randint(key, (60,), 0, train.size)))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, state), jax.random.split(jax.random.key(1000 + seed), STEPS))
    right = jnp.argmax(apply_fn(params, everything.inputs), -1) == everything.targets
    return params, right.mean()


# %% [markdown]
# ## Tickets and their controls
#
# A level prunes a share of the weights that are left, by their trained magnitude, and puts the rest back to their
# *initial* values. The first control keeps the mask and draws new initial values; the second draws the places at random
# too, with as many in each layer.


# %%
def study(seed):
    """Accuracy of each arm at each level, and the tickets' masks, of one seed."""
    start, other = make_params(jax.random.key(seed)), make_params(jax.random.key(500 + seed))
    rows, tickets = [], []
    levels = sparsejax.find_tickets(
        lambda params, masks, level: fit(params, masks, seed), start, levels=LEVELS, fraction=FRACTION
    )
    for level in levels:
        anywhere = shuffle_masks(level.masks, jax.random.key(900 + seed))
        rows.append(
            {
                "ticket": level.result,
                "same mask, new weights": fit(other, level.masks, seed)[1],
                "random mask, new weights": fit(other, anywhere, seed)[1],
            }
        )
        tickets.append(level.masks)
    return rows, tickets


studies = [study(seed) for seed in range(SEEDS)]
left = [float(1 - sparsejax.recipes.level_sparsity(FRACTION, n)) if n else 1.0 for n in range(LEVELS + 1)]
ARMS = list(studies[0][0][0])
found = {arm: np.array([[float(row[arm]) for row in rows] for rows, _ in studies]) for arm in ARMS}
print(f"mean test accuracy (lowest to highest) of {SEEDS} seeds")
for level, share in enumerate(left):
    cells = [
        f"{arm} {one[:, level].mean():.3f} ({one[:, level].min():.3f} to {one[:, level].max():.3f})"
        for arm, one in found.items()
    ]
    print(f"{100 * share:5.1f} % left: " + ", ".join(cells))

# %%
curves = [plots.Curve.of_seeds(arm, left, values.T) for arm, values in found.items()]
plots.ticket_curves("tickets of LeNet-300-100 on digits", {"test accuracy": curves})

# %% [markdown]
# ## What the masks have in common
#
# Each seed finds its own ticket. Overlap is Jaccard's, |A ∩ B| / |A ∪ B|; two random masks of density d would have
# d/(2 − d).

# %%
last = [tickets[-1] for _, tickets in studies]
overlap = np.array([[sparsejax.masks.jaccard(a, b)["(all)"] for b in last] for a in last])
pairs = overlap[~np.eye(len(last), dtype=bool)]
print(f"overlap of two seeds' last tickets {pairs.mean():.3f}, by chance {left[-1] / (2 - left[-1]):.3f}")
pixels = {
    f"{100 * share:.0f} % left": np.mean(
        [np.asarray(tickets[level]["layer_0"]["kernel"]).sum(1).reshape(8, 8) for _, tickets in studies], 0
    )
    / WIDTHS[1]
    for level, share in list(enumerate(left))[2::2]
}
plots.heat_maps("first layer: share of a pixel's connections that stay", pixels, unit="share kept")

# %% [markdown]
# ## Finding
#
# A ticket trains better than its controls, and the more so the smaller it is: with 4.7 % of the weights left it reaches
# 0.880 (0.875 to 0.883 over four seeds), its mask on new weights 0.853, a random mask on new weights 0.795; the dense
# network has 0.919. At 60 % and above the three are not told apart by four seeds. So both halves count: new weights
# cost less at the last level than new places on top of them do. But the mask is no property of the task:
# the last tickets of two seeds overlap by 0.026, where chance gives 0.024; what they share are the pixels that they
# leave out.
#
# **Next**: the same with 8 seeds, 12 levels, a convolutional network, a ResNet rewound to an early step and a GPT is
# one command, `python -m experiments.lottery --config=configs/lottery/digits_mlp.py --workdir=runs/lottery`
# ([the runner](../docs/runner.md), [what came out](../docs/results.md)).

# %% [markdown]
# ## Exercise
#
# Which half of the ticket is worth more, its mask or its weights? Add a fourth arm: the ticket's own initial weights on
# `anywhere`. Then let `find_tickets(…, distribution=sparsejax.distributions.global_threshold())` prune all layers
# together, and compare the layers' densities with `sparsejax.masks.layer_densities`.
