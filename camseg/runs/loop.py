"""The one folder loop: names and folders checked, the manifest kept, nothing lost.

Items are cut into batches from their full sorted list, so that a batch holds the same images in every
run, whatever is finished already or cannot be read.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from camseg.base.addresses import origin
from camseg.base.errors import InputError
from camseg.base.progress import Say
from camseg.data.datasets import Dataset, Sample
from camseg.data.remarks import unreadable
from camseg.runs.executors.devices import find_places, run_devices
from camseg.runs.executors.local import Note, run_here
from camseg.runs.manifest import MANIFEST, group_records, has_changed, is_finished, lacking, read_manifest
from camseg.runs.output import Output, check_names, check_output
from camseg.runs.record import Record
from camseg.runs.run import RUN, Run
from camseg.runs.settings import FolderOptions, Placement, Shard
from camseg.runs.shards import cut_portion, shard_file
from camseg.runs.stage import Item, Stage, files_read


@dataclass(kw_only=True)
class FolderReport:
    """What became of a folder."""

    planned: int = 0
    """Inputs that a dry run would take up."""
    done: int = 0
    """Inputs finished by this run."""
    kept: int = 0
    """Inputs that an earlier run had finished."""
    failed: list[Record] = field(default_factory=list)
    """The manifest lines of inputs that failed."""
    empty: Counter[str] = field(default_factory=Counter)
    """How many maps are all zero, or masks empty, by the reason."""
    fallbacks: Counter[str] = field(default_factory=Counter)
    """How many outputs fell back, by the reason; without those of ``empty``."""
    agreement: float | None = None
    """Of an ensemble, in [0, 1]: the mean of all maps' ``agreement`` in the manifest; None for one network."""
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "network": 0.0, "write": 0.0, "total": 0.0})
    """Time spent in each part, summed over threads, and from start to end."""


