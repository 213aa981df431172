"""The forms that Magika's large tensors may take, what each takes in a file, and what every choice of them loses."""

import itertools
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import sparsejax
from experiments.models.magika import in_batches, magika_features, magika_logits
from sparsejax import export, post_training
from sparsejax import search as searching
from sparsejax.post_training import IntegerFormat
from sparsejax.typing import Params

SITES = ("embed/embedding", "conv/kernel", "head/kernel")
_BATCH = 32


class Level(NamedTuple):
    """One form of one tensor.

    Attributes:
      name: what it is, such as "80 % zeros, 4 bits".
      leaf: the array or the `QuantizedTensor`.
      mask: of its weights, or None.
      bytes: that it takes in a file.
    """

    name: str
    leaf: Any
    mask: Any
    bytes: int


def make_levels(
    options: ConfigDict, params: Params, calibration: np.ndarray
) -> tuple[dict[str, list[Level]], int]:
    """Every form of the three large tensors, each calibrated on the dense network, by falling bytes.

    Args:
      options: the sparsities and bits.
      params: the dense network.
      calibration: tokens.

    Returns:
      Path -> levels, the largest first; and the bytes of all else in a file.
    """
    size = min(_BATCH, max(len(calibration) // 2, 1))
    batches = [calibration[i : i + size] for i in range(0, len(calibration) - size + 1, size)]
    made: dict[str, list[Level]] = {name: [] for name in SITES}
    rest = 0
    heads, convs = tuple(options.head_sparsities), tuple(options.conv_sparsities)
    embeddings = tuple(options.embedding_bits)
    with warnings.catch_warnings():
        # The head has few rows; what that costs the test files tell.
        warnings.simplefilter("ignore", post_training.CalibrationWarning)
        for turn in range(max(len(heads), len(convs), -(-len(embeddings) // len(options.bits)))):
            shares = {
                "conv/kernel": convs[min(turn, len(convs) - 1)],
                "head/kernel": heads[min(turn, len(heads) - 1)],
            }
            pruned = post_training.sparsegpt(
                magika_logits, params, batches, sparsity=0.5, sequential=False,
                overrides={path: sparsejax.Override(sparsity=share) for path, share in shares.items()},
            )  # fmt: skip
            for place, bits in enumerate(options.bits):
                wide = embeddings[min(turn * len(options.bits) + place, len(embeddings) - 1)]
                rounded = post_training.gptq(magika_logits, pruned.params, batches, bits, masks=pruned.masks)
                whole = post_training.quantize(
                    rounded.params, quantizable=lambda path, leaf: False,
                    overrides={"embed/embedding": IntegerFormat(wide)},
                )  # fmt: skip
                names = {name: f"{share:.0%} zeros, {bits} bits" for name, share in shares.items()}
                names["embed/embedding"] = f"{wide} bits"
                rest = max(rest, _add_levels(made, names, whole, pruned.masks))
    return {name: _by_bytes(levels) for name, levels in made.items()}, rest


def _add_levels(made: dict[str, list[Level]], names: dict[str, str], params: Params, masks: Any) -> int:
    """Takes the three tensors of one network, with what each takes in its file; returns what the others take."""
    with tempfile.TemporaryDirectory() as folder:
        summary = export.save(f"{folder}/model.safetensors", params, masks, compression="zlib")
    sizes = {tensor.path: tensor.bytes for tensor in summary.tensors}
    for path in SITES:
        outer, inner = path.split("/")
        leaf, mask = params[outer][inner], masks[outer][inner]
        made[path].append(Level(names[path], leaf, mask, sizes[path]))
    return summary.bytes - sum(sizes[path] for path in SITES)


def _by_bytes(levels: Sequence[Level]) -> list[Level]:
    """Each form once, by falling bytes; of two of one size the first."""
    once: dict[int, Level] = {}
    for level in {level.name: level for level in reversed(levels)}.values():
        once[level.bytes] = level
    return [once[size] for size in sorted(once, reverse=True)]


def with_levels(params: Params, levels: dict[str, list[Level]], chosen: Sequence[int]) -> tuple[Params, Any]:
    """The network of a choice, and its masks.

    Args:
      params: the dense network.
      levels: path -> levels.
      chosen: the number of each one's level.

    Returns:
      Parameters and masks.
    """
    made, masks = (
        {name: dict(row) for name, row in params.items()},
        jax.tree.map(lambda _: jnp.asarray(True), params),
    )
    for (path, row), number in zip(levels.items(), chosen, strict=True):
        outer, inner = path.split("/")
        made[outer][inner], masks[outer][inner] = row[number].leaf, row[number].mask
    return made, masks


def every_loss(params: Params, levels: dict[str, list[Level]], tokens: np.ndarray) -> np.ndarray:
    """The divergence of every choice's outputs from the dense network's, for each file.

    ``KL(softmax(dense) ‖ softmax(choice))``. The head reads features that only the other two tensors change, so they
    are computed once for each pair, and all choices cost little more than those pairs.

    Args:
      params: the dense network.
      levels: path -> levels, in the order of `SITES`.
      tokens: of the files.

    Returns:
      float64 (embeddings, convolutions, heads, files), in nats.
    """
    features = jax.jit(magika_features)
    log = lambda x: np.asarray(jax.nn.log_softmax(jnp.asarray(x, jnp.float32)), np.float64)  # noqa: E731
    dense = log(in_batches(jax.jit(magika_logits), params, tokens))
    rows = list(levels.values())
    found = np.empty((*map(len, rows), len(tokens)))
    kernels = [np.asarray(post_training.dequantize(level.leaf)) for level in rows[2]]
    for i, j in itertools.product(*(range(len(row)) for row in rows[:2])):
        network = post_training.dequantize(with_levels(params, levels, (i, j, 0))[0])
        read = in_batches(features, network, tokens)
        for k, kernel in enumerate(kernels):
            outputs = log(read @ kernel + np.asarray(params["head"]["bias"]))
            found[i, j, k] = np.sum(np.exp(dense) * (dense - outputs), -1)
    return found


def problem_of(levels: dict[str, list[Level]], rest: int, losses: np.ndarray) -> searching.Problem:
    """The search problem whose losses are looked up.

    Args:
      levels: path -> levels; a site is a tensor, what goes of it is counted from its largest level.
      rest: bytes of all else.
      losses: from `every_loss`.

    Returns:
      The problem; its cost is ``"bytes"``.
    """
    sites = {
        path: searching.Site(
            tuple(1 - level.bytes / row[0].bytes for level in row), "tensor", {"bytes": float(row[0].bytes)}
        )
        for path, row in levels.items()
    }
    cost = searching.additive_cost([[level.bytes for level in row] for row in levels.values()], rest)
    count = losses.shape[-1]

    def loss(requests: Sequence[searching.Request]) -> list[float]:
        return [float(losses[request.choice][_looked_at(request, count)].mean()) for request in requests]

    return searching.Problem(sites, {"bytes": cost}, loss)


def _looked_at(request: searching.Request, count: int) -> Any:
    if request.share == 1.0:
        return slice(None)
    some = max(1, round(request.share * count))
    return np.random.default_rng(request.seed).permutation(count)[:some]
