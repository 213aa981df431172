"""Finds lottery tickets on real data, level by level as populations of seeds, and trains their controls.

python -m experiments.lottery --config=configs/lottery/digits_mlp.py --workdir=runs/lottery_digits_mlp
"""

import copy
import itertools
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

import sparsejax
from experiments import command, train
from experiments.errors import WorkdirError
from experiments.lottery import connectivity
from experiments.lottery.options import check
from experiments.lottery.report import (
    density_table,
    draw_lottery,
    lottery_table,
    lottery_verdicts,
)
from experiments.record import files
from experiments.record.outcome import as_json, device_name, named_by_path, to_host, versions
from experiments.record.progress import Overall, silent
from experiments.record.workdir import claim, stored_result
from experiments.report import plots
from experiments.report.tables import terminal_text
from experiments.run.initial import load_arrays
from experiments.run.population import runs_of
from experiments.run.prepare import prepare
from experiments.run.state import member_of
from sparsejax import distributions, recipes

#: Seeds so far away draw the initial weights of the controls.
_OTHER_WEIGHTS = 10_000
#: What may be asked anew of a study's workdir: finished runs are not touched by it.
_MAY_CHANGE = ("levels", "controls", "connectivity", "title", "metric", "lower")


def main() -> None:
    """Runs the command line's study."""
    run(command.CONFIG.value, command.WORKDIR.value)


def run(study: ConfigDict, workdir: str, console: Console | None = None) -> dict[str, Any]:
    """Runs the levels that are not finished, then compares; a killed study goes on in the level it was in.

    Args:
      study: ``base`` (a training configuration of a population), ``levels``, ``fraction``, ``rewind_step``
        (0: the initialisation), ``keep_weights``, ``distribution`` ("uniform" or "global"), ``controls``,
        ``connectivity`` (whether each ticket is trained once more, with the data in another order), and for the
        report ``title``, ``metric`` and ``lower`` (whether lower is better).
      workdir: each level has a directory below; more levels, or controls, may be asked for later.
      console: where to report.

    Returns:
      The content of ``result.json``.

    Raises:
      ConfigError: a study that does not fit together; and whatever a run raises.
    """
    check(study)
    console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
    settled = {name: value for name, value in as_json(study).items() if name not in _MAY_CHANGE}
    runs = 1 + study.levels * (1 + len(study.controls)) + bool(study.rewind_step)
    runs += (1 + study.levels) * bool(study.connectivity)
    with claim(workdir, settled) as root, Overall(runs, console) as overall:
        return _levels(study, root, console, overall)


def _levels(study: ConfigDict, root: pathlib.Path, console: Console, overall: Overall) -> dict[str, Any]:
    started, arms = time.perf_counter(), []
    params, others = _initial(study, 0), _initial(study, _OTHER_WEIGHTS)
    template = member_of(params, 0)
    rewind = None
    if study.rewind_step:
        early = root / f"step_{study.rewind_step}"
        _run(study, early, overall, steps=study.rewind_step)
        rewind = _stacked(study, early, template)

    def level(start: Any, masks: Any, number: int) -> tuple[Any, None]:
        place = root / f"level_{number:02d}"
        kept = 1 - recipes.level_sparsity(study.fraction, number) if number else 1.0
        starts = {"ticket": (start, masks)} | (
            _controls(study, masks, start, others, number) if number else {}
        )
        for arm, (weights, inside) in starts.items():
            done = _train_arm(study, place / arm, weights, inside, number, overall)
            arms.append({"level": number, "arm": arm, "remaining": kept, **_measured(study, done)})
            shown = ", ".join(f"{x:.4f}" for x in arms[-1]["values"])
            console.print(f"level {number}, {100 * kept:.1f} % left, {arm}: {study.metric} {shown}")
        if study.connectivity:
            shift = connectivity.OTHER_ORDER
            _train_arm(study, place / "other_order", start, masks, number, overall, shift=shift)
        return _stacked(study, place / "ticket" / "run", template), None

    for _ in sparsejax.find_tickets(
        level, params, levels=study.levels, fraction=study.fraction, rewind=rewind, keep_weights=study.keep_weights,
        distribution=distributions.global_threshold() if study.distribution == "global" else distributions.uniform(),
        overrides=dict.fromkeys(study.base.dense_layers, sparsejax.dense), population=True,
    ):  # fmt: skip
        pass
    return report(study, root, arms, template, console, started)


