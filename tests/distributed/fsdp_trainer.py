"""Script: a trainer that is not ours, as MaxText and levanter write it, with masks put into it by three lines.

A decoder whose layers are one `lax.scan` with rematerialisation, its parameters stacked along their second axis (as
MaxText's `param_scan_axis=1` does) and fully sharded by logical axes; one `jax.jit` with `NamedSharding`s in and out,
and a donated state. What sparsejax adds is in `start` alone.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import sparsejax
from tests.distributed import hlo, layouts
from tests.distributed.launch import save

VOCAB, WIDTH, LAYERS, HEADS, HEAD, MLP = 128, 32, 4, 4, 8, 64
WINDOW, BATCH, STEPS = 32, 16, 12

#: Logical axis -> axis of the mesh, as such trainers keep it.
RULES = {"batch": ("data", "fsdp"), "embed": "fsdp"}
#: Parameter -> (shape, logical axes).
PARAMS = {
    "embedder/embedding": ((VOCAB, WIDTH), ("vocab", "embed")),
    "layers/attention/qkv/kernel": (
        (WIDTH, LAYERS, 3, HEADS, HEAD),
        ("embed", "layers", None, "heads", "head"),
    ),
    "layers/attention/out/kernel": ((HEADS, LAYERS, HEAD, WIDTH), ("heads", "layers", "head", "embed")),
    "layers/mlp/wi/kernel": ((WIDTH, LAYERS, MLP), ("embed", "layers", "mlp")),
    "layers/mlp/wo/kernel": ((MLP, LAYERS, WIDTH), ("mlp", "layers", "embed")),
    "layers/norm/scale": ((WIDTH, LAYERS, 2), ("embed", "layers", None)),
    "logits/kernel": ((WIDTH, VOCAB), ("embed", "vocab")),
}


def spec(logical: tuple[str | None, ...]) -> P:
    """Logical axes to a place on the mesh."""
    return P(*(RULES.get(name) for name in logical))


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Paths to a tree."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *rooms, last = path.split("/")
        place = tree
        for room in rooms:
            place = place.setdefault(room, {})
        place[last] = leaf
    return tree


def paths(small: bool) -> list[str]:
    """The parameters of the decoder; of the small one, whose layers have no attention, fewer to compile."""
    return [path for path in PARAMS if not (small and "attention" in path)]


def draw(seed: int, small: bool) -> dict[str, Any]:
    """Initial parameters."""
    rng, found = np.random.default_rng(seed), {}
    for path in paths(small):
        shape = PARAMS[path][0]
        value = np.ones(shape) if path.endswith("scale") else rng.normal(size=shape) / np.sqrt(WIDTH)
        found[path] = jnp.asarray(value)
    return nested(found)


def make_apply(mesh: Mesh | None) -> Any:
    """``apply(params, tokens) -> logits``; activations lie by their batch."""

    def placed(x: jax.Array) -> jax.Array:
        where = spec(("batch", None, None))
        return x if mesh is None else jax.lax.with_sharding_constraint(x, NamedSharding(mesh, where))

    def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale

    def attend(h: jax.Array, w: dict[str, Any]) -> jax.Array:
        q, k, v = jnp.einsum("bte,echd->cbthd", h, w["qkv"]["kernel"])
        logits = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(HEAD)
        logits = jnp.where(jnp.tril(jnp.ones((WINDOW, WINDOW), bool)), logits, -1e9)
        mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), v)
        return jnp.einsum("bthd,hde->bte", mixed, w["out"]["kernel"])

    @jax.checkpoint
    def layer(x: jax.Array, w: dict[str, Any]) -> tuple[jax.Array, None]:
        first, second = w["norm"]["scale"][:, 0], w["norm"]["scale"][:, 1]
        if "attention" in w:
            x = placed(x + attend(norm(x, first), w["attention"]))
        up = jax.nn.gelu(norm(x, second) @ w["mlp"]["wi"]["kernel"])
        return placed(x + up @ w["mlp"]["wo"]["kernel"]), None

    def apply(params: dict[str, Any], tokens: jax.Array) -> jax.Array:
        x = placed(params["embedder"]["embedding"][tokens])
        stacked = jax.tree.map(lambda w: jnp.moveaxis(w, 1, 0), params["layers"])
        x, _ = jax.lax.scan(layer, x, stacked)
        return x @ params["logits"]["kernel"]

    return apply


def make_step(apply: Any, tx: Any) -> Any:
    """The trainer's step, of which no line knows of masks."""

    def loss(params: dict[str, Any], tokens: jax.Array) -> jax.Array:
        logits = apply(params, tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    def step(state: dict[str, Any], tokens: jax.Array) -> tuple[dict[str, Any], jax.Array]:
        value, grads = jax.value_and_grad(loss)(state["params"], tokens)
        updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, value

    return step


def optimizer(method: str, apply: Any) -> Any:
    """The optimizer of the trainer, dense or inside a recipe that learns the axes from the trace."""
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3))
    tokens = jax.ShapeDtypeStruct((BATCH, WINDOW), jnp.int32)
    shared = {"sparsity": 0.75, "update_every": 2, "roles": (apply, tokens)}
    if method == "rigl":
        share = sparsejax.distributions.erdos_renyi_kernel()
        key = jax.random.key(1)
        return sparsejax.rigl(inner, total_steps=STEPS, distribution=share, key=key, **shared)
    if method == "gmp":
        return sparsejax.gmp(inner, begin_step=0, end_step=9, **shared)
    return inner


