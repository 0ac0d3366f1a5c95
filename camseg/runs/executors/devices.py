"""Stages on several devices of this machine: a process on each, which takes whole batches from one list.

In each process the stages run as ``local`` runs them: it reads ahead, and finishes behind the network.
"""

import threading
from collections import deque
from collections.abc import Generator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Final

from camseg.base.errors import InputError, WorkerError
from camseg.base.progress import Say
from camseg.base.workers import Call, worker_processes
from camseg.runs.executors.local import Answer, Note, Pipeline, threads
from camseg.runs.record import Record
from camseg.runs.stage import Item, Stage, failed_item

_AHEAD: Final = 4
"""Batches that a process has at once: two that are read, two that are finished."""
_TRIES: Final = 3
"""How often a batch is begun whose process dies, before its images have failed; and a process that dies at once."""


def find_places(devices: str) -> list[str]:
    """The devices of a text such as ``cuda:0,cuda:1`` or ``cpu:2``; InputError for one that is not there, or two kinds.

    Kinds give other last bits, and what is written may not depend on who took which batch.
    """
    from camseg.base.device import find_devices  # loads torch

    found = find_devices(devices)
    if len({device.partition(":")[0] for device in found}) > 1:
        raise InputError(f"expected devices of one kind, such as cuda:0,cuda:1; got {devices}")
    return found


def run_devices(
    stages: Sequence[Stage],
    batches: Sequence[Sequence[Item]],
    finished: Set[str],
    workers: int,
    note: Note,
    say: Say,
    devices: Sequence[str],
) -> Generator[list[Record], None, None]:
    """The manifest lines of every input that is not finished, in the order in which they are done.

    As ``run_local``, with the stages set up in each process. A batch whose process dies is done again, alone in a
    process, and after two such repetitions its images have failed; one that dies while it is set up is started again
    as often. An error of a batch stage, as of setting up, ends all; so does whoever closes the iterator.
    """
    work = _Work(
        [_Job(items=one, finished=frozenset(finished & {item.sample.name for item in one})) for one in batches]
    )
    share = max(1, workers // len(devices))
    with ExitStack() as stack:
        # Left in this order: no more is handed out, the processes end, and so do the threads that wait for them.
        pool = stack.enter_context(ThreadPoolExecutor(len(devices), thread_name_prefix="camseg"))
        # The libraries' threads are those of this process: their number may decide the last bits.
        calls = [stack.enter_context(worker_processes(single=False)) for _ in devices]
        stack.callback(work.stop)
        feeders = [
            pool.submit(_Feeder(work, call, stages, device, share, note, say).run)
            for device, call in zip(devices, calls, strict=True)
        ]
        while (result := work.results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result
        wait(feeders)


@dataclass(kw_only=True, eq=False)
class _Job:
    """A batch on its way."""

    items: Sequence[Item]
    finished: frozenset[str]
    """The names of those that are finished and only keep the others company."""
    tries: int = 0
    """How many processes died while they had it."""

    @property
    def count(self) -> int:
        """How many inputs come back."""
        return sum(item.sample.name not in self.finished for item in self.items)


class _Work:
    """The batches that wait, shared by the threads that feed processes, and what has come back."""

    def __init__(self, jobs: Sequence[_Job]) -> None:
        self.waiting = deque(jobs)
        self.suspects: deque[_Job] = deque()
        self.open = len(jobs)
        self.stopped = False
        self.changed = threading.Condition()
        self.results: SimpleQueue[list[Record] | BaseException | None] = SimpleQueue()
        if not jobs:
            self.results.put(None)

    def take(self, *, idle: bool) -> _Job | None:
        """A batch. One whose process died waits for a process that is idle; only such a one waits for batches.

        None where there is none for now, and for an idle process where there will be none.
        """
        with self.changed:
            while True:
                if idle and self.suspects:
                    return self.suspects.popleft()
                if self.waiting and not self.suspects:
                    return self.waiting.popleft()
                if not idle or self.stopped or not self.open:
                    return None
                self.changed.wait()

    def settle(self, records: Sequence[list[Record]]) -> None:
        """Hand on the lines of a batch that is done."""
        with self.changed:
            if self.stopped:
                return
            for lines in records:
                self.results.put(lines)
            self.open -= 1
            self.changed.notify_all()
            if self.open == 0:
                self.results.put(None)

    def give_back(self, job: _Job, error: WorkerError) -> None:
        """Take back a batch whose process died."""
        job.tries += 1
        if job.tries == _TRIES:
            left = [item for item in job.items if item.sample.name not in job.finished]
            self.settle([[failed_item(item, error).record] for item in left])
            return
        with self.changed:
            self.suspects.append(job)
            self.changed.notify_all()

    def stop(self, error: BaseException | None = None) -> None:
        """Hand out no more."""
        with self.changed:
            self.waiting.clear()
            self.suspects.clear()
            self.stopped = True
            self.changed.notify_all()
        self.results.put(error)


@dataclass
class _Feeder:
    """Keeps the process of one device busy, from a thread of its own."""

    work: _Work
    call: Call
    stages: Sequence[Stage]
    device: str
    workers: int
    note: Note
    say: Say
    inside: deque[_Job] = field(default_factory=deque)
    """What the process has, in its order."""

    def run(self) -> None:
        """Work until no batch is left; an error ends the work of all."""
        try:
            self._set_up()
            while (job := self.work.take(idle=not self.inside)) or self.inside:
                self._feed(job)
            self.call(_close, id(self))
        except BaseException as error:
            self.work.stop(error)

    def _set_up(self) -> None:
        for tries in range(1, _TRIES + 1):
            try:
                self.call(_open, id(self), self.stages, self.device, self.workers, threads())
                return
            except WorkerError as error:
                if self.work.stopped or tries == _TRIES:
                    raise
                self._tell(error)

    def _tell(self, error: WorkerError) -> None:
        self.say(f"the process on {self.device} died and is started again: {error}")

    def _feed(self, job: _Job | None) -> None:
        if job is not None:
            self.inside.append(job)
        # One whose process died is alone, so that it is known who is to blame the next time.
        awaited = job is None or job.tries > 0 or len(self.inside) == _AHEAD
        try:
            given = None if job is None else (job.items, job.finished)
            answer: Answer | None = self.call(_advance, id(self), given, awaited)
        except WorkerError as error:
            if self.work.stopped:
                raise
            while self.inside:
                self.work.give_back(self.inside.popleft(), error)
            self._tell(error)
            self._set_up()
            return
        if answer is not None:
            records, seconds, said = answer
            for line in said:
                self.say(line)
            with self.work.changed:  # others note theirs
                for part, spent in seconds.items():
                    self.note(part, spent)
            self.inside.popleft()
            self.work.settle(records)


_PIPELINES: Final[dict[int, Pipeline]] = {}
"""Of this process, by the feeder that has it."""


def _open(key: int, stages: Sequence[Stage], device: str, workers: int, threads: int) -> None:
    _PIPELINES[key] = Pipeline(stages, device, workers, threads)


def _advance(key: int, batch: tuple[Sequence[Item], frozenset[str]] | None, wait: bool) -> Answer | None:
    """Take up a batch, and where ``wait`` says so come back with the first that is done."""
    pipeline = _PIPELINES[key]
    if batch is not None:
        pipeline.add(*batch)
    return pipeline.next_done() if wait else None


def _close(key: int) -> None:
    del _PIPELINES[key]
