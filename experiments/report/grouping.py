"""The runs of a report in groups: those that differ in nothing but their seed, and what sets a group apart."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.config.fields import default_config
from experiments.errors import ConfigError
from experiments.record.outcome import as_json
from experiments.report.gathering import Found, flatten
from experiments.report.statistics import interval

#: Fields that follow `steps` when a configuration leaves them alone.
_FOLLOWS_STEPS = ("schedule_steps", "warmup_steps", "begin_step", "end_step", "checkpoint_every")

#: Characters of a line that says which group it is.
_WIDTH = 45


class SeedGroup(NamedTuple):
    """The runs that differ in nothing but their seed.

    Attributes:
      label: what sets them apart from the other groups: field to value.
      runs: all of them.
      values: the metric of each that is finished.
    """

    label: Mapping[str, Any]
    runs: tuple[Found, ...]
    values: tuple[float, ...]


def group(found: Sequence[Found], metric: str) -> list[SeedGroup]:
    """Groups runs by the fields in which any two of them differ, seeds apart.

    Args:
      found: the runs, in any state; those that cannot be read make a group of their own.
      metric: its name.

    Returns:
      The groups, in order of their labels.

    Raises:
      ConfigError: a finished run lacks the metric.
    """
    readable = [run for run in found if run.status != "unreadable"]
    differ = _differing(readable)
    groups: dict[str, list[Found]] = {}
    for run in found:
        key = repr([run.config.get(name) for name in differ]) if run in readable else "unreadable"
        groups.setdefault(key, []).append(run)
    made = []
    for runs in groups.values():
        finished = [run for run in runs if run.status == "finished"]
        for run in finished:
            if metric not in run.metrics:
                raise ConfigError(f"{run.path} has no metric {metric!r}; it has {', '.join(run.metrics)}.")
        label = {name: runs[0].config.get(name, "?") for name in differ}
        made.append(SeedGroup(label, tuple(runs), tuple(run.metrics[metric] for run in finished)))
    return sorted(made, key=_order)


def _order(one: SeedGroup) -> Any:
    """Numbers before words; what cannot be read comes last."""
    keys = [
        (0, value, "") if isinstance(value, int | float) else (1, 0, str(value))
        for value in one.label.values()
    ]
    return one.runs[0].status == "unreadable", keys


def _differing(runs: Sequence[Found]) -> list[str]:
    """The fields that tell runs apart; not those that only follow another's change."""
    names = sorted({name for run in runs for name in run.config} - {"seed", "data_dir"})
    differ = [name for name in names if len({repr(run.config.get(name)) for run in runs}) > 1]
    follow = {name for name in _FOLLOWS_STEPS if all(_follows(run.config, name) for run in runs)}
    return [name for name in differ if name not in follow]


def _follows(config: Mapping[str, Any], name: str) -> bool:
    default = default_config(config["model.name"])
    default.steps = (*(config.get("extended") or ()), config["steps"])[0]  # times follow a run's first end
    return config.get(name) == flatten(as_json(default))[name]


def mean_text(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = interval(values)
    return f"{mean.mean:.4f}" if math.isinf(mean.half_width) else f"{mean.mean:.4f} ± {mean.half_width:.4f}"


def by_label(groups: Sequence[SeedGroup]) -> dict[str, tuple[float, ...]]:
    """The values of each group by what sets it apart, in lines that leave a picture its room."""
    return {_label(found): found.values for found in groups}


def _label(found: SeedGroup) -> str:
    """The fields that differ, in lines that leave the panel its room; of a path its end."""
    parts = []
    for name, value in found.label.items():
        words = str(value)
        parts.append(f"{name}={words if len(words) <= _WIDTH - 15 else f'…{words[15 - _WIDTH :]}'}")
    missing = len(found.runs) - len(found.values)
    parts = parts or ["all runs"]
    return textwrap.fill(
        ", ".join(parts) + (f" ({missing} not finished)" if missing else ""), _WIDTH, break_on_hyphens=False
    )
