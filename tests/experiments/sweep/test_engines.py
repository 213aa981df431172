"""Engines lose no run and run nothing twice, whoever is killed: the run, its worker, or the sweep."""

import contextlib
import fcntl
import os
import signal
import threading
import time

import pytest

from experiments.errors import ConfigError
from experiments.record.workdir import was_killed
from experiments.sweep import engines
from tests.experiments import jobs


def _all_taken_once(root, wanted):
    for name, count in wanted.items():
        assert jobs.steps(root / name) == list(range(count)), name
        assert (root / name / "result.json").exists()


def test_a_killed_run_goes_on_and_a_failed_one_is_left(tmp_path):
    made = [jobs.make_job(tmp_path, "killed", 40), jobs.make_job(tmp_path, "wrong", 1, status=2),
            jobs.make_job(tmp_path, "fine", 3)]  # fmt: skip
    killed = jobs.on_the_way(
        lambda: len(jobs.steps(tmp_path / "killed")) >= 5,
        lambda: jobs.kill(jobs.process_of(tmp_path / "killed")),
    )
    ended = {one.name: one for one in engines.local(made, jobs.options(tmp_path))}
    killed()
    assert ended == {
        "killed": engines.Ended("killed", 0, 2), "wrong": engines.Ended("wrong", 2, 1),
        "fine": engines.Ended("fine", 0, 1),
    }  # fmt: skip
    assert ended["killed"].says == "finished, started 2 times"
    assert ended["wrong"].says == "ended with status 2, see its log"
    _all_taken_once(tmp_path, {"killed": 40, "fine": 3})
    assert jobs.starts(tmp_path / "wrong") == 1


def test_retries_come_to_an_end(tmp_path):
    always = engines.Job("always", ("/bin/sh", "-c", "echo once; kill -9 $$"), tmp_path / "always")
    assert list(engines.local([always], jobs.options(tmp_path))) == [engines.Ended("always", -9, 3)]
    assert (tmp_path / "logs" / "always.log").read_text() == "once\n" * 3


def test_no_more_than_the_workers_at_once(tmp_path):
    made = [jobs.make_job(tmp_path, f"job_{i}", 8) for i in range(5)]
    most, over = 0, threading.Event()

    def look():
        nonlocal most
        while not over.is_set():
            most = max(most, len(engines._running))
            time.sleep(0.005)

    thread = threading.Thread(target=look)
    thread.start()
    with contextlib.closing(engines.local(made, jobs.options(tmp_path))) as ended:
        assert {one.status for one in ended} == {0}
    over.set()
    thread.join()
    assert most == 2
    _all_taken_once(tmp_path, {job.name: 8 for job in made})


def test_a_sweep_that_is_stopped_stops_its_runs_and_another_goes_on(tmp_path):
    made = [jobs.make_job(tmp_path, name, 60) for name in ("short", "long", "never")]
    made[0] = jobs.make_job(tmp_path, "short", 5)
    ended = engines.local(made, jobs.options(tmp_path, workers=2))
    assert next(ended) == engines.Ended("short", 0, 1)
    ended.close()
    assert jobs.process_of(tmp_path / "long") is None
    assert len(jobs.steps(tmp_path / "long")) < 60
    again = {one.status for one in engines.local(made[1:], jobs.options(tmp_path))}
    assert again == {0}
    _all_taken_once(tmp_path, {"short": 5, "long": 60, "never": 60})


def test_a_run_that_a_killed_worker_left_is_waited_for(tmp_path):
    job = jobs.make_job(tmp_path, "held", 3)
    found, logs = [], tmp_path / "logs"
    logs.mkdir()
    with open(logs / "held.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: found.append(engines.run_job(job)))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert not job.workdir.exists()
    thread.join(jobs.DEADLINE)
    assert found == [0]
    assert jobs.starts(job.workdir) == 1


def test_a_signal_handler_sees_the_end_of_a_process_that_its_thread_waits_for(tmp_path):
    # As submitit's hook, which SLURM's warning calls in the middle of the wait: it has a minute, not more.
    job, called = jobs.make_job(tmp_path, "warned", 1000), []

    def hook(number, frame):
        (process,) = engines._running
        process.kill = lambda: called.append("kill")  # what follows an end that was not seen
        engines._stop([process])
        called.append("stopped")

    before = signal.signal(signal.SIGUSR2, hook)
    warned = jobs.on_the_way(lambda: jobs.steps(job.workdir), lambda: jobs.kill(os.getpid(), signal.SIGUSR2))
    try:
        assert engines.run_job(job) == 143
    finally:
        signal.signal(signal.SIGUSR2, before)
    warned()
    assert called == ["stopped"]


def test_statuses_that_mean_killed():
    killed = [status for status in (0, 1, 2, 130, 137, 143, -9, -15) if was_killed(status)]
    assert killed == [137, 143, -9, -15]


def test_an_engine_that_is_not_installed_says_what_installs_it():
    with pytest.raises(ConfigError, match=r"needs no_such_engine: pip install -e '\.\[slurm\]'"):
        engines._need("no_such_engine", "slurm")


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_loses_nothing_and_runs_nothing_twice(tmp_path):
    pytest.importorskip("ray")
    made = [jobs.make_job(tmp_path, "worker_killed", 100), jobs.make_job(tmp_path, "run_killed", 100),
            jobs.make_job(tmp_path, "wrong", 1, status=2), jobs.make_job(tmp_path, "fine", 3)]  # fmt: skip
    waits = [
        jobs.on_the_way(
            lambda: len(jobs.steps(tmp_path / "worker_killed")) >= 5,
            lambda: jobs.kill(jobs.parent_of(jobs.process_of(tmp_path / "worker_killed"))),
        ),
        jobs.on_the_way(
            lambda: len(jobs.steps(tmp_path / "run_killed")) >= 5,
            lambda: jobs.kill(jobs.process_of(tmp_path / "run_killed")),
        ),
    ]
    ended = {one.name: one.status for one in engines.on_ray(made, jobs.options(tmp_path))}
    for wait in waits:
        wait()
    assert ended == {"worker_killed": 0, "run_killed": 0, "wrong": 2, "fine": 0}
    _all_taken_once(tmp_path, {"worker_killed": 100, "run_killed": 100, "fine": 3})
    # The killed worker's process went on alone; who took its task over waited, and found it finished.
    assert [jobs.starts(job.workdir) for job in made] == [2, 2, 1, 1]


def test_slurm_requeues_a_run_that_meets_its_limit(tmp_path):
    pytest.importorskip("submitit")
    made = [jobs.make_job(tmp_path, "limit", 60), jobs.make_job(tmp_path, "wrong", 1, status=2),
            jobs.make_job(tmp_path, "fine", 3)]  # fmt: skip
    warned = jobs.on_the_way(  # as SLURM does before the limit
        lambda: len(jobs.steps(tmp_path / "limit")) >= 5,
        lambda: jobs.kill(jobs.parent_of(jobs.process_of(tmp_path / "limit")), signal.SIGUSR2),
    )
    ended = {one.name: one.status for one in engines.on_slurm(made, jobs.options(tmp_path))}
    warned()
    assert ended == {"limit": 0, "wrong": 2, "fine": 0}
    _all_taken_once(tmp_path, {"limit": 60, "fine": 3})
    assert [jobs.starts(job.workdir) for job in made] == [2, 1, 1]
