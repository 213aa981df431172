"""Quantized tensors whose parts do not belong together: refused by name, wherever they would be stored."""

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import export
from sparsejax.errors import QuantizationError
from sparsejax.parametrizations.check_quantized import check_quantized
from sparsejax.post_training import QuantizedTensor

PARTS = {"values": (2, 8), "scale": (2, 1), "zero_point": None, "bits": 4, "dtype": "float32"}


def tensor(**changes):
    parts = PARTS | changes
    values, scale, zero_point = (parts.pop(name) for name in ("values", "scale", "zero_point"))
    filled = lambda part, dtype: jnp.ones(part, dtype) if isinstance(part, tuple) else part  # noqa: E731
    return QuantizedTensor(
        filled(values, jnp.int8), filled(scale, jnp.float32), filled(zero_point, jnp.int8), **parts
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"bits": 1}, "bits=1"),
        ({"bits": 9}, "bits=9"),
        ({"bits": 16}, "bits=16"),
        ({"bits": 4.0}, r"bits=4\.0"),
        ({"bits": True}, "bits=True"),
        ({"scale": (2, 3)}, r"\(2, 8\) has scales \(2, 3\)"),
        ({"scale": (2,)}, r"has scales \(2,\)"),
        ({"scale": (2, 0)}, r"has scales \(2, 0\)"),
        ({"scale": (2, 16)}, r"has scales \(2, 16\)"),
        ({"zero_point": (1, 2)}, r"zero points \(1, 2\) and scales \(2, 1\)"),
        ({"values": jnp.full((2, 8), 8, jnp.int8)}, r"integers outside \[-8, 7\] of 4 bits"),
        ({"values": jnp.full((2, 8), 300, jnp.int16), "bits": 8}, r"integers outside \[-128, 127\]"),
        ({"values": jnp.full((2, 8), 1.5)}, "integers of float32"),
        ({"zero_point": jnp.full((2, 1), -9, jnp.int8)}, r"zero points outside \[-8, 7\]"),
        ({"scale": jnp.zeros((2, 1))}, "is zero, negative or not finite"),
        ({"scale": jnp.full((2, 1), -1.0)}, "is zero, negative or not finite"),
        ({"scale": jnp.full((2, 1), jnp.inf)}, "is zero, negative or not finite"),
        ({"scale": jnp.full((2, 1), jnp.nan)}, "is zero, negative or not finite"),
        ({"dtype": "int32"}, "'int32'; give a floating dtype"),
        ({"dtype": "float99"}, "'float99'; give a floating dtype"),
        (
            {"dtype": "float16", "scale": jnp.full((2, 1), 2.0**15), "values": jnp.full((2, 8), 3, jnp.int8)},
            "weights that float16 does not hold",
        ),
    ],
)
def test_parts_that_do_not_belong_together_are_refused_and_no_file_is_left(tmp_path, changes, text):
    with pytest.raises(QuantizationError, match=f"'m.weight'.*{text}"):
        check_quantized("m.weight", tensor(**changes))
    with pytest.raises(QuantizationError, match=text):
        export.save(tmp_path / "f", {"m.weight": tensor(**changes)})
    with pytest.raises(QuantizationError, match=text):
        export.save_compressed_tensors(tmp_path / "m", {"m.weight": tensor(**changes)}, {})
    assert not list(tmp_path.iterdir())


def test_whatever_fits_passes():
    for changes in (
        {},
        {"bits": np.int64(4)},
        {"scale": (1, 4), "zero_point": (1, 4)},
        {"values": (0, 8), "scale": (1, 1)},
        {"values": (0, 8), "scale": (0, 1)},
        {"dtype": "bfloat16", "scale": jnp.full((2, 1), 2.0**100)},
        {"dtype": "float16", "scale": jnp.full((2, 1), 2.0**15)},  # all integers are 1
    ):
        check_quantized("w", tensor(**changes))
