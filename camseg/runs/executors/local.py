"""Stages on this machine: threads that read and finish, the network between them, and worker processes beside them.

At most two batches are read ahead and two wait to be finished, so memory is bounded.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import TypeAlias

from camseg.base.addresses import fetch
from camseg.base.allocation import keep_freed_memory
from camseg.base.errors import CamsegError
from camseg.base.files import contents_sha256
from camseg.base.progress import Say
from camseg.base.workers import Call, call_here, worker_processes
from camseg.runs.record import Record
from camseg.runs.stage import Item, Stage, failed_item, files_read, run_stages

Note: TypeAlias = Callable[[str, float], None]
"""Takes the seconds that a part (``read``, ``network``, ``write``) took."""
Take: TypeAlias = Callable[[], Sequence[Item] | None]
"""Gives the next batch; None where there is none at the moment."""


def run_here(
    stages: Sequence[Stage],
    batches: Sequence[Sequence[Item]],
    finished: Set[str],
    workers: int,
    note: Note,
    say: Say,
    device: str,
) -> Generator[list[Record], None, None]:
    """``run_local`` for stages that are set up for a device first, if there is work; what they say is heard already."""
    for stage in stages if batches else ():
        stage.setup(device)
    yield from run_local(stages, partial(next, iter(batches), None), finished, workers, note)


def run_local(
    stages: Sequence[Stage], take: Take, finished: Set[str], workers: int, note: Note
) -> Generator[list[Record], None, None]:
    """The manifest lines of every input that is not finished, in order, until no batch is left.

    An input that fails in a thread, whatever the error, gets a ``failed`` line. What is finished already takes part in
    batch stages, whose bytes depend on the batch, and goes no further. An error of a batch stage is a CamsegError.
    """
    place = next((n for n, stage in enumerate(stages) if stage.place == "batch"), None)
    before, together, after = (
        (stages[:1], (), stages[1:])
        if place is None
        else (stages[:place], stages[place : place + 1], stages[place + 1 :])
    )
    apart: AbstractContextManager[Call] = nullcontext(call_here)
    if any(stage.place == "process" for stage in after):
        apart = worker_processes()
    reading: deque[list[Future[tuple[list[Item], float]]]] = deque()
    writing: deque[list[Future[tuple[list[Item], float]]]] = deque()

    def hashed(item: Item) -> Item:
        files = files_read(stages, item)
        for path in files:
            fetch(path)
        return replace(item, record=replace(item.record, input_sha256=contents_sha256(files)))

    with apart as call:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="camseg")
        try:
            while True:
                while len(reading) < 2 and (batch := take()) is not None:
                    reading.append([pool.submit(_read, hashed, before, item) for item in batch])
                if reading and len(writing) < 2:
                    read = [_settle(future, "read", note) for future in reading.popleft()]
                    groups = _together(together, [item for items in read for item in items], note)
                    writing.append(
                        [pool.submit(_each, after, groups[name], call) for name in groups if name not in finished]
                    )
                elif writing:
                    for future in writing.popleft():
                        yield [item.record for item in _settle(future, "write", note)]
                else:
                    return
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _read(hashed: Callable[[Item], Item], stages: Sequence[Stage], item: Item) -> tuple[list[Item], float]:
    """As ``_each``, of an item that knows what its files hold."""
    clock = time.perf_counter()
    try:
        items = _each(stages, [hashed(item)], call_here)[0]
    except CamsegError as error:  # what cannot be fetched
        items = [failed_item(item, error)]
    return items, time.perf_counter() - clock


def _each(stages: Sequence[Stage], items: list[Item], call: Call) -> tuple[list[Item], float]:
    """One input's items through stages, and the seconds it took; where one fails the input has failed."""
    clock = time.perf_counter()
    try:
        for stage in stages:
            run = call if stage.place == "process" else call_here
            items = run(run_stages, [stage], items)
    except Exception as error:
        items = [failed_item(items[0], error)]
    return items, time.perf_counter() - clock


def _settle(future: "Future[tuple[list[Item], float]]", part: str, note: Note) -> list[Item]:
    items, seconds = future.result()
    note(part, seconds)
    return items


def _together(stages: Sequence[Stage], items: Sequence[Item], note: Note) -> Mapping[str, list[Item]]:
    """A batch through its stage, grouped by input."""
    clock = time.perf_counter()
    try:
        for stage in stages:
            items = stage(items)
    except CamsegError:
        raise
    except Exception as error:  # what libraries and devices raise, such as too little memory
        words = " ".join(str(error).split())[:300]
        raise CamsegError(
            f"the network failed on the batch of {len(items)} images from {items[0].sample.path} on "
            f"({type(error).__name__}: {words}); if memory is short, a smaller --batch-size helps"
        ) from error
    note("network", time.perf_counter() - clock)
    return {name: list(group) for name, group in groupby(items, key=lambda item: item.sample.name)}


Answer: TypeAlias = tuple[list[list[Record]], dict[str, float], list[str]]
"""The lines of a batch's inputs, the seconds since the last answer by part, and what was said."""


class Pipeline:
    """Stages set up in a process that others give work to: batches go in, and come out in their order."""

    def __init__(self, stages: Sequence[Stage], device: str, workers: int, threads: int) -> None:
        """``threads``: with how many the network calculates on the CPU, on which its last bits may depend."""
        import torch

        keep_freed_memory()
        torch.set_num_threads(threads)
        self._waiting: deque[Sequence[Item]] = deque()
        self._counts: deque[int] = deque()
        self._finished: set[str] = set()
        self._seconds: dict[str, float] = {}
        self._said: list[str] = []
        for stage in stages:
            stage.hear(self._said.append)
            stage.setup(device)
        self._done = run_local(stages, self._take, self._finished, workers, self._note)

    def add(self, items: Sequence[Item], finished: Set[str]) -> None:
        """Take up a batch; ``finished``: names of those that only keep the others company."""
        self._waiting.append(items)
        self._counts.append(sum(item.sample.name not in finished for item in items))
        self._finished |= finished

    def next_done(self) -> Answer:
        """The answer to the first batch on its way, when it is done."""
        records = [next(self._done) for _ in range(self._counts.popleft())]
        seconds, said = dict(self._seconds), list(self._said)
        self._seconds.clear()
        self._said.clear()
        return records, seconds, said

    def _take(self) -> Sequence[Item] | None:
        return self._waiting.popleft() if self._waiting else None

    def _note(self, part: str, spent: float) -> None:
        self._seconds[part] = self._seconds.get(part, 0.0) + spent


def threads() -> int:
    """With how many threads this process calculates on the CPU."""
    import torch

    return torch.get_num_threads()
