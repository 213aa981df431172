"""Walking jaxprs: tracing the user's function, finding inner jaxprs, naming the user's source line."""

import itertools
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.extend import core, source_info_util
from jax.interpreters import partial_eval

from sparsejax.errors import ParamsError, TracingError
from sparsejax.params.check_values import require_arguments
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from sparsejax.tracing.results import pinned_paths
from sparsejax.typing import Params

# Frames inside these packages are not where the user would look.
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "equinox", "haiku", "numpy")
_STANDARD_LIBRARY = sysconfig.get_paths()["stdlib"]
_HERE = str(Path(__file__).parent)

# Primitives that run one inner jaxpr on exactly their own operands, by the parameter that holds it.
_CALL_KEYS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_NOT_CALLS = ("scan", "while", "cond", "pallas_call", "run_state", "custom_linear_solve")
_REFUSED = ("shard_map", "xla_pmap")


class Traced(NamedTuple):
    """A function seen as a jaxpr; the first `len(paths)` inputs are the parameters' leaves."""

    closed: core.ClosedJaxpr
    paths: tuple[str, ...]
    params_def: Any
    out_def: Any
    #: for each result its path, or None where its axes may shrink
    pinned: tuple[str | None, ...]


def as_tuple(inputs: Any) -> tuple[Any, ...]:
    """The arguments of a function after its parameters: a plain tuple is all of them, anything else the only one.

    A NamedTuple (a graph, a batch) is one argument.
    """
    return inputs if type(inputs) is tuple else (inputs,)


def trace(fn: Callable[..., Any], params: Params, inputs: Any) -> Traced:
    """Traces ``fn(params, *inputs)``, inputs as in `as_tuple`; nothing is computed, so shapes serve as arguments.

    What no result needs is left out, as XLA leaves it out: it costs nothing, and ties or freezes nothing.
    """
    paths, leaves, params_def = flatten_with_paths(params)
    if not leaves:
        raise ParamsError("The tracer needs parameters: the tree given has no leaf.")
    if len(set(paths)) < len(paths):
        twice = sorted({path for path in paths if paths.count(path) > 1})
        raise ParamsError(f"Two leaves share a path, so they cannot be told apart: {', '.join(twice[:5])}.")
    wanted = "(params, *inputs); of an nnx module: lambda params, x: nnx.merge(graphdef, params)(x)"
    require_arguments(fn, (params, *as_tuple(inputs)), "fn", wanted, TracingError)
    for path, leaf in zip(paths, leaves, strict=True):
        if isinstance(leaf, str | bytes):
            raise ParamsError(
                f"{path!r} is the text {leaf!r}, not an array. Close over settings; the parameters are arrays."
            )
    closed, out_shape = jax.make_jaxpr(fn, return_shape=True)(params, *as_tuple(inputs))
    kept = [path for path, leaf in zip(paths, leaves, strict=True) if not is_masked_node(leaf)]
    pinned = tuple(pinned_paths(fn, out_shape))
    return Traced(_live(closed), tuple(kept), params_def, jax.tree.structure(out_shape), pinned)


