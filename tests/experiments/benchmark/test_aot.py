"""The committed result of `make aot` is of these very sources, and says that all of them compile."""

import json

from experiments.benchmark import aot

RESULT = json.loads(aot.RESULTS.read_text(encoding="utf-8"))


def test_a_changed_kernel_without_a_new_run_fails():
    assert RESULT["sources"] == aot.hashes(), "a kernel has changed: run  make aot  and commit its result"


def test_everything_compiled_without_spills():
    rows = RESULT["rows"]
    assert {row["chip"] for row in rows} == {"v5e", "v6e", "H100", "H200"}
    cases = {chip: {row["case"] for row in rows if row["chip"] == chip} for chip in aot.CHIPS}
    assert (cases["v5e"], cases["H100"]) == (cases["v6e"], cases["H200"])
    assert {"dsd", "dsd_t", "sdd", "dsd float32", "training step"} <= cases["v5e"]
    assert {"dsd", "dsd_t", "sdd", "2:4 tensor cores, 256 rows", "training step"} <= cases["H100"]
    assert not [row for row in rows if "error" in row or row.get("spill_bytes")]
    for row in rows:
        # Shared memory beyond a Hopper's 227 KB is an error of the lowering, so of the row.
        assert row.get("vmem_bytes" if row["chip"].startswith("v") else "registers"), row
    assert set(RESULT["versions"]) >= {"jax", "libtpu", "jax-cuda13-plugin"}
    assert RESULT["date"]


def test_what_the_assembler_says_is_read():
    said = (
        "0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\nUsed 168 registers, used 16 barriers"
    )
    assert aot._ptxas(said) == {"registers": 168, "spill_bytes": 12}
    assert aot._ptxas("nothing was compiled") == {}


def test_the_largest_fast_memory_of_a_program_is_read():
    said = (
        '"used_scoped_memory_configs":[{"memory_space":"1","offset":"0","size":"64"}], x\n'
        '"used_scoped_memory_configs":[{"memory_space":"1","offset":"0","size":"720896"}]\n'
        '"used_scoped_memory_configs":[{"memory_space":"6","offset":"0","size":"999999"}]'
    )
    assert aot._vmem(said) == {"vmem_bytes": 720896}
    assert aot._vmem('"used_scoped_memory_configs":[]') == {}


def test_a_chip_whose_process_dies_is_a_failure(monkeypatch, capsys):
    monkeypatch.setattr(aot.sys, "executable", "/bin/false")
    assert aot.main(["--quick"]) == 1
    assert "0 of 2 compile" in capsys.readouterr().out


def test_it_says_why_it_is_skipped(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(aot, "packages", lambda: ["no-such-package-of-ours==0"])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert aot.install(tmp_path / "wheels") == 3
    assert "make aot is skipped" in capsys.readouterr().out
