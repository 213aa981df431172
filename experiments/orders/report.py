"""What a study of orders came to: tables by bits, paired comparisons of orders, the sizes, and the picture."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.orders.ways import ALONE
from experiments.record.rows import Row
from experiments.report import plots
from experiments.report.bootstrap import Difference, paired_bootstrap
from experiments.report.tables import markdown_table

#: Orders that are compared: the one expected to be better, the other.
PAIRS = (
    ("Wanda, then GPTQ", "GPTQ, then Wanda"),
    ("SparseGPT, then GPTQ", "GPTQ, then SparseGPT"),
    ("SparseGPT, then GPTQ", "SparseGPT + GPTQ, jointly"),
    ("SparseGPT, tuned, GPTQ", "SparseGPT, then GPTQ"),
    ("SparseGPT, QAT, zeros kept", "SparseGPT, tuned, GPTQ"),
    ("SparseGPT, QAT, zeros kept", "SparseGPT, QAT, zeros free"),
)
_WHAT = ("order", "sparsity", "bits")


def summarize(rows: Sequence[Row], scale: float) -> list[dict[str, Any]]:
    """The networks of each case together.

    Args:
      rows: of all networks; ``items`` are differences to the dense network.
      scale: of the metric.

    Returns:
      For each case ``change`` (of the metric) and ``apart`` (divergence from the dense outputs, nats) as mean, low and
      high; ``bytes``, ``compressed`` and ``zeros`` as lists over networks.
    """
    found = []
    for own in _by_case(rows).values():
        gaps, apart = (np.array([row[name] for row in own]) for name in ("items", "apart"))
        found.append(
            {
                **{name: own[0][name] for name in _WHAT},
                "change": tuple(_against_zero(gaps * scale)),
                "apart": tuple(_against_zero(apart)),
                **{name: [row[name] for row in own] for name in ("bytes", "compressed", "zeros", "seconds")},
            }
        )
    return found


def compare(rows: Sequence[Row], scale: float) -> list[dict[str, Any]]:
    """Each pair of orders on the same networks and items.

    Args:
      rows: as in `summarize`.
      scale: likewise.

    Returns:
      For each of `PAIRS`, bits and sparsity that were run ``change`` (of the metric; above 0 the first is better) and
      ``apart`` (below 0 the first is nearer to the dense network), each as mean, low and high.
    """
    cases, found = _by_case(rows), []
    for better, other in PAIRS:
        for (order, sparsity, bits), own in cases.items():
            if order != better or (other, sparsity, bits) not in cases:
                continue
            against = cases[other, sparsity, bits]
            gap = {
                name: np.array([row[name] for row in own]) - np.array([row[name] for row in against])
                for name in ("items", "apart")
            }
            found.append(
                {
                    "better": better,
                    "other": other,
                    "sparsity": sparsity,
                    "bits": bits,
                    "change": tuple(_against_zero(gap["items"] * scale)),
                    "apart": tuple(_against_zero(gap["apart"])),
                }
            )
    return found


def _by_case(rows: Iterable[Row]) -> dict[tuple[str, float, int], list[Row]]:
    found: dict[tuple[str, float, int], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in _WHAT), []).append(row)
    return found


def _against_zero(gaps: np.ndarray) -> Difference:
    return paired_bootstrap(gaps, np.zeros(gaps.shape[1]))


def orders_text(result: Mapping[str, Any]) -> str:
    """All tables in markdown.

    Args:
      result: of `experiments.orders.command.run`.

    Returns:
      The text.
    """
    config, dense, about = result["config"], result["dense"], result["data"]
    draws = config["draws"]
    head = (
        f"{about['metric']}: dense {np.mean(dense['values']):.3f} (mean of {draws}), {dense['bytes']:,} B in float32. "
        f"Below: differences to it, with a paired 95 % bootstrap over {draws} networks or draws and "
        f"{about['tested']} test items; how many times smaller the file is than float32, in brackets with zlib."
    )
    parts = [head]
    for bits in config["bits"]:
        parts += [f"{bits} bits", _table(result, bits), f"{bits} bits: divergence from dense, nats / 1000"]
        parts += [_divergences(result, bits)]
    parts += [
        "orders compared: the first's divergence less the other's, nats / 1000 (below 0 the first is nearer to the "
        "dense network)",
        _comparisons(result, "apart", 1e3, "{:+.3g}"),
        f"the same of {about['metric']} (above 0 the first is better)",
        _comparisons(result, "change", 1.0, "{:+.3f}"),
        _answer(result),
    ]
    return "\n\n".join(parts)


def _table(result: Mapping[str, Any], bits: int) -> str:
    config, body = result["config"], []
    for order in (*ALONE, *config["orders"]):
        cells = []
        for sparsity in config["sparsities"]:
            case = _case(result, order, sparsity, bits)
            cells += [_interval(case["change"], 1.0, "{:+.2f}"), _smaller(result, case)] if case else ["", ""]
        body.append([order, *cells])
    titles = [text for s in config["sparsities"] for text in (f"{s:.0%} zeros", f"{s:.0%}, × smaller")]
    return markdown_table(["order", *titles], body)


def _divergences(result: Mapping[str, Any], bits: int) -> str:
    config, body = result["config"], []
    for order in (*ALONE, *config["orders"]):
        found = [_case(result, order, s, bits) for s in config["sparsities"]]
        body.append([order, *(_interval(case["apart"], 1e3, "{:.3g}") if case else "" for case in found)])
    return markdown_table(["order", *(f"{s:.0%} zeros" for s in config["sparsities"])], body)


def _comparisons(result: Mapping[str, Any], name: str, scale: float, style: str) -> str:
    config, body = result["config"], []
    for better, other in PAIRS:
        for bits in config["bits"]:
            found = [
                row
                for row in result["comparisons"]
                if (row["better"], row["other"], row["bits"]) == (better, other, bits)
            ]
            if found:
                body.append(
                    [f"{better} / {other}", str(bits), *(_interval(r[name], scale, style) for r in found)]
                )
    return markdown_table(["first / other", "bits", *(f"{s:.0%} zeros" for s in config["sparsities"])], body)


def _answer(result: Mapping[str, Any]) -> str:
    """What half of the weights in 8 bits is, and what eight and ten times smaller take."""
    config, lines = result["config"], []
    cases = [case for case in result["cases"] if case["order"] in config["orders"]]
    relative = 1.0 if result["dense"]["scale"] > 1 else 100 / abs(np.mean(result["dense"]["values"]))
    unit = "points" if result["dense"]["scale"] > 1 else "% of the dense network's"
    half = [case for case in cases if (case["sparsity"], case["bits"]) == (0.5, 8)]
    asked = [("50 % and 8 bits", half)] if half else []
    for times in (8, 10):
        small = [case for case in cases if _times(result, case, "bytes") >= times]
        asked.append((f"{times} times smaller or more", small))
    for what, own in asked:
        best = max(own, key=lambda case: case["change"][0], default=None)
        if best is None:
            lines.append(f"{what}: no order came so far")
            continue
        lines.append(
            f"{what}, the least loss: {best['order']}, {best['sparsity']:.0%} zeros, {best['bits']} bits, "
            f"{_smaller(result, best)} times smaller, {_interval(best['change'], relative, '{:+.2f}')} {unit}"
        )
    return "\n\n".join(lines)


def _case(result: Mapping[str, Any], order: str, sparsity: float, bits: int) -> dict[str, Any] | None:
    sparsity = 0.0 if order == "rounded alone" else sparsity
    bits = 32 if order == "pruned alone" else bits
    found = (
        case for case in result["cases"] if tuple(case[name] for name in _WHAT) == (order, sparsity, bits)
    )
    return next(found, None)


def _times(result: Mapping[str, Any], case: Mapping[str, Any], name: str) -> float:
    return result["dense"]["bytes"] / float(np.mean(case[name]))


def _smaller(result: Mapping[str, Any], case: Mapping[str, Any]) -> str:
    return f"{_times(result, case, 'bytes'):.1f} ({_times(result, case, 'compressed'):.1f})"


def _interval(found: Sequence[float], scale: float, style: str) -> str:
    mean, low, high = (style.format(scale * value) for value in found)
    return f"{mean} [{low}, {high}]"


def draw_orders(path: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Draws what is lost over the bytes of the file, a panel for each number of bits.

    Args:
      path: the PNG file; an SVG of the same name comes beside it.
      result: as in `orders_text`.
    """
    config, panels = result["config"], []
    for bits in config["bits"]:
        curves = []
        for order in config["orders"]:
            own = [_case(result, order, sparsity, bits) for sparsity in config["sparsities"]]
            size = [float(np.mean(case["bytes"])) / 1e3 for case in own]
            mean, low, high = ([-case["change"][i] for case in own] for i in (0, 2, 1))
            curves.append(plots.Curve(order, size, mean, low, high))
        panels.append(plots.Panel(f"file, kB; {bits} bits", "lost against dense", curves, "log"))
    title = f"{config['network']}: {result['data']['metric']} lost, {config['draws']} networks or draws"
    plots.save_figure(path, plots.draw_panels(title, panels), vector=True)
