"""What a PyTorch module holds: shared parameters, buffers, a copy without weights; tensors as arrays and back."""

import copy
from typing import Any

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import ParamsError
from sparsejax.typing import Array


def tied(model: Any) -> dict[str, str]:
    """Further names of shared parameters -> the first name."""
    first: dict[int, str] = {}
    pairs = (
        (name, first.setdefault(id(p), name)) for name, p in model.named_parameters(remove_duplicate=False)
    )
    return {name: of for name, of in pairs if name != of}


def other_tensors(model: Any) -> dict[str, Any]:
    """Buffers, persistent or not, and tensors that a module holds as plain attributes."""
    import torch

    found = dict(model.named_buffers(remove_duplicate=False))
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                found[f"{path}.{name}" if path else name] = value
    return found


def skeleton(model: Any) -> Any:
    """A copy in evaluation mode that holds no weights: what comes of the model later is nothing to us."""
    import torch

    weights = {id(p): p for p in model.parameters()}
    memo = {key: torch.nn.Parameter(p.detach().to("meta"), requires_grad=False) for key, p in weights.items()}
    try:
        return copy.deepcopy(model, memo).eval()
    except Exception as error:
        raise ParamsError(
            f"{type(model).__name__} cannot be copied ({error}). Tensors computed from parameters and kept in the "
            "module are the usual reason: torch.nn.utils.parametrizations does without, remove_weight_norm undoes it."
        ) from error


def as_jax(name: str, tensor: Any) -> Array:
    """A copy of a tensor, in its dtype."""
    import torch

    tensor = tensor.detach().cpu().to_dense().contiguous()
    if tensor.dtype == torch.bfloat16:
        return jnp.array(tensor.view(torch.int16).numpy().view(jnp.bfloat16))
    found = jnp.array(tensor.numpy())
    if found.dtype != tensor.numpy().dtype and jnp.issubdtype(found.dtype, jnp.inexact):
        raise ParamsError(
            f"{name!r} is {tensor.dtype}, which JAX holds only with jax_enable_x64: switch that on, or model.float()."
        )
    return found


def as_torch(name: str, value: Any) -> Any:
    """A tensor of an array, in its dtype; a copy."""
    import torch

    array = np.asarray(value)
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    try:
        return torch.from_numpy(np.array(array))
    except TypeError as error:
        raise ParamsError(f"{name!r} {array.shape} is {array.dtype}: torch has no such tensor.") from error
