"""The one folder loop: reading, the network, and finishing overlap; memory is bounded; nothing is lost.

Items are cut into batches from their full sorted list, so that a batch holds the same images in every
run, whatever is finished already or cannot be read.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from camseg.base.errors import CamsegError, InputError, failure_line
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.data.datasets import Dataset, Sample
from camseg.runs.output import Output, Record, Run, check_names, check_output, group_records, is_finished, read_manifest

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


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """How a folder is worked through; none of these changes a result."""

    workers: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    """Threads that read and write, each with a process beside it where masks are refined."""
    overwrite: bool = False
    """Remove what an earlier run wrote first, instead of continuing it."""
    dry_run: bool = False
    """Check everything, count the inputs, write nothing."""
    progress: Progress = silent
    """Shows how far the work is."""
    say: Say = unheard
    """Hears of every failed input."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"expected at least 1 worker, got {self.workers}")


def run_folder(
    command: str,
    inputs: Dataset,
    out: Path,
    settings: Record,
    steps: Steps[Any, Any],
    batch_size: int,
    options: FolderOptions | None,
) -> Report:
    """Check names and folders, open the output, and take the inputs through the steps.

    Raises InputError when inputs and outputs would mix or two inputs write one file; OutputError.
    """
    options = options or FolderOptions()
    check_apart(inputs, out)
    check_names((sample.name, sample.path) for sample in inputs.samples)
    run = Run(command=command, settings=settings)
    if options.dry_run:
        check_output(out, run, overwrite=options.overwrite)
        there = {} if options.overwrite else group_records(read_manifest(out))
        kept = sum(
            sample.name in there and is_finished(out, there[sample.name], sample.labels) for sample in inputs.samples
        )
        return Report(planned=len(inputs.samples) - kept, kept=kept)
    return process_folder(
        inputs.samples,
        steps,
        Output(out, run, overwrite=options.overwrite),
        batch_size=batch_size,
        workers=options.workers,
        title=command,
        progress=options.progress,
        say=options.say,
        failures=inputs.failures,
    )


def check_apart(inputs: Dataset, out: Path) -> None:
    """``check_files_apart`` for the images of a dataset."""
    check_files_apart([sample.path for sample in inputs.samples], inputs.root, out)


def check_files_apart(files: Sequence[Path], root: Path, out: Path) -> None:
    """Raise InputError when outputs and inputs would mix: what is written would be an input of the next run."""
    folder = _real(out)
    for file in files:
        if _real(file).startswith(folder):
            raise InputError(f"the inputs lie in the output folder {out}, as does {file}; choose another --out")
    # A single file has its own folder as root, where other things may lie.
    if len(files) > 1 and folder.startswith(_real(root)):
        raise InputError(f"the output folder {out} lies in the folder of inputs {root}; choose another --out")


def _real(path: Path) -> str:
    """The path without links, with a separator at its end; one that can be no path as it is."""
    try:
        return os.path.join(os.path.realpath(path), "")
    except ValueError:  # a null byte, say in a CSV
        return str(path)


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
        result = _Failed(failure_line(sample.path, error))
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
        records = [_failure(sample, failure_line(sample.path, error))]
    return records, time.perf_counter() - clock


def _failure(sample: Sample, error: str) -> Record:
    return {"input": sample.input, "name": sample.name, "class": None, "files": {}, "status": "failed", "error": error}
