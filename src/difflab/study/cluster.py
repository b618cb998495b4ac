"""The engine on Ray: tasks of a study on as many GPUs, CPUs and machines as there are.

What tasks have in common is packed once, kept in Ray's shared memory, fetched once by each machine and opened once by
each worker. Workers, machines and this process may die at any time: Ray gives a dead worker's task to another one, and
what was finished is in the store, from which the next run goes on.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from difflab.errors import DifflabError, first_line, see
from difflab.study.engine import Answer, Done, Failure, Task, attempt

try:
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError
except ModuleNotFoundError as error:
    raise DifflabError(
        "the engine ray needs ray, which is not installed; get it with `pip install 'difflab[ray]'`; "
        f"{see('how-to/missing')}."
    ) from error

from difflab.study.travel import pack, unpack

_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
_AHEAD = 2  # tasks handed over for each that can run: the next one is there when a worker becomes free
_KNOWN_FOR = 5.0  # seconds
_KNOCK = 10.0  # seconds
_HOST_AND_PORT = re.compile(r"(ray://)?(?P<host>[^:/]+):(?P<port>[0-9]{1,5})")
_THREADS = 8  # of a task beside GPUs that does not need one
_DIED = (WorkerCrashedError, NodeDiedError, OutOfMemoryError)
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
        elif address is not None or workers is not None:
            raise DifflabError("Ray runs in this process already, which is then used; leave address and workers out.")
        self._known: tuple[float, list[dict[str, float]]] | None = None
        there = max((machine.get("GPU", 0.0) for machine in self._machines()), default=0.0)
        self.gpus = gpus if gpus is not None else float(there >= 1)
        if self.gpus > there:
            self.__exit__()
            raise DifflabError(
                f"gpus is {self.gpus:g}, but no machine of the cluster has more than {there:g}; ask for fewer."
            )
        self._sent: dict[int, tuple[Any, Sent]] = {}  # by id; what was sent is kept, so that no other gets its id

    def map(
        self, run: Callable[..., Answer], tasks: Iterable[Task | None], *given: Any
    ) -> Iterator[Done[Task, Answer] | Failure[Task]]:
        """Answers in the order in which they come. A DifflabError of one task ends all."""
        sent = self._send(given)
        coming: dict[ray.ObjectRef[Any], Task] = {}
        left = iter(tasks)
        try:
            while True:
                while self._is_room(coming.values()) and (task := next(left, None)) is not None:
                    coming[self._start(run, sent, task)] = task
                if not coming:
                    assert next(left, None) is None, "nothing is under way that a task could hang on"
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

    def _send(self, given: Sequence[Any]) -> list[Sent]:
        """Put what tasks have in common where all workers find it; what they had before and have again, only once."""
        known = {id(part): self._sent[id(part)] for part in given if id(part) in self._sent}
        new = {id(part): (part, (uuid4().hex, [ray.put(pack(part))])) for part in given if id(part) not in known}
        self._sent = known | new
        return [self._sent[id(part)][1] for part in given]

    def _start(self, run: Callable[..., Answer], sent: list[Sent], task: Task) -> ray.ObjectRef[Any]:
        place = self._place(task)
        needs = {"CPU": place["num_cpus"], "GPU": place.get("num_gpus", 0.0), "memory": place.get("memory", 0)}
        if not any(all(has.get(name, 0.0) >= need for name, need in needs.items()) for has in self._machines()):
            asked = f"{needs['CPU']:g} processors, {needs['GPU']:g} GPUs and {needs['memory'] / 1e9:.1f} GB"
            raise DifflabError(
                f"a task needs {asked}, but no machine of the cluster gives as much; take a smaller --batch, or larger "
                "machines."
            )
        return _worked.options(**place).remote(run, sent, task, os.getcwd())

    def _place(self, task: Task) -> dict[str, Any]:
        """Where a task is done. Beside GPUs, what does not need them has processes of its own, with more threads."""
        if not self.gpus:
            return {"num_cpus": 1, "memory": task.memory} if task.memory else {"num_cpus": 1}
        if task.gpu:  # the memory that it needs is the GPU's
            return {"num_cpus": 1, "num_gpus": self.gpus}
        spare = max(machine.get("CPU", 0.0) - machine.get("GPU", 0.0) / self.gpus for machine in self._machines())
        threads = max(1, int(min(_THREADS, spare)))
        return {
            "num_cpus": threads,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads)}},
            **({"memory": task.memory} if task.memory else {}),
        }

    def _answer(self, done: ray.ObjectRef[Any], task: Task) -> Any:
        try:
            answer, heard = ray.get(done)
        except RayTaskError as error:  # what no task may raise is a fault of ours: show where
            raise error.as_instanceof_cause() from None
        except _DIED as error:  # whoever works on it, again and again
            return Failure(task, f"{type(error).__name__}: {first_line(error)}")
        except RayError as error:
            raise DifflabError(
                f"Ray has ended ({type(error).__name__}: {first_line(error).rstrip('.')}); what was finished is in the "
                "store, repeat the command to go on."
            ) from error
        for message in heard:
            warnings.warn(message, UserWarning, stacklevel=2)
        if isinstance(answer, _End):
            raise DifflabError(answer.message)
        return answer

    def _is_room(self, coming: Collection[Task]) -> bool:
        """Whether another task may be handed over. Those beside GPUs are few, and keep no GPU waiting."""
        what, each = ("GPU", self.gpus) if self.gpus else ("CPU", 1.0)
        slots = int(sum(machine.get(what, 0.0) for machine in self._machines()) / each)
        return sum(task.gpu or not self.gpus for task in coming) < max(1, slots) * _AHEAD

    def _machines(self) -> list[dict[str, float]]:
        """What each machine of the cluster has, which may change meanwhile; asked now and then, not with every task."""
        if self._known is None or time.monotonic() > self._known[0] + _KNOWN_FOR:
            self._known = time.monotonic(), [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return self._known[1]


@dataclass(frozen=True)
class _End:
    """A DifflabError on its way back: pickled exceptions lose how they were made."""

    message: str


# A worker that has a GPU would by default end with its task, and the next one open the models again.
@ray.remote(max_retries=_RETRIES, max_calls=0)
def _worked(run: Callable[..., Any], sent: list[Sent], task: Any, folder: str) -> tuple[Any, list[str]]:
    """What a task gave, and the warnings on the way."""
    _stay_on(list(map(str, ray.get_gpu_ids())))
    if os.path.isdir(folder):  # where the driver is, which its relative paths start from
        os.chdir(folder)
    answer: Any
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")
        try:
            answer = attempt(run, task, _opened(sent))
        except DifflabError as error:
            answer = _End(str(error))
    return answer, [str(each.message) for each in heard if issubclass(each.category, UserWarning)]


_OPEN: dict[str, Any] = {}  # what this worker has opened, by name
_GPUS: list[list[str]] = []  # that Ray gave this worker with its first task


def _stay_on(gpus: list[str]) -> None:
    """See to it that this worker computes on the GPUs that Ray gives it, and on no other."""
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # all would be visible
    if not _GPUS:
        _GPUS.append(gpus)
    if _GPUS[0] != gpus:
        os._exit(1)  # CUDA stays where it began: Ray gives the task to another worker


def _opened(sent: list[Sent]) -> list[Any]:
    for old in _OPEN.keys() - {name for name, _ in sent}:
        del _OPEN[old]
    for name, kept in sent:
        if name not in _OPEN:
            _OPEN[name] = unpack(ray.get(kept[0]))
    return [_OPEN[name] for name, _ in sent]


def _check(workers: int | None, gpus: float | None) -> None:
    if workers is not None and workers < 1:
        raise DifflabError(f"workers is {workers}, but at least one is needed.")
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise DifflabError(f"gpus is {gpus:g}, but a task takes none, a part of one, or whole ones; take 0.5 or 1.")


def _connect(where: str, workers: int | None) -> None:
    try:
        _knock(where)
        if where == "local":
            ray.init(where, num_cpus=workers, include_dashboard=False, **_QUIET)
        else:
            ray.init(where, **_QUIET)
    except Exception as error:  # ray raises nothing more exact where a machine does not come up in time
        what = "Ray did not start here" if where == "local" else f"{where}: no Ray cluster answers there"
        do = "run this again" if where == "local" else "start one with `ray start --head`, or leave --address out"
        raise DifflabError(f"{what} ({first_line(error)}); {do}.") from error


def _knock(where: str) -> None:
    """Raise OSError where nothing listens at `host:port`, which Ray itself would try for minutes."""
    found = _HOST_AND_PORT.fullmatch(where)
    if found is not None:
        socket.create_connection((found["host"], int(found["port"])), timeout=_KNOCK).close()
