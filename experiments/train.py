"""Trains one network or a population of them, dense or sparse; leaves results, arrays and plots in a directory.

python -m experiments.train --config=configs/digits_mlp.py:rigl --workdir=runs/demo --config.sparsity=0.98
python -m experiments.train --config=configs/digits_mlp.py:rigl --workdir=runs/demo --config.sparsity=0.98 \\
    --config.steps=8000 --extend
"""

import contextlib
import functools
import json
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments import command
from experiments.config.extending import describe_extension, extend_config
from experiments.config.validation import ignored_fields, validate_config
from experiments.data.augment_recipes import build_augment
from experiments.data.batches import batch_indices
from experiments.data.streaming import Stream
from experiments.devices.agreement import check_hosts_agree
from experiments.devices.hosts import join_hosts, together
from experiments.devices.preemption import stop_requests
from experiments.errors import Interrupted, TrainingError
from experiments.record import files
from experiments.record.finish import Final, final_of, finish, last_members, verdict
from experiments.record.full_disk import bytes_at_the_end, release, reserve
from experiments.record.history import Record, is_text, record_chunk
from experiments.record.log import RunLog, open_log
from experiments.record.outcome import device_name, to_host
from experiments.record.progress import ProgressBar
from experiments.record.workdir import claim, stored_config, stored_result
from experiments.run.batch_norm import make_reestimate
from experiments.run.chunk import RunChunk, compile_chunk, stream_chunk
from experiments.run.compute_dtype import in_dtype
from experiments.run.diagnose import blame
from experiments.run.evaluation import Evaluation, make_evaluate
from experiments.run.loop import Chunk, NotFinite, train_chunks
from experiments.run.methods import METHODS
from experiments.run.population import MemberGroup
from experiments.run.prepare import Setup, prepare
from experiments.run.state import TrainState, member_of
from experiments.run.step import StepMetrics


def main() -> None:
    """Runs the command line's configuration."""
    run(command.CONFIG.value, command.WORKDIR.value, extend=command.EXTEND.value)


def run(
    config: ConfigDict,
    workdir: str,
    console: Console | None = None,
    *,
    plots: bool = True,
    bar: Callable[[int], Any] | None = None,
    extend: bool = False,
) -> dict[str, Any]:
    """Trains `config` in `workdir`, from its newest checkpoint, unless that is done already.

    Args:
      config: made from `experiments.config.fields.default_config`.
      workdir: made when absent; on several hosts one that all of them see.
      console: where to report; standard output by default.
      plots: whether to draw.
      bar: ``steps -> bar`` with the `update` of a `ProgressBar`, where the run is a part of a longer command.
      extend: go on with the run in `workdir`, which had fewer steps, as `extend_config` says.

    Returns:
      The content of ``result.json``.

    Raises:
      ConfigError, DatasetError, WorkdirError, CheckpointError, TrainingError, HostError: see their texts.
      Interrupted: SIGTERM came; a checkpoint was written.
    """
    started = time.perf_counter()
    console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
    validate_config(config)
    join_hosts()
    taken_over = None
    if extend:
        taken_over = stored_config(pathlib.Path(workdir))
        config = extend_config(config, workdir)
        validate_config(config)
    as_json = json.loads(json.dumps(config.to_dict()))
    check_hosts_agree(as_json)
    leads = jax.process_index() == 0  # the others compute, are silent, and leave the directory alone
    console.quiet = not leads
    with contextlib.ExitStack() as stack:
        with together():
            claimed = claim(workdir, as_json, instead_of=taken_over)
            directory = stack.enter_context(claimed) if leads else pathlib.Path(workdir)
        with together():
            result = stored_result(directory, as_json)
        if result is not None:
            console.print(f"{directory} holds the finished run of this configuration; nothing to train.")
            if (directory / "summary.txt").exists():
                console.print((directory / "summary.txt").read_text())
        else:
            console.print(f"reading {config.dataset} …")
            setup = prepare(config)
            console.print(describe(config, setup))
            make_bar = bar or functools.partial(ProgressBar, console=console)
            final = final_of(config, setup)  # one program: of batch statistics, evaluations and the end
            if leads:  # so that what it ends with is never lost for want of room
                reserve(directory, bytes_at_the_end(setup.states, config.steps))
            states, whole, speed = train(config, setup, directory, console, make_bar, final)
            if leads:
                release(directory)
            console.print("writing the results …")
            members = last_members(config, setup, states, final)
            with together():  # nobody leaves, and gives the others up, while the first still draws
                result = {"config": as_json} | finish(config, setup, members, whole, directory, plots)
                result |= {"steps_per_second": speed, "wall_seconds": time.perf_counter() - started}
                if leads:  # last: it says that all the rest is there
                    files.write_json(directory / "result.json", result)
            if leads and (directory / "summary.txt").exists():
                console.print((directory / "summary.txt").read_text())
        console.print(verdict(result, directory))
    return result


