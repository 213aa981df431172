"""Pruning whole functions: against layers pruned by hand, over convolutions, stacks, attention, earlier masks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sparsejax
from experiments.models.gpt import GPT
from sparsejax import Override
from sparsejax.errors import (
    CalibrationError,
    MaskError,
    ParamsError,
    PathError,
    PatternError,
    SparsityError,
    TracingError,
)
from sparsejax.patterns import NM
from sparsejax.post_training import (
    CalibrationWarning,
    alps,
    layer_error,
    magnitude,
    prune_model,
    repair,
    solve_alps,
    solve_sparsegpt,
    sparsegpt,
    wanda,
)
from tests.tracing.functions import conv, normal

METHODS = [magnitude, wanda, sparsegpt, alps]


@pytest.fixture(scope="module")
def network():
    """(fn, params, batches): two layers, the second listed first, on inputs that are correlated."""
    params = {"b": {"kernel": normal(24, 6)}, "z": {"kernel": normal(16, 24), "bias": normal(24)}}

    def fn(p, x):
        return jax.nn.relu(x @ p["z"]["kernel"] + p["z"]["bias"]) @ p["b"]["kernel"]

    mixing = normal(8, 16)
    batches = [normal(100, 8, seed=i) @ mixing + 0.5 * normal(100, 16, seed=40 + i) for i in range(5)]
    return fn, params, batches


def test_each_layer_sees_the_inputs_of_the_layers_pruned_before(network):
    fn, params, batches = network
    pruned, masks, layers = sparsegpt(fn, params, batches, sparsity=0.5, targets="symmetric")
    assert list(layers) == ["z/kernel", "b/kernel"]  # as the function runs, not as the tree is sorted
    x, unseen = jnp.concatenate(batches[:-1]), batches[-1]
    z, b = params["z"]["kernel"], params["b"]["kernel"]
    first = solve_sparsegpt(z.T, x.T @ x, sparsity=0.5)
    np.testing.assert_allclose(pruned["z"]["kernel"], first.weights.T, atol=2e-4)

    def hidden(x):
        return jax.nn.relu(x @ pruned["z"]["kernel"] + params["z"]["bias"])

    h = hidden(x)
    second = solve_sparsegpt(b.T, h.T @ h, sparsity=0.5)
    np.testing.assert_allclose(pruned["b"]["kernel"], second.weights.T, atol=2e-4)
    h = hidden(unseen)
    expected = layer_error(b.T, pruned["b"]["kernel"].T, h.T @ h)
    np.testing.assert_allclose(layers["b/kernel"].held_out_error, expected, rtol=1e-3)
    assert masks["z"]["bias"].shape == ()
    assert layers["z/kernel"].rows == 400


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
def test_every_method_prunes_exactly_and_reports(network, method):
    fn, params, batches = network
    seen = []
    pruned, masks, layers = method(fn, params, batches, sparsity=0.5, progress=seen.append)
    assert [result.path for result in seen] == list(layers)
    for path in ("z", "b"):
        mask, weights = np.asarray(masks[path]["kernel"]), np.asarray(pruned[path]["kernel"])
        assert mask.sum() == mask.size // 2
        assert not weights[~mask].any()
        assert layers[f"{path}/kernel"].sparsity == 0.5
        assert 0 < layers[f"{path}/kernel"].error < 1
    sparsejax.masks.validate(masks, params)


def test_the_better_method_loses_less_at_the_output(network):
    fn, params, batches = network
    target, loss = fn(params, batches[-1]), []
    for method in METHODS:
        pruned = method(fn, params, batches, sparsity=0.6).params
        loss.append(float(jnp.mean((fn(pruned, batches[-1]) - target) ** 2)))
    assert loss[3] < loss[2] < loss[1] < loss[0]


def test_without_sequence_every_layer_is_solved_on_the_dense_inputs(network):
    fn, params, batches = network
    pruned = sparsegpt(fn, params, batches, sparsity=0.5, sequential=False).params
    h = jax.nn.relu(jnp.concatenate(batches[:-1]) @ params["z"]["kernel"] + params["z"]["bias"])
    expected = solve_sparsegpt(params["b"]["kernel"].T, h.T @ h, sparsity=0.5).weights.T
    np.testing.assert_allclose(pruned["b"]["kernel"], expected, atol=2e-4)


def test_overrides_and_an_earlier_mask(network):
    fn, params, batches = network
    overrides = {"z/*": Override(pattern=NM(1, 4), sparsity=0.75), "b/*": sparsejax.dense}
    _, masks, layers = alps(fn, params, batches, sparsity=0.5, overrides=overrides)
    assert list(layers) == ["z/kernel"]
    assert (np.asarray(masks["z"]["kernel"]).reshape(4, 4, 24).sum(1) == 1).all()
    start = sparsejax.apply_masks(params, masks)
    after = alps(fn, start, batches, sparsity=0.9, masks=masks).masks
    assert not np.any(np.asarray(after["z"]["kernel"]) & ~np.asarray(masks["z"]["kernel"]))
    assert int(np.sum(after["z"]["kernel"])) == round(0.1 * 16 * 24)


def _convolution(kernel, x, groups):
    """Outputs of a 3×3 convolution as a product of unfolded patches, one group after another."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    n, h, w, channels = x.shape
    inside = channels // groups
    patches = np.stack(
        [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], 3
    )  # (n, h, w, window, channels)
    return [patches[..., g * inside : (g + 1) * inside].reshape(n * h * w, 9 * inside) for g in range(groups)]


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_are_unfolded_by_group(groups):
    kernel = normal(3, 3, 8 // groups, 6)
    batches = [normal(4, 6, 6, 8, seed=i) for i in range(5)]

    def fn(p, x):
        return conv(x, p["conv"]["kernel"], groups)

    pruned, masks, _ = prune_model(
        fn, {"conv": {"kernel": kernel}}, batches, solve=solve_sparsegpt, pattern=NM(2, 4)
    )
    found = np.asarray(masks["conv"]["kernel"])
    assert (
        found.reshape(3, 3, -1, 4, 6).sum(3) == 2
    ).all()  # of every four channels, at each window position
    rows = _convolution(kernel, np.concatenate(batches[:-1]), groups)
    matrices = np.asarray(kernel).reshape(-1, groups, 6 // groups).transpose(1, 2, 0)
    for g in range(groups):
        expected = solve_sparsegpt(matrices[g], rows[g].T @ rows[g], pattern=NM(2, 4)).weights
        got = np.asarray(pruned["conv"]["kernel"]).reshape(-1, groups, 6 // groups).transpose(1, 2, 0)[g]
        np.testing.assert_allclose(got, expected, atol=2e-3)


def test_a_kernel_with_its_channels_before_the_window_groups_along_the_channels():
    numbers = ("NCHW", "OIHW", "NCHW")

    def fn(p, x):
        return jax.lax.conv_general_dilated(x, p["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=numbers)

    batches = [normal(4, 8, 6, 6, seed=i) for i in range(5)]
    params = {"conv": {"kernel": normal(6, 8, 3, 3)}}
    masks = sparsegpt(fn, params, batches, pattern=NM(2, 4)).masks
    assert (np.asarray(masks["conv"]["kernel"]).reshape(6, 2, 4, 3, 3).sum(2) == 2).all()
    same = sparsegpt(
        lambda p, x: conv(jnp.moveaxis(x, 1, 3), p["conv"]["kernel"]),
        {"conv": {"kernel": jnp.transpose(params["conv"]["kernel"], (2, 3, 1, 0))}},
        batches,
        pattern=NM(2, 4),
    ).masks
    agree = np.transpose(same["conv"]["kernel"], (3, 2, 0, 1)) == np.asarray(masks["conv"]["kernel"])
    assert agree.mean() > 0.99


def test_experts_and_scanned_layers_are_problems_of_their_own():
    params = {"experts": {"kernel": normal(3, 12, 8)}, "layers": {"kernel": normal(2, 8, 8) / 3}}

    def fn(p, x):
        x = jnp.sum(jnp.einsum("end,edf->enf", x, p["experts"]["kernel"]), 0)
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["layers"]["kernel"])[0]

    batches = [normal(3, 80, 12, seed=i) * jnp.exp(normal(3, 1, 12)) for i in range(4)]
    pruned, masks, _ = sparsegpt(fn, params, batches, sparsity=0.5)
    assert (np.asarray(masks["experts"]["kernel"]).sum((1, 2)) == 48).all()
    assert (np.asarray(masks["layers"]["kernel"]).sum((1, 2)) == 32).all()
    for e in range(3):
        x = jnp.concatenate([batch[e] for batch in batches[:-1]])
        expected = solve_sparsegpt(params["experts"]["kernel"][e].T, x.T @ x, sparsity=0.5).weights.T
        np.testing.assert_allclose(pruned["experts"]["kernel"][e], expected, atol=1e-3)


def test_an_expert_that_no_row_reaches_is_told_of():
    """All its inputs look dead: it loses every weight, and no error shows it."""
    params = {"kernel": normal(3, 12, 8)}
    reached = jnp.asarray([1.0, 0.0, 1.0])[:, None, None]
    batches = [normal(3, 80, 12, seed=i) * reached for i in range(2)]

    def fn(p, x):
        return jnp.einsum("end,edf->enf", x, p["kernel"])

    for prune in (sparsegpt, wanda):
        with pytest.warns(
            CalibrationWarning, match=r"'kernel': .* 1 of its 3 matrices .*first is number 1\)"
        ):
            prune(fn, params, batches, sparsity=0.5)
    masks = {"kernel": jnp.ones((3, 12, 8), bool).at[:, 0].set(False)}
    with pytest.warns(CalibrationWarning, match="1 of its 3 matrices"):
        repair(fn, params, masks, batches)
    sparsegpt(fn, params, batches, sparsity=1.0)  # nothing is lost that should stay


def test_an_expert_that_few_tokens_reach_is_told_of():
    """Its empty places are rows of zeros: they tell nothing of it."""
    params = {"kernel": normal(3, 12, 8)}
    given = jnp.arange(80)[None, :, None] < jnp.asarray([80, 70, 20])[:, None, None]
    batches = [normal(3, 80, 12, seed=i) * given for i in range(2)]

    def fn(p, x):
        return jnp.einsum("end,edf->enf", x, p["kernel"])

    with pytest.warns(
        CalibrationWarning,
        match=r"'kernel': number 2 of its 3 matrices has only 20 calibration rows for 12 inputs",
    ):
        found = wanda(fn, params, batches, sparsity=0.5)
    assert found.layers["kernel"].rows == 80

    def later_rows(p, x):
        return {"kernel": jnp.broadcast_to(jnp.arange(80) >= 10, (3, 80)).astype(float)}

    with pytest.warns(CalibrationWarning, match=r"number 2 of its 3 matrices has only 10 calibration rows"):
        wanda(fn, params, batches, sparsity=0.5, row_weights=later_rows)


@pytest.fixture(scope="module")
def language_model():
    """(fn, params, batches): two blocks, two query heads to a key."""
    model = GPT(
        vocabulary=32, context=16, width=16, depth=2, heads=4, kv_heads=2, mlp_dim=32, rngs=nnx.Rngs(0)
    )
    graph, params = nnx.split(model)
    tokens = [jnp.asarray(np.random.default_rng(i).integers(0, 32, (8, 16))) for i in range(4)]
    return lambda p, tokens: nnx.merge(graph, p)(tokens), params, tokens


def test_a_language_model(language_model):
    _, _, layers = wanda(*language_model, pattern=NM(2, 4))
    assert len(layers) == 2 * 6
    assert all(path.startswith("block_0") for path in list(layers)[:6])
    assert list(layers).index("block_0/attention/out/kernel") == 3  # after the query, key and value
    assert all(result.sparsity == 0.5 for result in layers.values())


@pytest.mark.slow
def test_a_language_model_row_by_row_is_better_than_wanda(language_model):
    fn, params, tokens = language_model
    solve = partial(solve_alps, scope="row")
    best = prune_model(fn, params, tokens, solve=solve, sparsity=0.5, sequential=False)
    parallel = wanda(fn, params, tokens, sparsity=0.5, sequential=False)
    assert all(best.layers[path].error < result.error for path, result in parallel.layers.items())
    assert np.all(np.isfinite(np.asarray(fn(best.params, tokens[0]))))


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda found: found._replace(weights=found.weights + 1), r"z/kernel.*gave 192 weights.*where its mask is False"),
     (lambda found: found._replace(mask=found.mask.T), r"'z/kernel'.*weights and mask of shapes"),
     (lambda found: tuple(found), r"'z/kernel'.*gave a tuple; it must be a post_training.Solution"),
     (lambda found: found._replace(mask=None), r"'z/kernel'.*with arrays of weights"),
     (lambda found: found._replace(mask=found.mask.astype(int)), r"'z/kernel'.*a mask of int")],
)  # fmt: skip
def test_what_a_solver_of_the_callers_own_gives_is_checked(network, change, words):
    fn, params, batches = network

    def solve(*args, **options):
        return change(solve_sparsegpt(*args, **options))

    with pytest.raises(CalibrationError, match=words):
        prune_model(fn, params, batches, solve=solve, sparsity=0.5)


def test_bad_input_is_refused_with_the_layer(network):
    fn, params, batches = network
    with pytest.raises(CalibrationError, match="0 batches to calibrate"):
        sparsegpt(fn, params, batches[:1], sparsity=0.5)
    with pytest.raises(CalibrationError, match="0 batches"):
        sparsegpt(fn, params, [], sparsity=0.5)
    with pytest.raises(CalibrationError, match=r"'z/kernel'.*not finite"):
        sparsegpt(fn, params, [batch * jnp.inf for batch in batches], sparsity=0.5)
    with pytest.raises(PathError, match="matches no layer that is pruned"):
        sparsegpt(fn, params, batches, sparsity=0.5, overrides={"z/bias": Override(sparsity=0.1)})
    with pytest.raises(PatternError, match=r"'(z|b)/kernel'"):
        sparsegpt(fn, params, batches, pattern=NM(2, 5))
    with pytest.raises(MaskError):
        sparsegpt(fn, params, batches, sparsity=0.5, masks={"z": jnp.ones(3, bool)})
    with pytest.warns(CalibrationWarning, match="'z/kernel': 40 calibration rows for 16 inputs"):
        sparsegpt(fn, params, [b[:40] for b in batches[:2]], sparsity=0.5, overrides={"b/*": sparsejax.dense})


def test_batches_held_out_that_are_not_finite_are_refused_with_the_layer(network):
    fn, params, batches = network
    for method, targets in ((magnitude, "symmetric"), (sparsegpt, "asymmetric")):
        with pytest.raises(CalibrationError, match=r"'z/kernel': on the batches held out .* not finite"):
            method(
                fn, params, [*batches[:2], batches[2].at[3, 2].set(jnp.nan)], sparsity=0.5, targets=targets
            )


def test_empty_batches_and_layers_that_no_row_reaches_are_refused(network):
    fn, params, batches = network
    nothing = batches[0][:0]
    for wrong in ({"batches": [nothing, *batches]}, {"held_out": [nothing]}, {"batches": [nothing] * 3}):
        with pytest.raises(CalibrationError, match=r"Batch 0 has no row: its arrays are of shapes \(0, 16\)"):
            wanda(fn, params, **{"batches": batches, "sparsity": 0.5, **wrong})
    with pytest.raises(CalibrationError, match="give an iterable"):
        wanda(fn, params, None, sparsity=0.5)

    def branch(p, x):
        return jax.lax.cond(jnp.max(x) > 1e3, lambda x: x @ p["seldom"], lambda x: x @ p["often"], x)

    parts = {"seldom": normal(16, 6), "often": normal(16, 6)}
    with pytest.raises(CalibrationError, match=r"'seldom' has no calibration row.*ignore"):
        sparsegpt(branch, parts, batches, sparsity=0.5)
    pruned = sparsegpt(branch, parts, batches, sparsity=0.5, ignore="seldom")
    np.testing.assert_array_equal(pruned.params["seldom"], parts["seldom"])
    # Solved on rows that take it, measured on rows that do not: not known, which is said.
    with pytest.warns(CalibrationWarning, match="'seldom': no row of the batches held out"):
        layers = sparsegpt(
            branch, parts, [1e4 * batches[0], *batches[1:3]], held_out=batches[3:], sparsity=0.5
        ).layers
    assert np.isnan(layers["seldom"].held_out_error)
    assert 0 < layers["seldom"].error < 1
    assert 0 < layers["often"].held_out_error < 1


def test_options_of_another_kind_are_refused_at_once(network):
    fn, params, batches = network
    for wrong, error, text in (
        ({"damping": -1}, CalibrationError, "damping is -1"),
        ({"damping": np.nan}, CalibrationError, "damping is nan"),
        ({"damping": "much"}, CalibrationError, "damping is the text 'much'"),
        ({"sparsity": {}}, SparsityError, "gives no layer one"),
        ({"sparsity": None, "max_bytes": "1000"}, SparsityError, "max_bytes='1000': give a number of bytes"),
        ({"ignore": ["*"]}, PathError, "keep every layer dense, .* The layers: b/kernel, z/kernel"),
        ({"ignore": [3]}, PathError, "ignore has 3 \\(int\\); give a text"),
        ({"overrides": {"b/*": 0.5}}, ParamsError, r"overrides\['b/\*'\] is 0.5"),
        ({"overrides": ["b/*"]}, ParamsError, "overrides is a list"),
        ({"prunable": "b/*"}, ParamsError, "prunable is the text"),
        ({"start": {"b": params["b"]}}, ParamsError, "'z/bias' is absent in the first"),
    ):
        with pytest.raises(error, match=text):
            magnitude(fn, params, batches, **{"sparsity": 0.5, **wrong})


def test_batches_that_do_not_fit_are_refused(network):
    fn, params, batches = network
    narrow = normal(100, 15)
    for wrong in ([narrow, narrow], [*batches[:2], narrow]):
        with pytest.raises(CalibrationError, match=r"does not take a batch of shapes .*100, 15"):
            sparsegpt(fn, params, wrong, sparsity=0.5)
    with pytest.raises(TracingError, match="inputs"):
        sparsegpt(fn, params, [(batches[0], batches[0])] * 2, sparsity=0.5)


@pytest.mark.filterwarnings("ignore::sparsejax.post_training.CalibrationWarning")
def test_nothing_everything_and_a_single_row():
    params = {"w": normal(8, 6)}
    batches = [normal(50, 8, seed=i) for i in range(2)]

    def prune(method, sparsity, batches):
        return method(lambda p, x: x @ p["w"], params, batches, sparsity=sparsity)

    for method in METHODS:
        whole, nothing = (prune(method, sparsity, batches) for sparsity in (0.0, 1.0))
        np.testing.assert_allclose(whole.params["w"], params["w"], atol=1e-4)
        assert np.asarray(whole.masks["w"]).all()
        assert not np.asarray(nothing.masks["w"]).any()
        assert not np.asarray(nothing.params["w"]).any()
        assert nothing.layers["w"].held_out_error == pytest.approx(1.0)
        single = prune(method, 0.5, [batches[0][:1], batches[1]])  # a Gram matrix of rank one
        assert int(np.sum(single.masks["w"])) == 24
        assert np.all(np.isfinite(np.asarray(single.params["w"])))


@pytest.mark.parametrize(
    ("strides", "padding", "dilation", "groups"),
    [
        ((2, 1), ((0, 1), (2, 0)), (1, 1), 1),
        ((1, 3), ((1, 1), (0, 0)), (2, 1), 2),
        ((2, 2), ((0, 0), (0, 0)), (1, 2), 4),
    ],
)  # fmt: skip
def test_strides_padding_and_dilation_of_a_convolution_are_respected(strides, padding, dilation, groups):
    """Against the rows that each output position reads, gathered one by one."""
    kernel = normal(3, 2, 8 // groups, 8)
    batches = [normal(3, 7, 9, 8, seed=i) for i in range(4)]

    def fn(p, x):
        return jax.lax.conv_general_dilated(
            x, p["conv"]["kernel"], strides, padding, rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        )  # fmt: skip

    found = prune_model(fn, {"conv": {"kernel": kernel}}, batches, solve=solve_sparsegpt, sparsity=0.5)
    x = np.pad(np.concatenate(batches[:-1]), ((0, 0), *padding, (0, 0)))
    inside = 8 // groups
    for g in range(groups):
        own = x[..., g * inside : (g + 1) * inside]
        rows = [
            np.stack(
                [own[:, i + u * dilation[0], j + v * dilation[1]] for u in range(3) for v in range(2)], 1
            )
            for i in range(0, x.shape[1] - 2 * dilation[0], strides[0])
            for j in range(0, x.shape[2] - dilation[1], strides[1])
        ]
        rows = np.concatenate(rows).reshape(-1, 6 * inside)
        matrix = np.asarray(kernel).reshape(-1, groups, 8 // groups)[:, g].T
        expected = solve_sparsegpt(matrix, rows.T @ rows, sparsity=0.5).weights
        got = np.asarray(found.params["conv"]["kernel"]).reshape(-1, groups, 8 // groups)[:, g].T
        np.testing.assert_allclose(got, expected, atol=2e-3)
