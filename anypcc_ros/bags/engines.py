"""Who does the work: this process, processes beside it, or a Dask cluster. All of them keep the order and a bounded memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from anypcc_ros.bags.errors import BagUsageError, EngineError
from anypcc_ros.optional import optional

SLICE_BYTES = 1 << 20
"""Messages are sent to the workers in slices of at least this size; one cloud of a LiDAR is a slice already."""

WAITING_BYTES = 64 << 20
"""Messages that may wait for those before them, besides the slices at work."""

OVERHEAD = 1 << 10
"""Bytes that a message takes here besides its own; there may be very many very small ones."""

CONNECTING = 10.0
"""Seconds to wait for the scheduler of a cluster."""

PATIENCE = 60.0
"""Seconds that a cluster may be without any worker."""

Key = TypeVar("Key")
Argument = TypeVar("Argument")
Result = TypeVar("Result")


class InProcess(Executor):
    """Does the work when it is given, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class Engine:
    """Where functions run. ``workers``: how many at once. ``wait``: the result of a future; raises EngineError."""

    executor: Executor
    workers: int
    wait: Callable[[Future[Any]], Any]


def engine(address: str, jobs: int) -> AbstractContextManager[Engine]:
    """The engine of that address: "" for this machine with ``jobs`` processes, or dask://HOST:PORT. Raises BagUsageError."""
    if not address:
        return _local(jobs)
    kind, separator, place = address.partition("://")
    if kind != "dask" or not separator or not place:
        raise BagUsageError(f"--engine {address}: dask://HOST:PORT is known")
    return _dask(place)


@contextmanager
def _local(jobs: int) -> Iterator[Engine]:
    if jobs == 1:
        yield Engine(InProcess(), 1, lambda future: future.result())
        return
    # Started afresh, because a forked process inherits threads' locks without the threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker)
    try:
        yield Engine(pool, jobs, _wait_for_process)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """A worker ends when its parent says so or has died; Ctrl-C, which every process of a terminal gets, is for the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _wait_for_process(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise EngineError("a worker process was killed (out of memory? --jobs takes fewer); nothing was written") from error


@contextmanager
def _dask(place: str) -> Iterator[Engine]:
    distributed = optional("distributed", "cluster")
    try:
        client = distributed.Client(place, timeout=CONNECTING)
    except (OSError, TimeoutError) as error:
        raise EngineError(f"dask://{place}: no scheduler there: {error}") from error
    with client:
        _check_workers(client, place)
        workers = max(1, sum(client.nthreads().values()))

        def wait(future: Future[Any]) -> Any:
            alone_since = None
            while True:
                try:
                    return future.result(timeout=2.0)
                except TimeoutError:
                    alone_since = None if client.scheduler_info()["workers"] else alone_since or time.monotonic()
                    if alone_since is not None and time.monotonic() - alone_since > PATIENCE:
                        raise EngineError(f"dask://{place}: no worker for {PATIENCE:g} s") from None
                except (distributed.scheduler.KilledWorker, CancelledError) as error:
                    raise EngineError(f"dask://{place}: the work is lost: {error}") from error

        yield Engine(client.get_executor(pure=False), workers, wait)


def _check_workers(client: Any, place: str) -> None:
    """Workers that would write other bytes than this process are refused."""
    mine = identity()
    client.wait_for_workers(1, timeout=PATIENCE)
    for worker, theirs in client.run(identity).items():
        if theirs != mine:
            raise EngineError(f"dask://{place}: worker {worker} has {theirs}, this process has {mine}")


def identity() -> str:
    """Of the code whose results have to agree: the stream's version and the shipped models."""
    from anypcc_ros.codec import bitstream
    from anypcc_ros.codec.model import store

    models = ", ".join(f"{name} {digest}" for name, digest in sorted(store.installed().items()))
    return f"stream version {bitstream.MAJOR}.{bitstream.MINOR}, models {models}"


class InOrder(Generic[Key, Argument, Result]):
    """Runs ``work`` on slices of arguments in an engine's workers, and gives the results in the order of their keys.

    Never more than two slices for each worker are on their way, and about WAITING_BYTES wait behind them.
    """

    def __init__(self, engine: Engine, work: Callable[[list[Argument]], list[Result]]) -> None:
        self._engine, self._work = engine, work
        self._queue: deque[_Place[Key, Result]] = deque()
        self._slice: list[Argument] = []
        self._places: list[_Place[Key, Result]] = []
        self._slice_size = 0
        self._waiting = self._largest = 0
        self._running: deque[Future[Any]] = deque()

    def run(self, items: Iterable[tuple[Key, Argument | None, int]]) -> Iterator[tuple[Key, Result | None]]:
        """``items``: a key, the argument or None where there is nothing to do, and the bytes that both take."""
        for key, argument, size in items:
            place: _Place[Key, Result] = _Place(key, size + OVERHEAD)
            self._queue.append(place)
            self._waiting += place.size
            self._largest = max(self._largest, size)
            if argument is not None:
                place.pending = True
                self._slice.append(argument)
                self._places.append(place)
                self._slice_size += size
                if self._slice_size >= SLICE_BYTES:
                    self._submit()
            yield from self._ready(wait=False)
            while self._waiting > WAITING_BYTES + 2 * self._engine.workers * self._largest:
                self._submit()
                yield from self._ready(wait=True)
        self._submit()
        while self._queue:
            yield from self._ready(wait=True)

    def _submit(self) -> None:
        if not self._slice:
            return
        while len(self._running) >= 2 * self._engine.workers:
            self._engine.wait(self._running.popleft())
        future = self._engine.executor.submit(self._work, self._slice)
        self._running.append(future)
        for index, place in enumerate(self._places):
            place.future, place.index = future, index
        self._slice, self._places, self._slice_size = [], [], 0

    def _ready(self, wait: bool) -> Iterator[tuple[Key, Result | None]]:
        """What is finished at the head of the queue; with ``wait`` at least one."""
        while self._queue:
            place = self._queue[0]
            result = None
            if place.pending:
                if place.future is None or not (wait or place.future.done()):
                    return
                result = self._engine.wait(place.future)[place.index]
            wait = False
            self._queue.popleft()
            self._waiting -= place.size
            yield place.key, result


@dataclass
class _Place(Generic[Key, Result]):
    """One item of the queue; ``index``: of its result in that of its slice."""

    key: Key
    size: int
    pending: bool = False
    future: Future[Any] | None = None
    index: int = 0


def default_jobs() -> int:
    """Cores that this process may use."""
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_for(jobs: int) -> int:
    """Of the codec in each of ``jobs`` processes."""
    return max(1, default_jobs() // jobs)
