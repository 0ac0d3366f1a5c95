"""What the files in a folder came through: the commands, their manifests, and the images at the beginning."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camseg.runs.manifest import MANIFEST, read_manifest
from camseg.runs.record import Record
from camseg.runs.run import RUN, check_merged, try_run

_NETWORK = ("cams", "label", "segment")
"""Commands whose inputs are images, not files of another command."""


def provenance(folder: Path | str) -> str | None:
    """SHA-256 of the command and identity that wrote the files in a folder; None where no ``run.json`` tells."""
    place = _nearest(Path(folder), RUN)
    run = None if place is None else try_run(place)
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
    place = manifest_folder(folder)
    while place is not None and all(place != step.folder for step in steps):
        run = try_run(place) or {}
        steps.append(Step(folder=place, command=run.get("command"), settings=run.get("settings", {})))
        source = run.get("identity", {}).get("inputs")
        behind = run.get("command") not in _NETWORK and isinstance(source, str)
        place = manifest_folder(source) if behind else None
    return steps


def image_root(folder: Path | str) -> Path | None:
    """The folder or table of the images that the files in a folder were made of; None where no ``run.json`` tells."""
    for step in lineage(folder):
        identity = (try_run(step.folder) or {}).get("identity", {})
        found = identity.get("files read.images") or (identity.get("inputs") if step.command in _NETWORK else None)
        if isinstance(found, str):
            return Path(found)
    return None


def manifest_folder(folder: Path | str) -> Path | None:
    """The folder whose manifest tells of the files in a folder: itself, or one above; None where none does."""
    return _nearest(Path(folder), MANIFEST)


def records_by_file(folder: Path | str) -> dict[Path, Record]:
    """The manifest lines of the files in a folder that camseg wrote, by the files' absolute paths without suffix."""
    place = manifest_folder(folder)
    if place is None:
        return {}
    records = read_manifest(place, damaged_too=True)
    return {(place / file).with_suffix(""): record for record in records for file in record.files.values()}


def _nearest(folder: Path, name: str) -> Path | None:
    """The folder itself or one of the two above it (a class, a kind of output), whichever holds ``name`` first.

    Raises OutputError where that is still in shards: what is known of the files would be missed.
    """
    folder = folder.absolute()
    for place in (folder, *folder.parents[:2]):
        if (place / name).is_file():
            return place
        check_merged(place)
    return None