def _live(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The same jaxpr without the equations that no result needs; all inputs stay."""
    jaxpr = closed.jaxpr
    live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    return core.ClosedJaxpr(live, closed.consts)


def open_jaxpr(jaxpr: Any) -> tuple[core.Jaxpr, tuple[Any, ...]]:
    """Gives ``(jaxpr, constants)`` of an open or a closed jaxpr."""
    if isinstance(jaxpr, core.ClosedJaxpr):
        return jaxpr.jaxpr, tuple(jaxpr.consts)
    return jaxpr, ()


def called_jaxpr(eqn: core.JaxprEqn) -> tuple[core.Jaxpr, tuple[Any, ...]] | None:
    """Finds the inner jaxpr of a call (jit, remat, custom derivatives, …); None where there is none.

    Raises:
      TracingError: the call splits its arguments over devices, so its shapes are not the model's.
    """
    name = eqn.primitive.name
    if name in _REFUSED:
        raise TracingError(
            f"{name} at {source_line(eqn)} splits arrays over devices by hand, so the shapes inside are not "
            "the parameters' shapes. Trace the function without it; sharded arguments of a jitted function "
            "are fine."
        )
    if name in _NOT_CALLS:
        return None
    for key in _CALL_KEYS:
        if isinstance(eqn.params.get(key), core.Jaxpr | core.ClosedJaxpr):
            jaxpr, consts = open_jaxpr(eqn.params[key])
            # By shape too: the jaxpr of a reduction combines two elements.
            inside, outside = (jaxpr.invars, jaxpr.outvars), (eqn.invars, eqn.outvars)
            return (jaxpr, consts) if _shapes(inside) == _shapes(outside) else None
    return None


def _shapes(sides: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [[getattr(atom.aval, "shape", None) for atom in side] for side in sides]


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many are carried; the rest are sliced.

    JAX up to 0.11 says so in numbers, JAX 0.12 by the structure of the operands.
    """
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts.vals), len(carry.vals)


class LoopOperands(NamedTuple):
    """The operands of a scan or while, or anything known of each of them, by what the loop does with them."""

    test: list[Any]  # constants of a while's condition
    consts: list[Any]
    carry: list[Any]
    slices: list[Any]  # what a scan takes slices of, along the leading axis


def loop_operands(eqn: core.JaxprEqn, values: Sequence[Any]) -> LoopOperands:
    """Sorts one value for each operand of a scan or a while."""
    if eqn.primitive.name == "scan":
        tests, (consts, carries) = 0, scan_counts(eqn.params)
    else:
        tests, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        carries = len(values) - tests - consts
    ends = (0, tests, tests + consts, tests + consts + carries, len(values))
    return LoopOperands(*(list(values[start:end]) for start, end in itertools.pairwise(ends)))


def settle(
    carry: list[Any], body: Callable[[list[Any]], list[Any]], join: Callable[[Any, Any], Any]
) -> tuple[list[Any], list[Any]]:
    """What holds of a loop's carry in every round, and the results of the body for it.

    `body` gives the new carry first; `join` says what holds of two values. It must only ever lose, or only ever
    gain, so that the rounds come to an end.
    """
    while True:
        outs = body(carry)
        joined = [join(before, after) for before, after in zip(carry, outs, strict=False)]
        if joined == carry:
            return carry, outs
        carry = joined


def source_line(*eqns: core.JaxprEqn) -> str:
    """Names the line of the user's code that made an equation: ``"path/model.py:41 (call)"``.

    Inside a library's jitted function there is no such line; the equations around it, given next, have it.
    """
    for eqn in eqns:
        traceback = eqn.source_info.traceback
        for frame in traceback.frames if traceback is not None else ():
            if not _is_library(frame.file_name):
                return f"{frame.file_name}:{frame.line_num} ({frame.function_name})"
    return source_info_util.summarize(eqns[0].source_info) or "unknown line"


def _is_library(file_name: str) -> bool:
    if file_name.startswith((_HERE, "<frozen")):
        return True
    if "-packages/" in file_name:
        return file_name.split("-packages/")[-1].split("/")[0] in _LIBRARIES
    return file_name.startswith(_STANDARD_LIBRARY)


def is_tracer(value: Any) -> bool:
    """Tells a traced array from one whose numbers are there."""
    return isinstance(value, jax.core.Tracer)


def bind(eqn: core.JaxprEqn, operands: Sequence[Any], changed: dict[str, Any] | None = None) -> Sequence[Any]:
    """Applies the equation's primitive, with some of its parameters changed."""
    params = eqn.primitive.get_bind_params(eqn.params)
    # Older JAX gives the inner functions apart from the parameters, newer JAX among them.
    functions, params = params if isinstance(params, tuple) else ((), params)
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*functions, *operands, **{**params, **(changed or {})})
    return out if eqn.primitive.multiple_results else [out]
