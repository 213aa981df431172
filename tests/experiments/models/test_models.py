"""Parameter counts are the published ones; a module and its functional form compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.errors import ConfigError
from experiments.models.build import build_model
from experiments.models.lenet import LeNet
from experiments.models.mlp import MLP
from sparsejax.interop.flax import functional, stateful
from sparsejax.params.paths import flatten_with_paths
from tests.experiments.models.zoo import abstract


def _count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_lenet_300_100_has_266610_parameters():
    _, params = functional(nnx.eval_shape(lambda: MLP(inputs=784, classes=10, rngs=nnx.Rngs(0))))
    assert _count(params) == 266_610
    assert flatten_with_paths(params)[0] == [
        f"dense_{i}/{leaf}" for i in range(3) for leaf in ("bias", "kernel")
    ]
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
    apply_fn, params = functional(nnx.eval_shape(lambda: LeNet(classes=10, rngs=nnx.Rngs(0), **sizes)))
    assert _count(params) == count
    assert list(params)[:3] == ["conv_0", "conv_1", "dense_0"]
    images = jax.ShapeDtypeStruct((3, *sizes["image_shape"]), jnp.float32)
    assert jax.eval_shape(apply_fn, params, images).shape == (3, 10)


@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_functional_computes_what_the_module_does(name):
    model = build_model({"name": name, "widths": (7, 5)}, input_shape=(8, 8), classes=4, rngs=nnx.Rngs(1))
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


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("digits_resnet", 77_754),
        ("resnet20", 272_474),  # He et al., arXiv:1512.03385, table 6: 0.27 M
        ("resnet50", 25_557_032),  # torchvision's count: 25.557 M
        ("vit_s16", 22_050_664),  # Touvron et al., arXiv:2012.12877, table 1: 22 M; timm's count
        ("vit_s16_gap", 22_049_896),
        ("vit_s16_sincos", 21_974_632),
        ("gpt2", 124_439_808),  # the released small GPT-2 ("117M" in the paper, 124M in its repository)
        ("tiny_llama", 1_100_048_384),  # Zhang et al., arXiv:2401.02385: 1.1 B
    ],
)
def test_published_parameter_counts(name, count):
    assert _count(abstract(name).params) == count


_TINY = {"width": 8, "depth": 1, "heads": 2, "mlp_dim": 8}


@pytest.mark.parametrize(
    ("sizes", "input_shape", "shape"),
    [
        ({"name": "resnet", "stages": (1,), "width": 4}, (8, 8), (2, 5)),
        ({"name": "vit", "patch": 4, **_TINY}, (8, 8, 3), (2, 5)),
        ({"name": "gpt", **_TINY, "kv_heads": 0}, (6,), (2, 6, 5)),
        ({"name": "encoder", **_TINY}, (6,), (2, 5)),
    ],
)
def test_models_from_a_name_and_sizes(sizes, input_shape, shape):
    model = nnx.eval_shape(lambda: build_model(sizes, input_shape=input_shape, classes=5, rngs=nnx.Rngs(0)))
    made = stateful(model)
    inputs = jax.ShapeDtypeStruct((2, *input_shape), jnp.int32 if len(input_shape) == 1 else jnp.float32)
    logits, _ = jax.eval_shape(
        lambda p, s, x: made.apply(p, s, x, train=False), made.params, made.batch_stats, inputs
    )
    assert logits.shape == shape


def test_the_data_gives_vocabulary_and_context():
    sizes = {"name": "gpt", **_TINY, "kv_heads": 1}
    gpt = nnx.eval_shape(lambda: build_model(sizes, input_shape=(6,), classes=5, rngs=nnx.Rngs(0)))
    assert (gpt.context, gpt.embedding.embedding.shape[0], gpt.block_0.attention.kv_heads) == (6, 5, 1)
    sizes = {"name": "encoder", **_TINY, "context": 9}
    encoder = nnx.eval_shape(lambda: build_model(sizes, input_shape=(6,), classes=5, rngs=nnx.Rngs(0)))
    assert (encoder.context, encoder.embedding.embedding.shape[0], encoder.head.out_features) == (9, 256, 5)


def test_an_unknown_model():
    with pytest.raises(ConfigError, match="'resnets': choose one of mlp, lenet, resnet"):
        build_model({"name": "resnets"}, input_shape=(8, 8), classes=10, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("name", "input_shape"), [("gpt", (8, 8)), ("encoder", (8, 8)), ("resnet", (8,)), ("vit", (8,))]
)
def test_inputs_of_another_kind(name, input_shape):
    with pytest.raises(ConfigError, match=f"'{name}' takes .* inputs have shape"):
        build_model({"name": name}, input_shape=input_shape, classes=10, rngs=nnx.Rngs(0))
