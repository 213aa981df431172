"""The page itself: groups, figures, runs, and each working directory with its configuration and how to repeat it."""

import base64
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config.stored import config_of
from experiments.errors import ConfigError
from experiments.record.outcome import as_json
from experiments.report import plots
from experiments.report.gathering import flatten
from experiments.report.grouping import SeedGroup, mean_text
from experiments.report.page.elements import Cell, code, escape, figure, folded, number, table
from experiments.report.page.figures import WIDTH, figures, name_series
from experiments.report.page.workdirs import MemberRow, WorkdirRow, read_workdirs
from experiments.report.statistics import interval

_HERE = pathlib.Path(__file__).parent
#: Of more runs the page has no figure of each: their workdirs have.
MOST_FIGURES = 24
_POINTS = 300  # of a line in one of them
#: A page that asks for nothing: the browser itself refuses whatever is not in the file.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def report_page(title: str, groups: Sequence[SeedGroup], metric: str) -> str:
    """Writes one page of a set of runs, which needs no other file and no network.

    Args:
      title: names the set.
      groups: of all its runs.
      metric: a name in result.json's metrics.

    Returns:
      HTML.
    """
    workdirs = read_workdirs([run for one in groups for run in one.runs])
    members = [member for workdir in workdirs for member in workdir.members]
    series = name_series(groups, members)
    drawn = "".join(
        figure(plots.inline_svg(one.figure, f"{one.name}: {one.caption}"), one.caption)
        for one in figures(series, metric)
    )
    parts = {
        "groups": ("Groups", _groups(groups, metric)),
        "figures": (
            "Figures",
            f'<div class="figures">{drawn}</div>' if drawn else "<p>No run is finished.</p>",
        ),
        "runs": ("Runs", _runs(groups, workdirs)),
        "workdirs": ("Configurations, and how to repeat them", _workdirs(workdirs)),
    }
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, (heading, _) in parts.items())
    sections = "".join(
        f'<section id="{name}"><h2>{heading}</h2>{body}</section>' for name, (heading, body) in parts.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}: report</title><style>{(_HERE / 'style.css').read_text()}</style></head>\n"
        f'<body><header><h1>{escape(title)}</h1><p class="muted">{escape(_lead(workdirs, members, metric))}</p>'
        f"<nav>{links}</nav></header>\n<main>{sections}</main>\n"
        f"<script>{(_HERE / 'sort.js').read_text()}</script></body></html>\n"
    )


def _lead(workdirs: Sequence[WorkdirRow], members: Sequence[MemberRow], metric: str) -> str:
    finished = [workdir.result for workdir in workdirs if workdir.result is not None]
    count = sum(member.found.status == "finished" for member in members)
    devices = sorted({result.get("device", "an unknown device") for result in finished})
    made = sorted({_made_with(result) for result in finished})
    return f"{count} of {len(members)} runs finished; metric {metric}. " + "; ".join([*devices, *made])


def _made_with(result: Mapping[str, Any]) -> str:
    versions = result.get("versions", {})
    return ", ".join(
        f"{name} {versions[name]}" for name in ("sparsejax", "jax", "python") if name in versions
    )


def _groups(groups: Sequence[SeedGroup], metric: str) -> str:
    fields = _fields(groups)
    first, rest = fields[:2], fields[2:]  # what a phone shows without scrolling: which group, and its metric
    head = [*(first or ["group"]), f"{metric}, mean ± 95 %", *rest, "finished", "not finished"]
    rows = []
    for one in groups:
        mean = Cell(mean_text(one.values), interval(one.values).mean if one.values else None)
        rows.append([
            *([_value(one.label[name]) for name in first] or [Cell("all runs")]), mean,
            *(_value(one.label[name]) for name in rest),
            number(len(one.values), "d"), number(len(one.runs) - len(one.values), "d"),
        ])  # fmt: skip
    return table("groups", head, rows)


def _fields(groups: Sequence[SeedGroup]) -> list[str]:
    """What sets groups apart, the method and its sparsity first."""
    return sorted(groups[0].label, key=lambda name: (name != "method", name != "sparsity", name))


