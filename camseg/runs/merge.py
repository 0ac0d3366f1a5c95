"""Outputs of several calls -> one folder: shards of one list of images, or whole folders of several parts."""

import heapq
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TypeAlias

from camseg.base.addresses import parse_place
from camseg.base.errors import InputError, OutputError
from camseg.base.files import check_can_write, write_json, writing
from camseg.base.progress import Progress, silent
from camseg.runs.corrections import CORRECTIONS
from camseg.runs.manifest import MANIFEST, mean_agreement
from camseg.runs.output import check_empty, check_names
from camseg.runs.record import Record, from_line, to_line
from camseg.runs.run import RUN, changed_settings, read_run
from camseg.runs.settings import Shard
from camseg.runs.shards import find_shard_files, shard_file


@dataclass(kw_only=True)
class MergeReport:
    """What became of a merge."""

    inputs: int = 0
    """Inputs that the manifest tells of."""
    copied: int = 0
    """Files that came from other folders."""
    failed: list[Record] = field(default_factory=list)
    """The lines of inputs that had failed."""
    uncorrected: list[Path] = field(default_factory=list)
    """Other folders that hold people's corrections, which stay there."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A manifest, and what its run file says."""

    folder: Path
    run: dict[str, Any]
    shard: Shard | None = None
    inside: bool = False
    """Whether it lies in the merged folder itself."""
    prefix: str = ""
    """What comes before the names of its inputs in the merged folder: "" or a path with a slash at its end."""

    @property
    def manifest(self) -> Path:
        return self.folder / (MANIFEST if self.shard is None else shard_file(MANIFEST, self.shard))

    @property
    def named(self) -> str:
        return f"{self.folder}" if self.shard is None else f"shard {self.shard} in {self.folder}"


_Group: TypeAlias = tuple[_Source, list[Record]]
"""The lines of one input."""


def merge_folders(out: Path | str, others: Sequence[Path | str] = (), *, progress: Progress = silent) -> MergeReport:
    """Join the shards in ``out``, and what the folders ``others`` hold, into the one manifest of ``out``.

    Shards must be complete and all of equal settings; manifest and files are then those of one call. Folders of other
    inputs join into a new ``out``, which becomes the output of the folder that all their inputs lie in: names start
    there. Files are copied, and the others stay as they are, with their corrections. A merge that was killed is
    repeated.

    Raises InputError where there is nothing to join; OutputError for shards that are missing, not finished or of other
    images, for other settings, files that are gone, and inputs of which two folders tell.
    """
    out = Path(out)
    check_can_write(out)
    inside = [replace(one, inside=True) for one in _find_sources(out)]
    outside = {folder: _find_sources(folder) for folder in map(Path, others) if not _same(folder, out)}
    if empty := [folder for folder, found in outside.items() if not found]:
        raise InputError(f"{empty[0]} holds no output of camseg")
    sources = [*inside, *chain.from_iterable(outside.values())]
    if not sources or not (outside or any(one.shard for one in inside)):
        raise InputError(f"{out} holds no shards; camseg label IMAGES --shard 1/8 --out {out} makes one")
    _check_equal(sources)
    _check_shards([one for one in sources if one.shard])
    sources, root = _placed(sources, out)
    run = _joined_run(sources, root)
    count = _check_inputs(sources)
    if not inside:
        if not _is_unfinished(out):
            check_empty(out)
        write_json(out / RUN, {**run, "seconds": {}, "merging": True})
    report = MergeReport(uncorrected=[folder for folder in outside if (folder / CORRECTIONS).exists()])
    agreements: list[float | None] = []
    with writing(out / MANIFEST) as file:
        for source, records in progress(_in_order(sources), count, "merge"):
            report.inputs += 1
            for record in records:
                moved = _moved(record, source.prefix)
                if not source.inside:
                    report.copied += _copy(source.folder, record, out, moved)
                report.failed += [moved] if moved.failed else []
                agreements.append(moved.agreement)
                file.write(to_line(moved).encode(errors="backslashreplace"))
    write_json(out / RUN, {**run, "agreement": mean_agreement(agreements)})
    for one in inside:
        if one.shard is not None:
            one.manifest.unlink(missing_ok=True)
            (out / shard_file(RUN, one.shard)).unlink(missing_ok=True)
    return report


