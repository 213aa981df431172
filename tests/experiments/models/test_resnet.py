"""ResNet: shapes by stage, stride in the 3×3, strides' padding, norms, initialisation, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.errors import ConfigError
from experiments.models.resnet import Residual, ResNet
from sparsejax.interop.flax import stateful
from tests.experiments.models.zoo import abstract, filled, small


def _tiny(**changes):
    sizes = {"image_shape": (8, 8), "classes": 3, "stages": (1, 1), "width": 4, **changes}
    return ResNet(**sizes, rngs=nnx.Rngs(0))


def test_resnet_50_has_the_papers_shapes():
    params = abstract("resnet50").params
    assert params["stem_conv"]["kernel"].shape == (7, 7, 3, 64)
    assert params["stage_3_block_0"]["conv_1"]["kernel"].shape == (3, 3, 512, 512)
    assert params["stage_3_block_2"]["conv_2"]["kernel"].shape == (1, 1, 512, 2048)
    assert params["stage_0_block_0"]["shortcut_conv"]["kernel"].shape == (1, 1, 64, 256)
    assert "shortcut_conv" not in params["stage_0_block_1"]
    assert params["head"]["kernel"].shape == (2048, 1000)


def test_a_block_against_plain_jax():
    """The basic block with a projection, in evaluation, by `lax.conv_general_dilated` with explicit padding."""
    block = filled(lambda rngs: Residual(3, 4, 2, False, nnx.BatchNorm, zero_init=False, rngs=rngs))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 3)), jnp.float32)
    model = stateful(block)

    def layer(x, params, stats, name, stride, padding):
        conv, norm = name
        numbers = ("NHWC", "HWIO", "NHWC")
        pads = [(padding, padding)] * 2
        x = jax.lax.conv_general_dilated(
            x, params[conv]["kernel"], (stride, stride), pads, dimension_numbers=numbers
        )
        x = (x - stats[norm]["mean"]) / jnp.sqrt(stats[norm]["var"] + 1e-5)
        return x * params[norm]["scale"] + params[norm]["bias"]

    @jax.jit
    def both(p, s, x):
        branch = jax.nn.relu(layer(x, p, s, ("conv_0", "norm_0"), 2, 1))
        branch = layer(branch, p, s, ("conv_1", "norm_1"), 1, 1)
        shortcut = layer(x, p, s, ("shortcut_conv", "shortcut_norm"), 2, 0)
        return jax.nn.relu(branch + shortcut), model.apply(p, s, x, train=False)[0]

    expected, out = both(model.params, model.batch_stats, x)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert out.shape == (2, 3, 3, 4)


def test_the_bottleneck_has_its_stride_in_the_middle():
    block = nnx.eval_shape(lambda: Residual(8, 4, 2, True, nnx.BatchNorm, zero_init=False, rngs=nnx.Rngs(0)))
    strides = [getattr(block, f"conv_{i}").strides for i in range(3)]
    assert [np.max(stride) for stride in strides] == [1, 2, 1]


def test_the_last_scale_of_each_branch_starts_at_zero_on_demand():
    block = _tiny(zero_init_residual=True, stages=(1,)).stage_0_block_0
    assert not block.norm_1.scale[...].any()
    assert block.norm_0.scale[...].all()


def test_group_norm_normalises_an_example_alone():
    model, images = small("resnet_group")
    run = jax.jit(lambda p, x: model.apply(p, {}, x, train=True)[0])
    np.testing.assert_allclose(run(model.params, images)[:1], run(model.params, images[:1]), atol=1e-5)
    wide = nnx.eval_shape(lambda: _tiny(norm="group", width=32, stages=(1,)))
    assert (wide.stem_norm.num_groups, wide.stage_0_block_0.norm_0.group_size) == (2, 16)


def test_kernels_start_with_he_variance():
    block = Residual(8, 64, 1, False, nnx.BatchNorm, zero_init=False, rngs=nnx.Rngs(0))
    assert block.conv_1.kernel[...].var() * 9 * 64 == pytest.approx(2.0, rel=0.05)
    assert block.norm_1.scale[...].all()


@pytest.mark.parametrize("changes", [{"block": "wide"}, {"stem": "tiny"}, {"norm": "layer"}])
def test_unknown_options(changes):
    ((name, value),) = changes.items()
    with pytest.raises(ConfigError, match=f"{name}='{value}' must be one of"):
        _tiny(**changes)
