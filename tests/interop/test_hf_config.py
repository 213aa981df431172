"""config.json of smaller models: solved from shapes by hand-made tables, and every cut that it cannot say refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import FileError
from sparsejax.export import safetensors
from sparsejax.interop import hf

LLAMA = {
    "model_type": "mistral",
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "num_hidden_layers": 3,
    "vocab_size": 10,
}


def llama(heads=4, groups=2, inner=12, width=8, layers=(0, 1, 2), vocab=10, dtype="float32"):
    """The tensors of a Llama."""
    shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    for i in layers:
        base = f"model.layers.{i}"
        shapes |= {f"{base}.{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
        shapes |= {f"{base}.mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes |= {f"{base}.mlp.down_proj.weight": (width, inner)}
        shapes |= {f"{base}.self_attn.{name}_proj.weight": (groups * 4, width) for name in ("k", "v")}
        shapes |= {f"{base}.self_attn.q_proj.weight": (heads * 4, width)}
        shapes |= {f"{base}.self_attn.o_proj.weight": (width, heads * 4)}
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(jnp.dtype(dtype)) for name, shape in shapes.items()}


def numbers(params, **config):
    found = hf.smaller_config(params, {**LLAMA, **config})
    return [found[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads",
                                     "num_key_value_heads", "head_dim", "num_hidden_layers", "vocab_size")]  # fmt: skip


def test_numbers_follow_from_shapes():
    assert numbers(llama()) == [8, 12, 4, 2, 4, 3, 10]
    assert numbers(llama(heads=2, groups=1, inner=5, width=6, vocab=9)) == [6, 5, 2, 1, 4, 3, 9]
    assert numbers(llama(layers=(0, 2))) == [8, 12, 4, 2, 4, 2, 10]
    shapes = jax.eval_shape(lambda: llama(heads=3, groups=3))
    assert numbers(shapes) == [8, 12, 3, 3, 4, 3, 10]
    # llama's head_dim is hidden // heads where the file does not say it, and is then written.
    old = {name: value for name, value in LLAMA.items() if name != "head_dim"} | {
        "model_type": "llama", "hidden_size": 16,
    }  # fmt: skip
    assert hf.smaller_config(llama(heads=2, groups=1, width=16), old)["head_dim"] == 4


def cut(name, *shape):
    return {**llama(), name: np.zeros(shape, np.float32)}


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (cut("model.layers.1.mlp.gate_proj.weight", 7, 8), r"layers\.1\.mlp\.gate_proj.*intermediate_size"),
        (cut("model.layers.2.input_layernorm.weight", 7), r"layers\.2\.input_layernorm.*hidden_size"),
        (cut("model.layers.1.self_attn.q_proj.weight", 6, 8), r"6 is no whole number of heads of 4"),
        (cut("model.layers.2.self_attn.k_proj.weight", 4, 8), r"layers\.2\.self_attn\.k_proj.*num_key_value"),
        (llama(heads=3), r"3 query heads .*2 key-value heads"),
        ({**llama(inner=4), "model.extra.weight": np.zeros((8, 8))}, r"model\.extra\.weight.*intermediate_size"),
        (cut("model.norm.weight", 8, 1), r"model\.norm\.weight.*1 axes"),
        (
            {name: w for name, w in llama().items() if "layers.1.mlp" not in name},
            r"Layer 1 of 'layers' has no 'mlp\.down_proj\.weight'",
        ),
    ],
)  # fmt: skip
def test_what_no_config_says_is_refused_with_tensor_and_field(params, said, tmp_path):
    with pytest.raises(FileError, match=said):
        hf.smaller_config(params, LLAMA)
    with pytest.raises(FileError, match=said):
        hf.save_folder(params, LLAMA, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_limits_of_families():
    with pytest.raises(FileError, match="no multiple of num_attention_heads 3"):
        hf.smaller_config(llama(heads=3, groups=3), {**LLAMA, "model_type": "llama"})
    with pytest.raises(FileError, match="model_type 'mamba' has no table"):
        hf.smaller_config(llama(), {**LLAMA, "model_type": "mamba"})
    with pytest.raises(FileError, match="without model_type"):
        hf.smaller_config(llama(), {})
    assert hf.smaller_config({**llama(), "model.extra.weight": np.zeros(3)}, LLAMA)["hidden_size"] == 8


def gpt2(heads=4, width=16, inner=64, layers=2):
    shapes = {"transformer.wte.weight": (10, width), "transformer.wpe.weight": (6, width)}
    for i in range(layers):
        base = f"transformer.h.{i}"
        shapes |= {
            f"{base}.attn.c_attn.weight": (width, 12 * heads),
            f"{base}.attn.c_proj.weight": (4 * heads, width),
        }
        shapes |= {f"{base}.mlp.c_fc.weight": (width, inner), f"{base}.mlp.c_proj.weight": (inner, width)}
    return {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}


def test_gpt2_has_no_field_for_the_features_of_heads():
    config = {
        "model_type": "gpt2",
        "n_embd": 16,
        "n_head": 4,
        "n_layer": 2,
        "n_inner": None,
        "vocab_size": 10,
    }
    assert hf.smaller_config(gpt2(inner=20), config)["n_inner"] == 20
    smaller = hf.smaller_config(gpt2(heads=2, width=8), config)
    assert [smaller[name] for name in ("n_embd", "n_head", "n_inner")] == [8, 2, 64]
    assert "head_dim" not in smaller
    with pytest.raises(FileError, match="n_head 2 of 4 features are not n_embd 16"):
        hf.smaller_config(gpt2(heads=2), config)
    with pytest.raises(FileError, match="scale_attn_by_inverse_layer_idx"):
        hf.smaller_config(gpt2(layers=1), {**config, "scale_attn_by_inverse_layer_idx": True})


def test_phi3_packs_queries_keys_and_values_in_one():
    params = {"model.embed_tokens.weight": np.zeros((10, 8))}
    params |= {"model.layers.0.self_attn.qkv_proj.weight": np.zeros((4 * (6 + 2 * 3), 8))}
    params |= {"model.layers.0.self_attn.o_proj.weight": np.zeros((8, 24))}
    params |= {"model.layers.0.mlp.gate_up_proj.weight": np.zeros((10, 8))}
    found = hf.smaller_config(params, {**LLAMA, "model_type": "phi3"})
    assert [found[name] for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size")] == [
        6,
        3,
        5,
    ]


def test_lists_that_have_an_entry_a_layer_are_cut():
    old = {
        **LLAMA,
        "model_type": "qwen2",
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "max_window_layers": 2,
    }
    found = hf.smaller_config(llama(layers=(0, 2)), old)
    assert found["layer_types"] == ["full_attention", "sliding_attention"]
    assert found["max_window_layers"] == 1
    with pytest.raises(FileError, match="layer_types"):
        hf.smaller_config(llama(layers=(0, 2)), {**LLAMA, "model_type": "gemma2"})


def test_experts_one_by_one():
    old = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}

    def mixture(count, gates):
        params = {name: w for name, w in llama(layers=(0,)).items() if ".mlp." not in name}
        base = "model.layers.0.block_sparse_moe"
        params[f"{base}.gate.weight"] = np.zeros((gates, 8))
        for i in range(count):
            params |= {f"{base}.experts.{i}.{name}.weight": np.zeros((12, 8)) for name in ("w1", "w3")}
            params[f"{base}.experts.{i}.w2.weight"] = np.zeros((8, 12))
        return params

    assert hf.smaller_config(mixture(3, 3), old)["num_local_experts"] == 3
    with pytest.raises(FileError, match=r"has the experts \[0, 1\], and num_local_experts is 3"):
        hf.smaller_config(mixture(2, 3), old)
    with pytest.raises(FileError, match="num_local_experts 1 is less than num_experts_per_tok 2"):
        hf.smaller_config(mixture(1, 1), old)


def test_folders_are_written_and_read_tensor_by_tensor(tmp_path):
    params = llama(dtype="bfloat16", layers=(0, 2))
    written = hf.save_folder(params, LLAMA, tmp_path / "m", max_shard_bytes=600)
    assert json.loads((tmp_path / "m" / "config.json").read_text()) == written
    assert (written["num_hidden_layers"], written["dtype"]) == (2, "bfloat16")
    files = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    source = hf.read_folder(tmp_path / "m")
    assert len(source) == len(params)
    for name, array in params.items():
        stored = name.replace("layers.2.", "layers.1.")
        assert source.shapes[stored] == jax.ShapeDtypeStruct(array.shape, jnp.bfloat16)
        np.testing.assert_array_equal(source[stored], array)
    half = source.map(lambda name, w: w[:5] if name.endswith(("gate_proj.weight", "up_proj.weight")) else (
        w[:, :5] if name.endswith("down_proj.weight") else w))  # fmt: skip
    hf.save_folder(half, source.config, tmp_path / "half")
    again = hf.read_folder(tmp_path / "half")
    assert again.config["intermediate_size"] == 5
    np.testing.assert_array_equal(
        again["model.layers.0.mlp.down_proj.weight"], params["model.layers.0.mlp.down_proj.weight"][:, :5]
    )


def test_only_one_tensor_is_in_memory(tmp_path):
    class Counted(dict):
        alive = 0

        def __getitem__(self, name):
            array = super().__getitem__(name).copy()
            Counted.alive += 1
            weakref_finalize(array)
            assert Counted.alive <= 2  # the one being written, and the next
            return array

    import weakref

    def weakref_finalize(array):
        def gone():
            Counted.alive -= 1

        weakref.finalize(array, gone)

    params = Counted(llama())
    params.shapes = {name: jax.ShapeDtypeStruct(w.shape, w.dtype) for name, w in llama().items()}
    hf.save_folder(params, LLAMA, tmp_path / "m")
    assert Counted.alive <= 1


def test_bad_folders(tmp_path, monkeypatch):
    params = llama()
    hf.save_folder(params, LLAMA, tmp_path / "m")
    with pytest.raises(FileError, match="is there already"):
        hf.save_folder(params, LLAMA, tmp_path / "m")
    bad = {**params, "model.norm.weight": np.full(8, np.nan, np.float32)}
    with pytest.raises(FileError, match=r"model\.norm\.weight.*not finite"):
        hf.save_folder(bad, LLAMA, tmp_path / "n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]
    with pytest.raises(FileError, match=r"config\.json cannot be read"):
        hf.read_folder(tmp_path / "none")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "config.json").write_text("{}")
    with pytest.raises(FileError, match=r"pytorch_model\.bin"):
        hf.read_folder(tmp_path / "bin")
    index = {"weight_map": {"a": "model.safetensors"}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileError, match="'a' is in its index and not in its file"):
        hf.read_folder(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors.index.json").write_text("{")
    with pytest.raises(FileError, match="no JSON"):
        hf.read_folder(tmp_path / "m")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.Writer, "finish", full)
    with pytest.raises(FileError, match="No space left"):
        hf.save_folder(params, LLAMA, tmp_path / "full")
    assert not (tmp_path / "full").exists()
    assert not list(tmp_path.glob(".full*"))
