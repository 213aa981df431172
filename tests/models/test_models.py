"""Parameter counts are the published ones; a module and its functional form compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsejax.errors import ConfigError
from sparsejax.models import MLP, LeNet, build_model, functional
from sparsejax.tree import flatten


def _count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_lenet_300_100_has_266610_parameters():
    _, params = functional(MLP(inputs=784, classes=10, rngs=nnx.Rngs(0)))
    assert _count(params) == 266_610
    assert flatten(params)[0] == [f"dense_{i}/{leaf}" for i in range(3) for leaf in ("bias", "kernel")]
    assert params["dense_0"]["kernel"].shape == (784, 300)


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ({"image_shape": (8, 8)}, 31_294),
        (
            {
                "image_shape": (28, 28, 1),
                "channels": (20, 50),
                "widths": (500,),
                "kernel": 5,
                "padding": "VALID",
            },
            431_080,
        ),
    ],
)
def test_lenet_sizes(sizes, count):
    apply_fn, params = functional(LeNet(classes=10, rngs=nnx.Rngs(0), **sizes))
    assert _count(params) == count
    assert list(params)[:3] == ["conv_0", "conv_1", "dense_0"]
    assert apply_fn(params, jnp.ones((3, *sizes["image_shape"]))).shape == (3, 10)


@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_functional_computes_what_the_module_does(name):
    model = build_model({"name": name, "widths": (7, 5)}, image_shape=(8, 8), classes=4, rngs=nnx.Rngs(1))
    apply_fn, params = functional(model)
    x = jax.random.normal(jax.random.key(0), (6, 8, 8))
    np.testing.assert_array_equal(apply_fn(params, x), model(x))
    halved = jax.tree.map(lambda leaf: leaf / 2, params)
    assert not np.allclose(jax.jit(apply_fn)(halved, x), model(x))


def test_the_mlp_against_numpy():
    apply_fn, params = functional(MLP(inputs=4, classes=2, widths=(3,), rngs=nnx.Rngs(0)))
    x = np.asarray(jax.random.normal(jax.random.key(0), (5, 2, 2)))
    first, last = (jax.tree.map(np.asarray, params[f"dense_{i}"]) for i in range(2))
    hidden = np.maximum(x.reshape(5, 4) @ first["kernel"] + first["bias"], 0)
    np.testing.assert_allclose(
        apply_fn(params, x), hidden @ last["kernel"] + last["bias"], rtol=1e-5, atol=1e-6
    )


def test_grey_images_need_no_channel_axis():
    model = LeNet(image_shape=(8, 8, 1), classes=3, rngs=nnx.Rngs(0))
    x = jnp.linspace(0, 1, 64).reshape(1, 8, 8)
    np.testing.assert_array_equal(model(x), model(x[..., None]))


def test_an_image_too_small():
    with pytest.raises(ConfigError, match="used up after 1 of 2"):
        LeNet(image_shape=(4, 4), classes=10, kernel=5, padding="VALID", rngs=nnx.Rngs(0))


def test_an_unknown_model():
    with pytest.raises(ConfigError, match="'resnet'"):
        build_model({"name": "resnet"}, image_shape=(8, 8), classes=10, rngs=nnx.Rngs(0))
