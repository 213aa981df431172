"""Training steps of a GPT in the compressed form beside its dense form, in turn, with what each keeps in memory."""

import contextlib
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.benchmark.bar import Line
from experiments.benchmark.harness import Row, interval
from experiments.benchmark.peer_process import Peer
from experiments.config.fields import default_config
from experiments.config.validation import validate_config
from experiments.data.batches import batch_indices
from experiments.run.chunk import compile_chunk
from experiments.run.prepare import prepare

#: As in `kernels_peer`: width, depth, heads, hidden units, tokens an example, examples a step, steps.
SIZES = {"quick": (64, 1, 2, 256, 32, 2, 6), "cpu": (640, 8, 10, 2560, 128, 1, 200)}
#: Steps of a compiled chunk. A chunk begins with the order of its epoch, 55 ms for this text, which the peer has not
#: got: in chunks of two that was a tenth of a step in blocks, in a run's chunks of hundreds it is nothing.
CHUNKS = {"quick": 2, "cpu": 10}
OURS = ("dense", "blocks")
#: Which models the times are compared with, and the columns of the ratios.
BESIDE = {
    "dense, ours": "speedup",
    "torch, dense": "speedup_over_torch",
    "sparselab": "speedup_over_sparselab",
}


def run(
    size: str,
    sparsity: float = 0.9,
    *,
    steps: int | None = None,
    peer_python: str = "",
) -> list[Row]:
    """Trains both forms on the Python text, a chunk of each in turn, and the peer's two models between them.

    Args:
      size: a key of `SIZES`.
      sparsity: of the blocks of 64×64 (16×16 in "quick").
      steps: another number of steps than the size's.
      peer_python: a Python that has torch and sparselab, whose models then see the same batches; "" for none.

    Returns:
      A row a form: ``median_ms`` a step, ``speedup`` over our dense form with its 95 % interval, over each of the
      peer's models, and ``relative_memory`` of parameters, gradients and moments (beside the dense form of the same
      library).

    Raises:
      PeerError: the peer failed; its own words.
    """
    steps = SIZES[size][-1] if steps is None else steps
    chunk = CHUNKS[size]
    forms = {f"{name}, ours": start_form(make_config(size, name, sparsity), chunk) for name in OURS}
    times: dict[str, list[float]] = {name: [] for name in forms}
    losses: dict[str, float] = {}
    with contextlib.ExitStack() as stack, Line() as line:
        peer = stack.enter_context(Peer(peer_python, size, _batches(size))) if peer_python else None
        times |= {name: [] for name in (peer.models if peer else ())}
        for turn in range(steps // chunk):
            line.show(f"step {turn * chunk}/{steps}", often=True)
            for name, form in forms.items():
                start = time.perf_counter()
                form["state"], metrics = form["program"](form["state"], form["members"])
                losses[name] = float(np.asarray(metrics.loss)[-1])
                times[name].append((time.perf_counter() - start) / chunk)
            said = [peer.step() for _ in range(chunk)] if peer else []
            for name in said[-1] if said else ():
                times[name].append(sum(one[name][0] for one in said) / chunk)
                losses[name] = said[-1][name][1]
        memory = {name: _memory(form["state"]) for name, form in forms.items()}
        memory |= peer.memory() if peer else {}
    tokens = SIZES[size][4] * SIZES[size][5]
    return [
        {**_row(name, times, memory), "loss": round(losses[name], 3), "tokens": tokens, "steps": steps}
        for name in times
    ]


def _row(name: str, times: dict[str, list[float]], memory: dict[str, int]) -> Row:
    """The times of a model beside those of the others, chunk by chunk; the first chunk of each is left out."""
    row: Row = {"case": name, "median_ms": round(float(np.median(times[name][1:])) * 1e3, 2)}
    for other, key in BESIDE.items():
        if other in times and other != name:
            ratios = [theirs / own for theirs, own in zip(times[other][1:], times[name][1:], strict=True)]
            row |= {key: round(float(np.median(ratios)), 3), f"{key}_95": interval(ratios)}
    dense = "dense, ours" if name.endswith("ours") else "torch, dense"
    return row | {"relative_memory": round(memory[name] / memory[dense], 3)}


def make_config(size: str, form: str, sparsity: float) -> ConfigDict:
    """The configuration of one form; attention stays dense, as in the peer's model."""
    width, depth, heads, hidden, length, batch, steps = SIZES[size]
    config = default_config("gpt")
    config.dataset, config.test_split, config.window, config.batch_size = (
        "python_text",
        "test[:5%]",
        length,
        batch,
    )
    config.model.update({"width": width, "depth": depth, "heads": heads, "mlp_dim": hidden})
    config.steps, config.eval_every, config.learning_rate = steps, CHUNKS[size], 1e-3
    config.block, config.warmup_steps = (16 if size == "quick" else 64), 1
    if form == "blocks":
        config.model.sparse_compute, config.method, config.sparsity = "blocks", "rigl", sparsity
        config.dense_layers = ("*/attention/*",)
        config.update_every = 2 if size == "quick" else 100
    validate_config(config)
    return config


def start_form(config: ConfigDict, steps: int) -> dict[str, Any]:
    """Compiles a chunk of a configuration's steps: its program, its first state and its member."""
    setup = prepare(config)
    state, members = setup.states[0], setup.groups[0].members
    return {
        "program": compile_chunk(setup.recipes[0], state, members, setup.source, steps),
        "state": state,
        "members": members,
    }


def _batches(size: str) -> np.ndarray:
    """The bytes that our forms train on, a step after the other: windows and the byte that follows each."""
    *_, batch, steps = SIZES[size]
    setup = prepare(make_config(size, "dense", 0.0))
    split, members = setup.source, setup.groups[0].members
    picked = split.take(batch_indices(members.data_key, 0, steps, split.size, batch).reshape(-1))
    windows = np.concatenate([np.asarray(picked.inputs), np.asarray(picked.targets)[:, -1:]], axis=1)
    return windows.reshape(steps, batch, -1)


def _memory(state: Any) -> int:
    """Bytes of parameters, of a gradient for each of them, and of the optimizer's state."""
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    floats = [leaf for leaf in jax.tree.leaves(state.params) if np.issubdtype(leaf.dtype, np.floating)]
    return held + sum(leaf.nbytes for leaf in floats)
