"""The output folder of a run: its names, its manifest, and what a later run may continue.

``manifest.jsonl`` grows by whole lines while a run works; when it ends, the file is put into the order
of the inputs. ``run.json`` says with which settings.
"""

import importlib.metadata
import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from camseg.errors import InputError, OutputError
from camseg.files import read_json, write_json, write_text

SCHEMA_VERSION = 1
MANIFEST = "manifest.jsonl"
RUN = "run.json"

Record: TypeAlias = dict[str, Any]
"""One line of the manifest. ``name``, ``class`` and ``status`` (``ok``, ``failed``) are always there."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a folder was written with; two runs may share a folder only if these are equal."""

    command: str
    """``cams``, ``masks``, ``label``, ..."""
    settings: Mapping[str, Any]
    """Everything that decides the bytes of the outputs, JSON values only."""


def check_names(names: Iterable[tuple[str, Path]]) -> None:
    """Raise InputError when two inputs carry one output name, also on file systems that ignore case."""
    by_name: dict[str, list[Path]] = {}
    for name, path in names:
        by_name.setdefault(name.casefold(), []).append(path)
    for paths in by_name.values():
        if len(paths) > 1:
            raise InputError(f"{paths[0]} and {paths[1]} would write the same output; rename or remove one")


def check_output(folder: Path, run: Run, *, overwrite: bool = False) -> None:
    """Raise OutputError when ``folder`` holds another run, or files that camseg did not write; writes nothing."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"expected a folder for the outputs; {folder} is a file")
    if overwrite or not folder.exists():
        return
    if not (folder / RUN).exists():
        if any(folder.iterdir()):
            raise OutputError(f"{folder} holds other files; choose an empty --out, or --overwrite to write there")
        return
    earlier = read_json(folder / RUN, OutputError)
    if earlier.get("schema_version") != SCHEMA_VERSION:
        raise OutputError(f"{folder} was written by another version of camseg; choose another --out, or --overwrite")
    if earlier.get("command") != run.command:
        raise OutputError(f"{folder} holds outputs of camseg {earlier.get('command')}; choose another --out")
    # Compared as JSON has them: tuples are lists there.
    mine, theirs = json.loads(json.dumps(run.settings)), earlier.get("settings", {})
    changed = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
    if changed:
        changes = "; ".join(f"{key} was {theirs.get(key)!r}, now {mine.get(key)!r}" for key in changed)
        raise OutputError(
            f"{folder} was written with other settings ({changes}); repeat those to continue it, choose another --out, "
            "or --overwrite"
        )


class Output:
    """An output folder opened for a run: fresh, or continued where an equal run stopped."""

    def __init__(self, folder: Path | str, run: Run, *, overwrite: bool = False) -> None:
        """Open ``folder``; with ``overwrite`` what an earlier run wrote there is removed first.

        Raises OutputError when the folder holds another run, or files that camseg did not write.
        """
        self.folder = Path(folder)
        self.run = run
        self._records: dict[tuple[str, str | None], Record] = {}
        check_output(self.folder, run, overwrite=overwrite)
        if overwrite:
            self._clear()
        for record in read_manifest(self.folder):
            self._records[record["name"], record["class"]] = record
        # A kill may have left half a line at the end; what follows must not be joined to it.
        if self._records:
            write_text(self.folder / MANIFEST, "".join(_line(record) for record in self._records.values()))
        if not (self.folder / RUN).exists():
            self.write_run({})

    def finished(self, name: str) -> bool:
        """Whether every line of an input says ``ok`` and every file of it is there."""
        lines = [record for (key, _), record in self._records.items() if key == name]
        return bool(lines) and all(
            record["status"] == "ok" and all((self.folder / file).is_file() for file in record["files"].values())
            for record in lines
        )

    def add(self, records: Sequence[Record]) -> None:
        """Append lines for one input; they replace what an earlier run said of it."""
        for key in [key for key in self._records if key[0] in {record["name"] for record in records}]:
            del self._records[key]
        for record in records:
            self._records[record["name"], record["class"]] = record
        with (self.folder / MANIFEST).open("a", encoding="utf-8") as file:
            file.writelines(_line(record) for record in records)

    def close(self, names: Sequence[str], seconds: Mapping[str, float]) -> None:
        """Put the manifest into the order of ``names``, and the seconds per stage into ``run.json``."""
        order = {name: index for index, name in enumerate(names)}
        lines = sorted(self._records.values(), key=lambda record: order.get(record["name"], len(order)))
        write_text(self.folder / MANIFEST, "".join(_line(record) for record in lines))
        self.write_run(seconds)

    def write_run(self, seconds: Mapping[str, float]) -> None:
        """Write ``run.json``."""
        write_json(
            self.folder / RUN,
            {
                "schema_version": SCHEMA_VERSION,
                "command": self.run.command,
                "settings": self.run.settings,
                "versions": versions(),
                "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
            },
        )

    def _clear(self) -> None:
        for record in read_manifest(self.folder):
            for file in record.get("files", {}).values():
                (self.folder / file).unlink(missing_ok=True)
        for name in (MANIFEST, RUN):
            (self.folder / name).unlink(missing_ok=True)


def read_manifest(folder: Path | str) -> list[Record]:
    """The lines of a folder's manifest, [] without one; the last line may be cut short by a kill and is left out."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return []
    records = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
            records.append({"class": None, "files": {}, **record, "name": record["name"], "status": record["status"]})
        except (ValueError, KeyError, TypeError):
            raise OutputError(
                f"{path}: line {number} is damaged; --overwrite the folder, or choose another --out"
            ) from None
    return records


def map_root(folder: Path | str) -> Path:
    """Where one method's maps lie: ``folder`` itself, or its only method's subfolder if ``cams`` wrote it.

    Raises InputError when it holds the maps of several methods.
    """
    folder = Path(folder)
    if not (folder / RUN).is_file():
        return folder
    run = read_json(folder / RUN, InputError)
    methods = run.get("settings", {}).get("methods", [])
    if run.get("command") not in ("cams", "propagate") or not methods:
        return folder
    if len(methods) > 1:
        raise InputError(f"{folder} holds the maps of {len(methods)} methods; name one, such as {folder / methods[0]}")
    return folder / methods[0]


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


def count_status(records: Iterable[Record]) -> Counter[str]:
    """How many inputs each status has."""
    return Counter({record["name"]: record["status"] for record in records}.values())


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
