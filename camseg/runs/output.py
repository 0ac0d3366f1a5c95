"""The output folder of a run: its names, its manifest, and what a later run may continue.

``manifest.jsonl`` grows by whole lines while a run works; when it ends, the file is put into the order
of the inputs. ``run.json`` says with which settings.
"""

import hashlib
import importlib.metadata
import json
import platform
import re
import shutil
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from camseg.base.addresses import changed_at, fetch
from camseg.base.errors import CamsegError, InputError, OtherSettingsError, OutputError
from camseg.base.files import append_text, check_can_write, contents_sha256, read_json, write_json, write_text
from camseg.runs.record import SCHEMA_VERSION, Record, from_line, to_line
from camseg.runs.shards import Portion, find_shard_files, shard_file

MANIFEST = "manifest.jsonl"
RUN = "run.json"
_NETWORK = ("cams", "label", "segment")
"""Commands whose inputs are images, not files of another command."""
_AGREEMENT = re.compile(r'"agreement": [0-9]')


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a folder was written with; two runs may share a folder only if command and identity are equal."""

    command: str
    """``cams``, ``masks``, ``label``, ..."""
    settings: Mapping[str, Any]
    """What was asked for, JSON values only: ``--config`` takes it."""
    identity: Mapping[str, Any]
    """Everything that decides the bytes of the outputs, JSON values only."""


def check_names(names: Iterable[tuple[str, Path]]) -> None:
    """Raise InputError when two inputs would write one file, also on file systems that ignore case.

    Nor may one input's file be another's folder, as with ``a.jpg`` beside ``a.png/b.jpg``.
    """
    by_name: dict[str, Path] = {}
    for name, path in names:
        if (first := by_name.setdefault(name.casefold(), path)) is not path:
            raise InputError(f"{first} and {path} would write the same output; rename or remove one")
    for name, path in by_name.items():
        for match in re.finditer(r"\.(png|tif)/", name):
            if (other := by_name.get(name[: match.start()])) is not None:
                raise InputError(f"the output of {other} would be named like the folder for {path}; rename one")


def check_empty(folder: Path, *, overwrite: bool = False) -> None:
    """Raise OutputError when ``folder`` cannot be written to, or holds something and is not to be overwritten."""
    check_can_write(folder)
    if not overwrite and folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} holds other files; choose an empty --out, or --overwrite to write there")


def check_output(folder: Path, run: Run, *, overwrite: bool = False, sharded: bool = False) -> None:
    """Raise OutputError when ``folder`` holds another run, files that camseg did not write, or cannot be written to.

    ``sharded``: it may hold shards of the same run, and other calls may fill it just now. Leaves nothing behind.
    """
    check_can_write(folder)
    if sharded and overwrite:
        raise OutputError(f"{folder} is for all shards, of which none may remove what others wrote; empty it yourself")
    others = folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir())
    shards = find_shard_files(folder, RUN)  # looked for last: a shard's run file comes before its other files
    runs = [path.name for path in (folder / RUN, *shards.values()) if path.exists()]
    if overwrite or not (runs or sharded):
        check_empty(folder, overwrite=overwrite)
        return
    if not sharded:
        _check_merged(folder)
    if others and not runs:
        raise OutputError(f"{folder} holds other files; choose an empty --out for all shards")
    for name in runs:
        check_same_run(folder, run, read_run(folder, name))


def check_same_run(folder: Path, run: Run, earlier: Mapping[str, Any]) -> None:
    """Raise OutputError when what ``run.json`` of a folder says is another run."""
    if earlier.get("schema_version") != SCHEMA_VERSION:
        raise OutputError(f"{folder} was written by another version of camseg; choose another --out, or --overwrite")
    if earlier.get("command") != run.command:
        raise OutputError(f"{folder} holds outputs of camseg {earlier.get('command')}; choose another --out")
    if changes := changed_settings(earlier["identity"], run.identity):
        raise OtherSettingsError(folder, changes)


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between the identities of two runs: the values in both, by key."""
    new = json.loads(json.dumps(new))  # as JSON has them: tuples are lists there
    return {key: (old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)}


