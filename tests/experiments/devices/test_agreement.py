"""What hosts must share, and how a host that differs is named."""

import jax
import pytest

from experiments.devices import agreement
from experiments.errors import HostError

ONE = {"jax": "0.10.2", "code": "aa", "configuration": "11"}


def test_equal_hosts_differ_in_nothing():
    assert agreement.differences([ONE, dict(ONE), dict(ONE)]) == []


def test_what_differs_is_named_with_its_hosts():
    hosts = [dict(ONE) for _ in range(7)]
    hosts[3]["jax"], hosts[5]["code"] = "0.11.0", "bb"
    assert agreement.differences(hosts) == [
        "jax is 0.10.2 on hosts 0, 1, 2, 4, … and 0.11.0 on host 3",
        "code is aa on hosts 0, 1, 2, 3, … and bb on host 5",
    ]


def test_facts_tell_configurations_and_checkouts_apart(monkeypatch):
    first = agreement.facts({"seed": 0})
    assert first == agreement.facts({"seed": 0})
    assert first != agreement.facts({"seed": 1})
    assert first["jax"] == jax.__version__
    assert len(first["code"]) == 12
    monkeypatch.setattr(agreement, "_version", lambda name: "absent")
    assert agreement.facts({})["flax"] == "absent"


def test_alone_nothing_is_compared(monkeypatch):
    monkeypatch.setattr(agreement, "_gather", lambda here: pytest.fail("asked"))
    agreement.check_hosts_agree({})


def test_hosts_that_differ_are_refused(monkeypatch):
    monkeypatch.setattr(agreement.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(agreement.jax, "process_count", lambda: 2)
    monkeypatch.setattr(agreement, "_gather", lambda here: [here, here | {"optax": "9.9.9"}])
    with pytest.raises(
        HostError, match=r"optax is [\d.]+ on host 0 and 9\.9\.9 on host 1\. Give all of them"
    ):
        agreement.check_hosts_agree({})
