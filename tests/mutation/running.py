"""One mutant against the tests of its file: a copy of the package, a process forked from a warm one, a limit."""

import importlib
import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from tests.mutation.drawing import ROOT
from tests.mutation.operators import Mutant, mutated

#: Seconds of processor time for the tests of one mutant; what takes longer is "timeout", and is counted apart.
LIMIT = 60
#: No mutant may wait for ever, as one does that sleeps.
_WALL = 10 * LIMIT


def warm() -> None:
    """Imports what tests import, without starting a device: threads would not survive the forks."""
    importlib.import_module("tests.conftest")  # sets JAX's variables
    for name in ("chex", "equinox", "flax.linen", "flax.nnx", "haiku", "hypothesis", "optax"):
        importlib.import_module(name)
    if any(name == "sparsejax" or name.startswith("sparsejax.") for name in sys.modules):
        raise RuntimeError("sparsejax is imported already: the mutants would not be")


def run(mutant: Mutant | None, tests: Sequence[str]) -> dict[str, Any]:
    """What became of it.

    Args:
      mutant: None for the package as it is: its tests must pass.
      tests: files or single tests, in the order in which they are run; the first failure ends it.

    Returns:
      `outcome` ("killed", "survived", "timeout", or "unfinished" where no test hung but the limit came first), `by`
      (the test that failed or hung) and `seconds` of processor time.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        shutil.copytree(ROOT / "sparsejax", root / "sparsejax", ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            file = root / mutant.path
            file.write_text(mutated(file.read_text(), mutant))
        pid = os.fork()
        if pid == 0:
            _child(root, tests)
        status, seconds = _wait(pid)
        told = root / "told.json"
        answer = json.loads(told.read_text()) if told.exists() else {}
        begun = (root / "begun.txt").read_text().split() if (root / "begun.txt").exists() else ["import", "0"]
    if os.WIFSIGNALED(status):
        answer = {"outcome": "killed", "by": f"{signal.Signals(os.WTERMSIG(status)).name} in {begun[0]}"}
        if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
            # A test that goes on and on, or one that merely came last.
            hangs = seconds - float(begun[1]) > LIMIT / 3
            answer = {"outcome": "timeout" if hangs else "unfinished", "by": begun[0]}
    return {**answer, "seconds": seconds}


def _wait(pid: int) -> tuple[int, float]:
    end = time.monotonic() + _WALL
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, round(usage.ru_utime + usage.ru_stime, 1)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _child(root: pathlib.Path, tests: Sequence[str]) -> None:
    """Never returns."""
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT + 5))
    output = os.open(root / "output.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    answer = {"outcome": "killed", "by": "import"}
    try:
        answer = _tested(root, tests)
    except BaseException as error:
        answer["by"] = f"import: {type(error).__name__}"
    (root / "told.json").write_text(json.dumps(answer))
    os._exit(0)


def _tested(root: pathlib.Path, tests: Sequence[str]) -> dict[str, str]:
    import pytest

    sys.path.insert(0, str(root))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), str(ROOT)])
    import sparsejax

    assert pathlib.Path(sparsejax.__file__).is_relative_to(root), sparsejax.__file__
    first = _FirstFailure(root / "begun.txt")
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = pytest.main([*options, *tests], plugins=[first])
    if code == pytest.ExitCode.OK:
        return {"outcome": "survived", "by": ""}
    return {"outcome": "killed", "by": first.failed or f"pytest: {code.name}"}


class _FirstFailure:
    failed = ""

    def __init__(self, begun: pathlib.Path) -> None:
        self._begun = begun

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._begun.write_text(f"{nodeid.replace(' ', '_')} {time.process_time()}")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid
