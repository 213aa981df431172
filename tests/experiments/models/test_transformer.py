"""Attention, rotary positions, stacks and heads: what each is by definition; training lowers the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.errors import ConfigError
from experiments.models.encoder import Encoder
from experiments.models.gpt import GPT
from experiments.models.transformer import Attention, BlockSizes, rotate
from experiments.models.vit import ViT, sincos
from sparsejax.interop.flax import functional
from tests.experiments.models.zoo import build, drawn, filled, small

_SIZES = {"width": 8, "depth": 2, "heads": 2, "mlp_dim": 12}


def _normal(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def _stack(params):
    """The parameters of the scanned model from those of the unrolled one."""
    blocks = jax.tree.map(lambda *leaves: jnp.stack(leaves), params["block_0"], params["block_1"])
    return {**{name: leaf for name, leaf in params.items() if "block_" not in name}, "blocks": blocks}


def test_attention_by_hand():
    sizes = BlockSizes(width=6, depth=1, heads=2, mlp_dim=1, bias=False, causal=True)
    attention = filled(lambda rngs: Attention(sizes, rngs=rngs))
    x = np.asarray(_normal(4, 6))
    query, key, value = (
        np.einsum("tw,whd->htd", x, np.asarray(getattr(attention, name).kernel[...]))
        for name in ("query", "key", "value")
    )
    expected, rows = np.zeros((4, 6)), np.zeros((2, 4, 4))
    for head in range(2):
        for t in range(4):
            weights = np.exp(query[head, t] @ key[head, : t + 1].T / np.sqrt(3))
            rows[head, t, : t + 1] = weights / weights.sum()
            expected[t] += rows[head, t] @ value[head] @ np.asarray(attention.out.kernel[head])
    out, probabilities = nnx.jit(lambda module, x: module(x))(attention, x[None])
    np.testing.assert_allclose(out[0], expected, atol=1e-5)
    np.testing.assert_allclose(probabilities[0], rows, atol=1e-6)


def test_grouped_queries_equal_repeated_keys_and_values():
    sizes = BlockSizes(8, 1, 4, 1, kv_heads=2, causal=True)
    grouped, full = (
        functional(filled(lambda rngs, kv=kv: Attention(sizes._replace(kv_heads=kv), rngs=rngs)))
        for kv in (2, 4)
    )
    repeated = {name: dict(leaves) for name, leaves in grouped[1].items()}
    for name in ("key", "value"):
        repeated[name] = {leaf: jnp.repeat(a, 2, axis=a.ndim - 2) for leaf, a in repeated[name].items()}
    x = _normal(2, 5, 8)
    results = jax.jit(grouped[0])(grouped[1], x), jax.jit(full[0])(repeated, x)
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_rotary_scores_depend_on_the_distance_only():
    query, key = _normal(1, 1, 2, 8), _normal(1, 1, 2, 8) + 1
    turned = [rotate(jnp.tile(a, (1, 12, 1, 1))) for a in (query, key)]
    scores = np.einsum("bthd,bshd->hts", *map(np.asarray, turned))
    for distance in (-5, 0, 3):
        diagonal = np.diagonal(scores, distance, axis1=1, axis2=2)
        np.testing.assert_allclose(diagonal, diagonal[:, :1] * np.ones(diagonal.shape[1]), atol=1e-4)
    assert not np.allclose(scores[:, 0, 1], scores[:, 0, 2])
    norms = [jnp.linalg.norm(a, axis=-1) for a in (turned[0], query)]
    np.testing.assert_allclose(norms[0][0, 5], norms[1][0, 0], rtol=1e-5)


def test_rotary_against_the_complex_exponential():
    x = np.asarray(_normal(1, 3, 1, 4))
    turned = np.asarray(rotate(jnp.asarray(x)))
    pairs = x[..., :2] + 1j * x[..., 2:]
    angles = np.arange(3)[:, None] * np.array([1.0, 0.01])
    expected = pairs * np.exp(1j * angles)[None, :, None, :]
    np.testing.assert_allclose(turned[..., :2] + 1j * turned[..., 2:], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt_scanned", "gpt_learned"])
def test_a_later_token_leaves_earlier_logits_bitwise_equal(name):
    model, tokens = small(name)
    run = jax.jit(lambda p, x: model.apply(p, {}, x, train=False)[0])
    logits, changed = run(model.params, tokens), run(model.params, tokens.at[:, 5].add(1))
    np.testing.assert_array_equal(logits[:, :5], changed[:, :5])
    assert (jnp.abs(logits[:, 5:] - changed[:, 5:]).max(axis=(0, 2)) > 0).all()


def test_the_encoder_sees_the_whole_sequence():
    model, tokens = build("encoder"), small("encoder")[1]
    first = nnx.jit(lambda model, tokens: model.encode(tokens).hidden_states[-1][:, 0])
    assert (first(model, tokens.at[:, -1].add(1)) != first(model, tokens)).any(axis=1).all()


@pytest.mark.parametrize("name", ["gpt", "encoder", "vit"])
def test_scanned_is_unrolled_given_the_same_weights(name):
    unrolled, inputs = small(name)
    one, other = (
        jax.jit(lambda p, x, model=model: model.apply(p, {}, x, train=False)[0])(params, inputs)
        for model, params in (
            (unrolled, unrolled.params),
            (small(f"{name}_scanned")[0], _stack(unrolled.params)),
        )
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_scanned_blocks_are_drawn_as_unrolled_ones():
    unrolled, scanned = (functional(drawn(name))[1] for name in ("encoder", "encoder_scanned"))
    jax.tree.map(np.testing.assert_array_equal, scanned, _stack(unrolled))


@pytest.mark.parametrize("name", ["gpt", "encoder"])
def test_hidden_states_and_probabilities_for_distillation(name):
    tokens, unrolled, scanned = small(name)[1], build(name), build(f"{name}_scanned")
    encode = nnx.jit(lambda model, tokens: (model.encode(tokens), model(tokens)))
    (hidden, probabilities), logits = encode(unrolled, tokens)
    heads, width = (4, 16) if name == "gpt" else (2, 8)
    assert [state.shape for state in hidden] == [(3, 8, width)] * 3
    assert [p.shape for p in probabilities] == [(3, heads, 8, 8)] * 2
    np.testing.assert_allclose(jnp.stack(probabilities).sum(-1), 1.0, rtol=1e-5)
    last = unrolled.norm(hidden[-1])
    expected = unrolled.embedding.attend(last) if name == "gpt" else unrolled.head(last.mean(1))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    nnx.update(scanned, _stack(functional(unrolled)[1]))
    others = encode(scanned, tokens)[0]
    for one, other in zip((*hidden, *probabilities), (*others[0], *others[1]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_tied_head_is_the_embedding():
    assert "head" not in small("gpt")[0].params
    model, tokens = small("gpt")
    run = jax.jit(lambda p, x: model.apply(p, {}, x, train=False)[0])
    # The row of a token that is not in the input is read by the head only: its logit doubles.
    row = next(i for i in range(11) if i not in np.asarray(tokens[:1]))
    table = model.params["embedding"]["embedding"]
    doubled = {**model.params, "embedding": {"embedding": table.at[row].multiply(2)}}
    before, after = run(model.params, tokens[:1]), run(doubled, tokens[:1])
    np.testing.assert_allclose(after[..., row], 2 * before[..., row], rtol=1e-5)
    np.testing.assert_array_equal(np.delete(after, row, -1), np.delete(before, row, -1))


def test_gpt_2_initialisation():
    model = GPT(vocabulary=64, context=8, width=64, depth=2, heads=4, mlp_dim=256, rngs=nnx.Rngs(0))
    block = model.block_1
    for kernel in (block.attention.query.kernel, block.mlp.up.kernel, model.embedding.embedding):
        assert kernel[...].std() == pytest.approx(0.02, rel=0.05)
    for kernel in (block.attention.out.kernel, block.mlp.down.kernel):
        assert kernel[...].std() == pytest.approx(0.02 / 2, rel=0.05)
    assert not block.mlp.up.bias[...].any()


def test_fixed_positions_are_those_of_the_formula():
    table = sincos((2, 3), 8)
    assert table.dtype == np.float32
    row, column = 1, 2
    waves = [
        wave(place * omega) for place in (column, row) for wave in (np.sin, np.cos) for omega in (1, 1e-4)
    ]
    np.testing.assert_allclose(table[row * 3 + column], waves, rtol=1e-6)


@pytest.mark.parametrize("name", ["llama", "vit_gap", "encoder_scanned"])
def test_training_lowers_the_loss(name):
    model, inputs = small(name)
    labels = jnp.roll(inputs, -1, axis=1) if name == "llama" else jnp.arange(3)
    optimizer = optax.adam(0.01)

    def loss(params):
        logits, _ = model.apply(params, {}, inputs, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(carry, _):
        value, grads = jax.value_and_grad(loss)(carry[0])
        updates, state = optimizer.update(grads, carry[1])
        return (optax.apply_updates(carry[0], updates), state), value

    start = (model.params, optimizer.init(model.params))
    losses = jax.jit(lambda carry: jax.lax.scan(step, carry, None, 40)[1])(start)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GPT(**_SIZES | {"heads": 3}, vocabulary=5, context=4, rngs=None), "heads=3 must divide width=8"),
        (lambda: GPT(**_SIZES, kv_heads=3, vocabulary=5, context=4, rngs=None), "kv_heads=3 must divide heads=2"),
        (lambda: GPT(**_SIZES | {"heads": 8}, vocabulary=5, context=4, rngs=None), "an even width / heads"),
        (lambda: GPT(**_SIZES, positions="alibi", vocabulary=5, context=4, rngs=None), "positions='alibi'"),
        (lambda: GPT(**_SIZES, mlp="relu", norm="batch", vocabulary=5, context=4, rngs=None), "mlp='relu'.*norm="),
        (lambda: GPT(**_SIZES, mlp_tile=-1, vocabulary=5, context=4, rngs=None), "mlp_tile=-1 must be at least 0"),
        (lambda: GPT(**_SIZES, mlp_tile=2, mlp="swiglu", vocabulary=5, context=4, rngs=None), "needs mlp='gelu'"),
        (lambda: Encoder(**_SIZES | {"depth": 0}, vocabulary=5, context=4, classes=2, rngs=None), "depth=0"),
        (lambda: ViT(**_SIZES, image_shape=(8, 8), classes=2, patch=3, rngs=None), "patch=3 must divide 8 and 8"),
        (lambda: ViT(**_SIZES, image_shape=(8, 8), classes=2, patch=4, pool="max", rngs=None), "pool='max'"),
        (
            lambda: ViT(**_SIZES | {"width": 6}, image_shape=(8, 8), classes=2, patch=4, positions="sincos", rngs=None),
            "divisible by 4, not 6",
        ),
    ],
)  # fmt: skip
def test_sizes_that_do_not_go_together(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize("name", ["gpt", "encoder"])
def test_more_tokens_than_the_context(name):
    with pytest.raises(ConfigError, match="9 tokens were given, but context=8"):
        build(name)(jnp.zeros((1, 9), jnp.int32))