def _train_arm(
    study: ConfigDict, place: pathlib.Path, params: Any, masks: Any, level: int, overall: Overall,
    *, shift: int = 0,
) -> pathlib.Path:  # fmt: skip
    """Trains all seeds from one start, inside masks; returns the workdir."""
    store(study, place / "start", params, masks, shift)
    # Level 0 begins at step 0; later ones where their weights are from.
    skip = study.rewind_step if level else 0
    run = place / "run"
    _run(study, run, overall, steps=study.base.steps - skip, skip=skip, start=place / "start", shift=shift)
    return run


def store(study: ConfigDict, place: pathlib.Path, params: Any, masks: Any, shift: int = 0) -> None:
    """Writes what each member begins with, where `config.init_from` finds it.

    Args:
      study: see `run`.
      place: the directory.
      params: with an axis of members.
      masks: likewise, but for what is not prunable.
      shift: added to the seeds.

    What is there and whole is left; what cannot be read, as a disk may leave it, is written again.
    """
    for index, one in enumerate(runs_of(study.base)):
        directory = place / one._replace(seed=one.seed + shift).name
        if all(_is_whole(directory / f"{what}.npz") for what in ("masks", "params")):
            continue
        directory.mkdir(parents=True, exist_ok=True)
        files.write_arrays(
            directory / "params.npz", named_by_path(jax.tree.map(lambda x, i=index: x[i], params))
        )
        chosen = jax.tree.map(lambda mask, i=index: mask[i] if np.ndim(mask) else mask, masks)
        files.write_arrays(
            directory / "masks.npz", named_by_path(chosen)
        )  # last: it says that both are there


def _is_whole(path: pathlib.Path) -> bool:
    """Whether every array of a file can be read; its checksums are looked at."""
    try:
        with open(path, "rb") as file, np.load(file) as stored:  # np.load alone leaves a broken file open
            dict(stored)
    except Exception:  # zip, NumPy and the file system each raise their own
        return False
    return True


def _run(
    study: ConfigDict, place: pathlib.Path, overall: Overall, *, steps: int, skip: int = 0,
    start: pathlib.Path | None = None, shift: int = 0,
) -> None:  # fmt: skip
    config = copy.deepcopy(study.base)
    config.schedule_steps, config.steps, config.skip_steps = study.base.steps, steps, skip
    config.seed += shift
    if start is not None:
        config.method, config.init_from = "fixed", str(start)
    with overall.part("/".join(place.parts[-3:-1] if start else place.parts[-1:])) as bar:
        train.run(config, str(place), silent(), plots=False, bar=bar)


def _initial(study: ConfigDict, shift: int) -> Any:
    """The initial parameters of all members, those of other seeds where shifted."""
    config = copy.deepcopy(study.base)
    config.seed += shift
    parts = [to_host(state.params) for state in prepare(config).states]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _stacked(study: ConfigDict, place: pathlib.Path, template: Any) -> Any:
    """The parameters that a population left, with an axis of members."""
    try:
        runs = [load_arrays(place / one.name / "params.npz", template) for one in runs_of(study.base)]
    except WorkdirError as error:
        raise WorkdirError(f"{error} Or remove {place}: the same command trains it again.") from error
    return jax.tree.map(lambda *leaves: np.stack(leaves), *runs)


def _controls(
    study: ConfigDict, masks: Any, start: Any, others: Any, level: int
) -> dict[str, tuple[Any, Any]]:
    moved = _shuffled(study, masks, level)
    ready: dict[str, Callable[[], tuple[Any, Any]]] = {
        "reinit": lambda: (sparsejax.apply_masks(others, masks), masks),
        "shuffled": lambda: (sparsejax.apply_masks(start, moved), moved),
        "random": lambda: (sparsejax.apply_masks(others, moved), moved),
    }
    return {arm: ready[arm]() for arm in study.controls}


def _shuffled(study: ConfigDict, masks: Any, level: int) -> Any:
    """Each member's own shuffling; a member's masks are one slice of each prunable leaf."""
    parts = []
    for index, one in enumerate(runs_of(study.base)):
        chosen = jax.tree.map(lambda mask, i=index: mask[i] if np.ndim(mask) else mask, masks)
        key = jax.random.fold_in(jax.random.key(one.seed), level)
        parts.append(recipes.shuffle_masks(chosen, key))
    return jax.tree.map(lambda *leaves: np.stack(leaves) if np.ndim(leaves[0]) else leaves[0], *parts)


