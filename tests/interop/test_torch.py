"""PyTorch modules as JAX functions: values, gradients, groups, and the way back; what cannot be read is named."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.errors import InstallError, ParamsError, TracingError
from sparsejax.interop.torch import from_torch, state_arrays, to_torch


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InstallError, match=r"\.\[torch\]"):
        from_torch(None, None)
    with pytest.raises(InstallError, match=r"\.\[torch\]"):
        to_torch({})


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the extra torch")


def convnet(torch):
    """Batch norm with statistics of its own, a tensor that is no buffer, a shared layer, and bfloat16 in one place."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            nn = torch.nn
            self.features = nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3)
            )
            self.scale = torch.full((6,), 0.5)
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight
            self.drop = nn.Dropout(0.5)
            self.head = nn.Linear(6, 4, dtype=torch.bfloat16)

        def forward(self, x):
            x = self.features(x).mean((2, 3)) * self.scale
            x = self.drop(self.second(torch.relu(self.first(x))))
            return self.head(x.to(torch.bfloat16)).float()

    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.features[1].running_mean.uniform_(-1, 1)
        net.features[1].running_var.uniform_(0.5, 2)
    return net, torch.randn(2, 3, 8, 8)


@pytest.mark.torch
def test_a_module_and_back(torch):
    net, x = convnet(torch)
    net.train()
    params, fn = from_torch(net, x)
    assert net.training
    assert set(params) == {name for name, _ in net.named_parameters()}
    assert params["head.weight"].dtype == jnp.bfloat16
    assert fn.tied == {"second.weight": "first.weight"}
    assert "scale" in fn.buffers
    expected = net.eval()(x).detach().numpy()
    np.testing.assert_allclose(jax.jit(fn)(params, *fn.example), expected, atol=1e-2)
    np.testing.assert_allclose(fn(params, x), expected, atol=1e-2)  # tensors serve as inputs too
    state = to_torch(params, fn)
    assert state["second.weight"] is state["first.weight"]
    for name, value in net.state_dict().items():
        assert state[name].dtype in (value.dtype, torch.int32), name  # counters are 64 bits wide there
        np.testing.assert_array_equal(state[name].float().numpy(), value.float().numpy())
    net.load_state_dict(state)
    assert set(to_torch(params)) == set(params)


@pytest.mark.torch
def test_the_function_lives_on_when_the_module_changes(torch):
    net, x = convnet(torch)
    params, fn = from_torch(net, x)
    before = fn(params, *fn.example)
    with torch.no_grad():
        for tensor in [*net.parameters(), net.scale, net.features[1].running_mean]:
            tensor.add_(1.0)
    net.train()
    np.testing.assert_array_equal(fn(params, *fn.example), before)


@pytest.mark.torch
def test_nothing_of_torchax_is_left_switched_on(torch):
    net, x = convnet(torch)

    def check():
        assert torch._C._len_torch_function_stack() == torch._C._len_torch_dispatch_stack() == 0
        assert type(torch.ones(2) + 1) is torch.Tensor
        with pytest.raises(AttributeError):
            torch.ops.aten.add.no_such_overload  # noqa: B018

    check()
    _, fn = from_torch(net, x)
    assert not fn._env.enabled
    check()
    with pytest.raises(TracingError):
        from_torch(net, x[:, :2])
    check()


@pytest.mark.torch
def test_gradients_are_those_of_torch(torch):
    net, x = convnet(torch)
    small = torch.nn.Sequential(*net.features, torch.nn.Flatten(), torch.nn.Linear(96, 4)).eval()
    params, fn = from_torch(small, x)
    found = jax.grad(lambda params: jnp.sum(jnp.sin(fn(params, *fn.example))))(params)
    torch.sin(small(x)).sum().backward()
    for name, parameter in small.named_parameters():
        np.testing.assert_allclose(found[name], parameter.grad.numpy(), atol=1e-4)


