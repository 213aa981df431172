"""Calibration that is killed, goes on, and gives the same bytes; folders of another calibration; full disks."""

import contextlib
import functools
import json
import multiprocessing
import os
import random
import resource
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import CalibrationError
from sparsejax.params.whole_file import whole_file
from sparsejax.post_training import Solution, alps, calibration_run, prune_model, solve_alps, sparsegpt
from sparsejax.post_training.sequential.store import Store, fingerprint
from sparsejax.post_training.sequential.walk import Walk
from sparsejax.post_training.setting_names import name_of
from tests.tracing.functions import normal

#: Forks what has imported JAX but not used it.
_CONTEXT = multiprocessing.get_context("forkserver")


def task():
    """A residual stack and a head: stages of scanned layers and a layer of its own."""
    params = {"layers": {"kernel": normal(3, 12, 12) / 4}, "head": {"kernel": normal(12, 5)}}

    def fn(p, x):
        x = jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, p["layers"]["kernel"])[0]
        return x @ p["head"]["kernel"]

    return fn, params, [normal(40, 12, seed=i) * jnp.exp(normal(12)) for i in range(6)]


def prune(workdir, **changes):
    fn, params, batches = task()
    return sparsegpt(fn, params, batches, workdir=workdir, **{"sparsity": 0.6, **changes})


def calibrate(workdir, out):
    """Runs to the end in a process of its own, writing its running sums after every batch, slowly."""
    calibration_run._SAVE_EVERY = 0.0
    collect = Walk.collect
    Walk.collect = lambda *args: (time.sleep(0.02), collect(*args))[1]
    found = prune(workdir)
    leaves = jax.tree.leaves((found.params, found.masks))
    np.savez(out, *leaves)


