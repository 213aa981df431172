"""torch and torchax imported late; a module of theirs run on JAX arrays, with errors that say where they are from."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import jax

from sparsejax.errors import InstallError, TracingError

_REMEDY = "pip install -e '.[torch]'"


def libraries() -> tuple[Any, Any]:
    """torch, and the environment in which torchax runs it; neither is switched on."""
    try:
        import torch

        with lenient_operators():
            import torchax

            env = torchax.default_env()
    except ImportError as error:
        raise InstallError(
            f"{error}: PyTorch models come in through torch and torchax: {_REMEDY}."
        ) from error
    return torch, env


@contextlib.contextmanager
def lenient_operators() -> Iterator[None]:
    """Lets torchax, while it is imported, name operators that this version of torch has dropped.

    torchax 0.0.13 names ``aten.prod.dim_Dimname``, which torch 2.13 has no longer, and ``aten.cholesky``, which
    torch 2.14 has no longer; nobody calls them.
    """
    import torch

    kinds = (torch._ops.OpOverloadPacket, torch._ops._OpNamespace)
    originals = [kind.__getattr__ for kind in kinds]
    for kind, original in zip(kinds, originals, strict=True):
        kind.__getattr__ = _or_a_name(original)
    try:
        yield
    finally:
        for kind, original in zip(kinds, originals, strict=True):
            kind.__getattr__ = original


def _or_a_name(original: Any) -> Any:
    """An attribute where there is one, else a `_Dropped`; what Python asks for by itself is not invented."""

    def found(owner: Any, name: str) -> Any:
        try:
            return original(owner, name)
        except AttributeError:
            if name.startswith("__"):
                raise
            return _Dropped(f"{owner}.{name} is not in this torch")

    return found


class _Dropped(str):
    """An operator that is not there, whose overloads are not there either."""

    def __getattr__(self, name: str) -> "_Dropped":
        if name.startswith("__"):
            raise AttributeError(name)
        return self


@contextlib.contextmanager
def traced_by(env: Any) -> Iterator[None]:
    """Leaves the environment as it was: its flag, and its random key, which would otherwise keep a tracer."""
    enabled = env.enabled
    try:
        with warnings.catch_warnings(), env.override_property(prng=jax.random.key(0)):
            # PyTorch's whole numbers are 64 bits wide; in JAX they are 32 unless it is told otherwise.
            warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
            yield
    finally:
        env.enabled = enabled


def functional_call(
    module: Any, tensors: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The module's results with these tensors in the places of its own."""
    import torch

    return torch.func.functional_call(module, tensors, args, kwargs, tie_weights=False)


@contextlib.contextmanager
def located(module: Any) -> Iterator[None]:
    """Makes whatever a module's code raises an error that names the operator and the module in the model."""
    try:
        yield
    except TracingError:
        raise
    except Exception as error:
        name, called = _innermost(error, module)
        raise TracingError(f"{_said(error)}, in {name!r} ({type(called).__name__}). {_ADVICE}") from error


_ADVICE = (
    "Replace that module by one of other operators, or convert the parts around it; for attention of transformers "
    "ask for attn_implementation='eager', for mixtures experts_implementation='batched_mm'."
)


def _innermost(error: BaseException, module: Any) -> tuple[str, Any]:
    """The deepest module among the frames that the error came through, and its name."""
    names = {id(child): (name, child) for name, child in module.named_modules()}
    found, frames = ("", module), error.__traceback__
    while frames is not None:
        found = names.get(id(frames.tb_frame.f_locals.get("self")), found)
        frames = frames.tb_next
    return found


def _said(error: Exception) -> str:
    text = next(iter(str(error).strip().splitlines()), "")
    if type(error).__name__ == "OperatorNotFound":
        return f"An operator has no JAX form ({text})"
    if isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.NonConcreteBooleanIndexError):
        return (
            "The value of a tensor decides what Python does, or how large another is, which cannot be traced"
        )
    return f"{type(error).__name__}: {text}"
