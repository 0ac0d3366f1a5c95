"""The one folder loop: reading, the network, and finishing overlap; memory is bounded; nothing is lost.

Items are cut into batches from their full sorted list, so that a batch holds the same images in every
run, whatever is finished already or cannot be read.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from camseg.datasets import Sample
from camseg.errors import CamsegError
from camseg.progress import Progress, Say
from camseg.results import Output, Record

Loaded = TypeVar("Loaded")
Inferred = TypeVar("Inferred")


@dataclass(frozen=True, kw_only=True)
class Steps(Generic[Loaded, Inferred]):
    """What is done with the items of a folder."""

    read: Callable[[Sample], Loaded]
    """In worker threads."""
    infer: Callable[[Sequence[Sample], Sequence[Loaded | None]], Sequence[Inferred]]
    """In the calling thread, a batch at a time; None stands for an item that could not be read."""
    write: Callable[[Sample, Loaded, Inferred], list[Record]]
    """In worker threads; returns the item's manifest lines."""


@dataclass(kw_only=True)
class Report:
    """What became of a folder."""

    planned: int = 0
    """Inputs that a dry run would take up."""
    done: int = 0
    """Inputs finished by this run."""
    kept: int = 0
    """Inputs that an earlier run had finished."""
    failed: list[Record] = field(default_factory=list)
    """The manifest lines of inputs that failed."""
    fallbacks: Counter[str] = field(default_factory=Counter)
    """How many outputs fell back, by the reason."""
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "network": 0.0, "write": 0.0, "total": 0.0})
    """Time spent in each stage, summed over threads, and from start to end."""


def process_folder(
    samples: Sequence[Sample],
    steps: Steps[Any, Any],
    output: Output,
    *,
    batch_size: int,
    workers: int,
    title: str,
    progress: Progress,
    say: Say,
    failures: Sequence[tuple[Path, str]] = (),
) -> Report:
    """Take every sample through the steps, in order, and keep the manifest.

    At most two batches are read ahead and two wait to be written. A sample that fails in ``read`` or
    ``write``, whatever the error, becomes a ``failed`` line; ``failures`` (path, reason), such as folders
    that could not be listed, become such lines too. An error in ``infer`` ends the work: CamsegError.
    """
    report = Report()
    started = time.perf_counter()
    names = [sample.name for sample in samples]

    def note(records: list[Record]) -> None:
        output.add(records)
        for record in records:
            if record["status"] == "failed":
                report.failed.append(record)
                say(f"failed: {record['error']}")
            elif record.get("fallback"):
                report.fallbacks[record["fallback"]] += 1

    for path, reason in failures:
        names.append(str(path))
        note([_failure(Sample(path=path, name=str(path)), f"{path}: {reason}")])
    finished = {sample.name for sample in samples if output.finished(sample.name, sample.labels)}
    report.kept = len(finished)
    batches = [samples[start : start + batch_size] for start in range(0, len(samples), batch_size)]
    todo = [batch for batch in batches if any(sample.name not in finished for sample in batch)]
    count = sum(sample.name not in finished for batch in todo for sample in batch)
    try:
        with ThreadPoolExecutor(workers, thread_name_prefix="camseg") as pool:
            completed = _completed(todo, finished, steps, pool, report)
            for records in progress(completed, count, title):
                note(records)
                report.done += records[0]["status"] == "ok"
    finally:
        report.seconds["total"] = time.perf_counter() - started
        output.close(names, report.seconds)
    return report


def _completed(
    batches: Sequence[Sequence[Sample]], finished: set[str], steps: Steps, pool: ThreadPoolExecutor, report: Report
) -> Iterator[list[Record]]:
    """The manifest lines of every unfinished sample, in order."""
    waiting = deque(batches)
    reading: deque[tuple[Sequence[Sample], list[Future]]] = deque()
    writing: deque[list[Future]] = deque()
    try:
        while waiting or reading or writing:
            while waiting and len(reading) < 2:
                batch = waiting.popleft()
                reading.append((batch, [pool.submit(_timed, steps.read, sample) for sample in batch]))
            if reading and len(writing) < 2:
                batch, futures = reading.popleft()
                loaded = [_settle(future, report, "read") for future in futures]
                clock = time.perf_counter()
                inferred = _infer(steps, batch, [None if isinstance(one, _Failed) else one for one in loaded])
                report.seconds["network"] += time.perf_counter() - clock
                writing.append(
                    [
                        pool.submit(_write, steps, sample, one, result)
                        for sample, one, result in zip(batch, loaded, inferred, strict=True)
                        if sample.name not in finished
                    ]
                )
            elif writing:
                for future in writing.popleft():
                    records, seconds = future.result()
                    report.seconds["write"] += seconds
                    yield records
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Failed:
    error: str


def _timed(function: Callable[[Sample], Any], sample: Sample) -> tuple[Any, float]:
    clock = time.perf_counter()
    try:
        result = function(sample)
    except Exception as error:
        result = _Failed(_words(sample, error))
    return result, time.perf_counter() - clock


def _infer(steps: Steps, batch: Sequence[Sample], loaded: Sequence[Any]) -> Sequence[Any]:
    try:
        return steps.infer(batch, loaded)
    except CamsegError:
        raise
    except Exception as error:  # what libraries and devices raise, such as too little memory
        words = " ".join(str(error).split())[:300]
        raise CamsegError(
            f"the network failed on the batch of {len(batch)} images from {batch[0].path} on "
            f"({type(error).__name__}: {words}); if memory is short, a smaller --batch-size helps"
        ) from error


def _settle(future: Future, report: Report, stage: str) -> Any:
    result, seconds = future.result()
    report.seconds[stage] += seconds
    return result


def _write(steps: Steps, sample: Sample, loaded: Any, inferred: Any) -> tuple[list[Record], float]:
    if isinstance(loaded, _Failed):
        return [_failure(sample, loaded.error)], 0.0
    clock = time.perf_counter()
    try:
        records = steps.write(sample, loaded, inferred)
    except Exception as error:
        records = [_failure(sample, _words(sample, error))]
    return records, time.perf_counter() - clock


def _words(sample: Sample, error: Exception) -> str:
    """One line that names the file; errors that nobody foresaw also say their kind."""
    path, text = (" ".join(str(part).split()) for part in (sample.path, error))
    text = text if isinstance(error, CamsegError) else f"{type(error).__name__}: {text}"
    return text if path in text else f"{path}: {text}"


def _failure(sample: Sample, error: str) -> Record:
    return {"input": sample.input, "name": sample.name, "class": None, "files": {}, "status": "failed", "error": error}
