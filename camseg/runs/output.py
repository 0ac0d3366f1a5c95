"""The output folder of a run: its names, what a later run may continue, and where maps and masks lie in it.

``manifest.jsonl`` grows by whole lines while a run works; when it ends, the file is put into the order
of the inputs. ``run.json`` says with which settings.
"""

import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from camseg.base.errors import InputError, OutputError
from camseg.base.files import append_text, check_can_write, write_json, write_text
from camseg.runs.manifest import (
    MANIFEST,
    files_of,
    group_records,
    has_changed,
    is_finished,
    iterate_manifest,
    lacking,
    mean_agreement,
    parse_lines,
    read_manifest,
)
from camseg.runs.record import Record, to_line
from camseg.runs.run import RUN, Run, check_merged, check_same_run, read_run, run_facts, try_run
from camseg.runs.shards import Portion, find_shard_files, shard_file

_AGREEMENT = re.compile(r'"agreement": [0-9]')


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
        check_merged(folder)
    if others and not runs:
        raise OutputError(f"{folder} holds other files; choose an empty --out for all shards")
    for name in runs:
        check_same_run(folder, run, read_run(folder, name))


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
        for own, group in groupby(
            iterate_manifest(self.folder / name), key=lambda one: None if one is None else one.name
        ):
            if own is None:
                lines.pop(last, None)
                break
            # A killed run may have begun to replace lines, at once or later.
            records = group_records([*parse_lines(lines.get(own, "")), *filter(None, group)])[own]
            lines[own] = "".join(map(to_line, records))
            last = own
        return lines

    def finished(self, name: str, labels: Sequence[str] | None = None, file: str | None = None) -> bool:
        """Whether an input needs no more work: see ``is_finished``."""
        return name in self._lines and is_finished(self.folder, self._records(name), labels, file)

    def lacking(self, name: str, kinds: Collection[str]) -> set[str]:
        """Which of these kinds of files a finished input lacks: see ``lacking``."""
        return lacking(self._records(name), kinds)

    def kinds(self, name: str) -> frozenset[str]:
        """The kinds of files that an input has for every class."""
        return frozenset(set.intersection(*({*record.files} for record in self._records(name))))

    def changed(self, name: str, inputs: Sequence[Path], deciding: Sequence[Path] = ()) -> bool:
        """Whether a finished input's files hold something else by now: see ``has_changed``."""
        return has_changed(self.folder, self._records(name), inputs, deciding)

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
        for old in files_of(self._records(name)) - files_of(records):
            (self.folder / old).unlink(missing_ok=True)
        self._lines[name] = "".join(map(to_line, records))
        append_text(self.folder / self._manifest, self._lines[name])

    def forget(self, names: Collection[str]) -> None:
        """Take out the lines of inputs of which nothing is made any more, and the files that no other line tells of."""
        gone = files_of(record for name in names for record in self._records(name))
        self._lines = {name: lines for name, lines in self._lines.items() if name not in names}
        if gone:
            kept = files_of(record for name in self._lines for record in self._records(name))
            for file in gone - kept:
                (self.folder / file).unlink(missing_ok=True)

    def close(self, names: Sequence[str], seconds: Mapping[str, float]) -> None:
        """Put the manifest into the order of ``names``, and the seconds per stage into ``run.json``.

        Lines of other names follow if they tell of files; else, as those of a folder that now can be read, they go.
        Of a shard, those that are not its own go too: they are another one's.
        """
        known = set(names)
        own = known if self.portion is None else {*self.portion.names, *names[self.portion.facts["inputs"] :]}
        others = [name for name in self._lines if name not in known and files_of(self._records(name))]
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
            self._parsed = lines, parse_lines(lines)
        return self._parsed[1]

    def _clear(self, parts: Sequence[str]) -> None:
        earlier = try_run(self.folder)
        if earlier is not None and earlier.get("command") == self.run.command:
            for part in parts:
                shutil.rmtree(self.folder / part, ignore_errors=True)
        for file in files_of(read_manifest(self.folder, damaged_too=True)):
            (self.folder / file).unlink(missing_ok=True)
        for shard, path in find_shard_files(self.folder, MANIFEST).items():
            for file in files_of(read_manifest(self.folder, damaged_too=True, name=path.name)):
                (self.folder / file).unlink(missing_ok=True)
            (self.folder / shard_file(RUN, shard)).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        for name in (MANIFEST, RUN):
            (self.folder / name).unlink(missing_ok=True)


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
