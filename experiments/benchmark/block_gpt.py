"""Steps of configs/text_gpt_block_rigl.py dense, masked and in live blocks, in turn, and what each keeps in memory.

Live blocks at a second, lower sparsity tell from which one they pay.
"""

import time

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import text_gpt_block_rigl
from experiments.benchmark.bar import Line
from experiments.benchmark.harness import Row, interval
from experiments.benchmark.kernels_training import start_form
from experiments.report.break_even import crossing

#: Steps of a chunk, one mask update in each; chunks that are timed after the first of each form.
CHUNK, CHUNKS = 20, 3
#: The form that is run once more, and at which sparsity: its time is about linear in the live blocks.
AGAIN, LOWER = "blocks", 0.5


def run(quick: bool) -> list[Row]:
    """Times whole training steps, mask updates included, a chunk of each form in turn.

    Args:
      quick: a tiny model and short chunks.

    Returns:
      A row a form: ``median_ms`` a step; ``speedup`` over dense, the median over the rounds, with what all rounds
      span; the same of the CPU time, which other jobs on the machine disturb less; ``relative_memory`` of parameters
      and optimizer state; of blocks the ``break_even`` sparsity, linear between the two.
    """
    chunk = 2 if quick else CHUNK
    configs = {name: make_config(name, quick) for name in text_gpt_block_rigl.FORMS}
    lower = f"{AGAIN}, {LOWER if not quick else LOWER / 2:.0%}"
    configs[lower] = make_config(AGAIN, quick)
    configs[lower].sparsity = LOWER / 2 if quick else LOWER
    forms = {name: start_form(config, chunk) for name, config in configs.items()}
    clocks = {"": time.perf_counter, "cpu_": time.process_time}
    times: dict[str, dict[str, list[float]]] = {name: {key: [] for key in clocks} for name in forms}
    losses: dict[str, float] = {}
    with Line() as line:
        for turn in range(1 + CHUNKS):
            for name, form in forms.items():
                line.show(f"round {turn} of {CHUNKS} · {name}")
                begun = {key: clock() for key, clock in clocks.items()}
                form["state"], metrics = form["program"](form["state"], form["members"])
                losses[name] = float(np.asarray(metrics.loss)[-1])
                for key, clock in clocks.items():
                    times[name][key].append((clock() - begun[key]) / chunk)
    held = {name: _bytes(form["state"]) for name, form in forms.items()}
    rows = []
    for name, own in times.items():
        row: Row = {"case": name, "median_ms": round(float(np.median(own[""][1:])) * 1e3, 2)}
        for key in clocks:
            pairs = zip(times["dense"][key][1:], own[key][1:], strict=True)
            ratios = [dense / mine for dense, mine in pairs]
            row |= {f"{key}speedup": round(float(np.median(ratios)), 3), f"{key}span": interval(ratios)}
        memory = round(held[name] / held["dense"], 3)
        rows.append(
            row | {"relative_memory": memory, "loss": round(losses[name], 3), "steps": chunk * CHUNKS}
        )
    line = [(configs[row["case"]].sparsity, row["speedup"]) for row in rows if row["case"] in (lower, AGAIN)]
    for row in rows:
        if row["case"] in (lower, AGAIN):
            row["break_even"] = crossing(sorted(line))
    return rows


def make_config(form: str, quick: bool) -> ConfigDict:
    """The configuration of one form, as its command has it; tiny where quick."""
    config = text_gpt_block_rigl.get_config(form)
    if quick:
        config.model.update({"width": 128, "depth": 1, "heads": 2, "mlp_dim": 256})
        config.window, config.batch_size, config.steps, config.update_every = 16, 2, 20, 2
        config.sparsity = 0.0 if form == "dense" else 0.5
    return config


def _bytes(state: object) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
