"""Folders that transformers loads to equal logits: traced, cut, saved, loaded; layers, experts, masks, integers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.errors import FileError, QuantizationError
from sparsejax.interop import hf
from sparsejax.interop.torch import from_torch, to_torch
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.post_training import quantize
from sparsejax.tracing import shrink_tree
from tests.interop.hf_models import KINDS, assert_same, build, cut, inputs, loaded_logits, traced

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]
_ATTENTION = {"neuron": 0.5, "head": 0.5}
_ALL = {**_ATTENTION, "residual": 0.5}
_MIXED = {**_ALL, "expert": 0.5}

# What each family is cut by; `head_dim` where it has a field for it. The first seven are enough for every kind of rule.
CUTS = {
    "llama": [_ATTENTION, _ALL],
    "gpt2": [{"neuron": 0.5}, {**_ALL, "head_dim": 0.5, "head": 1.0}],
    "bert": [{"intermediate": 0.5}, _ALL],
    "vit": [{**_ALL, "head_dim": 0.5}],
    "resnet": [{"channel": 0.5, "residual": 0.5}],
    "t5": [{**_ALL, "head_dim": 0.5}],
    "mixtral": [_MIXED],
    "qwen2_moe": [_MIXED],
}
MORE = {name: [_ALL] for name in ("mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "opt")} | {
    "qwen3_moe": [_MIXED]
}


def check(name, kept, path):
    of = traced(name)
    fn, small = cut(of, kept)
    before = of.model.config.to_dict()
    config = hf.save_folder(small, of.model.config, path, fn=fn)
    assert of.model.config.to_dict() == before
    assert config != before
    assert_same(loaded_logits(name, path), jax.jit(fn)(small, *of.fn.example))


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_model_is_saved_and_loaded(name, tmp_path):
    for number, kept in enumerate(CUTS[name]):
        check(name, kept, tmp_path / str(number))


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_more_families(name, tmp_path):
    for number, kept in enumerate(MORE[name]):
        check(name, kept, tmp_path / str(number))


@pytest.fixture(scope="module")
def llama():
    return traced("llama")


def test_what_cannot_be_a_checkpoint_is_refused_before_work_is_lost(llama, tmp_path):
    config = llama.model.config
    for kept, said in (
        ({"head_dim": 0.5}, "rotary positions"),
        ({"layers.1.mlp": 0.5}, r"layers\.1\.mlp\.\w+\.weight.*intermediate_size"),
    ):
        fn, small = cut(llama, kept)
        with pytest.raises(FileError, match=said):
            hf.save_folder(small, config, tmp_path / "m", fn=fn)
        # Shapes are enough to ask, before anything was trained.
        shapes = shrink_tree(jax.eval_shape(lambda: llama.params), fn.groups, fn.keep)
        with pytest.raises(FileError, match=said):
            hf.smaller_config(shapes, config, fn)
    assert not list(tmp_path.iterdir())


def test_a_budget_and_masks_to_a_folder(llama, tmp_path):
    found = sparsejax.prune_structured(llama.fn, llama.params, llama.fn.example, channel_ratio=0.5)
    fn, small = sparsejax.shrink(llama.fn, llama.params, llama.fn.example, found.groups, found.keep)
    masked, masks = sparsejax.prune_params(small, sparsity=0.5, roles=(fn, *llama.fn.example))
    assert float(sparsejax.masks.sparsity(masks, masked)) == pytest.approx(0.5, abs=0.01)
    hf.save_folder(masked, llama.model.config, tmp_path / "m", fn=fn)
    assert_same(loaded_logits("llama", tmp_path / "m"), fn(masked, *llama.fn.example))
    stored = hf.read_folder(tmp_path / "m")["model.layers.0.mlp.up_proj.weight"]
    assert (stored == 0).mean() == pytest.approx(0.5, abs=0.01)


def test_layers_are_counted_out(llama, tmp_path):
    import torch

    left = {name: w for name, w in llama.params.items() if ".layers.1." not in name}
    hf.save_folder(left, llama.model.config, tmp_path / "m")
    model = build("llama")
    del model.model.layers[1]
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = number
    model.config.num_hidden_layers = 2
    given = {key: torch.tensor(x) for key, x in inputs("llama").items() if key != "use_cache"}
    with torch.no_grad():
        expected = model(**{key: x.long() for key, x in given.items()}, use_cache=False).logits.numpy()
    assert_same(loaded_logits("llama", tmp_path / "m"), expected)


def test_a_folder_is_cut_without_ever_being_whole(llama, tmp_path):
    llama.model.save_pretrained(tmp_path / "whole", max_shard_size="20KB")
    source = hf.read_folder(tmp_path / "whole")
    assert len(list((tmp_path / "whole").glob("*.safetensors"))) > 1
    assert set(source) == set(llama.params)
    fn, small = cut(llama, _ATTENTION)
    lazily = source.map(lambda name, w: shrink_tree({name: w}, fn.groups, fn.keep)[name])
    hf.save_folder(lazily, source.config, tmp_path / "small", fn=fn)
    assert_same(loaded_logits("llama", tmp_path / "small"), fn(small, *llama.fn.example))


def test_any_model_that_was_not_cut_is_saved(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra torch")
    config = transformers.GPTNeoXConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=50
    )
    config._attn_implementation = "eager"
    model = transformers.GPTNeoXForCausalLM(config).eval()
    params, fn = from_torch(model, inputs("llama"), "logits")
    pruned, _ = sparsejax.prune_params(params, sparsity=0.5, roles=(fn, *fn.example))
    hf.save_folder(pruned, config, tmp_path / "m", fn=fn)
    assert_same(loaded_logits("llama", tmp_path / "m"), fn(pruned, *fn.example))


def test_the_smaller_class_takes_the_state_dict(llama):
    fn, small = cut(llama, _ATTENTION)
    config = {**llama.model.config.to_dict(), **hf.smaller_config(small, llama.model.config, fn)}
    by_hand = type(llama.model)(type(llama.model.config)(**config))
    by_hand.load_state_dict(to_torch(small, fn))


def linear(params):
    """The weights that compressed-tensors quantizes in these models."""
    return [name for name, w in params.items() if w.ndim == 2 and "_proj." in name]


def token_by_token(params, small_config):
    """The model of these weights with the inputs of its quantized layers on int8 grids of their own, by hand."""
    import torch
    import transformers

    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**small_config)).eval()
    model.load_state_dict(to_torch(params))

    def on_a_grid(_, arguments):
        (x,) = arguments
        scale = x.abs().amax(-1, keepdim=True) / 127.5
        return (torch.clamp(torch.round(x / scale), -128, 127) * scale,)

    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(on_a_grid)
    given = {key: torch.tensor(x).long() for key, x in inputs("llama").items() if key != "use_cache"}
    with torch.no_grad():
        return model(**given, use_cache=False).logits.numpy()


@pytest.mark.parametrize(
    ("format", "bits", "granularity", "ignore"),
    [
        ("pack-quantized", 4, 8, None),
        ("pack-quantized", 8, "channel", ["lm_head"]),
        ("int-quantized", 8, "channel", ["lm_head"]),
    ],
)
def test_a_quantized_folder(llama, tmp_path, format, bits, granularity, ignore):
    pytest.importorskip("compressed_tensors", reason="pip install compressed-tensors")
    fn, small = cut(llama, _ATTENTION)
    roles = {name: AxisRoles(input=(1,), output=(0,)) for name in linear(small)}
    whole = quantize({name: small[name] for name in roles}, bits, granularity, axes=roles)
    params = {**small, **whole}
    config = hf.save_folder(params, llama.model.config, tmp_path / "m", fn=fn, format=format, ignore=ignore)
    assert config["quantization_config"]["format"] == format
    assert json.loads((tmp_path / "m" / "config.json").read_text()) == config
    found = loaded_logits("llama", tmp_path / "m")
    effective = {**small, **{name: leaf.dequantize() for name, leaf in whole.items()}}
    if format == "pack-quantized":
        assert_same(found, fn(effective, *llama.fn.example))
    else:  # its loaders quantize the inputs of those layers too, a scale a token
        assert_same(found, token_by_token(effective, hf.smaller_config(small, llama.model.config, fn)))
        assert np.abs(found - np.asarray(fn(effective, *llama.fn.example))).max() > 1e-3


def test_quantized_weights_are_not_scaled(tmp_path):
    of = traced("vit")
    fn, small = cut(of, {"head_dim": 0.5})
    name = "vit.layers.0.attention.q_proj.weight"
    leaf = quantize({"w": jnp.asarray(small[name])}, 8, axes={"w": AxisRoles(input=(1,), output=(0,))})["w"]
    with pytest.raises(QuantizationError, match="quantize after loading"):
        hf.save_folder({**small, name: leaf}, of.model.config, tmp_path / "m", fn=fn)
    assert not list(tmp_path.iterdir())


def test_every_kind_is_tested():
    assert set(KINDS) == set(CUTS) | set(MORE)