def describe(config: ConfigDict, setup: Setup) -> str:
    """Says in a few lines what is about to run."""
    member = 0 if config.population else None
    leaves = jax.tree.leaves(member_of(setup.states[0].params, member))
    reads = METHODS[config.method].reads
    target = f"{config.method} to sparsity {config.sparsity}" if "sparsity" in reads else config.method
    if "penalty_weight" in reads and (config.penalty_weight or config.penalty_weights):
        penalties = config.penalty_weights or (config.penalty_weight,)
        target = f"{config.method} with penalty {', '.join(map(str, penalties))}"
    if len(config.sparsities):
        target = f"{config.method} to sparsities {', '.join(map(str, config.sparsities))}"
    who = f"{len(setup.runs)} members" if config.population else f"seed {config.seed}"
    told = "".join(f"\nmethod {config.method!r} does not read {name}" for name in ignored_fields(config))
    told += f"\n{describe_extension(config)}" if config.extended else ""
    return (
        f"{config.dataset}: {setup.source.size} training and {setup.test.size} test examples\n"
        f"{config.model.name}: {sum(leaf.size for leaf in leaves):,} parameters, "
        f"{sum(setup.meter.sizes):,} of them prunable; {target}\n"
        f"{who}, {config.steps} steps of {config.batch_size} on {device_name()}{told}"
    )


def train(
    config: ConfigDict,
    setup: Setup,
    directory: pathlib.Path,
    console: Console,
    make_bar: Callable[[int], Any],
    final: Final,
) -> tuple[tuple[TrainState, ...], Record, float]:
    """Runs all steps that are left; returns the last states, the whole record, and steps a second."""
    evaluate = make_test(config, setup, final)
    seconds, took, emptied = 0.0, 0, set()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(
            open_log(directory, keep=config.keep_checkpoints, every=config.checkpoint_every)
        )
        requested = stack.enter_context(stop_requests())
        states = log.resume(setup.states, setup.source)
        if begun := int(states[0].step):
            console.print(f"going on from the checkpoint of step {begun}")
        bar = stack.enter_context(make_bar(config.steps))
        try:
            for chunk in chunks(config, setup, states, config.steps, final):
                states, done = chunk.states, int(chunk.states[0].step)
                kept = np.concatenate([np.atleast_2d(to_host(state.kept)) for state in states])
                emptied |= warn_of_emptied(config, setup, kept, done, emptied)
                rows = record_chunk(chunk.metrics, done, evaluate(states))
                row = log.add(rows, setup.meter, kept, chunk.seconds, text=is_text(setup.test))
                shown = {"loss": "loss", "accuracy": "test_accuracy", "sparsity": "sparsity"}
                shown |= {"bits_per_byte": "bits_per_byte"} if "bits_per_byte" in row else {}
                bar.update(done, **{name: float(np.mean(row[of])) for name, of in shown.items()})
                seconds, took = seconds + chunk.seconds, took + len(chunk.metrics.loss)
                stop = requested(done)
                if done < config.steps and (stop or log.due(done)):
                    log.save(states, setup.source)
                    if stop:
                        there = (
                            "from there" if log.manager else "from the start, as config.checkpoint_every is 0"
                        )
                        raise Interrupted(
                            f"Stopped at step {done} as asked; the same command goes on {there}."
                        )
        except NotFinite as error:
            raise TrainingError(f"{error} Where: {explain(config, log, error)}.") from error
        return states, log.whole(), took / seconds if seconds else 0.0


