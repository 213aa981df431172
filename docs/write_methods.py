"""Writes the table of docs/methods.md:  python docs/write_methods.py. Every number is read out of docs/results.md."""

import pathlib
import re
from typing import NamedTuple

PAGE = pathlib.Path(__file__).with_name("methods.md")
RESULTS = pathlib.Path(__file__).with_name("results.md")
MARKS = ("<!-- table: begin -->", "<!-- table: end -->")


class Cell(NamedTuple):
    """Where a number stands in results.md.

    Attributes:
      table: how the head of its table begins.
      row: its first cell.
      column: its head; words in brackets are left out, of the row too.
      after: of several such rows the first one below the row of this name.
    """

    table: str
    row: str
    column: str
    after: str = ""


class Method(NamedTuple):
    """A line of the table.

    Attributes:
      name: what one types.
      formula: what it does.
      papers: arXiv number by name; empty for what no paper needs.
      config: the file that runs it, with its choice.
      says: of what was measured; `{}` for each cell.
      cells: the numbers of `says`.
    """

    name: str
    formula: str
    papers: dict[str, str]
    config: str
    says: str
    cells: tuple[Cell, ...] = ()


_TEXT = "GPT, bits per byte at"
_MAGIKA = "method, five draws | 80 % | 90 % | error"
_TICKETS = "weights left | ticket | re-initialised | random | shuffled"
_L0 = " | inputs left of each layer"
_STUDY = "configs/studies/text_methods.py"


def _text(row: str) -> dict:
    cells = (Cell(_TEXT, row, "90 %"), Cell(_TEXT, "dense", "90 %"))
    return {"config": _STUDY, "says": "GPT on Python text, 90 %: {} bits per byte (dense {})", "cells": cells}


def _magika(row: str) -> dict:
    cells = (Cell(_MAGIKA, row, "80 %"), Cell(_MAGIKA, row, "90 %"))
    return {
        "config": "configs/one_shot/magika.py:convolution",
        "says": "Magika's convolution, points against dense at 80 %: {}; at 90 %: {}",
        "cells": cells,
    }


def _movement(row: str) -> dict:
    cells = (
        Cell("bits per byte with left", row, "10 %"),
        Cell("bits per byte with left", "magnitude", "10 %"),
    )
    return {
        "config": "configs/studies/movement.py",
        "says": "fine-tuned GPT, 10 % left: {} bits per byte (magnitude {})",
        "cells": cells,
    }


