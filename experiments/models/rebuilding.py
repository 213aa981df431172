"""`rebuild` for the models here: the sizes that they remember beside their arrays."""

from typing import Any

from flax import nnx

from experiments.models.encoder import Encoder
from experiments.models.gpt import GPT
from experiments.models.transformer import Attention
from experiments.models.vit import ViT
from sparsejax.interop import flax
from sparsejax.interop.rebuilding import Fit, Shapes, refuse, scale_queries
from sparsejax.params.paths import flatten_with_paths
from sparsejax.typing import Params


def rebuild(model: nnx.Module, params: Params, batch_stats: Params | None = None) -> nnx.Module:
    """Builds an ordinary smaller module of any model here; see `sparsejax.interop.flax.rebuild`."""
    return flax.rebuild(model, params, batch_stats, fits=FITS)


def _attention(module: Any, name: str, old: Shapes) -> None:
    scale_queries(module, name, old)
    module.kv_heads = module.key.kernel.shape[-2]


def _stack(module: Any, name: str, old: Shapes) -> None:
    """Blocks that a scan runs over may be fewer, but all their parameters must be."""
    del old
    if hasattr(module, "blocks"):
        counts = {leaf.shape[0] for leaf in flatten_with_paths(nnx.to_pure_dict(nnx.state(module.blocks)))[1]}
        if len(counts) > 1:
            refuse(
                f"{name}/blocks" if name else "blocks",
                f"not the same number of layers everywhere: {sorted(counts)}",
            )
        module.depth = counts.pop()


def _vit(module: Any, name: str, old: Shapes) -> None:
    _stack(module, name, old)
    width = module.patch_embedding.kernel.shape[-1]
    if not module.learned and width != module.width:
        refuse(name or "ViT", "sine positions over a pruned residual width")
    module.width = width


FITS: dict[type, Fit] = {Attention: _attention, Encoder: _stack, GPT: _stack, ViT: _vit}
