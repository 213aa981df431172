"""What every stored notebook promises its reader, looked for in the file: nothing is run."""

import re

import nbformat

from colab.compile import FIRST_CELL, badge

_NUMBER = re.compile(r"\d[\d,]*\.?\d*")


def broken(notebook: nbformat.NotebookNode, name: str) -> list[str]:
    """The promises that a notebook does not keep.

    Args:
      notebook: as it is stored.
      name: its file's, without the ending.

    Returns:
      One line for each; none where all are kept.
    """
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    errors = [f"an error is stored: {output.ename}" for output in outputs if output.output_type == "error"]
    kept = {
        "a badge in the first cell": badge(name) in texts[0],
        "the shared first code cell": code[0].source == FIRST_CELL,
        "form fields beside those of the first cell": any("@param" in cell.source for cell in code[1:]),
        "a finding": any(text.startswith("## Finding") for text in texts),
        "text where a TODO stands": not any("TODO" in text for text in texts),
        "an exercise at the end": notebook.cells[-1].source.startswith("## Exercise"),
        "every code cell run, in order": [cell.execution_count for cell in code]
        == list(range(1, len(code) + 1)),
        "a stored figure": any("image/png" in output.get("data", {}) for output in outputs),
    }
    missing = [f"missing: {what}" for what, there in kept.items() if not there]
    return errors + missing + [f"the finding says {number}, no output does" for number in unfounded(notebook)]


def unfounded(notebook: nbformat.NotebookNode) -> list[str]:
    """Numbers of the findings, with a decimal point or thousands, that no stored output shows.

    Args:
      notebook: as it is stored.

    Returns:
      The numbers, as they are written there.
    """
    shown = set(_numbers(printed(notebook)))
    findings = [cell.source for cell in notebook.cells if cell.source.startswith("## Finding")]
    told = [
        number for text in findings for number in _numbers(re.sub(r"`[^`]*`|\]\([^)]*\)|arXiv \S+", "", text))
    ]
    return [number for number in told if ("." in number or "," in number) and number not in shown]


def printed(notebook: nbformat.NotebookNode) -> str:
    """All text that the cells gave.

    Args:
      notebook: as it is stored.

    Returns:
      Streams and the text of results.
    """
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs
    )


def _numbers(text: str) -> list[str]:
    return [found.rstrip(".,") for found in _NUMBER.findall(text)]
