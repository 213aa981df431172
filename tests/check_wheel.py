"""Script: builds the wheel and the sdist and tries both in clean environments, one a Python and a JAX.

make release PYTHONS="python3.11 python3.12 python3.13"

In each, with what the package itself asks for and no more: it is imported from the environment, trains, prunes, writes
a file and reads it back, and warns of nothing. Nothing is uploaded.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
#: What runs there; it stands in a folder of its own, so that no checkout is on the path.
TRIAL = """
import importlib.metadata, pathlib, sys, tempfile
import jax, jax.numpy as jnp, optax, sparsejax

place = pathlib.Path(sparsejax.__file__).parent
assert pathlib.Path(sys.prefix) in place.parents, place
assert importlib.metadata.version("sparsejax") == sparsejax.__version__ == sys.argv[1]
assert (place / "py.typed").is_file() and list(place.glob("kernels/*.json"))

def apply(params, x):
    return jax.nn.relu(x @ params["a"]["kernel"]) @ params["b"]["kernel"]

keys = jax.random.split(jax.random.key(0), 3)
params = {"a": {"kernel": jax.random.normal(keys[0], (8, 32))}, "b": {"kernel": jax.random.normal(keys[1], (32, 4))}}
x = jax.random.normal(keys[2], (64, 8))
tx = sparsejax.rigl(optax.adamw(1e-3), sparsity=0.9, total_steps=20, update_every=5, key=keys[0])
params, state = sparsejax.init(tx, params)
before = sparsejax.get_masks(state)

@jax.jit
def step(params, state):
    grads = jax.grad(lambda p: jnp.mean(jnp.square(apply(p, x) - 1)))(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

for _ in range(20):
    params, state = step(params, state)
masks = sparsejax.get_masks(state)
assert abs(float(sparsejax.masks.sparsity(masks, params)) - 0.9) < 0.01
assert any(bool(jnp.any(a != b)) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(masks)))
assert not any(bool(jnp.any(jnp.where(m, 0, p))) for m, p in zip(jax.tree.leaves(masks), jax.tree.leaves(params)))
found = sparsejax.prune_structured(apply, params, x, channel_ratio=0.5)
small, small_params = sparsejax.shrink(apply, params, x, found.groups, found.keep)
assert small_params["a"]["kernel"].shape == (8, 16)
file = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
sparsejax.export.save(file, params, masks)
loaded = sparsejax.export.load(file)
same = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), params, loaded)
assert all(jax.tree.leaves(same)), same
print("Python", sys.version.split()[0], "JAX", jax.__version__, "optax", optax.__version__, "numpy", jnp.__name__ and
      importlib.metadata.version("numpy"))
"""


def main() -> int:
    """Builds, checks, and tries each environment; returns 1 where one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default=str(ROOT / "build" / "dist"), help="where wheel and sdist go")
    parser.add_argument(
        "--pythons", nargs="+", default=[sys.executable], help="interpreters, by name or path"
    )
    parser.add_argument("--jax", nargs="+", default=["0.10.*", ""], help="versions to ask for; '' the newest")
    options = parser.parse_args()
    out = pathlib.Path(options.out)
    with tempfile.TemporaryDirectory() as folder:
        tools = environment(pathlib.Path(folder) / "tools", sys.executable, "build", "twine")
        run(tools, "-m", "build", "--outdir", out, ROOT)
        version = next(
            iter(sorted(out.glob("*.whl"), key=lambda path: path.stat().st_mtime)[-1:])
        ).name.split("-")[1]
        built = [next(out.glob(f"sparsejax-{version}-*.whl")), out / f"sparsejax-{version}.tar.gz"]
        run(tools, "-m", "twine", "check", "--strict", *built)
        failed = []
        for python in options.pythons:
            for jax, package in zip(options.jax, (built * len(options.jax)), strict=False):
                asked = f"jax=={jax}" if jax else "jax"
                try:
                    made = environment(
                        pathlib.Path(folder) / f"{pathlib.Path(python).name}-{jax}", python, package, asked
                    )
                    run(made, "-I", "-W", "error", "-c", TRIAL, version)
                except subprocess.CalledProcessError as error:
                    failed.append(f"{python} {asked} from {package.name}: {error}")
        print(*(failed or [f"{', '.join(path.name for path in built)}: all environments pass"]), sep="\n")
    return int(bool(failed))


def environment(place: pathlib.Path, python: str, *packages: object) -> pathlib.Path:
    """A new environment with some packages; returns its interpreter."""
    subprocess.run([python, "-m", "venv", str(place)], check=True)
    made = place / "bin" / "python"
    run(made, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return made


def run(python: pathlib.Path, *arguments: object) -> None:
    """Runs an interpreter outside the checkout."""
    subprocess.run([str(python), *map(str, arguments)], check=True, cwd=python.parent)


if __name__ == "__main__":
    sys.exit(main())
