"""compressed-tensors: the format's vectors byte for byte; identical weights and equal logits in others' packages."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import FileError, QuantizationError
from sparsejax.export import compressed_tensors, save_compressed_tensors
from sparsejax.export.checkpoints import pack_rows
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.post_training import QuantizedTensor, quantize

ROLES = AxisRoles(input=(1,), output=(0,))


def words(array):
    return [[f"{word & 0xFFFFFFFF:08x}" for word in row] for row in array.tolist()]


def quantized(shape=(12, 64), bits=4, granularity=32, symmetric=True, dtype="float32", seed=0):
    w = np.random.default_rng(seed).normal(0.1, 1.0, shape).astype(jnp.dtype(dtype))
    return quantize({"w": jnp.asarray(w)}, bits, granularity, symmetric=symmetric, axes={"w": ROLES})["w"]


def test_packing_is_that_of_the_format():
    assert words(pack_rows(np.arange(-8, 8, dtype=np.int8)[None], 4)) == [["76543210", "fedcba98"]]
    assert words(pack_rows(np.array([[1, 2, -3, 4, 7]], np.int8), 4)) == [["000fc5a9"]]
    assert words(pack_rows(np.array([[-128, -1, 0, 127, 5]], np.int8), 8)) == [["ff807f00", "00000085"]]
    assert pack_rows(np.arange(-8, 8, dtype=np.int8)[None], 4).tobytes().hex() == "1032547698badcfe"


def test_zero_points_are_packed_along_the_outputs():
    zero_point = jnp.array([[1, -8], [2, 7], [0, 3]], jnp.int8)
    leaf = QuantizedTensor(jnp.zeros((3, 8), jnp.int8), jnp.ones((3, 2)), zero_point, 4, "float32")
    arrays, config = compressed_tensors({"m.weight": leaf})
    assert words(arrays["m.weight_zero_point"]) == [["000008a9", "00000bf0"]]
    assert arrays["m.weight_shape"].tolist() == [3, 8]
    weights = config["config_groups"]["group_0"]["weights"]
    assert (weights["symmetric"], weights["strategy"], weights["group_size"]) == (False, "group", 4)


def test_each_scheme_is_a_group_and_the_rest_passes():
    tree = {
        "a.weight": quantized(),
        "b.weight": quantized(bits=8, granularity="channel"),
        "c.weight": np.ones(3),
    }
    arrays, config = compressed_tensors(tree)
    assert [g["targets"] for g in config["config_groups"].values()] == [["a"], ["b"]]
    assert arrays["c.weight"] is tree["c.weight"]
    _, config = compressed_tensors({"a.weight": quantized()}, ignore=["lm_head"])
    assert config["ignore"] == ["lm_head"]
    assert config["config_groups"]["group_0"]["targets"] == ["Linear"]
    with pytest.raises(QuantizationError, match="2 schemes"):
        compressed_tensors(tree, ignore=["lm_head"])


def test_what_loaders_would_not_read_is_refused():
    with pytest.raises(FileError, match="freshly initialised"):
        compressed_tensors({"a.weight": quantized()}, format="sparse-bitmask")
    with pytest.raises(FileError, match="there are: pack-quantized"):
        compressed_tensors({"a.weight": quantized()}, format="gguf")
    with pytest.raises(FileError, match=r"M\.weight"):
        compressed_tensors({"a.kernel": quantized()})
    with pytest.raises(QuantizationError, match="3 bits"):
        compressed_tensors({"a.weight": quantized(bits=3)})
    with pytest.raises(QuantizationError, match="int-quantized 8 bits"):
        compressed_tensors({"a.weight": quantized(bits=4)}, format="int-quantized")
    with pytest.raises(QuantizationError, match="first axis"):
        compressed_tensors({"a.weight": quantize({"w": jnp.ones((64, 12))}, 4)["w"]})
    with pytest.raises(QuantizationError, match="matrices"):
        compressed_tensors({"a.weight": quantize({"w": jnp.ones((2, 64, 12))}, 4)["w"]})
    with pytest.raises(QuantizationError, match="No weight is quantized"):
        compressed_tensors({"a.weight": np.ones(3)})
    zero = QuantizedTensor(jnp.zeros((2, 2), jnp.int8), jnp.zeros((2, 1)), None, 4, "float32")
    with pytest.raises(QuantizationError, match="zero"):
        compressed_tensors({"a.weight": zero})


def test_a_folder_is_written_whole(tmp_path):
    size = save_compressed_tensors(tmp_path / "m", {"a.weight": quantized()}, {"model_type": "llama"})
    assert (tmp_path / "m" / "model.safetensors").stat().st_size == size
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["quantization_config"]["format"] == "pack-quantized"
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="is a file"):
        save_compressed_tensors(tmp_path / "file", {"a.weight": quantized()}, {})
    with pytest.raises(FileError, match="not finite"):
        save_compressed_tensors(tmp_path / "n", {"a.weight": quantized(), "b": np.array([np.nan])}, {})
    assert not (tmp_path / "n" / "model.safetensors").exists()
    with pytest.raises(FileError, match=r"config does not go into config\.json: .*float32"):
        save_compressed_tensors(tmp_path / "j", {"a.weight": quantized()}, {"scale": np.float32(1)})
    assert not (tmp_path / "j").exists()


def as_torch(array):
    torch = pytest.importorskip("torch")
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


@pytest.mark.oracle
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("bits", "granularity"), [(4, 32), (4, "channel"), (8, "channel"), (8, 16), (4, "tensor")]
)
def test_the_published_package_reads_identical_weights(bits, granularity, dtype, symmetric):
    torch = pytest.importorskip("torch")
    compressors = pytest.importorskip("compressed_tensors.compressors")
    from compressed_tensors.quantization import QuantizationScheme

    leaf = quantized((12, 96), bits, granularity, symmetric, dtype)
    arrays, config = compressed_tensors({"m.weight": leaf})
    state = {name.removeprefix("m."): as_torch(array) for name, array in arrays.items()}
    scheme = QuantizationScheme(**config["config_groups"]["group_0"])
    found = compressors.PackedQuantizationCompressor.decompress(state, scheme)["weight"]
    expected = np.asarray(leaf.dequantize().astype(jnp.float32))
    np.testing.assert_array_equal(found.to(torch.float32).numpy(), expected)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("format", "bits", "granularity"),
    [("pack-quantized", 4, 32), ("pack-quantized", 8, "channel"), ("int-quantized", 8, "channel")],
)
def test_transformers_loads_the_folder_to_equal_logits(tmp_path, format, bits, granularity):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=96, head_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    arrays = {name: array.numpy() for name, array in model.state_dict().items()}
    chosen = {name: ROLES for name in arrays if "_proj" in name}
    tree = quantize(
        {name: jnp.asarray(a) for name, a in arrays.items()}, bits, granularity, axes=chosen,
        quantizable=lambda path, leaf: path in chosen,
    )  # fmt: skip
    facts = json.loads(config.to_json_string(use_diff=False)) | {"architectures": ["LlamaForCausalLM"]}
    save_compressed_tensors(tmp_path, tree, facts, format=format)
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    model.load_state_dict(
        {
            name: torch.from_numpy(np.array(x.dequantize() if name in chosen else x))
            for name, x in tree.items()
        }
    )
    tokens = torch.arange(20)[None] % 96
    with torch.no_grad():
        expected, found = model(tokens).logits, loaded.eval()(tokens).logits
    off = float((expected - found).abs().max())
    # int-quantized loaders quantize activations too: 8 bits a token.
    assert off <= (1e-5 if format == "pack-quantized" else 0.05 * float(expected.abs().max()))
