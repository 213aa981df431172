"""The first code cell: it finds or clones a checkout, leaves accelerators alone, and asks for a restart."""

import pathlib
import subprocess
import sys
import types

import pytest

from colab import compile, setup

ROOT = pathlib.Path(__file__).parents[2]


def cell(folder: pathlib.Path, code: str = compile.FIRST_CELL) -> subprocess.CompletedProcess:
    # -I: nothing of this checkout is on the path of the process.
    return subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_a_checkout_around_the_notebook_is_found():
    done = cell(ROOT / "colab")
    assert done.returncode == 0, done.stderr
    assert "jax" in done.stdout
    assert "cpu" in done.stdout


def test_without_a_checkout_it_says_that_there_is_no_public_address(tmp_path):
    done = cell(tmp_path)
    assert "no public address yet" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_given_address_is_cloned(tmp_path):
    origin, place = tmp_path / "origin", tmp_path / "notebook"
    for folder in (origin / "colab", place):
        folder.mkdir(parents=True)
    (origin / "colab" / "setup.py").write_text(
        "def set_up(checkout, *, replace_accelerator):\n    print('set up', checkout.name, replace_accelerator)\n"
    )
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "one"]):
        subprocess.run([*git, *words], cwd=origin, check=True)
    # A cell runs with its folder on the path; -I leaves it out, so no other `colab` is imported.
    done = cell(place, compile.FIRST_CELL.replace("https://github.com/OWNER/sparsejax", origin.as_uri()))
    assert done.stdout == "set up sparsejax False\n", done.stderr


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A checkout that needs jax 0.10, and a machine with the packages that the test says."""
    (tmp_path / "setup.cfg").write_text(
        "[options]\ninstall_requires =\n    jax>=0.10\n[options.extras_require]\nexperiments =\n    rich>=13\n"
    )

    def has(**versions):
        names = {name.replace("_", "-"): version for name, version in versions.items()}

        def version(name):
            if name in names:
                return names[name]
            raise setup.importlib.metadata.PackageNotFoundError(name)

        dists = [types.SimpleNamespace(name=name, version=version) for name, version in names.items()]
        monkeypatch.setattr(setup.importlib.metadata, "version", version)
        monkeypatch.setattr(setup.importlib.metadata, "distributions", lambda: dists)
        monkeypatch.setattr(setup, "versions", lambda: "versions")
        return tmp_path

    return has


def test_what_is_there_is_not_installed_again(machine, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(__version__="0.10.1"))
    setup.set_up(machine(jax="0.10.1", rich="14.0"), run=pytest.fail)
    assert capsys.readouterr().out == "versions\n"


def test_what_is_missing_is_installed_and_a_plugin_pinned(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    commands = []
    place = machine(jax="0.10.1", jaxlib="0.10.1", jax_cuda13_plugin="0.10.1", libtpu="0.0.9")
    setup.set_up(place, run=commands.append)
    ((*words, option, constraints),) = commands
    assert words[-2:] == ["-e", f"{place}[experiments]"]
    assert option == "--constraint"
    pinned = pathlib.Path(constraints).read_text().split()
    assert sorted(pinned) == ["jax-cuda13-plugin==0.10.1", "jax==0.10.1", "jaxlib==0.10.1", "libtpu==0.0.9"]


def test_an_old_jax_with_an_accelerator_is_replaced_only_when_asked(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    place = machine(jax="0.7.0", jaxlib="0.7.0", rich="14.0", jax_cuda12_plugin="0.7.0")
    with pytest.raises(RuntimeError, match=r"jax 0.7.0 with jax-cuda12-plugin.*REPLACE_ACCELERATOR"):
        setup.set_up(place, run=pytest.fail)
    commands = []
    setup.set_up(place, replace_accelerator=True, run=commands.append)
    assert commands[0][-2:] == ["--upgrade", "jax[cuda12]"]


def test_an_older_jax_that_is_imported_asks_for_a_restart(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(__version__="0.7.0"))
    with pytest.raises(RuntimeError, match="restart the session"):
        setup.set_up(machine(jax="0.10.1", rich="14.0"), run=pytest.fail)


def test_the_requirements_are_those_of_this_checkout():
    found = setup.requirements(ROOT)
    assert "jax>=0.10" in found
    assert "matplotlib>=3.9" in found
    assert not any(setup.unmet(need) for need in found)
    assert setup.unmet("jax>=1000")
    assert setup.unmet("a-package-that-nobody-has>=1")
