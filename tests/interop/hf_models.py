"""Small random models of Hugging Face, and the way they all go: traced, cut, saved, loaded, compared."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from sparsejax import shrink
from sparsejax.interop.torch import from_torch
from sparsejax.tracing import prunable_groups

_TEXT = {"vocab_size": 50, "max_position_embeddings": 64, "hidden_size": 32, "num_hidden_layers": 3}
_FFN = {"intermediate_size": 48, "num_attention_heads": 4}
_GROUPED = {**_TEXT, **_FFN, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
_EXPERTS = {**_GROUPED, "num_experts_per_tok": 2, "experts_implementation": "batched_mm"}
_IMAGE = {"image_size": 16, "patch_size": 4, "num_labels": 5}
_TWO = {"num_hidden_layers": 2}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


class Kind(NamedTuple):
    """A class of transformers, small.

    Attributes:
      model: its name.
      config: of its configuration.
      settings: for that.
      auto: how a user loads it again.
    """

    model: str
    config: str
    settings: dict[str, Any]
    auto: str = "AutoModelForCausalLM"


KINDS = {
    "llama": Kind("LlamaForCausalLM", "LlamaConfig", _GROUPED),
    "mistral": Kind("MistralForCausalLM", "MistralConfig", _GROUPED),
    "qwen2": Kind("Qwen2ForCausalLM", "Qwen2Config", {**_GROUPED, "head_dim": None}),
    "qwen3": Kind("Qwen3ForCausalLM", "Qwen3Config", _GROUPED),
    "gemma": Kind("GemmaForCausalLM", "GemmaConfig", _GROUPED),
    "gemma2": Kind("Gemma2ForCausalLM", "Gemma2Config", _GROUPED),
    "phi3": Kind("Phi3ForCausalLM", "Phi3Config", {**_GROUPED, **_IDS}),
    "gpt2": Kind(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 64, **_IDS},
    ),
    "opt": Kind(
        "OPTForCausalLM",
        "OPTConfig",
        {**_TEXT, **_TWO, "num_attention_heads": 4, "ffn_dim": 48, "word_embed_proj_dim": 32},
    ),
    "bert": Kind(
        "BertForSequenceClassification",
        "BertConfig",
        {**_TEXT, **_FFN, **_TWO},
        "AutoModelForSequenceClassification",
    ),
    "vit": Kind(
        "ViTForImageClassification",
        "ViTConfig",
        {"hidden_size": 32, **_FFN, **_TWO, **_IMAGE},
        "AutoModelForImageClassification",
    ),
    "resnet": Kind(
        "ResNetForImageClassification",
        "ResNetConfig",
        {"num_labels": 5, "depths": [1, 2], "hidden_sizes": [16, 24], "embedding_size": 8},
        "AutoModelForImageClassification",
    ),
    "t5": Kind(
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
        "AutoModelForSeq2SeqLM",
    ),
    "mixtral": Kind("MixtralForCausalLM", "MixtralConfig", {**_EXPERTS, **_TWO, "num_local_experts": 6}),
    "qwen2_moe": Kind(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {
            **_EXPERTS,
            "head_dim": None,
            **_TWO,
            "num_experts": 6,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
        },
    ),
    "qwen3_moe": Kind(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**_EXPERTS, **_TWO, "num_experts": 6, "moe_intermediate_size": 24},
    ),
}


class Traced(NamedTuple):
    """A model and what the tracer sees of it."""

    kind: Kind
    model: Any
    params: Any
    fn: Any
    groups: Any


def inputs(name: str) -> dict[str, Any]:
    """What the model is called with."""
    rng = np.random.default_rng(0)
    if name in ("vit", "resnet"):
        size = 16 if name == "vit" else 32
        return {"pixel_values": rng.normal(size=(2, 3, size, size)).astype(np.float32)}
    ids = rng.integers(3, 40, (2, 8)).astype(np.int32)
    if name == "t5":
        return {"input_ids": ids, "decoder_input_ids": ids[:, :6], "use_cache": False}
    mask = {"attention_mask": np.ones((2, 8), np.int32)}
    return {"input_ids": ids, **mask, **({} if name == "bert" else {"use_cache": False})}


def build(name: str, **changed: Any) -> Any:
    """The model, in evaluation; its weights are larger than at initialisation, so that nothing is hidden."""
    torch = pytest.importorskip("torch", reason="the extra torch")
    transformers = pytest.importorskip("transformers", reason="the extra torch")
    torch.manual_seed(0)
    settings = {**KINDS[name].settings, **changed}
    config = getattr(transformers, KINDS[name].config)(**{k: v for k, v in settings.items() if v is not None})
    config._attn_implementation = "eager"
    model = getattr(transformers, KINDS[name].model)(config).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.2 * (torch.rand_like(tensor) - 0.5))
    return model


def traced(name: str, **changed: Any) -> Traced:
    """Read by `from_torch`, with its groups."""
    model = build(name, **changed)
    params, fn = from_torch(model, inputs(name), "logits")
    return Traced(KINDS[name], model, params, fn, prunable_groups(fn, params, fn.example))


def cut(of: Traced, kept: dict[str, float], seed: int = 0) -> tuple[Any, Any]:
    """The small function and parameters with a share of each group of these kinds kept, chosen at random."""
    rng = np.random.default_rng(seed)
    keep = {}
    for name, group in of.groups.items():
        share = next((s for part, s in kept.items() if part == group.kind or part in name), None)
        if share is not None:
            chosen = rng.permutation(group.size)[: round(share * group.size)]
            keep[name] = np.isin(np.arange(group.size), chosen)
    return shrink(of.fn, of.params, of.fn.example, of.groups, keep)


def loaded_logits(name: str, path: Any) -> np.ndarray:
    """What transformers makes of a folder; anything missing or left over is an error."""
    import torch
    import transformers

    auto = getattr(transformers, KINDS[name].auto)
    model, report = auto.from_pretrained(path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    given = {key: torch.tensor(x) if isinstance(x, np.ndarray) else x for key, x in inputs(name).items()}
    with torch.no_grad():
        given = {
            key: x.long() if hasattr(x, "long") and x.dtype == torch.int32 else x for key, x in given.items()
        }
        return model.eval()(**given).logits.float().numpy()


def assert_same(found: np.ndarray, expected: Any) -> None:
    """Equal to float rounding, relative to the largest."""
    expected = np.asarray(jax.device_get(expected), np.float64)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
