"""`python -m experiments.zoo`: examines the models that are installed, and writes the page."""

import argparse
import fnmatch
import pathlib
import textwrap
from collections.abc import Sequence

import jax

from experiments.zoo import jax_models, results, torch_models
from experiments.zoo.examine import examine
from experiments.zoo.model import Model
from experiments.zoo.page import Row, page, totals

MODELS = [*jax_models.MODELS, *torch_models.MODELS]


def main(arguments: Sequence[str] | None = None) -> int:
    """Examines models and writes the page.

    Args:
      arguments: of the command line.

    Returns:
      0.
    """
    parser = argparse.ArgumentParser("python -m experiments.zoo", description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, help="where the page goes, for example docs/zoo.md")
    parser.add_argument(
        "--results", type=pathlib.Path, help="a file that remembers what was examined already"
    )
    parser.add_argument("--only", default="*", help="pattern (shell style) of 'library/model'")
    options = parser.parse_args(arguments)
    chosen = [m for m in MODELS if fnmatch.fnmatchcase(f"{m.library}/{m.name}", options.only)]
    if not chosen:
        libraries = ", ".join(sorted({model.library for model in MODELS}))
        parser.error(f"--only={options.only} matches no 'library/model'; the libraries are {libraries}")
    known, rows = results.read(options.results, MODELS), []
    for model in MODELS:
        name = results.key(model)
        if model in chosen and name not in known:
            known[name] = visit(model)
            print(_told(known[name]), flush=True)
            jax.clear_caches()
            if options.results is not None:
                results.write(options.results, known)
        if name in known:
            rows.append(known[name])
    if options.out is not None:
        options.out.write_text(page(rows), encoding="utf-8")
    print(totals(rows))
    return 0


def visit(model: Model) -> Row:
    """Examines one model; an error of its own, of its library or of the tracer becomes part of the row.

    Args:
      model: the model.

    Returns:
      Its row.
    """
    if not model.installed():
        return Row(model)
    try:
        return Row(model, examine(model.make()))
    except Exception as error:  # other people's code, in versions that nobody here chose
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Row(model, problem=textwrap.shorten(text, 240, placeholder=" …"))


def _told(row: Row) -> str:
    name = f"{row.model.library}/{row.model.name}"
    if row.found is None:
        return f"{name}: {row.problem or 'not installed'}"
    groups = sum(row.found.kinds.values())
    return f"{name}: {groups} groups, difference {row.found.difference:.1e}, FLOPs {row.found.flops:.3f} of XLA's"