def _find_sources(folder: Path) -> list[_Source]:
    whole = [_Source(folder=folder, run=read_run(folder))] if (folder / RUN).exists() else []
    shards = [
        _Source(folder=folder, run=read_run(folder, path.name), shard=shard)
        for shard, path in find_shard_files(folder, RUN).items()
    ]
    return [one for one in (*whole, *shards) if not one.run.get("merging")]


def _is_unfinished(out: Path) -> bool:
    """Whether an earlier merge into a folder was killed."""
    return (out / RUN).exists() and bool(read_run(out).get("merging"))


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _check_equal(sources: Sequence[_Source]) -> None:
    """That all were made by one command with equal settings, though of other inputs."""
    first, *others = sources
    for one in others:
        if any(one.run.get(key) != first.run.get(key) for key in ("schema_version", "command")):
            raise OutputError(f"{first.named} and {one.named} were written by other commands, or versions of camseg")
        changes = changed_settings(first.run["identity"], one.run["identity"])
        if changed := [key for key in changes if key != "inputs"]:
            raise OutputError(f"{first.named} and {one.named} differ in their settings: {', '.join(changed)}")


def _check_shards(shards: Sequence[_Source]) -> None:
    """That there is each shard of one list of images, once, and finished."""
    numbers = Counter(str(one.shard) for one in shards)
    first = next(iter(shards), None)
    if first is None or first.shard is None:
        return
    of = first.shard.count
    if several := [one for one in shards if one.shard and one.shard.count != of]:
        raise OutputError(f"expected shards of one call; got {first.named} and {several[0].named}")
    if missing := [name for number in range(of) if (name := f"{number + 1}/{of}") not in numbers]:
        raise OutputError(f"{len(missing)} of {of} shards are missing: {', '.join(missing[:10])}; run them first")
    if twice := [name for name, count in numbers.items() if count > 1]:
        raise OutputError(f"the shard {twice[0]} is in two of the folders; name one of them")
    if unfinished := [one.named for one in shards if not one.run["shard"]["complete"]]:
        raise OutputError(f"{len(unfinished)} of {of} shards are not finished, such as {unfinished[0]}; run it again")
    facts = ("inputs", "names_sha256", "batch_size")
    if others := [one for one in shards if any(one.run["shard"][key] != first.run["shard"][key] for key in facts)]:
        counts = f"{first.run['shard']['inputs']} and {others[0].run['shard']['inputs']}"
        raise OutputError(
            f"{first.named} and {others[0].named} were made of other lists of images ({counts}); run all shards again, "
            "which keeps what is finished"
        )


def _placed(sources: Sequence[_Source], out: Path) -> tuple[list[_Source], str | None]:
    """The sources with the prefixes of their names, and the inputs of all: the folder in which all of theirs lie."""
    roots = [one.run["identity"].get("inputs") for one in sources]
    if len(set(roots)) == 1:
        return list(sources), roots[0]
    if any(one.shard for one in sources):
        raise OutputError("shards of other inputs are no shards of one call; merge the shards of each folder first")
    if tables := [root for root in roots if root is None or os.path.isfile(root) or isinstance(parse_place(root), str)]:
        raise OutputError(f"outputs of a table or an address join only with others of the same; got {tables[0]}")
    common = os.path.commonpath(roots)
    placed = []
    for one, root in zip(sources, roots, strict=True):
        below = Path(os.path.relpath(root, common)).as_posix()
        placed.append(replace(one, prefix="" if below == "." else f"{below}/"))
        if one.inside and below != ".":
            raise OutputError(f"{out} holds the outputs of {root} alone; name a new folder first, then {out}")
    return placed, common


