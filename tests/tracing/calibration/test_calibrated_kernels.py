"""What calibrate does with kernels of unusual form: depthwise ones that are reshaped, experts that are gathered."""

import jax.numpy as jnp
import numpy as np

from sparsejax.tracing import calibrate, linear_ops
from tests.tracing.functions import conv, normal, weights
from tests.tracing.mixtures import MIXTURES


def test_a_depthwise_kernel_reshaped_has_the_statistics_of_each_channel():
    """Keras stores (height, width, channels, multiplier), the convolution takes (height, width, 1, channels)."""
    x, w = normal(2, 5, 5, 6), normal(3, 3, 1, 6)
    plain = calibrate(lambda p, x: conv(x, p["w"], groups=6), {"w": w}, [x], collect=("gram", "mean_abs"))[
        "w"
    ]
    stored = {"w": w.reshape(3, 3, 6, 1)}
    keras = calibrate(
        lambda p, x: conv(x, p["w"].reshape(3, 3, 1, 6), groups=6), stored, [x], collect=("gram", "mean_abs")
    )["w"]
    assert plain.gram.shape == (6, 9, 9)
    np.testing.assert_array_equal(keras.gram, plain.gram)
    np.testing.assert_array_equal(keras.mean_abs, plain.mean_abs)


def test_a_multiplier_shares_the_rows_of_its_channel():
    x, w = normal(2, 5, 5, 3), normal(3, 3, 3, 2)
    found = calibrate(lambda p, x: conv(x, p["w"].reshape(3, 3, 1, 6), groups=3), {"w": w}, [x])["w"]
    alone = calibrate(lambda p, x: conv(x, p["w"], groups=3), {"w": normal(3, 3, 1, 6)}, [x])["w"]
    np.testing.assert_array_equal(found.gram, alone.gram)


def test_gathered_experts_are_linear_ops_and_others_are_calibrated():
    fn, params, inputs = MIXTURES["gathered"]()
    ops = linear_ops(fn, params, inputs)
    assert set(ops) == {"router", "up", "down", "shared_up", "shared_down", "head"}
    assert (ops["up"].roles.stacked, ops["up"].roles.input, ops["up"].roles.output) == ((0,), (1,), (2,))
    assert (ops["down"].roles.stacked, ops["down"].roles.input, ops["down"].roles.output) == (
        (0,),
        (1,),
        (2,),
    )
    assert ops["up"].flops == 2 * 7 * 2 * 6 * 10
    assert set(calibrate(fn, params, [inputs])) == {"router", "shared_up", "shared_down", "head"}


def test_tables_of_tokens_are_no_linear_ops():
    params = weights(table=(9, 6), other=(9, 6), up=(6, 4))

    def fn(p, ids):
        return (p["table"][ids] * p["other"][ids]) @ p["up"] + (p["table"][ids] @ p["other"][ids].T).sum()

    assert set(linear_ops(fn, params, jnp.asarray([1, 3]))) == {"up"}
