"""What importing sparsejax brings in, what its modules import of each other, and that all of it is documented."""

import ast
import importlib
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
    assert not {name for name in after if name.startswith(("sparsejax.interop", "experiments"))}


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


# What a reader of the README types, and the namespaces that hold the rest.
TOP = {
    *(
        "init",
        "sparsify",
        "reparametrize",
        "get_masks",
        "apply_masks",
        "finalize",
        "eval_params",
        "summarize",
    ),
    *("rigl", "set_", "gmp", "one_shot", "static_random", "snip", "ac_dc", "prune_params", "find_tickets"),
    *("movement", "soft_movement", "l0", "cofi", "straight_through", "prune_structured", "Override", "dense"),
    *("linear_ops", "calibrate", "prunable_groups", "group_masks", "shrink", "model_cost"),
}
NAMESPACES = (
    *("recipes", "scores", "patterns", "distributions", "schedules", "rules", "parametrizations"),
    *("importances", "masks", "tracing", "structured", "distillation", "errors", "transforms", "typing"),
    *("post_training", "export", "kernels", "search"),
)


def _names(module):
    return {n for n, v in vars(module).items() if not n.startswith("_") and not inspect.ismodule(v)}


PUBLIC = {
    **{name: getattr(sparsejax, name) for name in sorted(_names(sparsejax))},
    **{
        f"{space}.{name}": getattr(getattr(sparsejax, space), name)
        for space in NAMESPACES
        if space not in ("typing",)
        for name in sorted(_names(getattr(sparsejax, space)))
        if getattr(getattr(getattr(sparsejax, space), name), "__module__", "").startswith("sparsejax")
    },
}
FUNCTIONS = [name for name, thing in PUBLIC.items() if inspect.isfunction(thing)]


def test_the_top_holds_what_a_reader_of_the_readme_types_and_never_more_than_45_names():
    assert _names(sparsejax) == TOP == set(sparsejax.__all__) - set(NAMESPACES)
    assert len(TOP) <= 45


def test_every_namespace_is_a_module_at_its_public_path():
    for name in NAMESPACES:
        assert importlib.import_module(f"sparsejax.{name}") is getattr(sparsejax, name)
    assert {n for n, v in vars(sparsejax).items() if inspect.ismodule(v)} >= set(NAMESPACES)


def test_the_library_has_few_rooms():
    entries = {
        path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert len(entries - {"__init__"} - TO_COME) <= 17
    assert len(entries - {"__init__"}) <= 22


# Rooms that stand or will stand above those of today.
TO_COME = {"post_training", "search", "kernels", "export", "interop"}


@pytest.mark.parametrize("name", sorted(_modules()))
def test_no_module_is_hidden_by_a_function_of_its_name(name):
    module = importlib.import_module(name.removesuffix(".__init__"))
    assert inspect.ismodule(module)
    parent, _, last = module.__name__.rpartition(".")
    if parent:
        assert getattr(sys.modules[parent], last) is module


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name):
    thing = PUBLIC[name]
    if not callable(thing):
        return  # a value: its comment is where it is defined
    doc = inspect.getdoc(thing) or ""
    assert doc.splitlines()[0].endswith((".", "?"))
    if inspect.isfunction(thing):
        assert "Returns:" in doc or inspect.signature(thing).return_annotation is None
        if inspect.signature(thing).parameters:
            assert "Args:" in doc


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_of_a_public_function_is_annotated_and_described(name):
    function = PUBLIC[name]
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