METHODS = (
    Method(
        "gmp",
        "top-k \\|w\\| on s(t) = s_f + (s_i − s_f)(1 − τ)³",
        {"Zhu & Gupta": "1710.01878"},
        **_text("gmp_uniform"),
    ),
    Method(
        "gmp(distribution=global_threshold())",
        "one threshold for all layers",
        {"Zhu & Gupta": "1710.01878"},
        **_text("gmp_global"),
    ),
    Method("one_shot", "top-k \\|w\\| once", {"Han": "1506.02626"}, **_text("one_shot")),
    Method("snip", "top-k \\|w·∂L/∂w\\| at step 0", {"Lee": "1810.02340"}, **_text("snip")),
    Method("static_random", "random masks for good", {}, **_text("static")),
    Method(
        "set_", "drop ⌊f·k⌋ least \\|w\\|, grow as many at random", {"Mocanu": "1707.04780"}, **_text("set")
    ),
    Method("rigl", "drop ⌊f·k⌋ least \\|w\\|, grow by \\|∂L/∂w\\|", {"Evci": "1911.11134"}, **_text("rigl")),
    Method("ac_dc", "top-k \\|w\\| and dense, in turns", {"Peste": "2106.12379"}, **_text("ac_dc")),
    Method(
        "straight_through",
        "W = top-k(θ), ∂L/∂θ ← ∂L/∂W",
        {"Bengio": "1308.3432"},
        "",
        "[its time](results.md#time) only",
    ),
    Method("movement", "S ← S − α·∂L/∂W·W, M = top-k(S)", {"Sanh": "2005.07683"}, **_movement("movement")),
    Method(
        "soft_movement",
        "M = [σ(S) > τ], penalty λ·mean σ(S)",
        {"Sanh": "2005.07683"},
        **_movement("soft movement"),
    ),
    Method(
        "l0",
        "z = clip(s(ζ − γ) + γ, 0, 1), penalty λ·ΣP(z ≠ 0)",
        {"Louizos": "1712.01312"},
        "configs/studies/l0_digits_mlp.py",
        "MLP on digits: error {} with {} left (dense {})",
        (
            Cell(_L0, "target 95 %", "error", "MLP, dense"),
            Cell(_L0, "target 95 %", "weights left", "MLP, dense"),
            Cell(_L0, "MLP, dense", "error"),
        ),
    ),
    Method(
        "cofi",
        "W·z_layer·z_head·z_unit·z_width, λ₁(ŝ − t) + λ₂(ŝ − t)²",
        {"Xia": "2204.00408"},
        "configs/studies/cofi.py",
        "encoder, 60 %: accuracy {} %",
        (Cell("test accuracy (%) at", "CoFi", "60 %"),),
    ),
    Method(
        "find_tickets",
        "train, prune the lowest, rewind, repeat",
        {"Frankle & Carbin": "1803.03635"},
        "configs/lottery/digits_mlp.py",
        "LeNet-300-100, 10.7 % left: {}, random masks {}",
        (Cell(_TICKETS, "10.7 %", "ticket"), Cell(_TICKETS, "10.7 %", "random")),
    ),
    Method(
        "post_training.magnitude",
        "top-k \\|w\\| of a pretrained function",
        {"Han": "1506.02626"},
        **_magika("magnitude"),
    ),
    Method(
        "post_training.wanda", "\\|W_ij\\|·‖X_j‖₂, by output row", {"Sun": "2306.11695"}, **_magika("Wanda")
    ),
    Method(
        "post_training.sparsegpt",
        "w²/[H⁻¹]_jj, the rest updated",
        {"Frantar": "2301.00774"},
        **_magika("SparseGPT"),
    ),
    Method(
        "post_training.alps",
        "min tr(ΔHΔᵀ) by ADMM, then conjugate gradients",
        {"Meng": "2406.07831"},
        **_magika("ALPS"),
    ),
    Method(
        "kernels.train_compressed",
        "any recipe on blocks; only live ones exist",
        {"Gale": "2211.15841"},
        "configs/text_gpt_block_rigl.py:blocks",
        "GPT, one seed: {} bits per byte (dense {})",
        (
            Cell("step | dense | masked RigL", "600", "compressed RigL"),
            Cell("step | dense | masked RigL", "600", "dense"),
        ),
    ),
    Method(
        "prune_structured",
        "units tied by the trace, by group importance",
        {"Fang": "2301.12900"},
        "configs/compress/digits_convnet.py",
        "convnet on digits, {} multiply-adds: {} % (dense {})",
        tuple(
            Cell("`NAME` | seeds", "`digits_convnet`", column)
            for column in ("multiply-adds", "fine-tuned and shrunk", "dense")
        ),
    ),
    Method(
        "distillation.distilled",
        "(1 − w)·L + w·T²·KL(teacher ‖ student)",
        {"Hinton": "1503.02531"},
        "configs/studies/distill.py",
        "GPT, 90 %: {} bits per byte (pruned alone {})",
        (
            Cell("bits per byte at | 80 %", "prune and distil", "90 %"),
            Cell("bits per byte at | 80 %", "prune", "90 %"),
        ),
    ),
)


def table(results: str) -> str:
    """The table, with every number as results.md has it."""
    rows = ["| method | what it does | paper | configuration | measured |", "| --- | --- | --- | --- | --- |"]
    for method in METHODS:
        papers = ", ".join(
            f"[{name}](https://arxiv.org/abs/{number})" for name, number in method.papers.items()
        )
        config = f"`{method.config}`" if method.config else ""
        measured = method.says.format(*(look_up(results, cell) for cell in method.cells))
        rows.append(f"| `{method.name}` | {method.formula} | {papers} | {config} | {measured} |")
    return "\n".join(rows)


def look_up(results: str, cell: Cell) -> str:
    """Reads one number; LookupError where there is none, or several."""
    found = []
    for text in re.findall(r"(?:^\|.*\n)+", results, re.M):
        head, _, *rows = ([part.strip() for part in line[1:-1].split("|")] for line in text.splitlines())
        names = [row[0].split(" (")[0] for row in rows]
        columns = [i for i, name in enumerate(head) if name.split(" (")[0] == cell.column]
        if not " | ".join(head).startswith(cell.table) or not columns:
            continue
        begin = names.index(cell.after) + 1 if cell.after else 0
        chosen = [row for name, row in zip(names[begin:], rows[begin:], strict=True) if name == cell.row]
        found += [row[columns[0]] for row in (chosen[:1] if cell.after else chosen)]
    if len(found) != 1 or not found[0]:
        raise LookupError(f"results.md has {len(found)} numbers at {cell}")
    return found[0]


def page(text: str, results: str) -> str:
    """The page with its table made anew."""
    before, rest = text.split(MARKS[0])
    return f"{before}{MARKS[0]}\n{table(results)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}"


if __name__ == "__main__":
    made = page(PAGE.read_text(encoding="utf-8"), RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(made, encoding="utf-8")
