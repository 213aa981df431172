# %% [markdown]
# # Hugging Face without an adapter: prune a model of transformers, and load it there again
#
# **Question.** A model comes as a class of `transformers`, in PyTorch, and nobody here has written a line about its
# architecture. Can it be trained, pruned and really shrunk in JAX, and go back as a folder that `from_pretrained`
# loads?
#
# **Needs** torch, torchax and transformers, which are no dependencies of sparsejax: in an environment of its own,
# `pip install -e '.[torch]'` in the checkout. No weights are downloaded: the models here are small, of random weights,
# and the first is trained on real text.

# %%
import importlib.util
import pathlib
import tempfile
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from experiments.data.loading import load_splits
from experiments.report import plots
from sparsejax.interop import hf
from sparsejax.interop.torch import from_torch

STEPS = 250  # @param {type:"integer"}
TUNE_STEPS = 100  # @param {type:"integer"}
RATIOS = (0.25, 0.5, 0.75)  # @param {type:"raw"}

missing = [name for name in ("torch", "torchax", "transformers") if importlib.util.find_spec(name) is None]
if missing:
    raise RuntimeError(
        f"Not installed here: {', '.join(missing)}. Make an environment, run pip install -e '.[torch]' in the "
        "checkout, and open this notebook with it."
    )

warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm, which transformers imports
import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
print(f"torch {torch.__version__}, transformers {transformers.__version__}")

WINDOW = 64
train, test = load_splits("python_text/code", window=WINDOW)

# %% [markdown]
# ## A Llama as a function
#
# `from_torch` runs the module's own `forward` on JAX arrays. What comes back is `fn(params, *inputs)`, like any other
# function: parameters under the module's own names, and no torch in the compiled program.

# %%
torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=256,
    hidden_size=96,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=4,
    pad_token_id=0,
    tie_word_embeddings=True,
    attn_implementation="eager",
)
llama = transformers.LlamaForCausalLM(config).eval()
ids = np.asarray(test.take(jnp.arange(2)).inputs, np.int32)


def inputs_of(ids):
    return {"input_ids": ids, "attention_mask": jnp.ones_like(ids)}


params, fn = from_torch(llama, {**inputs_of(ids), "use_cache": False}, "logits")
with torch.no_grad():
    theirs = llama(input_ids=torch.tensor(ids).long()).logits.numpy()
print(f"{sum(leaf.size for leaf in params.values()):,} parameters, such as {list(params)[1]}")
print(f"largest difference to torch: {np.abs(theirs - fn(params, *fn.example)).max():.1e}")

# %% [markdown]
# ## Trained in JAX
#
# The ordinary loop. The model reads bytes of Python's standard library; other files are held out.


# %%
def fit(fn, params, steps, rate):
    tx = optax.adam(optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps))

    def loss(params, batch):
        logits = fn(params, inputs_of(batch.inputs.astype(jnp.int32)))
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets).mean()

    @jax.jit
    def step(params, state, key):
        batch = train.take(jax.random.randint(key, (32,), 0, train.size))
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for t in range(steps):
        params, state = step(params, state, jax.random.fold_in(jax.random.key(0), t))
    return params


held = test.take(np.linspace(0, test.size - 1, 256).astype(int))


def bits_per_byte(logits):
    return float(
        optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), held.targets).mean() / np.log(2)
    )


def quality(fn, params):
    return bits_per_byte(jax.jit(fn)(params, inputs_of(held.inputs.astype(jnp.int32))))


before = quality(fn, params)
params = fit(fn, params, STEPS, 3e-3)
dense = quality(fn, params)
print(f"bits a byte on held-out files: {before:.3f} as drawn, {dense:.3f} trained")

# %% [markdown]
# ## Shrunk, tuned, saved, and loaded by transformers
#
# The tracer finds neurons, and heads with the key-value group that they share, without knowing what a Llama is. A
# uniform cut is one that `config.json` can say; `save_folder` writes that config and the tensors. What is measured
# last is torch's own model, made by `from_pretrained` from the folder alone.

# %%
folder = pathlib.Path(tempfile.mkdtemp())
for name, group in sparsejax.prunable_groups(fn, params, *fn.example).items():
    if "layers.0" in name:
        print(f"{group.kind:7} {group.size:4} units in {len(group.members):2} places, {name}")

