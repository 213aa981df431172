"""How a process finds the others: three variables, all or none."""

import pytest

from experiments.devices.hosts import any_host, join_hosts, same_on_all, together
from experiments.errors import DeviceError

NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((None, "2", "0"), "Set all of"),
        (("localhost:1", "2", None), "Set all of"),
        (("localhost:1", None, "1"), "Set all of"),
        (("localhost:1", "two", "0"), "two numbers"),
        (("localhost:1", "2", "2"), "JAX_PROCESS_ID=2 must be below"),
    ],
)
def test_half_a_launch_is_refused(monkeypatch, values, words):
    for name, value in zip(NAMES, values, strict=True):
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError, match=words):
        join_hosts()


@pytest.mark.parametrize("given", [{}, {"SLURM_STEP_NODELIST": "a", "SLURM_STEP_NUM_TASKS": "1"}])
def test_a_process_alone_joins_nobody(monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert not join_hosts()


def test_alone_all_hosts_agree():
    assert any_host(True)
    assert not any_host(False)
    assert same_on_all(5)
    with pytest.raises(ZeroDivisionError), together():
        1 / 0  # noqa: B018
