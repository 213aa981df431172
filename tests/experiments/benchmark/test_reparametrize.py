"""The benchmark of learned masks runs on tiny models, and its check sees parameters off their masks."""

from typing import Any

import jax
import pytest

import sparsejax
from experiments.benchmark import reparametrize


@pytest.mark.slow
def test_it_runs():
    rows = reparametrize.run(quick=True)
    cases = [(row["model"], row["case"]) for row in rows]
    assert ("transformer", "l0, weights") in cases
    assert ("noise", "gates and noise") in cases
    assert all(row["ratio"] > 0 for row in rows)
    assert all("amortized" in row for row in rows if row["case"] == "movement")


@pytest.mark.slow
def test_the_check_sees_a_wrong_finalize(monkeypatch: pytest.MonkeyPatch):
    def wrong(state: Any) -> Any:
        params, masks = sparsejax.get_masks(state), sparsejax.get_masks(state)
        return jax.tree.map(lambda mask: mask * 0.0 + 1.0, params), masks

    monkeypatch.setattr(
        reparametrize, "_recipes", lambda model: dict.fromkeys(
            ("straight_through",), lambda inner: sparsejax.straight_through(inner, sparsity=0.9)
        )
    )  # fmt: skip
    monkeypatch.setattr(reparametrize, "_CHECKED", ("straight_through",))
    assert list(reparametrize.check(quick=True)) == ["straight_through: final sparsity 0.9000"]
    monkeypatch.setattr(reparametrize.sparsejax, "finalize", wrong)
    with pytest.raises(RuntimeError, match="straight_through"):
        list(reparametrize.check(quick=True))