def same(a, b):
    for x, y in zip(jax.tree.leaves((a.params, a.masks)), jax.tree.leaves((b.params, b.masks)), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_killed_at_random_the_bytes_are_those_of_an_unbroken_run(tmp_path):
    _CONTEXT.set_forkserver_preload(["tests.post_training.test_resume"])
    work, out, kills, states = tmp_path / "work", tmp_path / "out.npz", 0, set()
    chance = random.Random(0)
    for _ in range(40):
        process = _CONTEXT.Process(target=calibrate, args=(work, out))
        process.start()
        begin = len(list(work.glob("stage_*"))) if work.exists() else 0
        deadline = time.monotonic() + 120
        wait = None
        while process.is_alive() and time.monotonic() < deadline:
            now = len(list(work.glob("stage_*"))) if work.exists() else 0
            running = (work / "running.npz").exists()
            if wait is None and (running or now > begin):  # it got further than the last one: now at random
                wait = time.monotonic() + chance.uniform(0, 0.25)
            if wait is not None and time.monotonic() >= wait and kills < 6:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        process.join(120)
        states.add((len(list(work.glob("stage_*"))), (work / "running.npz").exists()))
        if process.exitcode == 0:
            break
    assert process.exitcode == 0
    assert kills >= 3
    assert len(states) >= 2
    fresh = prune(None)
    with np.load(out) as file:
        for x, y in zip(jax.tree.leaves((fresh.params, fresh.masks)), file.values(), strict=True):
            np.testing.assert_array_equal(np.asarray(x), y)


def test_a_finished_folder_gives_the_result_without_solving(tmp_path):
    seen = []
    first = prune(tmp_path, progress=seen.append)
    again = prune(tmp_path)
    same(first, again)
    assert first.layers == again.layers
    assert [result.path for result in seen] == ["layers/kernel", "head/kernel"]


def test_another_calibration_is_refused(tmp_path):
    prune(tmp_path)
    fn, params, batches = task()
    params["head"]["kernel"] = params["head"]["kernel"].at[0, 0].add(1e-6)
    calls = [
        lambda: sparsegpt(fn, params, batches, sparsity=0.6, workdir=tmp_path),
        lambda: prune(tmp_path, sparsity=0.61),
        lambda: prune(tmp_path, damping=0.02),
        lambda: prune(tmp_path, targets="symmetric"),
        lambda: prune(tmp_path, ignore="head/*"),
        lambda: prune(tmp_path, row_weights="gradient"),
        lambda: alps(*task(), sparsity=0.6, workdir=tmp_path),
        lambda: sparsegpt(task()[0], task()[1], batches[:-1], sparsity=0.6, workdir=tmp_path),
        lambda: sparsegpt(lambda p, x: 2 * fn(p, x), task()[1], batches, sparsity=0.6, workdir=tmp_path),
    ]
    for call in calls:
        with pytest.raises(CalibrationError, match="parameters, batches, function or options differ"):
            call()


@pytest.mark.filterwarnings("ignore:.*did not converge:sparsejax.post_training.CalibrationWarning")
def test_functions_of_one_name_are_told_apart(tmp_path):
    """By the weights that they give, by their code, by what they hold."""
    fn, params, batches = task()

    def run(share, iterations):
        def solve(*args, **options):
            return solve_alps(*args, iterations=iterations, **options)

        def weights(p, x):
            return {"head/*": jnp.where(jnp.arange(40) < 40 * share, 1.0, 0.5)}

        return prune_model(
            fn, params, batches, solve=solve, row_weights=weights, sparsity=0.6, workdir=tmp_path
        )

    first = run(0.5, 30)
    same(first, run(0.5, 30))
    for other in ((0.25, 30), (0.5, 3)):
        with pytest.raises(CalibrationError, match="options differ"):
            run(*other)


class Solver:
    """A solver with settings of its own."""

    def __init__(self, share):
        self.share = share

    def __call__(self, weights, gram, **options):
        return Solution(self.share * weights, jnp.ones(weights.shape, bool), 0.0)

    def solve(self, *args, **options):
        return self(*args, **options)


def _by_keyword(share):
    def solve(weights, gram, *, share=share, **options):
        return Solver(share)(weights, gram)

    return solve


def _holding(array):
    def solve(weights, gram, **options):
        return solve(weights, gram) if array is None else Solver(1 + array[2500])(weights, gram)

    return solve


def _longer(share):
    array = np.zeros(5000)  # of which NumPy's text leaves out the middle
    array[2500] = share
    return array


def _with(weights, gram, array, **options):
    return Solver(1 + array[2500])(weights, gram)


def _edited(share):
    """The same function of the same module, written anew."""
    module = {"__name__": "my_solvers", "Solver": Solver}
    exec(f"def solve(weights, gram, **options):\n    return Solver({share})(weights, gram)", module)
    return module["solve"]


@pytest.mark.parametrize(
    "make",
    [
        Solver,
        _edited,
        lambda share: Solver(share).solve,
        _by_keyword,
        lambda share: _holding(_longer(share)),
        lambda share: functools.partial(_with, array=_longer(share)),
        lambda share: functools.partial(Solver(share)),
    ],
)
def test_solvers_are_told_apart_by_what_they_hold(tmp_path, make):
    fn, params, batches = task()

    def run(share):
        return prune_model(fn, params, batches, solve=make(share), sparsity=0.6, workdir=tmp_path)

    same(run(0.5), run(0.5))
    with pytest.raises(CalibrationError, match="options differ"):
        run(0.25)


def test_the_order_in_a_set_is_nothing_that_tells_functions_apart():
    """Of texts it is another in every process."""
    one, other = (eval(f"lambda x: x in {{{numbers}}}") for numbers in ("8, 0", "0, 8"))
    sets = [next(c for c in f.__code__.co_consts if isinstance(c, frozenset)) for f in (one, other)]
    assert list(sets[0]) != list(sets[1])
    assert name_of(one) == name_of(other)
    assert name_of(sets[0]) == name_of(sets[1])


def test_a_damaged_stage_is_solved_again(tmp_path):
    first = prune(tmp_path)
    path = tmp_path / "stage_00001.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    same(first, prune(tmp_path))
    path.write_bytes(data[:100])
    same(first, prune(tmp_path))


@contextlib.contextmanager
def files_of_at_most(size):
    """The kernel refuses what is written beyond it, in the middle of a write, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_up_leaves_nothing_half_written(tmp_path):
    store = Store(tmp_path, "a")
    store.save_stage(0, {"x": jnp.arange(10)}, {"note": 1})
    with files_of_at_most(4096), pytest.raises(CalibrationError, match=r"cannot be written.*free some space"):
        store.save_stage(1, {"x": jnp.arange(10_000)}, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["calibration.json", "stage_00000.npz"]
    arrays, notes = Store(tmp_path, "a").stage(0)
    np.testing.assert_array_equal(arrays["x"], np.arange(10))
    assert notes == {"note": 1}
    assert Store(tmp_path, "a").stage(1) is None


def test_a_disk_that_fills_up_in_the_middle_of_a_call_leaves_what_the_next_call_goes_on_from(
    tmp_path, monkeypatch
):
    """The first call meets the full disk at its first write, the second at its second, and so on to the end."""
    fresh, write, left, done = prune(None), Store._write, 0, None
    refused, said = [], []

    def one_too_many(store, name, fill):
        nonlocal left
        left -= 1
        if left > 0:
            return write(store, name, fill)
        refused.append(name)
        with files_of_at_most(40):
            write(store, name, fill)

    monkeypatch.setattr(calibration_run, "_SAVE_EVERY", 0.0)
    monkeypatch.setattr(Store, "_write", one_too_many)
    for call in range(1, 20):
        left = call
        try:
            done = prune(tmp_path)
            break
        except CalibrationError as error:
            said.append(str(error))
        for path in tmp_path.iterdir():  # whole, each of them
            json.loads(path.read_text()) if path.suffix == ".json" else np.load(path).close()
    assert all("free some space and call again" in text for text in said)
    same(fresh, done)
    assert {name.split("_")[0] for name in refused} == {"calibration.json", "running.npz", "stage"}
    assert len(list(tmp_path.iterdir())) == 1 + 4


def test_what_a_kill_left_of_a_write_is_cleared_away_by_the_next_call(tmp_path):
    Store(tmp_path, "a").save_stage(0, {"x": jnp.arange(10)}, {})
    writing = whole_file(tmp_path / "running.npz")
    writing.__enter__().write(b"half")  # and never closed
    (tmp_path / ".mine.1.tmp").write_text("not ours")
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(CalibrationError, match="differ"):
        Store(tmp_path, "b")
    assert len(list(tmp_path.iterdir())) == 4
    assert Store(tmp_path, "a").stage(0) is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".mine.1.tmp",
        "calibration.json",
        "stage_00000.npz",
    ]


def test_a_flipped_bit_anywhere_in_a_file_is_no_file_or_the_same(tmp_path):
    store, arrays = Store(tmp_path, "a"), {"x": np.arange(3.0), "y": np.ones(2, bool)}
    store.save_stage(0, arrays, {"note": 1})
    path, states = tmp_path / "stage_00000.npz", []
    whole = path.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        found = store.stage(0)
        states.append(found is None)
        if found is not None:
            assert found[1] == {"note": 1}
            assert found[0].keys() == arrays.keys()
            assert all(np.array_equal(found[0][key], arrays[key]) for key in arrays)
    assert np.mean(states) > 0.5


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CalibrationError, match="cannot be made or written"):
        prune(tmp_path / "file")
    for text in ("{}", "[]", "null", "{"):
        (tmp_path / "calibration.json").write_text(text)
        with pytest.raises(CalibrationError, match=r"calibration\.json cannot be read"):
            Store(tmp_path, "a")


def test_what_is_stored_comes_back_bit_by_bit(tmp_path):
    store = Store(tmp_path, "a")
    arrays = {
        "bits": normal(4, 3).astype(jnp.bfloat16),
        "empty": jnp.zeros((0, 2)),
        "flag": jnp.asarray(True),
    }
    store.save_running(3, 2, arrays, [[1, [2]]])
    batches, found, notes = store.running(3)
    assert (batches, notes) == (2, [[1, [2]]])
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], np.asarray(array))
    assert store.running(4) is None


def test_the_fingerprint_sees_every_bit():
    tree = {"a": np.arange(4.0), "key": jax.random.key(0), "b": [1, "x", None]}
    assert fingerprint(tree) == fingerprint(tree)
    others = [{**tree, "a": np.nextafter(tree["a"], 9)}, {**tree, "a": tree["a"].astype(np.float32)}]
    others += [{**tree, "key": jax.random.key(1)}, {**tree, "b": [1, "y", None]}, {**tree, "c": 0}]
    assert len({fingerprint(t) for t in (tree, *others)}) == 6