def start(
    tx: Any, params: dict[str, Any], mesh: Mesh | None, init: Any = sparsejax.init
) -> tuple[dict[str, Any], Any]:
    """The first state, and where its arrays lie: what the trainer gives to `jax.jit`."""
    if mesh is not None:
        places = {path: NamedSharding(mesh, spec(PARAMS[path][1])) for path in flat(params)}
        params = jax.device_put(params, nested(places))
    params, opt_state = init(tx, params)  # where the parameters lie, masks and moments lie
    state = {"params": params, "opt_state": opt_state, "step": jnp.int32(0)}
    if mesh is None:
        return state, None
    whole = NamedSharding(mesh, P())  # counts and keys
    shardings = jax.tree.map(
        lambda leaf: leaf.sharding if isinstance(leaf.sharding, NamedSharding) else whole, state
    )
    return jax.device_put(state, shardings), shardings


def batches() -> np.ndarray:
    """Windows of this file's own text, (steps, batch, window + 1)."""
    text = np.frombuffer(Path(__file__).read_bytes(), np.uint8) % VOCAB
    starts = np.random.default_rng(0).integers(len(text) - WINDOW - 1, size=(STEPS, BATCH, 1))
    return text[starts + np.arange(WINDOW + 1)].astype(np.int32)


def train(method: str, mesh: Mesh | None, small: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Trains; gives the losses, what the step moves between devices, where arrays lie, and the last arrays."""
    apply = make_apply(mesh)
    tx = optimizer(method, make_apply(None))
    init = (lambda tx, params: (params, tx.init(params))) if method == "dense" else sparsejax.init
    state, shardings = start(tx, draw(0, small), mesh, init)
    data = None if mesh is None else NamedSharding(mesh, spec(("batch", None)))
    places = {} if mesh is None else {"in_shardings": (shardings, data), "out_shardings": (shardings, None)}
    step = jax.jit(make_step(apply, tx), donate_argnums=0, **places)
    tokens = [jax.device_put(batch, data) for batch in batches()]
    program = step.lower(state, tokens[0]).compile()
    facts: dict[str, Any] = {"operations": hlo.operations(program.as_text()), "losses": [], "changes": 0}
    arrays, before = {}, None
    for batch in tokens:
        state, loss = program(state, batch)
        facts["losses"].append(float(loss))
        if method != "dense":
            masks = layouts.to_host(jax.jit(sparsejax.get_masks)(state["opt_state"]))
            masks = flat(masks)
            facts["changes"] += int(before is not None and any((masks[p] != before[p]).any() for p in masks))
            before = masks
    if before is not None:
        arrays |= {f"{method}/mask/{path}": mask for path, mask in before.items() if mask.ndim}
    arrays |= {
        f"{method}/param/{path}": leaf for path, leaf in flat(layouts.to_host(state["params"])).items()
    }
    if mesh is not None:
        facts["parts"] = parts_of(state)
    return facts, arrays


def train_all(
    methods: Sequence[str], mesh: Mesh | None, small: bool
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Facts by method, and the arrays of all methods."""
    facts, arrays = {}, {}
    for method in methods:
        facts[method], found = train(method, mesh, small)
        arrays |= found
    return facts, arrays


def flat(tree: Any) -> dict[str, Any]:
    """A tree by its paths."""
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in pairs}


def parts_of(state: dict[str, Any]) -> dict[str, list[int]]:
    """Of each kernel: into how many parts its parameter, its moments and its mask are cut."""
    named = flat(state)
    kernels = [path for path in PARAMS if f"params/{path}" in named and path.endswith("kernel")]
    found: dict[str, list[int]] = {path: [] for path in kernels}
    for name, leaf in named.items():
        for path, places in found.items():
            if name.endswith(path) and leaf.ndim > 1:
                places.append(layouts.parts(leaf))
    return found


def main() -> None:
    """Trains by the methods that the command line names, on one device or on eight."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)  # the order of sums then decides no mask
    jax.config.update("jax_num_cpu_devices", options.devices)
    mesh = None
    if options.devices > 1:
        shape = (2, options.devices // 2)
        mesh = jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    save(options.folder, *train_all(options.methods, mesh, options.small))


if __name__ == "__main__":
    main()
