"""Architectures of Hugging Face's transformers, small and random, as JAX functions by torchax."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.zoo.model import Function, Model
from sparsejax.interop.torch import from_torch

_NEEDS = ("torch", "torchax", "transformers")
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_TEXT = {"vocab_size": 50, "max_position_embeddings": 64}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
_MIXTURE = {"num_experts_per_tok": 2, "experts_implementation": "batched_mm"}
_IMAGE = {"image_size": 16, "patch_size": 4, "num_labels": 5}


def _build(
    kind: str, config: str, settings: dict[str, Any], inputs: Callable[[], dict[str, Any]], out: str
) -> Function:
    import torch
    import transformers

    torch.manual_seed(0)
    made = getattr(transformers, config)(**settings)
    made._attn_implementation = "eager"
    with torch.no_grad():
        model = getattr(transformers, kind)(made)
    params, fn = from_torch(model, inputs(), out)
    return fn, params, fn.example


def _tokens(**more: Any) -> dict[str, Any]:
    return {"input_ids": np.random.default_rng(0).integers(3, 40, (2, 8)).astype(np.int32), **more}


def _decoder_tokens() -> dict[str, Any]:
    return _tokens(
        decoder_input_ids=np.random.default_rng(1).integers(3, 40, (2, 6)).astype(np.int32), use_cache=False
    )


def _causal() -> dict[str, Any]:
    # Without a mask transformers looks at the positions, which are traced, for packed sequences.
    return _tokens(attention_mask=np.ones((2, 8), np.int32), use_cache=False)


def _pixels(size: int = 16) -> dict[str, Any]:
    return {"pixel_values": np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)}


def _model(kind: str, config: str, inputs: Callable[[], Any], out: str = "logits", **settings: Any) -> Model:
    make = functools.partial(_build, kind, config, settings, inputs, out)
    return Model(kind, "transformers", _NEEDS, make)


def _decoders() -> list[Model]:
    text = {**_SMALL, **_TEXT}
    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 64}
    return [
        _model("LlamaForCausalLM", "LlamaConfig", _causal, **text, **_GROUPED),
        _model("MistralForCausalLM", "MistralConfig", _causal, **text, **_GROUPED),
        _model("Qwen2ForCausalLM", "Qwen2Config", _causal, **text, num_key_value_heads=2),
        _model("Qwen3ForCausalLM", "Qwen3Config", _causal, **text, **_GROUPED),
        _model("GemmaForCausalLM", "GemmaConfig", _causal, **text, **_GROUPED),
        _model("Gemma2ForCausalLM", "Gemma2Config", _causal, **text, **_GROUPED),
        _model("Phi3ForCausalLM", "Phi3Config", _causal, **text, num_key_value_heads=2, pad_token_id=0),
        _model("OlmoForCausalLM", "OlmoConfig", _causal, **text, num_key_value_heads=2),
        _model("GPTNeoXForCausalLM", "GPTNeoXConfig", _causal, **text),
        _model("GPT2LMHeadModel", "GPT2Config", _causal, **gpt),
        _model("OPTForCausalLM", "OPTConfig", _causal, **_TEXT, hidden_size=32, num_hidden_layers=2,
               num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32),
        _model("BloomForCausalLM", "BloomConfig", _causal, vocab_size=50, hidden_size=32, n_layer=2, n_head=4),
        _model("FalconForCausalLM", "FalconConfig", _causal, vocab_size=50, hidden_size=32, num_hidden_layers=2,
               num_attention_heads=4, alibi=False, max_position_embeddings=64),
        _model("MixtralForCausalLM", "MixtralConfig", _causal, **text, **_GROUPED, **_MIXTURE, num_local_experts=6),
        _model("Qwen2MoeForCausalLM", "Qwen2MoeConfig", _causal, **text, num_key_value_heads=2, **_MIXTURE,
               num_experts=6, moe_intermediate_size=24, shared_expert_intermediate_size=40, decoder_sparse_step=1),
        _model("OlmoeForCausalLM", "OlmoeConfig", _causal, **text, num_key_value_heads=2, **_MIXTURE, num_experts=6),
    ]  # fmt: skip


def _encoders() -> list[Model]:
    text = {**_SMALL, **_TEXT}
    hidden = "last_hidden_state"
    t5 = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    bart = {"vocab_size": 50, "d_model": 32, "max_position_embeddings": 64}
    for side in ("encoder", "decoder"):
        bart |= {f"{side}_layers": 2, f"{side}_attention_heads": 4, f"{side}_ffn_dim": 48}
    distil = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, **_TEXT}
    return [
        _model("BertModel", "BertConfig", _tokens, hidden, **text),
        _model("RobertaForSequenceClassification", "RobertaConfig", _tokens, **text),
        _model("ElectraForSequenceClassification", "ElectraConfig", _tokens, **text, embedding_size=24),
        _model("AlbertForSequenceClassification", "AlbertConfig", _tokens, **text, embedding_size=24),
        _model("DistilBertForSequenceClassification", "DistilBertConfig", _tokens, **distil),
        _model("MPNetForSequenceClassification", "MPNetConfig", _tokens, **text),
        _model("T5ForConditionalGeneration", "T5Config", _decoder_tokens, **t5),
        _model("BartForConditionalGeneration", "BartConfig", _decoder_tokens, **bart),
    ]


def _vision() -> list[Model]:
    stages = {"num_labels": 5, "depths": [1, 1], "hidden_sizes": [16, 24]}
    swin = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "patch_size": 2}
    return [
        _model("ViTForImageClassification", "ViTConfig", _pixels, **_SMALL, **_IMAGE),
        _model("DeiTForImageClassification", "DeiTConfig", _pixels, **_SMALL, **_IMAGE),
        _model("BeitForImageClassification", "BeitConfig", _pixels, **_SMALL, **_IMAGE),
        _model("SwinForImageClassification", "SwinConfig", _pixels, **swin, image_size=16, num_labels=5),
        _model("ResNetForImageClassification", "ResNetConfig", lambda: _pixels(32), **stages, embedding_size=8,
               layer_type="bottleneck"),
        _model("ConvNextForImageClassification", "ConvNextConfig", lambda: _pixels(32), num_labels=5,
               depths=[1, 1], hidden_sizes=[8, 16], num_stages=2),
        _model("RegNetForImageClassification", "RegNetConfig", lambda: _pixels(32), **stages, embedding_size=8,
               groups_width=8),
        _model("MobileNetV2ForImageClassification", "MobileNetV2Config", lambda: _pixels(32), num_labels=5,
               depth_multiplier=0.25, image_size=32),
    ]  # fmt: skip


MODELS: list[Model] = [*_decoders(), *_encoders(), *_vision()]
