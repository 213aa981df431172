"""Programs: logits of a process without our code, any batch, integers inside, bad input."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.errors import FileError, ParamsError, TracingError
from sparsejax.export import export_program
from sparsejax.post_training import dequantize, quantize

KEYS = jax.random.split(jax.random.key(0), 3)
PARAMS = {
    "a": {"kernel": jax.random.normal(KEYS[0], (64, 256))},
    "b": {"kernel": jax.random.normal(KEYS[1], (256, 10))},
}


def fn(params, x):
    return jax.nn.relu(x @ params["a"]["kernel"]) @ params["b"]["kernel"]


def test_it_runs_in_a_process_without_our_code_on_any_batch(tmp_path):
    pytest.importorskip("flatbuffers")
    x = jax.random.normal(KEYS[2], (7, 64))
    quantized = quantize(PARAMS, 8)
    size = export_program(fn, quantized, x[:1], tmp_path / "model")
    assert size == (tmp_path / "model").stat().st_size
    assert size < 2 * (64 * 256 + 256 * 10)  # float32 weights would be twice that
    np.save(tmp_path / "x.npy", x)
    code = f"""
import jax, numpy as np, sys
program = jax.export.deserialize(bytearray(open({str(tmp_path / "model")!r}, "rb").read()))
x = np.load({str(tmp_path / "x.npy")!r})
np.save({str(tmp_path / "y.npy")!r}, np.concatenate([program.call(x[:3]), program.call(x[3:])]))
assert "sparsejax" not in sys.modules
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    extra = os.pathsep.join(p for p in sys.path if "extra" in p)
    done = subprocess.run(
        [sys.executable, "-c", f"import jax.export\n{code}"], cwd=tmp_path, check=True, timeout=120,
        env=environment | {"PYTHONPATH": extra},
    )  # fmt: skip
    assert done.returncode == 0
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), fn(dequantize(quantized), x), rtol=1e-4, atol=1e-4
    )


def test_a_shrunk_function_is_a_smaller_program(tmp_path):
    pytest.importorskip("flatbuffers")
    x = jax.random.normal(KEYS[2], (7, 64))
    found = sparsejax.prune_structured(fn, PARAMS, x, channel_ratio=0.5)
    small_fn, small = sparsejax.shrink(fn, PARAMS, x, found.groups, found.keep)
    size = export_program(small_fn, small, x, tmp_path / "m", symbolic_batch=False)
    assert size < 0.6 * export_program(fn, PARAMS, x, tmp_path / "n")
    program = jax.export.deserialize(bytearray((tmp_path / "m").read_bytes()))
    masked = fn(sparsejax.apply_masks(PARAMS, found.masks), x)
    np.testing.assert_allclose(program.call(x), masked, rtol=1e-4, atol=1e-4)


def test_a_fixed_batch_serves_functions_that_compute_with_it(tmp_path):
    pytest.importorskip("flatbuffers")
    halves = lambda p, x: fn(p, x)[: int(x.shape[0]) // 2]  # noqa: E731
    with pytest.raises(TracingError, match="symbolic_batch=False"):
        export_program(halves, PARAMS, jnp.ones((4, 64)), tmp_path / "m")
    assert not os.listdir(tmp_path)
    export_program(halves, PARAMS, jnp.ones((4, 64)), tmp_path / "m", symbolic_batch=False)
    program = jax.export.deserialize(bytearray((tmp_path / "m").read_bytes()))
    assert program.call(np.ones((4, 64), np.float32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("own", "options", "error", "text"),
    [
        (lambda p, x: fn(p, x + jnp.ones((4, 64))), {}, TracingError, "batch size in Python"),
        (lambda p, x: sum(fn(p, x[i]) for i in range(x.shape[0])), {}, TracingError, "symbolic_batch=False"),
        (lambda p, x: fn(p, x) if x.shape[0] > 3 else x, {}, TracingError, "batch size in Python"),
        (
            lambda p, x: fn(p, x) if x.sum() > 0 else x,
            {},
            TracingError,
            r"does not trace on inputs \(\(4, 64\),\)",
        ),
        (lambda p, x: fn(p, x[:, :63]), {}, TracingError, "does not trace on inputs"),
        (lambda p, x, y: x, {}, TracingError, "does not trace on inputs"),
        ("text", {}, TracingError, "fn is the text 'text'"),
        (fn, {"platforms": "cpu"}, FileError, r"give a tuple, \('cpu',\)"),
        (fn, {"platforms": ("cpu", "gpu")}, FileError, "'gpu'; there are: cpu, cuda, rocm, tpu"),
    ],
)
def test_functions_and_platforms_that_make_no_program_are_refused(tmp_path, own, options, error, text):
    with pytest.raises(error, match=text):
        export_program(own, PARAMS, jnp.ones((4, 64)), tmp_path / "m", **options)
    assert not os.listdir(tmp_path)


def test_one_program_for_several_platforms(tmp_path):
    pytest.importorskip("flatbuffers")
    export_program(fn, PARAMS, jnp.ones((4, 64)), tmp_path / "m", platforms=("cpu", "cuda", "tpu"))
    program = jax.export.deserialize(bytearray((tmp_path / "m").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")


def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch):
    with pytest.raises(FileError, match="folder"):
        export_program(fn, PARAMS, jnp.ones((4, 64)), tmp_path)
    with pytest.raises(ParamsError, match="without numbers"):
        export_program(fn, jax.eval_shape(lambda: PARAMS), jnp.ones((4, 64)), tmp_path / "m")
    with pytest.raises(TracingError, match="without axes"):
        export_program(lambda p, x, t: fn(p, x) * t, PARAMS, (jnp.ones((4, 64)), 2.0), tmp_path / "m")
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    monkeypatch.delitem(sys.modules, "jax._src.export.serialization", raising=False)
    with pytest.raises(FileError, match="flatbuffers"):
        export_program(fn, PARAMS, jnp.ones((4, 64)), tmp_path / "m")
    assert not os.listdir(tmp_path)
