"""The engine on Ray: tasks of a study on as many GPUs, CPUs and machines as there are.

What tasks have in common is packed once, kept in Ray's shared memory, fetched once by each machine and opened once by
each worker. Workers, machines and this process may die at any time: Ray gives a dead worker's task to another one, and
what was finished is in the store, from which the next run goes on.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from difflab.errors import DifflabError, first_line
from difflab.study.engine import Answer, Done, Failure, Task, attempt

try:
    import ray
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError
except ModuleNotFoundError as error:
    raise DifflabError("the engine ray needs ray, which is not installed; install difflab[ray].") from error

from difflab.study.travel import pack, unpack

_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
_AHEAD = 2  # tasks handed over for each that can run: the next one is there when a worker becomes free
_KNOWN_FOR = 5.0  # seconds
_THREADS = 8  # of a task beside GPUs that does not need one
_RETRIES = 20  # of a task whose worker or machine died; one that kills every worker must end some time

Sent = tuple[str, list["ray.ObjectRef[Any]"]]  # a name of its own, and where Ray keeps it, which in a list stays there


class Ray:
    """Tasks on Ray's workers, answered as they are done.

    Args:
        address: of a cluster: `auto`, `host:6379` or `ray://host:10001`; None is the one that the environment
            variable RAY_ADDRESS names, or else one that is started here and ends with this engine.
        workers: how many tasks run at a time on one that is started here; None is one for each processor.
        gpus: of each task, such as 1 or 0.25; None is one where the cluster has any, else none.

    Raises DifflabError where there is no such cluster, or it has not what a task needs.
    """

    alone = False

    def __init__(self, address: str | None = None, workers: int | None = None, gpus: float | None = None) -> None:
        _check(workers, gpus)
        where = address or os.environ.get("RAY_ADDRESS") or "local"
        if where != "local" and workers is not None:
            raise DifflabError(
                f"workers is {workers}, but the cluster {where} has as many as it has; leave workers out."
            )
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(where, workers)
        self._known: tuple[float, _Resources] | None = None
        there = self._have().gpus
        self.gpus = gpus if gpus is not None else float(there >= 1)
        if self.gpus > there:
            raise DifflabError(f"gpus is {self.gpus:g}, but the cluster has {there:g}; ask for fewer, or add machines.")
        self._sent: dict[int, tuple[Any, Sent]] = {}  # by id; what was sent is kept, so that no other gets its id

    def map(
        self, run: Callable[..., Answer], tasks: Iterable[Task | None], *given: Any
    ) -> Iterator[Done[Task, Answer] | Failure[Task]]:
        """Answers in the order in which they come. A DifflabError of one task ends all."""
        sent = [self._send(part) for part in given]
        coming: dict[ray.ObjectRef[Any], Task] = {}
        left = iter(tasks)
        try:
            while True:
                while len(coming) < self._room() and (task := next(left, None)) is not None:
                    coming[self._start(run, sent, task)] = task
                if not coming:
                    return
                (done, *_), _ = ray.wait(list(coming), num_returns=1)
                yield self._answer(done, coming.pop(done))
        finally:
            for begun in coming:
                ray.cancel(begun, force=False)

    def __enter__(self) -> Ray:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._ours:
            ray.shutdown()

    def _send(self, part: Any) -> Sent:
        """Put what tasks have in common where all workers find it; the same object only once."""
        if id(part) not in self._sent:
            self._sent[id(part)] = part, (uuid4().hex, [ray.put(pack(part))])
        return self._sent[id(part)][1]

    def _start(self, run: Callable[..., Answer], sent: list[Sent], task: Task) -> ray.ObjectRef[Any]:
        if task.memory > (most := self._have().memory):
            raise DifflabError(
                f"a task needs about {task.memory / 1e9:.1f} GB, but the largest machine of the cluster gives "
                f"{most / 1e9:.1f}; take a smaller --batch, or larger machines."
            )
        return self._place(task).remote(run, sent, task, os.getcwd())

    def _place(self, task: Task) -> Any:
        """Where a task is done. Beside GPUs, what does not need them has processes of its own, with more threads."""
        if self.gpus and not task.gpu:
            threads = max(1, int(min(_THREADS, self._have().most_cpus)))
            own = {"env_vars": {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}}
            return _worked.options(num_cpus=threads, memory=task.memory or None, runtime_env=own)
        return _worked.options(num_cpus=1, num_gpus=self.gpus, memory=task.memory or None)

    def _answer(self, done: ray.ObjectRef[Any], task: Task) -> Any:
        try:
            answer = ray.get(done)
        except RayTaskError as error:  # what no task may raise is a fault of ours: show where
            raise error.as_instanceof_cause() from None
        except (WorkerCrashedError, OutOfMemoryError) as error:  # whoever works on it dies, again and again
            return Failure(task, f"{type(error).__name__}: {first_line(error)}")
        except RayError as error:
            raise DifflabError(
                f"Ray has ended ({type(error).__name__}: {first_line(error).rstrip('.')}); what was finished is in the "
                "store, repeat the command to go on."
            ) from error
        if isinstance(answer, _End):
            raise DifflabError(answer.message)
        return answer

    def _room(self) -> int:
        """How many tasks may be under way."""
        have = self._have()
        return max(1, int(have.gpus / self.gpus if self.gpus else have.cpus)) * _AHEAD

    def _have(self) -> _Resources:
        """What the cluster has, which may grow and shrink meanwhile; asked for now and then, not with every task."""
        if self._known is None or time.monotonic() > self._known[0] + _KNOWN_FOR:
            self._known = time.monotonic(), _Resources.of_cluster()
        return self._known[1]


@dataclass(frozen=True)
class _Resources:
    """Processors and GPUs of a cluster; processors and bytes of memory of the machine that has most of them."""

    cpus: float
    gpus: float
    most_cpus: float
    memory: float

    @classmethod
    def of_cluster(cls) -> _Resources:
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = (sum(node.get(name, 0.0) for node in alive) for name in ("CPU", "GPU"))
        most = (max((node.get(name, 0.0) for node in alive), default=0.0) for name in ("CPU", "memory"))
        return cls(cpus, gpus, *most)


class _End:
    """A DifflabError on its way back: pickled exceptions lose how they were made."""

    def __init__(self, message: str) -> None:
        self.message = message


# A worker that has a GPU would by default end with its task, and the next one open the models again.
@ray.remote(max_retries=_RETRIES, max_calls=0)
def _worked(run: Callable[..., Any], sent: list[Sent], task: Any, folder: str) -> Any:
    if os.path.isdir(folder):  # where the driver is, which its relative paths start from
        os.chdir(folder)
    try:
        return attempt(run, task, [_opened(*part) for part in sent])
    except DifflabError as error:
        return _End(str(error))


_OPEN: dict[str, Any] = {}  # what this worker has opened, by name


def _opened(name: str, kept: list[ray.ObjectRef[Any]]) -> Any:
    if name not in _OPEN:
        _OPEN[name] = unpack(ray.get(kept[0]))
    return _OPEN[name]


def _check(workers: int | None, gpus: float | None) -> None:
    if workers is not None and workers < 1:
        raise DifflabError(f"workers is {workers}, but at least one is needed.")
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise DifflabError(f"gpus is {gpus:g}, but a task takes none, a part of one, or whole ones; take 0.5 or 1.")


def _connect(where: str, workers: int | None) -> None:
    try:
        if where == "local":
            ray.init(where, num_cpus=workers or os.cpu_count(), include_dashboard=False, **_QUIET)
        else:
            ray.init(where, **_QUIET)
    except Exception as error:  # ray raises nothing more exact where a machine does not come up in time
        what = "Ray did not start here" if where == "local" else f"{where}: no Ray cluster answers there"
        do = "run this again" if where == "local" else "start one with `ray start --head`, or leave --address out"
        raise DifflabError(f"{what} ({first_line(error)}); {do}.") from error
