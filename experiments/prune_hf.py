"""Prunes a Hugging Face causal language model in one shot; its perplexities stand beside the published ones.

python -m experiments.prune_hf --model=FOLDER --tokens=test.npy --calibration=train.npy

FOLDER holds config.json and the weights, as `save_pretrained` writes them. Token files are NumPy arrays of whole
numbers, or text, which the folder's tokenizer reads. As in the literature's tables: WikiText-2's test text joined by
two line breaks, windows of 2,048 that do not overlap, 128 calibration windows of C4, embedding and head dense. Needs
the extra `torch`. The published rows are LLaMA-2-7B's (Sun et al., arXiv 2306.11695).
"""

import argparse
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.errors import ConfigError, error_text
from sparsejax.errors import InstallError, SparsejaxError
from sparsejax.interop.torch import from_torch
from sparsejax.patterns import NM
from sparsejax.post_training import LayerResult, alps, magnitude, perplexity, sparsegpt, wanda
from sparsejax.typing import Array, Params


class Row(NamedTuple):
    """A line of the table.

    Attributes:
      prune: of `sparsejax.post_training`; None for the dense model.
      options: what it is given.
      published: LLaMA-2-7B's perplexity; None where there is no published number.
    """

    prune: Callable[..., Any] | None
    options: dict[str, Any]
    published: float | None


_HALF, _TWO_OF_FOUR = {"sparsity": 0.5}, {"pattern": NM(2, 4)}
ROWS = {
    "dense": Row(None, {}, 5.12),
    "magnitude 50 %": Row(magnitude, _HALF, 14.89),
    "wanda 50 %": Row(wanda, _HALF, 6.42),
    "sparsegpt 50 %": Row(sparsegpt, _HALF, 6.51),
    "alps 50 %": Row(alps, _HALF, None),
    "magnitude 2:4": Row(magnitude, _TWO_OF_FOUR, 54.59),
    "wanda 2:4": Row(wanda, _TWO_OF_FOUR, 11.02),
    "sparsegpt 2:4": Row(sparsegpt, _TWO_OF_FOUR, 10.17),
    "alps 2:4": Row(alps, _TWO_OF_FOUR, None),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Prunes, measures, prints; returns the exit status.

    Args:
      argv: arguments; those of the command line when None.

    Returns:
      0, or 2 where the user can mend what is wrong.
    """
    options = _parse(argv)
    try:
        if options.window < 2 or options.windows < 1 or options.batch < 1:
            raise ConfigError("--window is at least 2 tokens, --windows and --batch at least 1.")
        fn, params = load(options.model)
        tokens, calibration = (
            read_tokens(path, options.model) for path in (options.tokens, options.calibration)
        )
        found = {}
        for name in options.rows or ROWS:
            found[name] = measure(fn, params, name, tokens, calibration, options)
            print(f"{name}: {found[name]:.2f}", flush=True)
    except SparsejaxError as error:
        print(error_text(error), file=sys.stderr)
        return 2
    print(table(found, options.model))
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.prune_hf", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--model", required=True, help="folder of config.json and weights")
    parser.add_argument("--tokens", required=True, help="the text to measure on: .npy, or text")
    parser.add_argument("--calibration", required=True, help="the text to calibrate on, another one")
    parser.add_argument(
        "--rows",
        nargs="*",
        choices=list(ROWS),
        metavar="ROW",
        help="of " + ", ".join(ROWS).replace("%", "%%") + "; all by default",
    )
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=128, help="calibration windows")
    parser.add_argument("--batch", type=int, default=1, help="windows at once")
    parser.add_argument("--workdir", help="where interrupted rows go on")
    return parser.parse_args(argv)


def load(folder: str) -> tuple[Callable[[Params, Array], Array], Params]:
    """Reads a causal language model as a JAX function.

    Args:
      folder: as `save_pretrained` writes it; nothing is downloaded.

    Returns:
      ``(fn(params, tokens) -> logits, params)``.

    Raises:
      InstallError: torch, transformers or torchax is not installed.
      ConfigError: the folder holds no model.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InstallError(f"{error}: pip install -e '.[torch]'") from error
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", local_files_only=True, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model={folder}: no causal language model can be read there: {error}") from error
    # Without a mask transformers looks at the positions, which are traced, for packed sequences.
    tokens = jnp.ones((1, 8), jnp.int32)
    params, fn = from_torch(
        model, {"input_ids": tokens, "attention_mask": jnp.ones_like(tokens), "use_cache": False}, "logits"
    )

    def logits(params: Params, tokens: Array) -> Array:
        return fn(params, {"input_ids": tokens, "attention_mask": jnp.ones(tokens.shape, jnp.int32)})

    return logits, params


