"""Training steps of a GPT in the compressed form beside its dense form, in turn, with what each keeps in memory."""

import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.benchmark.harness import Row
from experiments.config.fields import default_config
from experiments.config.validation import validate_config
from experiments.run.chunk import compile_chunk
from experiments.run.prepare import prepare

#: As in `kernels_peer`: width, depth, heads, hidden units, tokens an example, examples a step, steps.
SIZES = {"quick": (64, 1, 2, 256, 32, 2, 6), "full": (640, 8, 10, 2560, 128, 4, 200)}
_STEPS = 2  # of a compiled chunk


def run(
    size: str, sparsity: float = 0.9, *, feed_forward_only: bool = True, steps: int | None = None
) -> list[Row]:
    """Trains both forms on the Python text, a chunk of each in turn.

    Args:
      size: a key of `SIZES`.
      sparsity: of the blocks of 64×64 (16×16 in "quick").
      feed_forward_only: whether attention stays dense, as in the peer's model.
      steps: another number of steps than the size's.

    Returns:
      A row a form: ``median_ms`` a step, ``speedup`` over dense, and ``relative_memory`` of parameters, gradients and
      moments.
    """
    forms = {
        name: _start(make_config(size, name, sparsity, feed_forward_only)) for name in ("dense", "blocks")
    }
    times: dict[str, list[float]] = {name: [] for name in forms}
    losses: dict[str, float] = {}
    steps = SIZES[size][-1] if steps is None else steps
    for _ in range(steps // _STEPS):
        for name, form in forms.items():
            start = time.perf_counter()
            form["state"], metrics = form["program"](form["state"], form["members"])
            losses[name] = float(np.asarray(metrics.loss)[-1])
            times[name].append((time.perf_counter() - start) / _STEPS)
    ratios = np.asarray(times["dense"][1:]) / np.asarray(times["blocks"][1:])
    memory = {name: _memory(form["state"]) for name, form in forms.items()}
    return [
        {
            "case": f"{name}, ours",
            "median_ms": round(float(np.median(times[name][1:])) * 1e3, 2),
            "speedup": 1.0 if name == "dense" else round(float(np.median(ratios)), 3),
            "relative_memory": round(memory[name] / memory["dense"], 3),
            "loss": round(losses[name], 3),
            "tokens": SIZES[size][4] * SIZES[size][5],
            "steps": steps,
        }
        for name in forms
    ]


def make_config(size: str, form: str, sparsity: float, feed_forward_only: bool) -> ConfigDict:
    """The configuration of one form."""
    width, depth, heads, hidden, length, batch, steps = SIZES[size]
    config = default_config("gpt")
    config.dataset, config.test_split, config.window, config.batch_size = (
        "python_text",
        "test[:1%]",
        length,
        batch,
    )
    config.model.update({"width": width, "depth": depth, "heads": heads, "mlp_dim": hidden})
    config.steps, config.eval_every, config.learning_rate = steps, _STEPS, 1e-3
    config.block, config.warmup_steps = (16 if size == "quick" else 64), 1
    if form == "blocks":
        config.model.sparse_compute, config.method, config.sparsity = "blocks", "rigl", sparsity
        config.dense_layers = ("*/attention/*",) if feed_forward_only else ()
        config.update_every = 4 if size == "quick" else 100
    validate_config(config)
    return config


def _start(config: ConfigDict) -> dict[str, Any]:
    setup = prepare(config)
    state, members = setup.states[0], setup.groups[0].members
    return {
        "program": compile_chunk(setup.recipes[0], state, members, setup.source, _STEPS),
        "state": state,
        "members": members,
    }


def _memory(state: Any) -> int:
    """Bytes of parameters, of a gradient for each of them, and of the optimizer's state."""
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    floats = [leaf for leaf in jax.tree.leaves(state.params) if np.issubdtype(leaf.dtype, np.floating)]
    return held + sum(leaf.nbytes for leaf in floats)