def run_folder(
    command: str,
    inputs: Dataset,
    items: Sequence[Item],
    stages: Sequence[Stage],
    out: Path | str,
    *,
    settings: Mapping[str, Any],
    device: str = "cpu",
    batch_size: int = 16,
    options: FolderOptions | None = None,
    placement: Placement | None = None,
) -> FolderReport:
    """Check names and folders, open the output, and take the items through the stages, the last of which writes.

    ``placement``: where that is done, and whether for a part of the items only. ``settings``: what ``run.json`` says of
    the call, from which ``--config`` repeats it; what decides whether a folder may be continued is the stages' own
    identity. Raises InputError when inputs and outputs would mix or two inputs write one file; OutputError.
    """
    out, placement = Path(out), placement or Placement()
    with _executor(placement, device, out, inputs) as (place, execute):
        if place != device:
            settings = {**settings, "device": place}
        work = _Work(command=command, inputs=inputs, items=items, stages=stages, out=out, settings=settings)
        return _run(work, place, batch_size, options or FolderOptions(), placement.shard, execute)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What is to be done, whoever does it."""

    command: str
    inputs: Dataset
    items: Sequence[Item]
    stages: Sequence[Stage]
    out: Path
    settings: Mapping[str, Any]


Execute: TypeAlias = Callable[
    [Sequence[Stage], Sequence[Sequence[Item]], Set[str], int, Note, Say], Generator[list[Record], None, None]
]
"""(stages, batches, names that are finished, workers, note, say) -> the manifest lines of each other input."""


@contextmanager
def _executor(placement: Placement, device: str, out: Path, inputs: Dataset) -> Iterator[tuple[str, Execute]]:
    """On which device the stages run, and what runs them; it is called when the output is opened."""
    if placement.engine == "ray":
        if address := origin(out) or origin(inputs.root):
            raise InputError(
                f"--engine ray works on folders that all machines share, and {address} is none; call camseg on each "
                "machine with --shard I/N, or use --devices"
            )
        from camseg.runs.executors.ray import connected, run_ray

        seen = [out / (RUN if placement.shard is None else shard_file(RUN, placement.shard))]
        seen += [next((one.path for one in inputs.samples if one.path.is_file()), seen[0])]
        with connected(placement.ray_address, placement.devices) as cluster:
            yield cluster.device, partial(run_ray, cluster=cluster, files=seen)
    elif placement.devices is not None:
        found = find_places(placement.devices)
        yield found[0], partial(run_devices, devices=found)
    else:
        yield device, partial(run_here, device=device)


def _run(
    work: _Work, device: str, batch_size: int, options: FolderOptions, shard: Shard | None, execute: Execute
) -> FolderReport:
    command, inputs, items, stages, out = work.command, work.inputs, work.items, work.stages, work.out
    if batch_size < 1:
        raise InputError(f"expected a batch size of at least 1, got {batch_size}")
    check_apart(inputs, out)
    check_names((sample.name, sample.path) for sample in inputs.samples)
    root = origin(inputs.root) or str(inputs.root.resolve())
    identity: dict[str, Any] = {"inputs": root, "device": device.partition(":")[0]}
    identity |= {
        f"{stage.name}.{key}" if key != stage.name else key: value
        for stage in stages
        for key, value in stage.identity().items()
    }
    run, failures = Run(command=command, settings=work.settings, identity=identity), inputs.failures
    portion = None if shard is None else cut_portion(shard, [item.sample.name for item in items], batch_size)
    if portion is not None:
        own = set(portion.names)
        items = [item for item in items if item.sample.name in own]
        failures = failures if portion.shard.number == 1 else ()
    kinds = frozenset(kind for stage in stages for kind in stage.kinds_written())
    deciding = [path for stage in stages for path in stage.deciding()]
    if options.dry_run:
        check_output(out, run, overwrite=options.overwrite, sharded=portion is not None)
        there = {} if options.overwrite else group_records(read_manifest(out))
        if shard is not None:
            there |= group_records(read_manifest(out, name=shard_file(MANIFEST, shard)))
        todo = [
            item
            for item in items
            if (lines := there.get(item.sample.name)) is None
            or not is_finished(out, lines, item.sample.labels, item.record.input)
            or lacking(lines, kinds)
            or has_changed(out, lines, files_read(stages, item), deciding)
        ]
        failed = _would_fail(failures, todo, stages)
        for record in failed:
            options.say(f"would fail: {record.error}")
        planned = len(todo) - len(failed) + len(failures)
        return FolderReport(planned=planned, kept=len(items) - len(todo), failed=failed)
    output = Output(out, run, overwrite=options.overwrite, portion=portion)
    report = FolderReport()
    started = time.perf_counter()
    names = [sample.name for sample in inputs.samples]

    def note(records: Sequence[Record]) -> None:
        output.add(records, keep=records[0].name in extended)
        for record in records:
            if record.failed:
                report.failed.append(record)
                options.say(f"failed: {record.error}")
                continue
            report.empty.update([record.empty] if record.empty else [])
            if record.fallback and record.fallback != record.empty:
                report.fallbacks[record.fallback] += 1

    def spent(part: str, seconds: float) -> None:
        report.seconds[part] += seconds

    extended: set[str] = set()
    for path, reason in failures:
        names.append(str(path))
        note([Record(input=str(path), name=str(path), status="failed", error=f"{path}: {reason}")])
    changed: list[Sample] = []
    finished: set[str] = set()
    missing: dict[str, set[str]] = {}
    for item in items:
        name = item.sample.name
        if not output.finished(name, item.sample.labels, item.record.input):
            continue
        if output.changed(name, files_read(stages, item), deciding):
            changed.append(item.sample)
            continue
        finished.add(name)
        if lacks := output.lacking(name, kinds):
            missing[name] = lacks
    if changed:
        options.say(f"{len(changed)} inputs have changed and are done again, such as {changed[0].path}")
    if missing:
        words = ", ".join(sorted(set().union(*missing.values())))
        options.say(f"{len(missing)} inputs get files that were not asked for before ({words}); the others stay")
        extended.update(missing)
        finished -= extended
    report.kept = len(finished)
    ready = [
        replace(item, kept=output.kinds(name)) if (name := item.sample.name) in extended else item for item in items
    ]
    batches = [ready[start : start + batch_size] for start in range(0, len(ready), batch_size)]
    waiting = [batch for batch in batches if any(item.sample.name not in finished for item in batch)]
    count = sum(item.sample.name not in finished for batch in waiting for item in batch)
    try:
        completed = execute(stages, waiting, finished, options.workers, spent, options.say)
        with closing(completed):  # an interrupt ends what works on before the folder is closed
            for records in options.progress(completed, count, command):
                note(records)
                report.done += not records[0].failed
    finally:
        report.seconds["total"] = time.perf_counter() - started
        output.close(names, report.seconds)
        report.agreement = output.agreement()
    return report


def _would_fail(failures: Sequence[tuple[Path, str]], items: Sequence[Item], stages: Sequence[Stage]) -> list[Record]:
    """The lines of folders that cannot be listed, and of inputs whose files are missing, empty or no images."""
    lines = [
        Record(input=str(path), name=str(path), status="failed", error=f"{path}: {reason}") for path, reason in failures
    ]
    for item in items:
        if reasons := unreadable(files_read(stages, item)):
            lines.append(replace(item.record, status="failed", error=next(iter(reasons.values()))))
    return lines


def check_apart(inputs: Dataset, out: Path) -> None:
    """``check_files_apart`` for the images of a dataset."""
    check_files_apart([sample.path for sample in inputs.samples], inputs.root, out)


def check_files_apart(files: Sequence[Path], root: Path, out: Path) -> None:
    """Raise InputError when outputs and inputs would mix: what is written would be an input of the next run."""
    folder, parents = _real(out), {}
    for file in files:
        parent = os.path.dirname(file)
        if parent not in parents:  # links are followed once for each folder
            parents[parent] = _real(parent)
        place = _real(file) if os.path.islink(file) else parents[parent]
        if place.startswith(folder):
            raise InputError(f"the inputs lie in the output folder {out}, as does {file}; choose another --out")
    # A single file has its own folder as root, where other things may lie.
    if len(files) > 1 and folder.startswith(_real(root)):
        raise InputError(f"the output folder {out} lies in the folder of inputs {root}; choose another --out")


def _real(path: Path | str) -> str:
    """The path without links, or its address, with a separator at its end; one that can be no path as it is."""
    try:
        return os.path.join(origin(path) or os.path.realpath(path), "")
    except ValueError:  # a null byte, say in a CSV
        return str(path)