def read_tokens(path: str, folder: str) -> np.ndarray:
    """Reads a file of tokens, or of text.

    Args:
      path: .npy of whole numbers, else text.
      folder: of the model, whose tokenizer reads text.

    Returns:
      Whole numbers, (length,).

    Raises:
      ConfigError: a file that cannot be read, or holds no row of whole numbers.
    """
    try:
        if path.endswith(".npy"):
            tokens = np.load(path)
            if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
                raise ValueError(f"{tokens.dtype}{list(tokens.shape)} is no row of whole numbers")
            return tokens
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return np.asarray(tokenizer(pathlib.Path(path).read_text(encoding="utf-8"))["input_ids"])
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as tokens: {error}") from error


def measure(
    fn: Callable[[Params, Array], Array],
    params: Params,
    name: str,
    tokens: np.ndarray,
    calibration: np.ndarray,
    options: argparse.Namespace,
) -> float:
    """Prunes by one row and gives the perplexity.

    Args:
      fn: ``fn(params, tokens) -> logits``.
      params: dense.
      name: a key of `ROWS`.
      tokens: to measure on.
      calibration: to calibrate on; its first windows are taken.
      options: of the command line.

    Returns:
      The perplexity.

    Raises:
      ConfigError: too little text to calibrate on; whatever pruning raises.
    """
    row, size = ROWS[name], options.window
    if row.prune is not None:
        whole = calibration[: len(calibration) // size * size].reshape(-1, size).astype(np.int32)
        whole = whole[: options.windows]
        batches = [
            whole[i : i + options.batch] for i in range(0, len(whole) - options.batch + 1, options.batch)
        ]
        if len(batches) < 2:
            raise ConfigError(
                f"{len(calibration)} calibration tokens are no two batches of windows of {size}."
            )
        place = None if options.workdir is None else pathlib.Path(options.workdir) / name.replace(" ", "_")
        params = row.prune(
            fn, params, batches, prunable=in_a_block, workdir=place, progress=_say, **row.options
        ).params
    return perplexity(fn, params, tokens, size, batch_size=options.batch).perplexity


def in_a_block(path: str, leaf: Array) -> bool:
    """Whether a weight belongs to a block; embedding and head stay dense, as in the literature.

    Args:
      path: its name, such as ``model.layers.0.mlp.up_proj.weight``.
      leaf: the array.

    Returns:
      True for matrices with the number of a block in their name.

    Example:
      >>> [in_a_block(name, np.ones((2, 2))) for name in ("model.layers.0.mlp.up_proj.weight", "lm_head.weight")]
      [True, False]
    """
    return np.ndim(leaf) == 2 and any(part.isdigit() for part in path.split("."))


def _say(result: LayerResult) -> None:
    clock = time.strftime("%H:%M:%S")
    print(f"  {clock} {result.path}: error {result.held_out_error:.4f}", file=sys.stderr, flush=True)


def table(found: dict[str, float], model: str) -> str:
    """The measured perplexities beside the published ones.

    Args:
      found: by name of the row.
      model: what was measured.

    Returns:
      A markdown table; rows that were not run say so.
    """
    lines = [f"| perplexity | published, LLaMA-2-7B | {model} |", "| --- | --- | --- |"]
    for name, row in ROWS.items():
        published = "–" if row.published is None else f"{row.published:.2f}"
        lines.append(f"| {name} | {published} | {f'{found[name]:.2f}' if name in found else 'not run'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
