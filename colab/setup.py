"""What the first code cell of every notebook calls once it has a checkout: dependencies in, versions out.

Only the standard library is imported at the top: nothing else need be there yet.
"""

import configparser
import importlib
import importlib.metadata
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

_PLUGIN = re.compile(r"jax-(cuda\d+|rocm\d+)-p\w+|libtpu")
_SHOWN = ("jax", "jaxlib", "flax", "optax", "numpy")


def set_up(
    checkout: pathlib.Path,
    *,
    replace_accelerator: bool = False,
    run: Callable[[Sequence[str]], object] = lambda command: subprocess.run(command, check=True),
) -> None:
    """Installs the checkout where something that it needs is missing, and prints the versions.

    A plugin for CUDA, ROCm or TPU and the jax that it belongs to stay as they are: pip is given their versions as
    constraints.

    Args:
      checkout: the folder with `setup.cfg`.
      replace_accelerator: whether jax and such a plugin may be replaced by newer ones.
      run: executes a command.

    Raises:
      RuntimeError: jax is too old and must not be replaced; an older jax is imported already, so that the session
        has to be restarted.
    """
    missing = [need for need in requirements(checkout) if unmet(need)]
    if missing:
        plugins = accelerator_plugins()
        old = [need for need in missing if re.match(r"jax\b", need)]
        if plugins and old and not replace_accelerator:
            raise RuntimeError(
                f"This machine has jax {importlib.metadata.version('jax')} with {', '.join(plugins)}, and sparsejax "
                f"needs {old[0]}. Nothing was changed. Set REPLACE_ACCELERATOR to install newer ones of both."
            )
        print(f"installing what is missing: {', '.join(missing)}")
        run(pip_command(checkout, plugins, replace=replace_accelerator and bool(old)))
        importlib.invalidate_caches()
    refuse_stale_jax()
    print(versions())


def requirements(checkout: pathlib.Path) -> list[str]:
    """What the notebooks need, as `setup.cfg` says it.

    Args:
      checkout: the folder with `setup.cfg`.

    Returns:
      Requirements such as ``jax>=0.10``.
    """
    config = configparser.ConfigParser(interpolation=None)
    config.read(checkout / "setup.cfg", encoding="utf-8")
    lines = [config["options"]["install_requires"], config["options.extras_require"]["experiments"]]
    return [line.strip() for line in "\n".join(lines).splitlines() if line.strip()]


def unmet(requirement: str) -> bool:
    """Whether a requirement is not installed, or too old.

    Args:
      requirement: such as ``jax>=0.10``.

    Returns:
      True where pip would have to do something.
    """
    from packaging.requirements import Requirement  # comes with Jupyter

    need = Requirement(requirement)
    try:
        return not need.specifier.contains(importlib.metadata.version(need.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return True


def accelerator_plugins() -> dict[str, str]:
    """The plugins for CUDA, ROCm and TPU that are installed, with their versions."""
    found = {dist.name: dist.version for dist in importlib.metadata.distributions() if dist.name}
    return {name: version for name, version in sorted(found.items()) if _PLUGIN.fullmatch(name)}


def pip_command(checkout: pathlib.Path, plugins: dict[str, str], *, replace: bool) -> list[str]:
    """The command that installs the checkout.

    Args:
      checkout: the folder with `setup.cfg`.
      plugins: from `accelerator_plugins`; with jax and jaxlib they are pinned to what is installed.
      replace: whether jax and the plugins may be replaced: jax is then asked for with the plugin of the same kind.

    Returns:
      The command's words.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "-e", f"{checkout}[experiments]"]
    if plugins and replace:
        kinds = {"tpu" if name == "libtpu" else _PLUGIN.fullmatch(name)[1] for name in plugins}
        return [*command, "--upgrade", *(f"jax[{kind}]" for kind in sorted(kinds))]
    if not plugins:
        return command
    pinned = plugins | {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.writelines(f"{name}=={version}\n" for name, version in pinned.items())
    return [*command, "--constraint", file.name]


def refuse_stale_jax() -> None:
    """Refuses to go on with a jax that was imported before a newer one was installed.

    Raises:
      RuntimeError: it says to restart.
    """
    loaded = getattr(sys.modules.get("jax"), "__version__", None)
    installed = importlib.metadata.version("jax")
    if loaded not in (None, installed):
        raise RuntimeError(
            f"jax {loaded} is imported, {installed} is installed now: restart the session (in Colab: Runtime, "
            "Restart session) and run this cell again."
        )


def versions() -> str:
    """One line: Python, what is computed with, and on what.

    Returns:
      Such as ``Python 3.11.7, jax 0.10.2, … on cpu``.
    """
    jax, sparsejax = importlib.import_module("jax"), importlib.import_module("sparsejax")
    shown = [f"{name} {importlib.metadata.version(name)}" for name in _SHOWN]
    device = jax.devices()[0]
    return ", ".join(
        [f"sparsejax {sparsejax.__version__}", f"Python {platform.python_version()}", *shown]
    ) + (f" on {device.device_kind}")
