"""Mixtures of Hugging Face through torchax: the shrunk function is transformers' own model with fewer experts."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.zoo import torch_models
from sparsejax import prunable_groups, shrink
from sparsejax.tracing import shrink_tree
from tests.tracing.equality import FAST

pytestmark = pytest.mark.oracle
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
    if importlib.util.find_spec("torchax") is None:  # importing it needs lenient_operators
        pytest.skip("pip install torch torchax transformers")
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
    fn, params, inputs = torch_models.converted(dense, tokens, lambda out: out["logits"])
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
    state = {name: torch.from_numpy(np.array(value)) for name, value in small.items()}
    missing, unexpected = by_hand.load_state_dict(state, strict=False)
    assert not unexpected
    assert not set(missing) & set(params)
    with torch.no_grad():
        arrays = {
            name: torch.from_numpy(value) for name, value in tokens.items() if isinstance(value, np.ndarray)
        }
        expected = by_hand.eval()(**{k: v.long() for k, v in arrays.items()}, use_cache=False).logits.numpy()
    found = jax.jit(functools.partial(small_fn), compiler_options=FAST)(small, *inputs)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    assert jax.tree.map(jnp.shape, shrink_tree(params, groups, keep)) == jax.tree.map(jnp.shape, small)
