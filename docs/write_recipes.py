"""Writes the tables of docs/recipes.md from the recipes' own signatures:  python docs/write_recipes.py."""

import inspect
import pathlib

import sparsejax

PAGE = pathlib.Path(__file__).with_name("recipes.md")
MARKS = ("<!-- table: begin -->", "<!-- table: end -->")
RECIPES = (
    *("gmp", "one_shot", "snip", "static_random", "set_", "rigl", "ac_dc"),
    *("straight_through", "movement", "soft_movement", "l0", "cofi", "prune_params"),
)
#: Without a key these refuse to draw; None is their default so that the error can say what to pass.
DRAWN = ("static_random", "set_", "rigl")
#: Arguments of several recipes get a column; the others are listed.
SHARED = (
    *("sparsity", "distribution", "pattern", "prunable", "overrides", "roles", "masks"),
    *("score", "key", "update_every"),
)


def table() -> str:
    """The table recipe × argument; ● needed, ○ with a default, empty where the recipe does not take it."""
    rows = [f"| recipe | {' | '.join(f'`{name}`' for name in SHARED)} | also takes |"]
    rows.append("|" + " --- |" * (len(SHARED) + 2))
    for name in RECIPES:
        parameters = inspect.signature(getattr(sparsejax, name)).parameters
        cells = [_mark(parameters[shared]) if shared in parameters else "" for shared in SHARED]
        if name in DRAWN:
            cells[SHARED.index("key")] = "●"
        others = [p for p in parameters if p not in SHARED and p not in ("optimizer", "params")]
        also = ", ".join(f"`{p}`" + ("" if _mark(parameters[p]) == "○" else " ●") for p in others)
        rows.append(f"| `{name}` | {' | '.join(cells)} | {also} |")
    return "\n".join(rows)


def _mark(parameter: inspect.Parameter) -> str:
    return "●" if parameter.default is parameter.empty else "○"


def page(text: str) -> str:
    """The page with its table made anew."""
    before, rest = text.split(MARKS[0])
    return f"{before}{MARKS[0]}\n{table()}\n{MARKS[1]}{rest.split(MARKS[1])[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