class Output:
    """An output folder opened for a run: fresh, or continued where an equal run stopped."""

    def __init__(
        self,
        folder: Path | str,
        run: Run,
        *,
        overwrite: bool = False,
        parts: Sequence[str] = (),
        portion: Portion | None = None,
    ) -> None:
        """Open ``folder``; with ``overwrite`` what an earlier run wrote there is removed first.

        ``parts``: subfolders that such a command fills without a manifest; they are removed whole, but only where
        that command wrote the folder. ``portion``: what this call takes, where several share the folder; it then has a
        manifest and a run file of its own. Raises OutputError when the folder holds another run, or files that camseg
        did not write.
        """
        self.folder, self.run, self.portion = Path(folder), run, portion
        if portion is not None:  # no other shard may find the folder gone that one of them made to look into it
            with suppress(OSError):  # which the check below puts into words
                self.folder.mkdir(parents=True, exist_ok=True)
        check_output(self.folder, run, overwrite=overwrite, sharded=portion is not None)
        if overwrite:
            self._clear(parts)
        self._manifest, self._run = (
            name if portion is None else shard_file(name, portion.shard) for name in (MANIFEST, RUN)
        )
        self._parsed: tuple[str, list[Record]] = "", []
        # As text, which takes a fraction of the memory of the records.
        self._lines = self._read(self._manifest)
        if not (self.folder / self._run).exists():
            self.write_run({})
        # A kill may have left half a line at the end; what follows must not be joined to it.
        if (self.folder / self._manifest).exists():
            write_text(self.folder / self._manifest, "".join(self._lines.values()))
        if portion is not None:  # what was merged before
            own = set(portion.names)
            merged = self._read(MANIFEST)
            self._lines = {name: lines for name, lines in merged.items() if name in own} | self._lines

    def _read(self, name: str) -> dict[str, str]:
        lines: dict[str, str] = {}
        last = ""
        for own, group in groupby(_iterate(self.folder / name), key=lambda one: None if one is None else one.name):
            if own is None:
                lines.pop(last, None)
                break
            # A killed run may have begun to replace lines, at once or later.
            records = group_records([*_parse(lines.get(own, "")), *filter(None, group)])[own]
            lines[own] = "".join(map(to_line, records))
            last = own
        return lines

    def finished(self, name: str, labels: Sequence[str] | None = None) -> bool:
        """Whether an input needs no more work: see ``is_finished``."""
        return name in self._lines and is_finished(self.folder, self._records(name), labels)

    def lacking(self, name: str, kinds: Collection[str]) -> set[str]:
        """Which of these kinds of files a finished input lacks: see ``lacking``."""
        return lacking(self._records(name), kinds)

    def kinds(self, name: str) -> frozenset[str]:
        """The kinds of files that an input has for every class."""
        return frozenset(set.intersection(*({*record.files} for record in self._records(name))))

    def changed(self, name: str, inputs: Sequence[Path]) -> bool:
        """Whether a finished input's files hold something else by now: see ``has_changed``."""
        return has_changed(self.folder, self._records(name), inputs)

    def add(self, records: Sequence[Record], *, keep: bool = False) -> None:
        """Append the lines of one input; they replace what an earlier run said of it, and the files it wrote.

        ``keep``: those files stay, and the new ones are added to them, class by class; where none could be made, the
        lines stay too.
        """
        name = records[0].name
        if keep:
            if any(record.failed for record in records):
                return
            before = {record.class_name: record.files for record in self._records(name)}
            records = [
                replace(record, files={**before.get(record.class_name, {}), **record.files}) for record in records
            ]
        for old in _files(self._records(name)) - _files(records):
            (self.folder / old).unlink(missing_ok=True)
        self._lines[name] = "".join(map(to_line, records))
        append_text(self.folder / self._manifest, self._lines[name])

    def close(self, names: Sequence[str], seconds: Mapping[str, float]) -> None:
        """Put the manifest into the order of ``names``, and the seconds per stage into ``run.json``.

        Lines of other names follow if they tell of files; else, as those of a folder that now can be read, they go.
        Of a shard, those that are not its own go too: they are another one's.
        """
        known = set(names)
        own = known if self.portion is None else {*self.portion.names, *names[self.portion.facts["inputs"] :]}
        others = [name for name in self._lines if name not in known and _files(self._records(name))]
        lines = (
            self._lines[name] for name in (*(name for name in names if name in own), *others) if name in self._lines
        )
        write_text(self.folder / self._manifest, "".join(lines))
        self.write_run(seconds)

    def write_run(self, seconds: Mapping[str, float]) -> None:
        """Write ``run.json``, or a shard's like it."""
        facts = run_facts(self.run, seconds, self.agreement())
        if self.portion is not None:
            complete = all(name in self._lines for name in self.portion.names)
            facts["shard"] = {**self.portion.facts, "complete": bool(seconds) and complete}
        write_json(self.folder / self._run, facts)

    def agreement(self) -> float | None:
        """The mean ``agreement`` of all lines that have one, those of earlier runs too; None where none has."""
        # Lines without a number there, all of one network's, need not be read again.
        told = (name for name, lines in self._lines.items() if _AGREEMENT.search(lines))
        return mean_agreement(one.agreement for name in told for one in self._records(name))

    def _records(self, name: str) -> list[Record]:
        lines = self._lines.get(name, "")
        if self._parsed[0] != lines:  # asked about several times in a row
            self._parsed = lines, _parse(lines)
        return self._parsed[1]

    def _clear(self, parts: Sequence[str]) -> None:
        earlier = _try_run(self.folder)
        if earlier is not None and earlier.get("command") == self.run.command:
            for part in parts:
                shutil.rmtree(self.folder / part, ignore_errors=True)
        for file in _files(read_manifest(self.folder, damaged_too=True)):
            (self.folder / file).unlink(missing_ok=True)
        for shard, path in find_shard_files(self.folder, MANIFEST).items():
            for file in _files(read_manifest(self.folder, damaged_too=True, name=path.name)):
                (self.folder / file).unlink(missing_ok=True)
            (self.folder / shard_file(RUN, shard)).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        for name in (MANIFEST, RUN):
            (self.folder / name).unlink(missing_ok=True)


