"""What importing sparsejax brings in, what its modules import of each other, and that all of it is documented."""

import ast
import inspect
import os
import pathlib
import subprocess
import sys

import pytest

import sparsejax

ROOT = pathlib.Path(sparsejax.__file__).parent
HEAVY = (
    "flax",
    "tensorflow_datasets",
    "matplotlib",
    "ml_collections",
    "absl.app",
    "rich",
    "sklearn",
    "orbax",
    "grain",
)


@pytest.fixture(scope="module")
def loaded():
    """The modules there are after jax, optax and numpy, and after sparsejax, in a fresh process."""
    code = "; ".join(
        [
            "import sys, jax, optax, numpy",
            "print(*sys.modules)",
            "import sparsejax",
            "print(*sys.modules)",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    before, after = done.stdout.splitlines()
    return set(before.split()), set(after.split())


def test_importing_sparsejax_needs_jax_optax_and_numpy_alone(loaded):
    before, after = loaded
    new = {name.partition(".")[0] for name in after - before} - set(sys.stdlib_module_names)
    # What jax itself loads on first use of a part of it belongs to its installation.
    assert {
        name for name in new if not name.startswith(("jax", "_", "ml_dtypes", "opt_einsum", "scipy"))
    } == {"sparsejax"}


def test_importing_sparsejax_loads_nothing_heavy(loaded):
    before, after = loaded
    assert not {name for name in HEAVY if name in after - before}
    assert not {name for name in after if name.startswith(("sparsejax.models", "sparsejax.training"))}


def test_importing_sparsejax_starts_no_backend():
    # JAX refuses a platform that does not exist, but only when it first looks for devices.
    environment = {**os.environ, "JAX_PLATFORMS": "nowhere"}
    code = "import sparsejax; print('imported', flush=True); import jax; jax.devices()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "imported\n"
    assert done.returncode != 0
    assert "nowhere" in done.stderr


def _modules():
    return {
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in ROOT.rglob("*.py")
    }


def _imports(name, path, modules):
    """The modules of sparsejax that this one imports when it is loaded, packages' __init__ by their name."""
    body = ast.parse(path.read_text()).body
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("sparsejax"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparsejax"):
            for alias in node.names:
                child = f"{node.module}.{alias.name}"
                yield child if child in modules or f"{child}.__init__" in modules else node.module


def _graph():
    modules = _modules()
    graph = {}
    for name, path in modules.items():
        targets = set()
        for target in _imports(name, path, modules):
            targets.add(f"{target}.__init__" if f"{target}.__init__" in modules else target)
        # A package that gathers its own submodules is no cycle; nor is naming the package one lives in.
        graph[name] = {
            t
            for t in targets
            if t in modules and t != name and not name.startswith(t.removesuffix("__init__"))
        }
    return graph


def test_no_module_imports_itself_in_a_circle():
    graph, done, path = _graph(), set(), []

    def visit(name):
        assert name not in path, f"circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name in done:
            return
        path.append(name)
        for target in sorted(graph[name]):
            visit(target)
        done.add(path.pop())

    for name in sorted(graph):
        visit(name)
    assert len(done) > 25


PUBLIC = sorted(
    name
    for name in vars(sparsejax)
    if not name.startswith("_") and not inspect.ismodule(vars(sparsejax)[name])
)


def test_the_public_names_are_what_the_issue_lists():
    listed = """gmp rigl set_ static_random snip one_shot ac_dc init prune_once apply_masks get_masks summarize sparsify
        prune drop_and_grow fixed uniform erdos_renyi erdos_renyi_kernel global_ explicit magnitude random saliency
        snip_score lamp grasp synflow cubic linear constant every Unstructured NM Block Channel"""
    assert set(listed.split()) <= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented_with_an_example(name):
    thing = getattr(sparsejax, name)
    if not callable(thing):
        return  # a value: its comment is where it is defined
    doc = inspect.getdoc(thing) or ""
    assert doc.splitlines()[0].endswith((".", "?"))
    if inspect.isfunction(thing):
        assert "Returns:" in doc or inspect.signature(thing).return_annotation is None
        assert "Example:" in doc
        assert ">>> " in doc
        if inspect.signature(thing).parameters:
            assert "Args:" in doc


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isfunction(getattr(sparsejax, name))])
def test_every_argument_of_a_public_function_is_annotated_and_described(name):
    function = getattr(sparsejax, name)
    doc = inspect.getdoc(function)
    for argument, parameter in inspect.signature(function).parameters.items():
        stars = {parameter.VAR_POSITIONAL: r"\*", parameter.VAR_KEYWORD: r"\*\*"}.get(parameter.kind, "")
        assert parameter.annotation is not parameter.empty, argument
        assert f"{stars.replace(chr(92), '')}{argument}:" in doc, argument


@pytest.mark.parametrize("path", sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*.py")))
def test_every_file_says_in_its_first_line_what_it_is_for(path):
    doc = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    assert doc
    assert doc.splitlines()[0].endswith(".")
