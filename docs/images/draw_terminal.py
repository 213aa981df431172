"""Draws terminal.svg: what `make demo` prints at 80 columns, from a real run of it, as text of an SVG.

python docs/images/draw_terminal.py
"""

import pathlib
import re
import runpy
import tempfile

from rich.console import Console

from experiments import train

HERE = pathlib.Path(__file__).parent
COMMAND = "python -m experiments.train --config=configs/digits_mlp.py:rigl"


def main() -> None:
    """Trains, and writes the picture."""
    config = runpy.run_path(str(HERE.parents[1] / "configs" / "digits_mlp.py"))["get_config"]("rigl")
    config.eval_every = 1000
    with tempfile.TemporaryDirectory() as folder, open("/dev/null", "w") as nowhere:
        console = Console(record=True, width=80, file=nowhere, highlight=False)
        console.print(f"$ {COMMAND} \\\n    --config.eval_every=1000 --workdir=runs/demo")
        train.run(config, f"{folder}/demo", console, plots=False)
        text = console.export_svg(title="sparsejax")
        text = text.replace(f"{folder}/demo", "runs/demo")
    text = re.sub(r'textLength="[\d.]+"([^>]*>written)', r'textLength="244"\1', text)  # of the shorter line
    text = re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.S)  # a page that shows it fetches nothing
    text = re.sub(r"font-family: Fira Code, monospace", "font-family: ui-monospace, monospace", text)
    (HERE / "terminal.svg").write_text(text)


if __name__ == "__main__":
    main()
