"""Where the processes of a sweep run: a pool on this machine, Ray, or SLURM. Each yields a run as it ends."""

import contextlib
import fcntl
import importlib
import os
import pathlib
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from experiments.record.workdir import was_killed

_ROOT = pathlib.Path(__file__).parents[2]
#: Seconds that a process asked to stop has to write its checkpoint.
_GRACE = 60
#: Requeues of a SLURM job that meets its time limit: that is no failure, and each goes on from a checkpoint.
_REQUEUES = 100


class Job(NamedTuple):
    """A process to run.

    Attributes:
      name: the run's.
      arguments: its command line.
      workdir: of the run; output goes to ``WORKDIR/../logs/NAME.log``.
    """

    name: str
    arguments: tuple[str, ...]
    workdir: pathlib.Path


class Ended(NamedTuple):
    """A run that has come to an end.

    Attributes:
      name: the run's.
      status: its exit status; negative for the signal that killed it.
      tries: how often it was started, by the worker that saw its end.
    """

    name: str
    status: int
    tries: int

    @property
    def says(self) -> str:
        """The end in words."""
        words = "finished" if self.status == 0 else f"ended with status {self.status}, see its log"
        return f"{words}, started {self.tries} times" if self.tries > 1 else words


class Options(NamedTuple):
    """How engines run their jobs; each reads what concerns it.

    Attributes:
      workers: jobs at once; on a Ray cluster its resources decide.
      retries: times that a killed job is started again; it goes on from its checkpoint.
      address: of a Ray cluster; empty for this machine.
      cpus: cores of a job (Ray, SLURM).
      gpus: GPUs of a job (Ray, SLURM).
      minutes: time limit of a job (SLURM).
      cluster: submitit's executor, "slurm" or "local".
      workdir: of the sweep.
    """

    workers: int
    retries: int
    address: str
    cpus: float
    gpus: float
    minutes: float
    cluster: str
    workdir: pathlib.Path


_running: set[subprocess.Popen] = set()
_starting = threading.Lock()
_KILLED = -signal.SIGKILL


def _never() -> bool:
    return False


def run_job(job: Job, stopping: Callable[[], bool] = _never) -> int:
    """Runs one process to its end; its output is appended to its log.

    The process holds a lock for as long as it lives, also when its worker is killed and leaves it behind: whoever
    takes the job over waits for that, so that nothing runs twice. A worker that is stopped stops its process.

    Args:
      job: what to run.
      stopping: whether no process is to be started any more.

    Returns:
      Its exit status; negative for the signal that killed it, or would have.
    """
    logs = job.workdir.parent / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with open(logs / f"{job.name}.lock", "w") as lock, open(logs / f"{job.name}.log", "ab") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _starting, _shielded():
            if stopping():
                return -signal.SIGTERM
            process = subprocess.Popen(
                job.arguments, stdout=log, stderr=subprocess.STDOUT, cwd=_ROOT, pass_fds=(lock.fileno(),)
            )
            _running.add(process)
        try:
            return process.wait()
        except BaseException:  # what Ray and submitit raise in a task that is to stop
            _stop([process])
            raise
        finally:
            _running.discard(process)


@contextlib.contextmanager
def _shielded() -> Iterator[None]:
    """Starts processes that SLURM's warning, which goes to all of a job, does not kill."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Asks processes to write a checkpoint and end; kills what takes too long."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _GRACE
    while not all(map(_has_ended, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in processes:
        if not _has_ended(process):
            process.kill()


def _has_ended(process: subprocess.Popen) -> bool:
    """Asks the system: `Popen.wait` never sees the end where, as in a signal's handler, it interrupts another wait."""
    if process.returncode is not None:
        return True
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # whoever waits has taken its status
        return True


def with_retries(job: Job, retries: int, stopping: Callable[[], bool] = _never) -> Ended:
    """Runs a job, again when it was killed; a failure of its own would only repeat itself."""
    ended = Ended(job.name, run_job(job, stopping), 1)
    while was_killed(ended.status) and ended.tries <= retries and not stopping():
        ended = Ended(job.name, run_job(job, stopping), ended.tries + 1)
    return ended


