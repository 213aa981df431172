"""Prunes and rounds trained networks in every order; prints what each costs in loss and in bytes, with intervals.

python -m experiments.orders --config=configs/orders/digits_convnet.py --workdir=runs/orders_digits
"""

import copy
import functools
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments import command
from experiments.one_shot.options import TRAINED
from experiments.one_shot.tasks import Task, build, by_item
from experiments.orders.options import check
from experiments.orders.report import compare, draw_orders, orders_text, summarize
from experiments.orders.ways import Bench, find_order
from experiments.record import files
from experiments.record.outcome import as_json, device_name, versions
from experiments.record.progress import Overall
from experiments.record.rows import Row, once
from experiments.record.workdir import claim, stored_result
from experiments.report.tables import terminal_text
from sparsejax import export
from sparsejax.params.paths import flatten_with_paths
from sparsejax.typing import Params


class Case(NamedTuple):
    """One thing to measure of one network.

    Attributes:
      order: its name.
      sparsity: of the layers that are pruned; 0 where none is.
      bits: of the layers that are pruned; 32 where nothing is rounded.
    """

    order: str
    sparsity: float
    bits: int


def main() -> None:
    """Runs the command line's study."""
    run(command.CONFIG.value, command.WORKDIR.value)


def run(config: ConfigDict, workdir: str, console: Console | None = None) -> dict[str, Any]:
    """Runs what is not finished yet of a study, then compares.

    Args:
      config: from `default_orders`.
      workdir: the trained networks, a file for each network, order, sparsity and bits, the tables and the result.
      console: where to report; standard output by default.

    Returns:
      The content of ``result.json``.

    Raises:
      ConfigError, WorkdirError: a study that does not fit together, a directory of another one; whatever training,
        pruning and rounding raise.
    """
    console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
    check(config)
    started = time.perf_counter()
    with claim(workdir, as_json(config)) as directory:
        result = stored_result(directory)
        if result is None:
            rows, dense, about = _rows(config, directory, console)
            result = {
                "config": as_json(config),
                "data": about,
                "dense": dense,
                "cases": summarize(rows, dense["scale"]),
                "comparisons": compare(rows, dense["scale"]),
                "wall_seconds": time.perf_counter() - started,
                "device": device_name(),
                "versions": versions(),
            }
            files.write_bytes(directory / "table.md", f"{orders_text(result)}\n".encode())
            draw_orders(directory / "orders.png", result)
            files.write_json(directory / "result.json", result)  # last: it says that all the rest is there
        console.print(terminal_text((directory / "table.md").read_text()))
        console.print(f"written to {directory}")
    return result


def cases(config: ConfigDict) -> Iterator[Case]:
    """All that is measured of each network.

    Args:
      config: of the study.

    Yields:
      The cases: first each step alone, then the orders, sparsity by sparsity.
    """
    yield from (Case("rounded alone", 0.0, bits) for bits in config.bits)
    for sparsity in config.sparsities:
        yield Case("pruned alone", sparsity, 32)
        for bits in config.bits:
            yield from (Case(order, sparsity, bits) for order in config.orders)


def _rows(
    config: ConfigDict, directory: pathlib.Path, console: Console
) -> tuple[list[Row], dict[str, Any], dict[str, Any]]:
    """A row for each network and case, what the dense networks are, and what the data were."""
    chosen, rows, values = list(cases(config)), [], []
    with Overall(config.draws * len(chosen), console, "case") as overall:
        for draw, task in enumerate(_tasks(config, directory, console)):
            dense = np.array(
                once(directory, {"draw": draw, "about": task.about}, lambda t=task: _dense(t))["items"]
            )
            values.append(float(dense.mean()) * task.scale)
            measured = Measured(task, config, draw)
            for case in chosen:
                name = f"network {draw}, {case.order}, {case.sparsity:.0%}, {case.bits} bits"
                key = {**case._asdict(), "draw": draw, "about": task.about}
                with overall.part(name):
                    row = once(directory, key, lambda case=case, own=measured: own.row(case))
                gap = np.array(row["items"]) - dense
                rows.append({**case._asdict(), "draw": draw, **row, "items": gap})
                change = f"{gap.mean() * task.scale:+.3f} to dense, {row['bytes']:,} B"
                console.print(f"{name}: {change} ({row['seconds']:.0f} s)")
    size = 4 * sum(leaf.size for leaf in jax.tree.leaves(task.params))
    return rows, {"values": values, "bytes": size, "scale": task.scale}, {"metric": task.metric, **task.about}


def _tasks(config: ConfigDict, directory: pathlib.Path, console: Console) -> Iterator[Task]:
    """The networks: one for each draw where they are trained here."""
    if config.network not in TRAINED:
        yield from [build(config, directory, console)] * config.draws
        return
    for draw in range(config.draws):
        own = copy.deepcopy(config)
        own.base.seed = config.base.seed + draw
        yield build(own, directory / f"network_{draw}", console)


def _dense(task: Task) -> Row:
    return {"items": task.measure(task.params).tolist()}


class Measured:
    """The cases of one network, computed as they are asked for.

    Args:
      task: the network.
      config: of the study.
      draw: of calibration data.
    """

    def __init__(self, task: Task, config: ConfigDict, draw: int) -> None:
        self.task, self.config, self.draw = task, config, draw

    @functools.cached_property
    def bench(self) -> Bench:
        """What the orders begin with."""
        return Bench(self.task, self.config, self.draw)

    @functools.cached_property
    def measure(self) -> Callable[[Params], np.ndarray]:
        """``params -> (items, 2)``: each test item's score, and its divergence from the dense network's outputs."""
        task = self.task
        log_p = by_item(task.fn, lambda logits, _: jax.nn.log_softmax(logits), task.inputs, task.targets)
        dense = log_p(task.params).astype(np.float32)

        def both(logits: jax.Array, target: Any) -> jax.Array:
            target, log_p = target
            apart = jnp.sum(jnp.exp(log_p) * (log_p - jax.nn.log_softmax(logits)), -1)
            return jnp.stack([task.score(logits, target), apart.reshape(len(logits), -1).mean(1)], -1)

        return by_item(task.fn, both, task.inputs, (task.targets, dense))

    def row(self, case: Case) -> Row:
        """Computes a case, and measures what its file holds."""
        begin = time.perf_counter()
        params, masks = find_order(case.order)(self.bench, case.sparsity, case.bits)
        seconds = time.perf_counter() - begin
        if case.bits < 32:
            params = self.bench.finished(params)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.safetensors"
            compressed = export.save(path, params, masks, compression="zlib")
            plain = export.save(path, params, masks)
            held = jax.tree.map(jnp.asarray, export.load(path, self.task.params))
        found = self.measure(held)
        leaves = dict(zip(*flatten_with_paths(held)[:2], strict=True))
        layers = [leaves[path] for path in self.bench.layers]
        kept = sum(int(jnp.count_nonzero(leaf)) for leaf in layers)
        return {
            "items": found[:, 0].tolist(),
            "apart": found[:, 1].tolist(),
            "bytes": plain.bytes,
            "compressed": compressed.bytes,
            "zeros": 1 - kept / sum(leaf.size for leaf in layers),
            "seconds": seconds,
        }