def warn_of_emptied(
    config: ConfigDict, setup: Setup, kept: np.ndarray, step: int, known: set[str]
) -> set[str]:
    """Warns of layers that a method of masks has emptied; of gates on whole blocks, which may go, it says nothing."""
    found = set(setup.meter.emptied(kept)) if "dense_layers" in METHODS[config.method].reads else set()
    asked = max((config.sparsity, *config.sparsities)) < 1
    if asked and (new := sorted(found - known)):
        warnings.warn(
            f"By step {step} nothing is left of {', '.join(new)}: what they read is cut off. Keep some weights with "
            "config.min_kept=1, or leave them dense with config.dense_layers.",
            stacklevel=2,
        )
    return found


def chunks(
    config: ConfigDict, setup: Setup, states: Any, steps: int, final: Final | None = None
) -> Iterator[Chunk]:
    """The chunks up to `steps`, batch statistics taken anew where masks have changed."""

    def compile_program(group: MemberGroup, recipe: Any, state: Any, count: int) -> RunChunk:
        if isinstance(setup.source, Stream):
            return stream_chunk(recipe, state, group.members, setup.source, count)
        return compile_chunk(recipe, state, group.members, setup.source, count)

    refresh, final = None, final or final_of(config, setup)
    if jax.tree.leaves(states[0].batch_stats) and config.batch_norm_batches and not config.streaming:
        reestimate = make_reestimate(
            in_dtype(setup.apply, config.compute_dtype), setup.source,
            batch_size=config.batch_size, batches=config.batch_norm_batches,
            augment=build_augment(config.augment, setup.test.classes, train=False),
            population=bool(config.population), params_of=lambda state: final(state)[0],
        )  # fmt: skip

        def refresh(group: MemberGroup, state: Any, metrics: StepMetrics) -> Any:
            return reestimate(state, metrics.changed.any(axis=0))

    return train_chunks(
        compile_program,
        setup.recipes,
        setup.groups,
        states,
        steps=steps,
        chunk=config.eval_every,
        refresh=refresh,
    )


def make_test(config: ConfigDict, setup: Setup, final: Final) -> Callable[[Any], Evaluation]:
    """The evaluation of all groups on the test split, of averaged parameters where there are any."""
    population = bool(config.population)
    evaluate = make_evaluate(
        setup.recipes[0].objective, batch_size=config.eval_batch_size, population=population,
        augment=build_augment(config.augment, setup.test.classes, train=False), mesh=setup.mesh,
    )  # fmt: skip

    def test(states: Any) -> Evaluation:
        found = [evaluate(final(state)[0], state.batch_stats, setup.test) for state in states]
        return Evaluation(
            *(np.concatenate([np.atleast_1d(x) for x in part]) for part in zip(*found, strict=True))
        )

    return test


def explain(config: ConfigDict, log: RunLog, error: NotFinite) -> str:
    """Runs up to the step whose loss is not finite once more, to find the layer."""
    setup = prepare(config)
    if config.streaming:
        return "streamed batches are not read again, so the layer is not known"
    states = log.restore(setup.states)
    for chunk in chunks(config, setup, states, error.step):
        states = chunk.states
    index, member = 0, error.member
    while member >= len(setup.groups[index].runs):
        index, member = index + 1, member - len(setup.groups[index].runs)
    group, recipe = setup.groups[index], setup.recipes[index]
    inside = member if config.population else None
    keys = member_of(group.members, inside)
    drawn = batch_indices(keys.data_key, error.step, 1, setup.source.size, config.batch_size)
    batch = setup.source.take(drawn[0])
    if recipe.augment is not None:
        batch = recipe.augment(jax.random.fold_in(keys.augment_key, error.step), batch)
    params, stats = (member_of(part, inside) for part in (states[index].params, states[index].batch_stats))
    return blame(recipe.objective, params, stats, batch)


if __name__ == "__main__":
    command.run_command(main, extends=True)