def local(jobs: Sequence[Job], options: Options) -> Iterator[Ended]:
    """Runs jobs in a pool of threads, each waiting for one process; stops them when it is closed."""
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    ended: queue.SimpleQueue[Ended | Exception] = queue.SimpleQueue()
    stop = threading.Event()
    for job in jobs:
        waiting.put(job)

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while not stop.is_set():
                job = waiting.get_nowait()
                try:
                    ended.put(with_retries(job, options.retries, stop.is_set))
                except Exception as error:  # such as no memory for a process: the main thread must hear of it
                    ended.put(error)

    try:
        for _ in range(min(options.workers, len(jobs))):
            threading.Thread(target=work, daemon=True).start()
        for _ in jobs:
            one = ended.get()
            if isinstance(one, Exception):
                raise one
            yield one
    finally:
        stop.set()
        with _starting:  # after this no thread starts another
            left = list(_running)
        _stop(left)


def on_ray(jobs: Sequence[Job], options: Options) -> Iterator[Ended]:
    """Runs jobs as Ray tasks: Ray starts a task again whose worker is killed, and the task a killed process."""
    ray = _need("ray", "ray")
    started_here = not ray.is_initialized()
    if started_here:
        here = {} if options.address else {"num_cpus": max(1, round(options.workers * options.cpus))}
        ray.init(address=options.address or None, log_to_driver=False, include_dashboard=False, **here)
    task = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=options.retries)(with_retries)
    pending = {task.remote(job, options.retries): job for job in jobs}
    try:
        while pending:
            done, _ = ray.wait(list(pending))
            job = pending.pop(done[0])
            try:
                yield ray.get(done[0])
            except ray.exceptions.RayError:  # the worker was killed once too often
                yield Ended(job.name, _KILLED, options.retries + 1)
    finally:
        for reference in pending:
            ray.cancel(reference)
        if started_here:
            ray.shutdown()


class _SlurmTask:
    """A job that SLURM may requeue: submitit asks `checkpoint` for what to run then, which is the same again."""

    def __call__(self, job: Job, retries: int) -> Ended:
        return with_retries(job, retries)

    def checkpoint(self, job: Job, retries: int) -> Any:
        import submitit

        _stop(list(_running))  # the time limit is near: the run writes its checkpoint now
        return submitit.helpers.DelayedSubmission(self, job, retries)


def on_slurm(jobs: Sequence[Job], options: Options) -> Iterator[Ended]:
    """Runs jobs as a SLURM job array through submitit; a job that meets its time limit is requeued."""
    submitit = _need("submitit", "slurm")
    real = options.cluster == "slurm"
    executor = submitit.AutoExecutor(
        options.workdir / "slurm",
        cluster=options.cluster,
        **{f"{options.cluster}_max_num_timeout": _REQUEUES},
    )
    executor.update_parameters(
        timeout_min=options.minutes,
        cpus_per_task=max(1, round(options.cpus)),
        gpus_per_node=round(options.gpus),
    )
    if real:
        executor.update_parameters(slurm_array_parallelism=options.workers)
    # submitit's local executor has no cap of its own.
    size = len(jobs) if real else options.workers
    for start in range(0, len(jobs), max(size, 1)):
        batch = jobs[start : start + size]
        submitted = executor.map_array(_SlurmTask(), batch, [options.retries] * len(batch))
        pending = dict(zip(submitted, batch, strict=True))
        for done in submitit.helpers.as_completed(list(pending), poll_frequency=10 if real else 0.5):
            lost = Ended(pending[done].name, _KILLED, 1)
            yield lost if done.exception() is not None else done.result()


def _need(module: str, extra: str) -> Any:
    from experiments.errors import ConfigError  # late: Ray's workers need no JAX

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"This engine needs {module}: pip install -e '.[{extra}]'.") from error


#: Name to engine: ``(jobs, options) -> ended runs``.
ENGINES: dict[str, Callable[[Sequence[Job], Options], Iterator[Ended]]] = {
    "local": local,
    "ray": on_ray,
    "slurm": on_slurm,
}
