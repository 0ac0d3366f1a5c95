"""With what a folder was written: its ``run.json``, and whether another run may go on there."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camseg.base.errors import CamsegError, OtherSettingsError, OutputError
from camseg.base.files import read_json
from camseg.runs.record import SCHEMA_VERSION
from camseg.runs.shards import find_shard_files

RUN = "run.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a folder was written with; two runs may share a folder only if command and identity are equal."""

    command: str
    """``cams``, ``masks``, ``label``, ..."""
    settings: Mapping[str, Any]
    """What was asked for, JSON values only: ``--config`` takes it."""
    identity: Mapping[str, Any]
    """Everything that decides the bytes of the outputs, JSON values only."""


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
        check_merged(folder)
    run = read_json(folder / name, OutputError)
    if not isinstance(run, dict) or not isinstance(run.get("settings"), dict):
        raise OutputError(f"{folder / name} was not written by camseg; choose another folder, or --overwrite")
    return run


def try_run(folder: Path) -> dict[str, Any] | None:
    """``read_run``, but None instead of an error."""
    try:
        return read_run(folder)
    except CamsegError:
        return None


def check_merged(folder: Path) -> None:
    """Raise OutputError where a folder holds shards that are not merged yet."""
    if find_shard_files(folder, RUN):
        raise OutputError(f"{folder} holds shards that are not merged yet; camseg merge {folder} joins them")
