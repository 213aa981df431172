"""What is pruned by default: the leaf's own name and kind decide, in whole words, whatever its model is called."""

import jax.numpy as jnp
import optax
import pytest

import sparsejax
from sparsejax.params.default_filter import default_prunable, dense_reason

MATRIX = jnp.ones((4, 4))

KERNELS = [
    # A kernel of Flax is one, whatever module or model it belongs to.
    *(
        f"{module}/kernel"
        for module in ("position_wise_ffn", "upscale_conv", "multiscale_head", "surface_normals")
    ),
    *(f"{module}/kernel" for module in ("composition", "unbiased_head", "autoscaler", "proposition_scorer")),
    "roberta_prelayernorm/encoder/layer/0/attention/self/query/kernel",
    "vit/embeddings/patch_embeddings/projection/kernel",
    "resnet/embedder/embedder/convolution/kernel",
    "embeddings_project/kernel",
    "lora_dense/base_module/kernel",
    # Of other leaves the last telling word counts.
    "position_wise_ffn/weight",
    "token_mixing/w",
    "embed/proj/weight",
    "layers/0/weight",
    "cls/weight",
    "attention/value",
    "scale_net/0/weight",
    "weight_ih",
    "w",
    "0",
    "",
]
TABLES = {
    "embedding": ["Embed_0/embedding", "pos_emb", "token_emb", "word_embeddings/weight", "wte/weight", "wpe"],
    "position table": ["position", "abs_pos", "rel_pos_h", "pe"],
    "token": ["cls", "cls_token", "query_tokens", "embed_tokens/weight", "latents"],
    "codebook": ["codebook", "quantizer/codevectors", "codebook/0"],
    "table": ["relative_position_bias_table"],
    "bias": ["query/bias", "hk/b", "relative_attention_bias/weight", "bias_n", "offset"],
    "scale": ["norm/scale", "layer_scale", "ls_gamma"],
    "norm": ["blocks/norm1/weight", "LayerNorm_0/weight", "ln_1/weight", "norm_weight"],
    "LoRA factor": [
        "lora/lora_a",
        "q_proj/lora_b",
        "lora_A/default/weight",
        "up/lora/down/kernel",
        "lora_up/kernel",
    ],
}


@pytest.mark.parametrize("path", KERNELS)
def test_what_products_consume_is_pruned(path):
    assert dense_reason(path, MATRIX) is None
    assert default_prunable(path, MATRIX)


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, paths in TABLES.items() for path in paths])
def test_tables_tokens_and_factors_stay_dense_and_say_why(kind, path):
    assert dense_reason(path, MATRIX).startswith(f"{kind}, by its")


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        (jnp.ones(4), "fewer than two axes"),
        (jnp.ones((4, 4), jnp.int8), "int8, not floating"),
        (optax.MaskedNode(), "left out by optax"),
    ],
)
def test_what_is_no_matrix_of_floats_stays_dense(leaf, reason):
    assert dense_reason("kernel", leaf) == reason


def test_adapters_of_nnx_stay_dense_over_a_pruned_base():
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.lora_proj = nnx.LoRALinear(16, 16, lora_rank=2, rngs=rngs)
            self.wrapped = nnx.LoRA(16, 2, 8, base_module=nnx.Linear(16, 8, rngs=rngs), rngs=rngs)

    layers = sparsejax.masks.prunable_layers(nnx.state(Model(nnx.Rngs(0)), nnx.Param))
    assert [layer.path for layer in layers] == ["lora_proj/kernel", "wrapped/base_module/kernel"]


def test_with_roles_exactly_what_products_and_convolutions_consume():
    params = {
        "filters": jnp.ones((3, 3, 4, 8)),
        "gate": jnp.ones((4, 8)),
        "lora_a": jnp.ones((8, 2)),
        "readout": jnp.ones((8, 5)),
    }

    def fn(p, x):
        from jax import lax

        h = lax.conv_general_dilated(
            x, p["filters"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        h = h.mean((1, 2)) * p["gate"].sum(0)
        return h @ p["readout"], h @ p["lora_a"]

    ops = sparsejax.linear_ops(fn, params, jnp.ones((2, 5, 5, 4)))
    assert [layer.path for layer in sparsejax.masks.prunable_layers(params, roles=ops)] == [
        "filters",
        "readout",
    ]