def _joined_run(sources: Sequence[_Source], root: str | None) -> dict[str, Any]:
    """What ``run.json`` says of all: as the first, with the seconds of all of them."""
    run = {key: value for key, value in sources[0].run.items() if key != "shard"}
    if root is not None:
        run["identity"] = {**run["identity"], "inputs": root}
    seconds: Counter[str] = Counter()
    for one in sources:
        seconds.update(one.run["seconds"])
    run["seconds"] = {part: round(value, 3) for part, value in seconds.items()}
    return run


def _check_inputs(sources: Sequence[_Source]) -> int:
    """How many inputs there are; OutputError where two would have one name, or a file is gone."""
    gone: list[str] = []
    count = 0

    def names() -> Iterator[tuple[str, Path]]:
        nonlocal count
        for source, records in _in_order(sources):
            count += 1
            yield source.prefix + records[0].name, source.folder / records[0].input
            for record in records:
                gone.extend(file for file in record.files.values() if not (source.folder / file).is_file())
                if gone:
                    raise OutputError(f"{source.folder / gone[0]} is not there any more; run {source.named} again")

    try:
        check_names(names())
    except InputError as error:
        raise OutputError(str(error)) from None
    return count


def _in_order(sources: Sequence[_Source]) -> Iterator[_Group]:
    """The lines of each input: of shards in the order of the full list, of folders sorted as that would be."""
    shards = [_by_place(one) for one in sources if one.shard]
    folders = [one for one in sources if not one.shard]
    if shards:
        seen = set()
        for _, group in heapq.merge(*shards, key=lambda one: one[0]):
            seen.add(group[1][0].name)
            yield group
        for source, records in chain.from_iterable(map(_groups, folders)):
            # The merged folder's earlier manifest told of the same, and of inputs that are gone.
            if not source.inside or (records[0].name not in seen and any(record.files for record in records)):
                yield source, records
    elif all(one.prefix == "" for one in sources) and os.path.isfile(sources[0].run["identity"].get("inputs") or ""):
        yield from chain.from_iterable(map(_groups, folders))  # in the order of a table nothing is sorted
    else:
        yield from heapq.merge(*map(_groups, folders), key=lambda group: group[0].prefix + group[1][0].input)


def _by_place(source: _Source) -> Iterator[tuple[tuple[int, int, int], _Group]]:
    """A shard's inputs with their places in the full list; what it tells of others comes behind all of them."""
    facts = source.run["shard"]
    size, inputs = facts["batch_size"], facts["inputs"]
    places = (n for batch in facts["batches"] for n in range(batch * size, min((batch + 1) * size, inputs)))
    for number, group in enumerate(_groups(source)):
        yield (next(places, inputs), facts["number"], number), group


def _groups(source: _Source) -> Iterator[_Group]:
    """The lines of each input in the order of the manifest; OutputError for one that began to be written anew."""
    seen: set[str] = set()
    for name, records in groupby(_read(source.manifest), key=lambda record: record.name):
        if name in seen:
            raise OutputError(f"{source.manifest}: its command was stopped while it did inputs again; run it again")
        seen.add(name)
        yield source, list(records)


def _read(manifest: Path) -> Iterator[Record]:
    try:
        with manifest.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield from_line(line)
                except ValueError:
                    raise OutputError(f"{manifest}: line {number} is damaged; run what wrote it again") from None
    except OSError as error:
        raise OutputError(f"{manifest}: cannot be read ({error.strerror})") from None


def _moved(record: Record, prefix: str) -> Record:
    """A line with the names that its input and files have in the merged folder."""
    if not prefix or os.path.isabs(record.name):  # a folder that could not be listed
        return record
    files = {}
    for kind, file in record.files.items():
        stem, dot, suffix = file.rpartition(".")
        files[kind] = f"{stem.removesuffix(record.name)}{prefix}{record.name}{dot}{suffix}"
    return replace(record, name=prefix + record.name, input=prefix + record.input, files=files)


def _copy(folder: Path, record: Record, out: Path, moved: Record) -> int:
    """Copy the files of a line, and return how many."""
    for kind, file in record.files.items():
        with (folder / file).open("rb") as source, writing(out / moved.files[kind]) as target:
            shutil.copyfileobj(source, target)
    return len(record.files)