trained_on = quality(fn, fit(fn, params, TUNE_STEPS, 1e-3))  # what as many further steps are worth
print(f"the whole model after {TUNE_STEPS} further steps: {trained_on:.3f}")
sizes, cut, tuned, loaded = [], [], [], []
for ratio in RATIOS:
    found = sparsejax.prune_structured(fn, params, fn.example, channel_ratio=ratio)
    small_fn, small = sparsejax.shrink(fn, params, fn.example, found.groups, found.keep)
    cut.append(quality(small_fn, small))
    small = fit(small_fn, small, TUNE_STEPS, 1e-3)
    tuned.append(quality(small_fn, small))
    sizes.append(sum(leaf.size for leaf in small.values()))

    written = hf.save_folder(small, config, folder / f"{ratio}", fn=small_fn)
    again = transformers.AutoModelForCausalLM.from_pretrained(folder / f"{ratio}").eval()
    with torch.no_grad():
        loaded.append(
            bits_per_byte(again(input_ids=torch.tensor(np.asarray(held.inputs)).long()).logits.numpy())
        )
    print(
        f"{ratio:.0%} of the units gone: {sizes[-1]:,} parameters, {written['intermediate_size']} neurons,"
        f" {written['num_attention_heads']} heads; bits a byte {cut[-1]:.3f} when cut, {tuned[-1]:.3f} tuned,"
        f" {loaded[-1]:.3f} by transformers"
    )

# %%
whole = sum(leaf.size for leaf in params.values())
curves = {"cut": cut, "cut and tuned, in JAX": tuned, "the folder, in torch": loaded}
plots.trade_off(
    f"a Llama of transformers, smaller (dense: {TUNE_STEPS} further steps too)",
    [plots.Curve.of_points(name, [size / 1e3 for size in sizes], values) for name, values in curves.items()],
    cost=f"thousand parameters ({whole / 1e3:.0f} before)",
    metric="bits a byte, held-out files",
    dense=[trained_on],
)

# %% [markdown]
# ## Other families, the same lines; and what is refused
#
# Half of the units of models with random weights. Where a family's config has no field for a cut, `save_folder` says
# so before a byte is written, and one chooses what the config can say.

# %%
grouped = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
}
gpt2 = {"vocab_size": 256, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
families = {
    "Mistral": transformers.MistralConfig(**grouped),
    "Qwen3": transformers.Qwen3Config(**grouped),
    "Gemma2": transformers.Gemma2Config(**grouped),
    "GPT-2": transformers.GPT2Config(**gpt2, pad_token_id=0),
}
for name, other in families.items():
    model = transformers.AutoModelForCausalLM.from_config(other, attn_implementation="eager").eval()
    weights, run = from_torch(model, {**inputs_of(ids), "use_cache": False}, "logits")
    for kinds in (("neuron", "head"), ("neuron",)):
        found = sparsejax.prune_structured(run, weights, run.example, channel_ratio=0.5, kinds=kinds)
        small_run, small = sparsejax.shrink(run, weights, run.example, found.groups, found.keep)
        try:
            hf.save_folder(small, other, folder / name, fn=small_run)
        except sparsejax.errors.FileError as error:
            print(f"{name:8} {'s and '.join(kinds)}s refused: {str(error)[:150]} …")
            continue
        again = transformers.AutoModelForCausalLM.from_pretrained(folder / name).eval()
        with torch.no_grad():
            theirs = again(input_ids=torch.tensor(ids).long()).logits.numpy()
        counts = [sum(leaf.size for leaf in tree.values()) for tree in (weights, small)]
        apart = np.abs(theirs - small_run(small, *run.example)).max()
        print(
            f"{name:8} {'s and '.join(kinds)}s: {counts[0]:,} -> {counts[1]:,} parameters;"
            f" transformers' logits differ by {apart:.1e}"
        )
        break

# %% [markdown]
# ## Finding
#
# Yes, without a line about Llama. Trained in JAX, the model goes from 7.704 to 3.023 bits a byte; cut to 25, 50 and 75
# % fewer units it has 3.146, 3.743 and 4.263, and after 100 further steps 2.935, 3.094 and 3.258, where the whole
# model with as many further steps has 2.877. What `from_pretrained` makes of the folder gives these numbers to the
# last digit shown. Half of the units means half of the key-value heads and half of the query heads that share each: 2
# of 8 are left, and 117,216 of 227,808 parameters. Of residual width and of features inside heads the tracer knows as
# well, and the default budget leaves them whole here.
#
# The same lines carry Mistral, Qwen3 and Gemma 2; their logits in torch differ from those in JAX by 4.2e-07 at most.
# GPT-2 says in its config only how many heads there are, so a cut of heads alone is refused, and the neurons go. One
# seed, small models: this shows that the way there and back is exact, not what a real Llama loses.
#
# **Next**: state dicts, folders larger than memory, all that is refused and why:
# [PyTorch and Hugging Face](../docs/guides/torch.md); the architectures that were read and shrunk:
# [the zoo](../docs/zoo.md).

# %% [markdown]
# ## Exercise
#
# Prune the trained Llama to zeros, not to a smaller shape: `sparsejax.prune_params(params, sparsity=0.5,
# roles=(fn, *fn.example))`, then `hf.save_folder`. Which costs less at the same count of parameters, before tuning and
# after? Then take a class of `transformers` that is not on this page.