def run_facts(run: Run, seconds: Mapping[str, float], agreement: float | None) -> dict[str, Any]:
    """What ``run.json`` holds: the run, its seconds, and over all images the agreement of an ensemble's members."""
    return {
        "schema_version": SCHEMA_VERSION,
        "command": run.command,
        "settings": run.settings,
        "identity": run.identity,
        "versions": versions(),
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "agreement": agreement,
    }


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
    for record in _iterate(Path(folder) / name, damaged_too):
        if record is None:
            return [record for record in records if record.name != records[-1].name]
        records.append(record)
    return records


def _iterate(path: Path, damaged_too: bool = False) -> Iterator[Record | None]:
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


def _parse(lines: str) -> list[Record]:
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


def is_finished(folder: Path, records: Sequence[Record], labels: Sequence[str] | None = None) -> bool:
    """Whether all lines of an input say ``ok`` of the labels it has now, and every file of it is there."""
    known = None if labels is None else tuple(labels)
    return all(not record.failed and record.labels == known for record in records) and all(
        (folder / file).is_file() for file in _files(records)
    )


def lacking(records: Sequence[Record], kinds: Collection[str]) -> set[str]:
    """Which of these kinds of files an input lacks, of those classes that have any."""
    return {kind for record in records if record.files for kind in kinds if kind not in record.files}


def has_changed(folder: Path, records: Sequence[Record], inputs: Sequence[Path]) -> bool:
    """Whether the files that an input was made of hold something else than when its lines were written.

    Only of files that were touched after the outputs were written is the content compared. Raises RemoteError where it
    lies at an address and cannot be fetched.
    """
    known = records[0].input_sha256
    try:
        outputs = [(folder / file).stat().st_mtime for file in _files(records)]
        touched = [changed_at(path) for path in inputs]
    except OSError:
        return False  # what is not there any more cannot be done again
    if known is None or (outputs and max(touched, default=0.0) < min(outputs)):
        return False
    for path in inputs:
        fetch(path)
    return contents_sha256(inputs) != known


def map_root(folder: Path | str) -> Path:
    """Where one method's maps lie: ``folder`` itself, its only method's subfolder if ``cams`` wrote it, or ``cams`` if
    ``label`` or ``segment`` did.

    Raises InputError when it holds the maps of several methods, or masks without maps.
    """
    folder = Path(folder)
    if not (folder / RUN).is_file():
        return folder
    run = read_run(folder)
    if run.get("command") in ("label", "segment"):
        if not (folder / "cams").is_dir():
            raise InputError(f"{folder} holds masks without their maps; repeat the command with --save cams")
        return folder / "cams"
    settings = run["settings"]
    methods = settings.get("methods", [settings.get("method")])
    if run.get("command") not in ("cams", "propagate") or not isinstance(methods, list) or not methods:
        return folder
    if len(methods) > 1:
        raise InputError(f"{folder} holds the maps of {len(methods)} methods; name one, such as {folder / methods[0]}")
    return folder / str(methods[0])


