"""A pretrained network from its wheel to a small file: pruned, tuned to itself without labels, quantized, saved."""

import json
import pathlib
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from rich.console import Console

import sparsejax
from experiments.compress.magika_report import draw_magika, magika_text
from experiments.config.checks import check_names, choice, is_whole, require
from experiments.data.machine_files import MachineFiles, read_machine_files
from experiments.models.magika import in_batches, load_magika, magika_logits
from experiments.record import files
from experiments.record.outcome import as_json, device_name, versions
from experiments.record.progress import Overall
from experiments.record.workdir import claim, stored_result
from experiments.report.bootstrap import paired_bootstrap
from experiments.report.tables import terminal_text
from experiments.run.towards_dense import train_towards
from sparsejax import export, post_training
from sparsejax.post_training import IntegerFormat
from sparsejax.typing import MaskTree, Params

_METHODS = {
    "alps": post_training.alps,
    "sparsegpt": post_training.sparsegpt,
    "wanda": post_training.wanda,
    "magnitude": post_training.magnitude,
}
STAGES = ("pruned", "tuned", "quantized")


def default_magika() -> ConfigDict:
    """The options, with their defaults.

    Returns:
      An unlocked `ConfigDict`.

    Example:
      >>> default_magika().bits
      4
    """
    options = ConfigDict()
    options.pretrained = "magika"
    options.method = "alps"  # or sparsegpt, wanda, magnitude
    options.conv_sparsity = 0.8
    options.head_sparsity = 0.5
    options.bits = 4  # of the convolution and the head, by GPTQ on the masks
    options.group_size = 0  # inputs that share a scale; 0: all of an output's
    options.embedding_bits = 8
    options.compression = "zlib"  # of the file's parts; "" for none
    options.draws = 3  # of the calibration files; intervals are over files and draws
    options.pool_files = 900  # that calibration files are drawn from; all others are the test
    options.calibration_files = 512
    options.tune_steps = 300  # on the masks, towards the dense network's own outputs
    options.tune_batch = 8
    options.learning_rate = 5e-4
    options.most_of_a_kind = 150
    return options


def validate_magika(options: ConfigDict) -> None:
    """Checks the options before anything is read.

    Args:
      options: made from `default_magika`.

    Raises:
      ConfigError: a field that is unknown, missing or out of range.

    Example:
      >>> validate_magika(default_magika())
    """
    check_names(options, default_magika(), "config")
    choice(options.pretrained, ("magika",), "pretrained")
    choice(options.method, _METHODS, "method")
    choice(options.compression, ("", "zlib", "zstd"), "compression")
    for name in ("conv_sparsity", "head_sparsity"):
        share = isinstance(options[name], float | int) and 0 <= options[name] < 1
        require(share, name, options[name], "a sparsity in [0, 1)")
    for name in ("bits", "embedding_bits"):
        fits = is_whole(options[name], 2) and options[name] <= 8
        require(fits, name, options[name], "a whole number from 2 to 8")
    for name in ("draws", "pool_files", "calibration_files", "tune_batch", "most_of_a_kind"):
        require(is_whole(options[name], 1), name, options[name], "a whole number of at least 1")
    require(is_whole(options.tune_steps, 0), "tune_steps", options.tune_steps, "a whole number of at least 0")
    require(is_whole(options.group_size, 0), "group_size", options.group_size, "a whole number of at least 0")
    fits = options.calibration_files <= options.pool_files
    require(fits, "calibration_files", options.calibration_files, "at most pool_files")


class Task(NamedTuple):
    """What all draws share.

    Attributes:
      options: of the compression.
      params: the dense network.
      dense: its logits on the test files.
      pool: tokens to calibrate on.
      test: tokens to measure on.
      labels: of the test files.
      logits: ``(params, tokens) -> logits`` of many files, batch by batch.
    """

    options: ConfigDict
    params: Params
    dense: np.ndarray
    pool: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    logits: Callable[[Params, np.ndarray], np.ndarray]


def run(options: ConfigDict, workdir: str, console: Console) -> dict[str, Any]:
    """Runs the draws that are not finished.

    Args:
      options: made from `default_magika`.
      workdir: each stage of each draw leaves a file below.
      console: where to report.

    Returns:
      The content of ``result.json``.

    Raises:
      ConfigError, WorkdirError, DatasetError: options, directory, or a wheel that is not there.
    """
    validate_magika(options)
    started = time.perf_counter()
    with claim(workdir, as_json(options)) as directory:
        result = stored_result(directory)
        if result is None:
            task, found = _task(options)
            console.print(
                f"{len(task.test)} test files of {len(found.counts)} kinds, {len(task.pool)} to calibrate on"
            )
            with Overall(options.draws * len(STAGES), console, "stage") as overall:
                draws = [
                    _draw(task, draw, directory / f"draw_{draw}", console, overall)
                    for draw in range(options.draws)
                ]
            result = _result(task, found, draws) | {"wall_seconds": time.perf_counter() - started}
            files.write_bytes(directory / "summary.txt", f"{magika_text(result)}\n".encode())
            draw_magika(directory / "sizes.png", result)
            files.write_json(directory / "result.json", result)
        console.print(terminal_text((directory / "summary.txt").read_text()))
        console.print(f"written to {directory}")
    return result


