"""Which run a directory holds, and a sentence where it is none, is unfinished, or is another version's."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.config.fields import FIELDS
from experiments.errors import WorkdirError
from experiments.models.build import MODELS
from experiments.models.saved import is_saved
from experiments.record.finish import LAYOUT
from experiments.record.outcome import versions
from experiments.record.workdir import differences, stored_config, stored_result


class FinishedRun(NamedTuple):
    """A finished run, as JSON holds it.

    Attributes:
      place: where its arrays lie.
      config: every field of its configuration.
      result: its ``result.json``; a member's has no more than what is its own.
      network: what the model was built for: ``{layout, inputs, input_shape, classes}``.
    """

    place: pathlib.Path
    config: dict[str, Any]
    result: dict[str, Any]
    network: dict[str, Any]


def finished_run(workdir: str | pathlib.Path) -> FinishedRun:
    """Reads what a finished run left beside its arrays.

    Args:
      workdir: of a run; of a population the directory of one member.

    Returns:
      The run.

    Raises:
      WorkdirError: no run is there, it is not finished, it is a population or a study, another version wrote it, or
        a file cannot be read.
    """
    place = pathlib.Path(workdir)
    is_member = (
        stored_config(place) == {}
    )  # its result.json leaves the configuration to the whole population's
    home = place.parent if is_member else place
    config = stored_config(home)
    if config is None or not (home / "config.json").exists():
        raise WorkdirError(f"{place} holds no run{_instead(place)}.")
    if not {"method", "steps", "model"} <= set(config):
        raise WorkdirError(f"{place} holds several runs, not one{_instead(place)}.")
    result = stored_result(home)
    if result is None or differences(result.get("config", {}), config):
        raise WorkdirError(_unfinished(home, config))
    network = _network(home, config, result)
    if is_member:
        result = _own_result(place)
    elif config["population"]:
        raise WorkdirError(f"{place} holds a population of {len(result['members'])} runs{_instead(place)}.")
    return FinishedRun(place, config, result, network)


def _own_result(member: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads((member / "result.json").read_text())
        return {"metrics": found["metrics"], **found}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkdirError(f"{member / 'result.json'} cannot be read ({error!r}).") from error


def _network(home: pathlib.Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """What the model was built for; refuses what another version wrote, as its fields may mean something else."""
    wrote = result.get("versions", {}).get("sparsejax", "unknown")
    who = f"{home} was written by another version of sparsejax ({wrote}; this is {versions()['sparsejax']})"
    advice = "load it with that one, or train it again with the configuration in its config.json."
    found = result.get("network", {}).get("layout")
    if found != LAYOUT:
        told = "has none" if found is None else f"is {found}"
        raise WorkdirError(f"{who}: the layout of its files {told}, here it is {LAYOUT}; {advice}")
    model = config["model"]
    known = (
        {f"model.{name}" for name in ("name", *MODELS[model["name"]].sizes)} if _is_known(model) else set()
    )
    unknown = {name for name in config if name not in FIELDS}
    unknown |= {f"model.{name}" for name in model} ^ known
    if unknown:
        raise WorkdirError(f"{who}: the fields {', '.join(sorted(unknown))} are not the same; {advice}")
    return result["network"]


def _is_known(model: Mapping[str, Any]) -> bool:
    return model.get("name") in MODELS


def _unfinished(home: pathlib.Path, config: Mapping[str, Any]) -> str:
    saved = [int(path.name) for path in (home / "checkpoints").glob("[0-9]*") if path.name.isdigit()]
    there = f"its newest checkpoint is of step {max(saved)}" if saved else "it has no checkpoint yet"
    return (
        f"The run in {home} is not finished: {_last_step(home / 'metrics.jsonl')} of {config['steps']} steps are done, "
        f"and {there}. If it is not running, this goes on with it: python -m experiments.train "
        f"--config=configs/from_json.py:{home / 'config.json'} --workdir={home}"
    )


def _last_step(path: pathlib.Path) -> int:
    """The step of the last whole line; a kill may have cut the one after it."""
    try:
        rows = [line for line in path.read_text().splitlines() if line.endswith("}")]
        return int(json.loads(rows[-1])["step"]) if rows else 0
    except (OSError, ValueError, KeyError):
        return 0


def _instead(place: pathlib.Path) -> str:
    """What to give instead, found below the directory or said in general."""
    if is_saved(str(place)):
        return ", but a model without one: experiments.models.saved.load_saved reads it"
    below = sorted(
        path.parent for path in place.glob("**/params.npz") if (path.parent / "result.json").exists()
    )
    if below:
        return f": give one of those below it, such as {below[0]}"
    return ": give the --workdir of a finished run of experiments.train"