def _runs(groups: Sequence[SeedGroup], workdirs: Sequence[WorkdirRow]) -> str:
    fields = _fields(groups)
    numbers = [(workdir, member) for workdir in workdirs for member in workdir.members]
    metrics = sorted({name for _, member in numbers for name in member.found.metrics} - {"reached_sparsity"})
    head = ["run", "status", "seed", *fields, *metrics, "sparsity reached", "not zero", "training FLOPs, × dense",
            "inference FLOPs, × dense", "steps/s of its workdir"]  # fmt: skip
    rows = []
    for workdir, member in numbers:
        run, own = member.found, member.numbers
        status = run.status if run.status == "finished" else f"{run.status} at {run.step}/{run.steps}"
        rows.append([
            Cell(run.path.name, href=_identity(workdirs, workdir)), Cell(status, tone=run.status),
            _value(run.config.get("seed", "")),
            *(_value(run.config.get(name, "")) for name in fields),
            *(number(run.metrics.get(name)) for name in metrics),
            number(own.get("sparsity")), number(own.get("nonzero"), ",d"),
            number(own.get("training"), ".3f"), number(own.get("inference"), ".3f"),
            number((workdir.result or {}).get("steps_per_second"), ".0f"),
        ])  # fmt: skip
    return table("runs", head, rows)


def _workdirs(workdirs: Sequence[WorkdirRow]) -> str:
    few = sum(len(workdir.members) for workdir in workdirs) <= MOST_FIGURES
    note = (
        "<p>A run is repeated from its configuration: save it as <code>config.json</code> in a checkout of the "
        "version that made it, and run the command there. Equal hardware and versions give equal bytes.</p>"
    )
    if not few:
        note += f"<p>Of more than {MOST_FIGURES} runs each one's pictures are in its workdir alone.</p>"
    return note + "".join(
        folded(_summary(workdir), _details(workdir, few), _identity(workdirs, workdir))
        for workdir in workdirs
    )


def _identity(workdirs: Sequence[WorkdirRow], workdir: WorkdirRow) -> str:
    return f"workdir-{[one.path for one in workdirs].index(workdir.path)}"


def _summary(workdir: WorkdirRow) -> str:
    config, count = workdir.config, len(workdir.members)
    told = [str(config[name]) for name in ("method", "dataset") if name in config]
    told += [f"{count} members"] if count > 1 else []
    return f"{workdir.path} ({', '.join(told)})" if told else str(workdir.path)


def _details(workdir: WorkdirRow, few: bool) -> str:
    config = workdir.config
    if not config:
        return "<p>Its configuration cannot be read.</p>"
    text = json.dumps(config, indent=1)
    link = base64.b64encode(text.encode()).decode()
    command = (
        "python -m experiments.train --config=configs/from_json.py:config.json "
        f"--workdir=runs/{workdir.path.name or 'again'}"
    )
    parts = [
        code(command),
        f'<p><a download="config.json" href="data:application/json;base64,{link}">config.json</a>'
        f"{escape(_made(workdir))}</p>",
        "<h3>What differs from the defaults</h3>",
        code("\n".join(f"{name} = {value!r}" for name, value in changed_fields(config).items()) or "nothing"),
        folded("all fields", code(text)),
    ]
    if few:
        for member in workdir.members:
            if member.history is not None:
                name = str(member.found.path)
                drawn = plots.inline_svg(
                    plots.training("", member.history, width=WIDTH, points=_POINTS), f"training of {name}"
                )
                parts.append(
                    figure(drawn, f"{member.found.path.name}: loss, accuracy and sparsity while training.")
                )
    return "".join(parts)


def _made(workdir: WorkdirRow) -> str:
    if workdir.result is None:
        return ""
    seconds = workdir.result.get("wall_seconds")
    took = f" in {seconds:.0f} s" if seconds is not None else ""
    return (
        f" · made{took} on {workdir.result.get('device', 'an unknown device')}, {_made_with(workdir.result)}"
    )


def changed_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that differ from what they are when only the model and the number of steps are given.

    Args:
      config: as JSON holds it.

    Returns:
      Dotted name to value.

    Example:
      >>> changed_fields({"model": {"name": "mlp", "widths": [300, 100]}, "steps": 10, "method": "rigl"})
      {'method': 'rigl', 'model.name': 'mlp', 'steps': 10}
    """
    try:
        default = flatten(
            as_json(config_of({"model": {"name": config["model"]["name"]}, "steps": config["steps"]}))
        )
    except (ConfigError, KeyError):  # of another version
        default = {}
    given = {name: value for name, value in flatten(config).items() if name != "data_dir"}
    shown = {name: value for name, value in given.items() if name not in default or default[name] != value}
    return dict(
        sorted((shown | {name: given[name] for name in ("model.name", "steps") if name in given}).items())
    )


def _value(value: Any) -> Cell:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(str(value), float(value)) if is_number else Cell(str(value))
