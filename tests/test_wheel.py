"""What the wheel holds: `sparsejax` with every subpackage and py.typed, and nothing of the runner."""

import configparser
import pathlib

import setuptools

import sparsejax

_ROOT = pathlib.Path(__file__).parents[1]


def _packages():
    setup = configparser.ConfigParser()
    setup.read(_ROOT / "setup.cfg")
    include = setup["options.packages.find"]["include"].split()
    return set(setuptools.find_packages(str(_ROOT), include=include)), setup


def test_the_wheel_holds_the_library_alone():
    packages, setup = _packages()
    assert {name.split(".")[0] for name in packages} == {"sparsejax"}
    assert setup["options.package_data"]["sparsejax"].split() == ["py.typed", "kernels/*.json"]
    assert (_ROOT / "sparsejax" / "py.typed").is_file()


def test_every_folder_with_code_is_a_package_of_the_wheel():
    folders = {path.parent for path in (_ROOT / "sparsejax").rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)
    packages, _ = _packages()
    assert {".".join(folder.relative_to(_ROOT).parts) for folder in folders} == packages


def test_all_places_name_one_version():
    _, setup = _packages()
    assert setup["metadata"]["version"] == "attr: sparsejax.__version__"
    assert f"version: {sparsejax.__version__}\n" in (_ROOT / "CITATION.cff").read_text()
    released = (_ROOT / "CHANGELOG.md").read_text().partition("## ")[2]
    assert released.startswith(f"{sparsejax.__version__} (")
    assert (
        f"This is version {sparsejax.__version__.rpartition('.')[0]};"
        in (_ROOT / "docs/stable.md").read_text()
    )