@pytest.mark.torch
def test_random_numbers_inside_leave_no_tracer_behind(torch):
    class Noisy(torch.nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    _, fn = from_torch(torch.nn.Sequential(torch.nn.Linear(3, 3), Noisy()), torch.ones(2, 3))
    params = {"0.weight": jnp.eye(3), "0.bias": jnp.zeros(3)}
    first = jax.jit(fn)(params, *fn.example)
    np.testing.assert_allclose(fn(params, *fn.example), first, rtol=1e-6)
    assert float(jnp.ptp(first)) > 0


@pytest.mark.torch
def test_channels_go_and_the_statistics_with_them(torch):
    net, x = convnet(torch)
    params, fn = from_torch(net, x)
    found = sparsejax.prune_structured(fn, params, fn.example, channel_ratio=0.5, only="features.0*")
    small_fn, small = sparsejax.shrink(fn, params, fn.example, found.groups, found.keep)
    masked = sparsejax.apply_masks(params, found.masks)
    np.testing.assert_allclose(small_fn(small, *fn.example), fn(masked, *fn.example), atol=1e-2)
    state = to_torch(small, small_fn)
    kept = np.flatnonzero(found.keep["features.0.weight:0"])
    assert len(kept) == 4
    np.testing.assert_array_equal(state["features.1.running_var"], net.features[1].running_var[kept])
    by_hand, _ = convnet(torch)
    nn = torch.nn
    by_hand.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3))
    by_hand.load_state_dict(state)
    expected = by_hand.eval()(x).detach().numpy()
    np.testing.assert_allclose(small_fn(small, *fn.example), expected, atol=1e-2)


@pytest.mark.torch
def test_dicts_of_arguments_options_and_the_result_that_counts(torch):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x, y=None, double=False):
            hidden = self.layer(x) * (2 if double else 1)
            return {"logits": hidden + y, "hidden": hidden, "nothing": None, "cache": object()}

    example = {"x": torch.ones(4, 3), "y": np.ones(2, np.float32), "double": True}
    with pytest.raises(TracingError, match=r"\['cache'\] is a object"):
        from_torch(Model(), example)
    with pytest.raises(TracingError, match="output='loss' is not among"):
        from_torch(Model(), example, "loss")
    params, fn = from_torch(Model(), example, "logits")
    assert sorted(fn.example[0]) == ["x", "y"]
    found = fn(params, {"x": np.ones((4, 3), np.float32), "y": jnp.zeros(2)})
    expected = 2 * (params["layer.weight"].sum(1) + params["layer.bias"])
    np.testing.assert_allclose(found, jnp.broadcast_to(expected, (4, 2)), rtol=1e-5)
    params, fn = from_torch(torch.nn.Bilinear(3, 2, 4), (torch.ones(5, 3), torch.ones(5, 2)))
    assert fn(params, *fn.example).shape == (5, 4)


@pytest.mark.torch
def test_what_has_no_jax_form_is_named_with_its_module(torch):
    class Of(torch.nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    def read(function):
        return from_torch(torch.nn.Sequential(torch.nn.Linear(3, 3), Of(function)), torch.ones(2, 3))

    with pytest.raises(TracingError, match=r"special_airy_ai.*in '1' \(Of\)"):
        read(torch.special.airy_ai)
    with pytest.raises(TracingError, match=r"decides what Python does.*in '1' \(Of\)"):
        read(lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(TracingError, match=r"ValueError: Size of .*in '0' \(Linear\)"):
        from_torch(torch.nn.Sequential(torch.nn.Linear(3, 3)), torch.ones(2, 4))


@pytest.mark.torch
def test_bad_input(torch):
    with pytest.raises(ParamsError, match=r"takes a torch\.nn\.Module; it got a dict"):
        from_torch({}, torch.ones(2))
    with pytest.raises(ParamsError, match="float64"):
        from_torch(torch.nn.Linear(3, 2, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64))
    params, fn = from_torch(torch.nn.Linear(3, 2), torch.ones(4, 3))
    with pytest.raises(ParamsError, match="missing or unknown: 'bias'"):
        fn({"weight": params["weight"]}, *fn.example)
    with pytest.raises(ParamsError, match="what from_torch returned"):
        state_arrays(params, lambda params, x: x)
    with pytest.raises(ParamsError, match="torch has no such tensor"):
        to_torch({"w": np.array(["a"])})


@pytest.mark.torch
def test_a_sparse_network_is_trained_and_goes_back(torch):
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    x = torch.randn(8, 8)
    params, fn = from_torch(net, x)
    tx = sparsejax.gmp(optax.adam(1e-2), sparsity=0.5, end_step=4, update_every=2, roles=(fn, *fn.example))
    params, state = sparsejax.init(tx, params)
    for _ in range(6):
        grads = jax.grad(lambda params: jnp.mean(fn(params, *fn.example) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    net.load_state_dict(to_torch(params, fn))
    assert (net[0].weight == 0).float().mean() == 0.5
    np.testing.assert_allclose(net(x).detach(), fn(params, *fn.example), atol=1e-6)
