"""Mixtures of Hugging Face through torchax: the shrunk function is transformers' own model with fewer experts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.zoo import torch_models
from sparsejax import prunable_groups, shrink
from sparsejax.interop.torch import from_torch, to_torch
from sparsejax.tracing import shrink_tree
from tests.tracing.equality import FAST

pytestmark = pytest.mark.torch
SETTINGS = {
    "MixtralForCausalLM": (
        "MixtralConfig",
        {"num_local_experts": 6, "num_key_value_heads": 2, "head_dim": 8},
    ),
    "Qwen2MoeForCausalLM": (
        "Qwen2MoeConfig",
        {"num_experts": 6, "num_key_value_heads": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 1},
    ),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_fewer_experts_are_the_model_with_fewer_experts(kind):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config, settings = SETTINGS[kind]
    shared = {**torch_models._SMALL, **torch_models._TEXT, **torch_models._MIXTURE, "pad_token_id": 0}

    def build(**changed):
        torch.manual_seed(0)
        made = getattr(transformers, config)(**shared, **{**settings, **changed})
        made._attn_implementation = "eager"
        return getattr(transformers, kind)(made)

    tokens = torch_models._causal()
    dense = build()
    params, fn = from_torch(dense, tokens, "logits")
    inputs = fn.example
    groups = prunable_groups(fn, params, inputs)
    experts = {name: group for name, group in groups.items() if group.kind == "expert"}
    assert len(experts) == 2
    assert all(group.minimum == 2 and group.normalized for group in experts.values())
    keep = {
        name: np.isin(np.arange(6), kept)
        for name, kept in zip(experts, ([0, 2, 3, 5], [1, 2, 4, 5]), strict=True)
    }
    small_fn, small = shrink(fn, params, inputs, groups, keep)
    count = next(name for name in settings if name.endswith("experts"))
    by_hand = build(**{count: 4})
    by_hand.load_state_dict(to_torch(small, small_fn))
    with torch.no_grad():
        arrays = {
            name: torch.from_numpy(value) for name, value in tokens.items() if isinstance(value, np.ndarray)
        }
        expected = by_hand.eval()(**{k: v.long() for k, v in arrays.items()}, use_cache=False).logits.numpy()
    found = jax.jit(functools.partial(small_fn), compiler_options=FAST)(small, *inputs)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    assert jax.tree.map(jnp.shape, shrink_tree(params, groups, keep)) == jax.tree.map(jnp.shape, small)
