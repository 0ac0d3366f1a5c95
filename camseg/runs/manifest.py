"""The lines of a folder's manifest, and what they say of an input: done, failed, lacking files, or changed since."""

import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from camseg.base.addresses import changed_at, fetch
from camseg.base.errors import OutputError
from camseg.base.files import contents_sha256
from camseg.runs.record import Record, from_line

MANIFEST = "manifest.jsonl"


def mean_agreement(values: Iterable[float | None]) -> float | None:
    """The mean of records' agreement, of those that have one; None where none has."""
    found = [value for value in values if value is not None]
    return round(statistics.fmean(found), 4) if found else None


def read_manifest(folder: Path | str, *, damaged_too: bool = False, name: str = MANIFEST) -> list[Record]:
    """The lines of a folder's manifest, [] without one; ``name``: of a shard's.

    A kill may have cut the last line short; then it and the other lines of the last input are left out.
    Raises OutputError for another line that is damaged. With ``damaged_too`` all that can be read is returned.
    """
    records: list[Record] = []
    for record in iterate_manifest(Path(folder) / name, damaged_too):
        if record is None:
            return [record for record in records if record.name != records[-1].name]
        records.append(record)
    return records


def iterate_manifest(path: Path, damaged_too: bool = False) -> Iterator[Record | None]:
    """The records of a manifest, if there is one, as ``read_manifest``; None where a kill cut the last line short."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") and not damaged_too:
                yield None
                return
            try:
                yield from_line(line)
            except ValueError:
                if damaged_too:
                    continue
                raise OutputError(
                    f"{path}: line {number} is damaged; --overwrite the folder, or choose another --out"
                ) from None


def parse_lines(lines: str) -> list[Record]:
    """The records of whole lines."""
    return [from_line(line) for line in lines.split("\n") if line]


def group_records(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The lines of each input, by its name; where a killed run had begun to replace them, the later ones."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        group = groups.setdefault(record.name, [])
        if any(_part(record) == _part(earlier) for earlier in group):
            group.clear()
        group.append(record)
    return groups


def _part(record: Record) -> tuple[str | None, str | None]:
    """What of its input a line is about: the class, or the image that was taken from it."""
    return record.class_name, record.files.get("image")


def is_finished(
    folder: Path, records: Sequence[Record], labels: Sequence[str] | None = None, file: str | None = None
) -> bool:
    """Whether all lines of an input say ``ok`` of the labels it has now, and of the ``file`` that it is now, as
    ``Record.input`` has it (None: of any); and every file of it is there."""
    known = None if labels is None else tuple(labels)
    return all(not one.failed and one.labels == known and file in (None, one.input) for one in records) and all(
        (folder / file).is_file() for file in files_of(records)
    )


def lacking(records: Sequence[Record], kinds: Collection[str]) -> set[str]:
    """Which of these kinds of files an input lacks, of those classes that have any."""
    return {kind for record in records if record.files for kind in kinds if kind not in record.files}


def has_changed(folder: Path, records: Sequence[Record], inputs: Sequence[Path], deciding: Sequence[Path] = ()) -> bool:
    """Whether the files that an input was made of hold something else than when its lines were written.

    Only where files were touched after the outputs were written, or what is ``deciding`` which files they are, is the
    content compared. Raises RemoteError where it lies at an address and cannot be fetched.
    """
    known = records[0].input_sha256
    try:
        outputs = [(folder / file).stat().st_mtime for file in files_of(records)]
        touched = [changed_at(path) for path in (*inputs, *deciding)]
    except OSError:
        return False  # what is not there any more cannot be done again
    if known is None or (outputs and max(touched, default=0.0) < min(outputs)):
        return False
    for path in inputs:
        fetch(path)
    return contents_sha256(inputs) != known


def files_of(records: Iterable[Record]) -> set[str]:
    """All files that lines tell of, relative to their folder."""
    return {file for record in records for file in record.files.values()}
