"""PyTorch: a module as a pure JAX function and a dict of arrays, and arrays back as a state dict (extra: torch)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import ParamsError, TracingError
from sparsejax.interop.torch_modules import as_jax, as_torch, other_tensors, skeleton, tied
from sparsejax.interop.torch_runtime import functional_call, libraries, located, traced_by
from sparsejax.tracing.groups import prunable_groups
from sparsejax.tracing.shrinking import ShrunkFunction, shrink_tree
from sparsejax.typing import Array, Params

if TYPE_CHECKING:
    import torch


def from_torch(
    model: "torch.nn.Module", example: Any, output: str | int | None = None
) -> tuple[dict[str, Array], "TorchFunction"]:
    """Reads a PyTorch module as a function that every verb of this library takes.

    torchax runs the module's own ``forward`` on JAX arrays; nothing is rewritten, and the module given is neither
    changed nor kept. It runs in evaluation mode (no dropout, running statistics), and random numbers drawn inside are
    the same at every call. Buffers (batch statistics, positions) are closed over: `TorchFunction.buffers`.

    Args:
      model: any module whose operators torchax knows.
      example: what it is called with, to trace it once: a tensor, a tuple of positional arguments, or a dict of
        keyword arguments. What is no tensor (``use_cache=False``) is closed over.
      output: the one result to return, ``"logits"`` or 0; all when None, as a dict or tuple without what is None.

    Returns:
      ``(params, fn)``: the parameters under the module's own names, each shared one once, in their dtypes; and
      ``fn(params, *inputs)``, where `inputs` are the tensors of `example` as arrays (one dict for keywords):
      ``fn.example`` are those of the example.

    Raises:
      InstallError: torch or torchax is not installed.
      TracingError: an operator without a JAX form, named with the module that calls it; a value of a tensor that
        decides in Python; a result that is no array.
      ParamsError: float64 parameters while JAX's 64 bits are off; a module that cannot be copied.

    Example, run by the tests where torch is installed::

        params, fn = from_torch(torch.nn.Linear(3, 2), torch.ones(4, 3))
        sorted(params), fn(params, *fn.example).shape      # (['bias', 'weight'], (4, 2))
    """
    fn = TorchFunction(model, example, output)
    params = {name: as_jax(name, value) for name, value in model.named_parameters()}
    jax.eval_shape(fn, params, *fn.example)
    return params, fn


class TorchFunction:
    """A module as a pure function, ``fn(params, *inputs)``: what `from_torch` gives.

    Attributes:
      example: the inputs it was made with, as arrays; a tuple.
      buffers: the module's tensors that are no parameters, by name.
      persistent: names of those buffers that a state dict holds.
      tied: further names of shared parameters -> the name they have in `params`.
      dtypes: name -> the torch dtype that each parameter had.
    """

    def __init__(self, model: "torch.nn.Module", example: Any, output: str | int | None) -> None:
        torch, self._env = libraries()
        if not isinstance(model, torch.nn.Module):
            raise ParamsError(f"from_torch takes a torch.nn.Module; it got a {type(model).__name__}.")
        self.example, self._options = _split(example)
        self._output = output
        self.tied = tied(model)
        self.dtypes = {name: value.dtype for name, value in model.named_parameters()}
        tensors = other_tensors(model)
        self.buffers = {name: as_jax(name, value) for name, value in tensors.items()}
        self.persistent = frozenset(model.state_dict().keys() & tensors.keys())
        self._module = skeleton(model)
        self.__name__ = type(model).__name__

    def __call__(self, params: Params, *inputs: Any) -> Any:
        """The module's results for these parameters."""
        return self.with_buffers({**self.buffers, **self._checked(params)}, *inputs)

    def with_buffers(self, variables: Params, *inputs: Any) -> Any:
        """The results for parameters and buffers in one dict: `buffers` as arguments, not as constants."""
        tensors = variables | {name: variables[of] for name, of in self.tied.items()}
        args, kwargs = self._arguments(inputs)
        with traced_by(self._env), located(self._module):
            args, kwargs, tensors = self._env.j2t_iso((args, kwargs, tensors))
            with self._env:
                results = functional_call(self._module, tensors, args, kwargs)
            return _plain(self._env.t2j_iso(_chosen(results, self._output)), "")

    def _checked(self, params: Params) -> dict[str, Any]:
        if not isinstance(params, Mapping) or params.keys() != self.dtypes.keys():
            given = set(params) if isinstance(params, Mapping) else set()
            wrong = sorted(given ^ self.dtypes.keys(), key=str)[:4]
            raise ParamsError(
                f"{self.__name__} takes the {len(self.dtypes)} parameters that from_torch returned, by name; "
                f"missing or unknown: {', '.join(map(repr, wrong))}."
            )
        return dict(params)

    def _arguments(self, inputs: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        inputs = jax.tree.map(_as_array, inputs)
        if isinstance(self._options, dict):
            (given,) = inputs
            return (), {**self._options, **given}
        remaining = iter(inputs)
        return tuple(next(remaining) if value is _TENSOR else value for value in self._options), {}


def to_torch(params: Params, fn: Any = None) -> dict[str, "torch.Tensor"]:
    """Gives parameters back as a state dict for ``load_state_dict``.

    Args:
      params: from `from_torch`, or what became of them: pruned, trained, or the smaller ones of `shrink`.
      fn: the function that they belong to, of `from_torch` or of `shrink`. With it the state dict is complete: it
        holds the buffers too, cut where channels went, shared tensors under all their names, in the dtypes that the
        module had.

    Returns:
      Name -> tensor, on the CPU; bfloat16 included. Shared parameters are one tensor.

    Raises:
      InstallError: torch is not installed.
      ParamsError: a leaf that torch has no type for; parameters of another function.

    Example, run by the tests where torch is installed::

        params, fn = from_torch(model, x)
        pruned, masks = sparsejax.prune_params(params, sparsity=0.5, roles=(fn, *fn.example))
        model.load_state_dict(to_torch(pruned, fn))
    """
    libraries()
    whole = params if fn is None else state_arrays(params, fn)
    source = _source(fn)
    found = {}
    for name, value in whole.items():
        tensor = as_torch(name, value)
        wanted = None if source is None else source.dtypes.get(name)
        found[name] = tensor if wanted is None else tensor.to(wanted)
    if source is not None:
        found |= {name: found[of] for name, of in source.tied.items()}
    return found


def state_arrays(params: Params, fn: Any) -> dict[str, Array]:
    """Parameters and persistent buffers, the latter cut as the parameters were: what a checkpoint must hold.

    Args:
      params: those that `fn` takes.
      fn: of `from_torch`, or the small function that `shrink` made of it.

    Returns:
      Name -> array; shared parameters once.

    Raises:
      ParamsError: `fn` comes from elsewhere.
    """
    if _source(fn) is None:
        raise ParamsError(
            f"fn is a {type(fn).__name__}; give what from_torch returned, or what shrink made of it."
        )
    return {**params, **persistent_buffers(fn)}


def persistent_buffers(fn: Any) -> dict[str, Array]:
    """The buffers that a checkpoint holds, cut as `fn` was; none for functions from elsewhere."""
    source = _source(fn)
    if source is None or not source.persistent:
        return {}
    buffers = {name: source.buffers[name] for name in source.buffers if name in source.persistent}
    if not isinstance(fn, ShrunkFunction):
        return buffers
    groups = prunable_groups(source.with_buffers, {**fn.params, **source.buffers}, fn.inputs)
    return shrink_tree(buffers, groups, fn.keep)


def _source(fn: Any) -> "TorchFunction | None":
    fn = fn.fn if isinstance(fn, ShrunkFunction) else fn
    fn = getattr(fn, "fn", fn)  # pin_results
    return fn if isinstance(fn, TorchFunction) else None


# ---- arguments and results

_TENSOR = object()


def _as_array(value: Any) -> Any:
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        return as_jax("an input", value)
    return jnp.asarray(value) if isinstance(value, np.ndarray) else value


def _split(example: Any) -> tuple[tuple[Any, ...], dict[str, Any] | tuple[Any, ...]]:
    """``(inputs, options)``: the arrays of an example, and the rest, with marks where the arrays stood."""
    if isinstance(example, Mapping):
        values = {name: _as_array(value) for name, value in example.items()}
        arrays = {name: value for name, value in values.items() if isinstance(value, jax.Array)}
        return (arrays,), {name: value for name, value in values.items() if name not in arrays}
    values = [_as_array(value) for value in (example if isinstance(example, tuple | list) else (example,))]
    options = tuple(_TENSOR if isinstance(value, jax.Array) else value for value in values)
    return tuple(value for value in values if isinstance(value, jax.Array)), options


def _plain(results: Any, path: str) -> Any:
    """Results in JAX's own containers; what is None goes."""
    if isinstance(results, Mapping):
        return {
            name: _plain(value, f"{path}[{name!r}]") for name, value in results.items() if value is not None
        }
    if isinstance(results, tuple | list):
        return tuple(_plain(value, f"{path}[{i}]") for i, value in enumerate(results))
    if isinstance(results, jax.Array | np.ndarray | int | float):
        return results
    raise TracingError(
        f"The module's result{path} is a {type(results).__name__}, which is no array. Name the one that counts, "
        "output='logits', or tell the module not to return it (use_cache=False in the example)."
    )


def _chosen(results: Any, output: str | int | None) -> Any:
    if output is None:
        return results
    try:
        return results[output]
    except (KeyError, IndexError, TypeError) as error:
        there = ", ".join(map(repr, results)) if isinstance(results, Mapping) else type(results).__name__
        raise TracingError(f"output={output!r} is not among the module's results: {there}.") from error