def prediction_root(folder: Path | str) -> Path:
    """Where a run's maps or masks lie: as ``map_root`` says, or ``masks`` in what ``label``, ``segment`` or
    ``refine`` wrote."""
    folder = Path(folder)
    if (folder / RUN).is_file() and read_run(folder).get("command") in ("label", "refine", "segment"):
        return folder / "masks"
    return map_root(folder)


def provenance(folder: Path | str) -> str | None:
    """SHA-256 of the command and identity that wrote the files in a folder; None where no ``run.json`` tells."""
    place = _nearest(Path(folder), RUN)
    run = None if place is None else _try_run(place)
    if run is None:
        return None
    return hashlib.sha256(json.dumps([run.get("command"), run.get("identity")], sort_keys=True).encode()).hexdigest()


def network_records(folder: Path | str) -> list[Record]:
    """The manifest lines that say of which images and classes the files in a folder are; [] where none does."""
    came_through = lineage(folder)
    return read_manifest(came_through[-1].folder, damaged_too=True) if came_through else []


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command that files have come through."""

    folder: Path
    """Its output folder."""
    command: str | None
    """Which; None where no run.json tells."""
    settings: Mapping[str, Any]
    """What was asked for."""


def lineage(folder: Path | str) -> list[Step]:
    """The commands that the files in a folder have come through, the last one first; [] where no manifest tells.

    Stages behind the network know files only; what they were made of leads back to its run.
    """
    steps: list[Step] = []
    place = _nearest(Path(folder), MANIFEST)
    while place is not None and all(place != step.folder for step in steps):
        run = _try_run(place) or {}
        steps.append(Step(folder=place, command=run.get("command"), settings=run.get("settings", {})))
        source = run.get("identity", {}).get("inputs")
        behind = run.get("command") not in _NETWORK and isinstance(source, str)
        place = _nearest(Path(source), MANIFEST) if behind else None
    return steps


def image_root(folder: Path | str) -> Path | None:
    """The folder or table of the images that the files in a folder were made of; None where no ``run.json`` tells."""
    for step in lineage(folder):
        identity = (_try_run(step.folder) or {}).get("identity", {})
        found = identity.get("files read.images") or (identity.get("inputs") if step.command in _NETWORK else None)
        if isinstance(found, str):
            return Path(found)
    return None


def manifest_folder(folder: Path | str) -> Path | None:
    """The folder whose manifest tells of the files in a folder: itself, or one above; None where none does."""
    return _nearest(Path(folder), MANIFEST)


def records_by_file(folder: Path | str) -> dict[Path, Record]:
    """The manifest lines of the files in a folder that camseg wrote, by the files' absolute paths without suffix."""
    place = _nearest(Path(folder), MANIFEST)
    records = [] if place is None else read_manifest(place, damaged_too=True)
    return {(place / file).with_suffix(""): record for record in records for file in record.files.values() if place}


def versions() -> dict[str, str]:
    """The versions that results may depend on."""
    names = ("camseg", "numpy", "opencv-python-headless", "pillow", "pymatting", "timm", "torch")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def read_run(folder: Path, name: str = RUN) -> dict[str, Any]:
    """What a folder's ``run.json``, or a shard's, says; OutputError where there is none, or none of ours."""
    if not (folder / name).exists():
        _check_merged(folder)
    run = read_json(folder / name, OutputError)
    if not isinstance(run, dict) or not isinstance(run.get("settings"), dict):
        raise OutputError(f"{folder / name} was not written by camseg; choose another folder, or --overwrite")
    return run


def _try_run(folder: Path) -> dict[str, Any] | None:
    try:
        return read_run(folder)
    except CamsegError:
        return None


def _nearest(folder: Path, name: str) -> Path | None:
    """The folder itself or one of the two above it (a class, a kind of output), whichever holds ``name`` first.

    Raises OutputError where that is still in shards: what is known of the files would be missed.
    """
    folder = folder.absolute()
    for place in (folder, *folder.parents[:2]):
        if (place / name).is_file():
            return place
        _check_merged(place)
    return None


def _check_merged(folder: Path) -> None:
    if find_shard_files(folder, RUN):
        raise OutputError(f"{folder} holds shards that are not merged yet; camseg merge {folder} joins them")


def _files(records: Iterable[Record]) -> set[str]:
    return {file for record in records for file in record.files.values()}