def _task(options: ConfigDict) -> tuple[Task, MachineFiles]:
    model = load_magika()
    found = read_machine_files(model.labels, most=options.most_of_a_kind)
    fits = len(found.labels) > options.pool_files
    require(
        fits, "pool_files", options.pool_files, f"fewer than the {len(found.labels)} files of this machine"
    )
    pool, test = found.tokens[: options.pool_files], found.tokens[options.pool_files :]
    jitted = jax.jit(magika_logits)

    def logits(params: Params, tokens: np.ndarray) -> np.ndarray:
        return in_batches(jitted, params, tokens)

    labels = found.labels[options.pool_files :]
    return Task(options, model.params, logits(model.params, test), pool, test, labels, logits), found


def _draw(task: Task, draw: int, place: pathlib.Path, console: Console, overall: Overall) -> dict[str, Any]:
    """One draw of calibration files: the stages that left no file yet, each measured on what its file holds."""
    options = task.options
    chosen = np.random.RandomState(draw).permutation(len(task.pool))[: options.calibration_files]
    calibration, rows = task.pool[chosen], {}
    makers = {"pruned": _prune, "tuned": _tune, "quantized": _quantize}
    for number, stage in enumerate(STAGES):
        path, record = place / f"{stage}.safetensors", place / f"{stage}.json"
        with overall.part(f"draw {draw}, {stage}"):
            if not record.exists():
                before = place / f"{STAGES[number - 1]}.safetensors" if number else None
                params = export.load(before, task.params) if before else task.params
                masks = export.load_masks(before, task.params) if before else None
                params, masks = (jax.tree.map(jnp.asarray, tree) for tree in (params, masks))
                place.mkdir(parents=True, exist_ok=True)
                begin = time.perf_counter()
                made = makers[stage](task, calibration, params, masks)
                seconds = time.perf_counter() - begin
                size = export.save(path, *made, compression=options.compression or None)
                found = task.logits(export.load(path, task.params), task.test)
                files.write_arrays(place / f"{stage}.npz", {"labels": np.argmax(found, -1)})
                files.write_json(record, {"bytes": size.bytes, "seconds": seconds, "file": str(size)})
        with np.load(place / f"{stage}.npz") as stored:
            rows[stage] = _measured(task, stored["labels"]) | json.loads(record.read_text())
        console.print(f"draw {draw}, {stage}: {rows[stage]['bytes']:,} B, {rows[stage]['accuracy']:.2%}")
    return rows


def _measured(task: Task, found: np.ndarray) -> dict[str, Any]:
    right = found == task.labels
    dense = np.argmax(task.dense, -1)
    return {
        "accuracy": float(right.mean()),
        "agreement": float((found == dense).mean()),
        "right": right.tolist(),
    }


def _prune(task: Task, calibration: np.ndarray, params: Params, masks: None) -> tuple[Params, MaskTree]:
    del masks
    options = task.options
    shares = {"conv/kernel": options.conv_sparsity, "head/kernel": options.head_sparsity}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", post_training.CalibrationWarning
        )  # the head has 512 rows: the test tells
        found = _METHODS[options.method](
            magika_logits, params, _batches(calibration), sparsity=options.conv_sparsity,
            overrides={path: sparsejax.Override(sparsity=share) for path, share in shares.items()},
        )  # fmt: skip
    return found.params, found.masks


def _batches(tokens: np.ndarray) -> list[np.ndarray]:
    size = min(32, max(len(tokens) // 2, 1))
    return [tokens[i : i + size] for i in range(0, len(tokens) - len(tokens) % size, size)]


def _tune(task: Task, calibration: np.ndarray, params: Params, masks: MaskTree) -> tuple[Params, MaskTree]:
    """Adam on the masks; the loss is the divergence from the dense network's outputs, labels are not looked at."""
    options = task.options
    rate = optax.cosine_decay_schedule(options.learning_rate, max(options.tune_steps, 1))
    tx = sparsejax.sparsify(optax.adam(rate), sparsejax.rules.fixed_masks(masks))
    teacher = task.logits(task.params, calibration)
    tuned, _ = train_towards(
        magika_logits, tx, params, calibration, teacher,
        steps=options.tune_steps, batch_size=options.tune_batch,
    )  # fmt: skip
    return tuned, masks


def _quantize(
    task: Task, calibration: np.ndarray, params: Params, masks: MaskTree
) -> tuple[Params, MaskTree]:
    options = task.options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", post_training.CalibrationWarning)  # as above
        found = post_training.gptq(
            magika_logits,
            params,
            _batches(calibration),
            options.bits,
            options.group_size or "channel",
            masks=masks,
        )
    embedding = {"embed/embedding": IntegerFormat(options.embedding_bits)}
    quantized = post_training.quantize(
        found.params, quantizable=lambda path, leaf: False, overrides=embedding
    )
    return quantized, masks


def _result(task: Task, found: MachineFiles, draws: list[dict[str, Any]]) -> dict[str, Any]:
    right = np.argmax(task.dense, -1) == task.labels
    dense_bytes = 4 * sum(leaf.size for leaf in jax.tree.leaves(task.params))
    stages = {}
    for stage in STAGES:
        rows = [draw[stage] for draw in draws]
        size = float(np.mean([row["bytes"] for row in rows]))
        stages[stage] = {
            **{name: [row[name] for row in rows] for name in ("bytes", "accuracy", "agreement", "seconds")},
            "times_smaller": dense_bytes / size,
            "change": tuple(paired_bootstrap(np.array([row["right"] for row in rows]), right)),
            "file": rows[0]["file"],
        }
    return {
        "config": as_json(task.options),
        "files": {"digest": found.digest, "counts": found.counts, "test": len(task.labels)},
        "dense": {"accuracy": float(right.mean()), "bytes": dense_bytes},
        "stages": stages,
        "device": device_name(),
        "versions": versions(),
    }