def _measured(study: ConfigDict, place: pathlib.Path) -> dict[str, Any]:
    """The metric of each seed, and the step at which its test loss was lowest."""
    result = stored_result(place)
    stops = []
    for one in runs_of(study.base):
        path = place / one.name / "history.npz"
        try:
            with open(path, "rb") as file, np.load(file) as history:
                stops.append(int(history["test_steps"][np.argmin(history["test_loss"])]))
        except Exception as error:  # zip, NumPy and the file system each raise their own
            raise WorkdirError(
                f"{path} cannot be read ({error}): remove {place}, and the same command trains it again."
            ) from error
    return {"values": result["metrics"][study.metric], "early_stop": stops, "sparsity": result["sparsity"]}


def report(
    study: ConfigDict,
    root: pathlib.Path,
    arms: list[dict[str, Any]],
    template: Any,
    console: Console,
    started: float,
) -> dict[str, Any]:
    """Compares the arms, looks at the masks, and writes the tables, the plots and ``result.json``."""
    remaining = [arm["remaining"] for arm in arms if arm["arm"] == "ticket"]
    verdicts = lottery_verdicts(arms, lower=study.lower)
    masks = [
        _masks(study, root / f"level_{n:02d}" / "ticket" / "start", template) for n in range(study.levels + 1)
    ]
    seeds = [
        [sparsejax.masks.jaccard(a, b)["(all)"] for a, b in itertools.combinations(level, 2)]
        for level in masks
    ]
    levels = [[sparsejax.masks.jaccard(a[0], b[0])["(all)"] for b in masks] for a in masks]
    densities = [_mean([sparsejax.masks.layer_densities(one) for one in level]) for level in masks]
    text = "\n\n".join([
        lottery_table(arms, metric=study.metric, lower=study.lower),
        *(_says(control, found) for control, found in verdicts.items()),
        density_table(remaining, densities),
    ])  # fmt: skip
    console.print(terminal_text(text))
    files.write_bytes(root / "table.md", f"{text}\n".encode())
    draw_lottery(root / "lottery.png", study.title, arms, metric=study.metric)
    overlap = plots.mask_overlap(study.title, remaining, densities, seeds, levels)
    plots.save_figure(root / "masks.png", overlap, vector=True)
    result = {
        "config": as_json(study),
        "arms": arms,
        "ticket_against_controls": verdicts,
        "overlap_between_seeds": seeds,
        "overlap_between_levels": levels,
        "density_by_layer": densities,
        "barriers": _connectivity(study, root, remaining) if study.connectivity else [],
        "wall_seconds": time.perf_counter() - started,
        "device": device_name(),
        "versions": versions(),
    }
    files.write_json(root / "result.json", result)
    console.print(f"written to {root}")
    return result


def _connectivity(study: ConfigDict, root: pathlib.Path, remaining: list[float]) -> list[list[float]]:
    """The barrier of each level and seed."""
    found = []
    for number in range(study.levels + 1):
        place = root / f"level_{number:02d}"
        runs = place / "ticket" / "run", place / "other_order" / "run"
        found.append(connectivity.barriers(study, *runs, place / "connectivity.json"))
    error = "test loss" if study.lower else "test error"
    figure = plots.connectivity(study.title, remaining, found, error=error)
    plots.save_figure(root / "connectivity.png", figure, vector=True)
    return [[one.height for one in level] for level in found]


def _masks(study: ConfigDict, place: pathlib.Path, template: Any) -> list[Any]:
    paths = [place / one.name / "masks.npz" for one in runs_of(study.base)]
    return [load_arrays(path, template, shapes=False) for path in paths]


def _mean(densities: list[dict[str, float]]) -> dict[str, float]:
    return {path: float(np.mean([one[path] for one in densities])) for path in densities[0]}


def _says(control: str, found: dict[str, list[float]]) -> str:
    """A sentence for each control, where the expectation fails too."""
    parts = [
        f"{word} at {', '.join(f'{100 * share:.1f} %' for share in found[word])}"
        for word in ("better", "worse", "undecided")
        if found[word]
    ]
    return f"The ticket against {control}, by weights left: {'; '.join(parts)}."
