"""The pages do what they say: their Python runs, and every link, path, module and configuration they name exists."""

import importlib.util
import inspect
import pathlib
import re
import runpy

import jax
import jax.numpy as jnp
import pytest

import sparsejax

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
ALL = [*PAGES, ROOT / "CHANGELOG.md"]
# A block after the line `<!-- fragment -->` is an excerpt that does not run by itself.
BLOCK = re.compile(r"(<!-- fragment -->\n)?^```python\n(.*?)^```", re.M | re.S)


def name(path):
    return str(path.relative_to(ROOT))


def blocks(page):
    return [code for fragment, code in BLOCK.findall(page.read_text(encoding="utf-8")) if not fragment]


def context():
    """What the pages take for granted: a model, its parameters, a loss and batches."""

    def apply_fn(params, x):
        return jax.nn.relu(x @ params["first"]["kernel"]) @ params["second"]["kernel"]

    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "first": {"kernel": jax.random.normal(keys[0], (8, 32))},
        "second": {"kernel": jax.random.normal(keys[1], (32, 4))},
    }
    x = jax.random.normal(keys[2], (16, 8))
    return {
        "sparsejax": sparsejax,
        "jax": jax,
        "jnp": jnp,
        "apply_fn": apply_fn,
        "params": params,
        "x": x,
        "loss": jax.jit(lambda params, batch: jnp.mean(apply_fn(params, batch) ** 2)),
        "batches": iter(lambda: x, None),
    }


TORCH = ROOT / "docs" / "guides" / "torch.md"


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p) and p != TORCH], ids=name)
def test_the_python_of_a_page_runs(page):
    space = context()
    # RigL moves its masks every 100 steps there, and stops at three quarters of them.
    steps = "140" if page.name in ("README.md", "index.md") else "40"
    for code in blocks(page):
        exec(compile(code.replace("10_000", steps), name(page), "exec"), space)
    if page.name == "README.md":
        masks = sparsejax.get_masks(space["opt_state"])
        assert float(sparsejax.masks.sparsity(masks, space["params"])) == pytest.approx(0.95, abs=0.005)
        for layer in ("first", "second"):
            off = ~masks[layer]["kernel"]
            assert not jnp.any(jnp.where(off, space["params"][layer]["kernel"], 0.0))


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_the_python_of_the_page_on_torch_runs(tmp_path):
    # torchax is imported by the library alone, which makes up for operators that torch has dropped.
    if not all(map(importlib.util.find_spec, ("torch", "torchax", "transformers"))):
        pytest.skip("the extra torch")
    space = {"folder": tmp_path}
    for code in blocks(TORCH):
        exec(compile(code, name(TORCH), "exec"), space)
    assert space["loaded"].config.intermediate_size == 24


def test_the_score_and_the_rule_of_the_page_prune():
    space = context()
    for code in blocks(ROOT / "docs" / "extending.md"):
        exec(compile(code, "docs/extending.md", "exec"), space)
    start, params = space["params"], jax.tree.map(lambda w: w * 2, space["params"])
    scores = space["growth"]().value(start, params, None, None)
    assert jnp.allclose(scores["first"]["kernel"], jnp.abs(start["first"]["kernel"]))
    rule = space["drop_below"](0.5, end_step=100)
    masks, state = rule.init(start, None)
    masks, _ = rule.update(start, state, masks, start, 10, None)
    assert jnp.array_equal(masks["first"]["kernel"], jnp.abs(start["first"]["kernel"]) >= 0.5)


def test_the_readme_is_one_page():
    assert (ROOT / "README.md").stat().st_size <= 8192


@pytest.mark.parametrize("page", ALL, ids=name)
def test_lines_are_at_most_110_wide(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 110 and not line.startswith("|") and "\t" not in line] == []


def test_no_page_has_the_name_of_one_that_sphinx_makes():
    """It would be overwritten without a word."""
    assert not {"search", "genindex", "modindex", "py-modindex"} & {page.stem for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_path_that_is_named_exists(page):
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"(?<![\w/.-])((?:configs|docs|sparsejax|experiments|tests|colab)/[\w/.-]*\w)", text)
    assert [p for p in paths if "NAME" not in p and not (ROOT / p).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_that_is_named_has_its_module(page):
    commands = re.findall(
        r"python -m\s+(experiments[\w.]*\w)(?: ([a-z]+)\b)?", page.read_text(encoding="utf-8")
    )
    for module, word in commands:
        assert importlib.util.find_spec(module), module
        if module == "experiments.benchmark" and word:
            assert (ROOT / "experiments" / "benchmark" / f"{word}.py").exists(), word


def test_nothing_says_to_install_from_an_index():
    # Nothing is released: installing is from a checkout.
    for path in [
        *ALL,
        *ROOT.glob("colab/*.ipynb"),
        *ROOT.glob("experiments/**/*.py"),
        *ROOT.glob("sparsejax/**/*.py"),
    ]:
        assert not re.search(r"pip install '?sparsejax", path.read_text(encoding="utf-8")), path


def test_the_table_of_recipes_is_that_of_their_signatures():
    writer = runpy.run_path(str(ROOT / "docs" / "write_recipes.py"))
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert writer["page"](text) == text
    recipes = {
        name
        for name in sparsejax.__all__
        if inspect.isfunction(getattr(sparsejax, name))
        and "sparsejax.recipes" in getattr(sparsejax, name).__module__
    }
    assert recipes - {"find_tickets"} == set(writer["RECIPES"])


def test_the_table_of_methods_has_the_numbers_of_the_results():
    writer = runpy.run_path(str(ROOT / "docs" / "write_methods.py"))
    text, results = (
        (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("methods", "results")
    )
    assert writer["page"](text, results) == text
    for method in writer["METHODS"]:
        sparse = sparsejax
        for part in method.name.partition("(")[0].split("."):
            sparse = getattr(sparse, part)
        assert callable(sparse)


@pytest.mark.parametrize("old", ["2.645 ± 0.005", "| gmp_uniform |"])
def test_a_number_that_changed_or_went_is_seen(old):
    writer = runpy.run_path(str(ROOT / "docs" / "write_methods.py"))
    text, results = (
        (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("methods", "results")
    )
    changed = results.replace(old, "| 9.999 |" if old.startswith("|") else "9.999 ± 0.001")
    if old.startswith("|"):
        with pytest.raises(LookupError, match="gmp_uniform"):
            writer["page"](text, changed)
    else:
        assert writer["page"](text, changed) != text
