"""Images at an address: a mirror on this machine, in which everything else works as always.

Names are listed at once; an image comes when it is first read, and is kept.
"""

import os
import sys
import tempfile
import time
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from camseg.base.addresses import fetch, new_mirror, open_address, parse_place, worded
from camseg.base.errors import InputError, OutputError, RemoteError

_TIMES: Final = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
"""What file systems call the time of a change."""
_TAGS: Final = ("ETag", "etag", "md5Hash", "checksum")
"""What they call a word that changes with the content."""


def mirror_images(images: Path | str, *, cache: Path | str | None = None) -> Path:
    """The folder, image or CSV of this machine that stands for images at an address; a path is given back as it is.

    Names are listed at once; an image comes when it is first read, and stays in ``cache`` (default: camseg's folder
    among the user's caches) until its size or time changes at the address. With a CSV comes the folder that it lies in.
    Raises RemoteError where nothing is there, or the address cannot be reached; InputError where fsspec or the
    protocol's package is not installed, or a name cannot be one here; OutputError where the cache cannot be written to.
    """
    place = parse_place(images)
    if isinstance(place, Path):
        return place
    files, path = open_address(place)
    with worded(place):
        files.invalidate_cache()
        single = files.info(path)["type"] == "file"
    name = place.rpartition("/")[2] if single else ""
    root = parse_place(place.removesuffix(name)) if single else place
    assert isinstance(root, str)
    table = name.lower().endswith(".csv")
    listed = list_files(root) if table or not single else {name: _listed(files.info(path))}
    if not listed:
        raise RemoteError(f"{place} does not exist, or holds nothing")
    # A single image has a folder of its own: others beside it may be another mirror's.
    folder = Path(cache or _cache_folder()) / f"images-{_short_hash(root if table else place)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mirror = new_mirror(folder, root)
        lay_out(mirror, listed, root)
        _remove_others(mirror, listed)
    except OSError as error:
        raise OutputError(f"cannot keep {place} in {folder}: {error.strerror}; choose another --cache") from None
    if table:
        fetch(mirror / name)
    return mirror / name


def _short_hash(text: str) -> str:
    return sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _cache_folder() -> Path:
    """Where this system's programs keep what they can get again."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or tempfile.gettempdir()
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "camseg"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A file at an address."""

    size: int
    """In bytes; 0 where nothing tells."""
    changed: int
    """When, in nanoseconds since 1970; where nothing tells, a number of its own for each content, or 0."""


def list_files(address: str) -> dict[str, Listed]:
    """The files below an address by their relative names; {} where there is nothing."""
    files, path = open_address(address)
    with worded(address):
        files.invalidate_cache()
        try:
            found = files.find(path, detail=True)
        except FileNotFoundError:
            return {}
    listed = {}
    for full, facts in found.items():
        name = str(full).removeprefix(path).lstrip("/")
        if not name or name.endswith("/"):  # what stands for a folder in a store that has none
            continue
        if {"", ".", ".."} & {*name.split("/")} or "\0" in name or (os.sep != "/" and os.sep in name):
            raise InputError(f"{address} holds {name!r}, which can be the name of no file here; rename it")
        listed[name] = _listed(facts)
    return listed


def _listed(facts: Mapping[str, Any]) -> Listed:
    return Listed(size=int(facts.get("size") or 0), changed=_changed(facts))


def _changed(facts: Mapping[str, Any]) -> int:
    told = next((facts[name] for name in _TIMES if facts.get(name) is not None), None)
    if isinstance(told, str):
        told = datetime.fromisoformat(told.replace("Z", "+00:00"))
    if told is not None:
        return int((told.timestamp() if isinstance(told, datetime) else float(told)) * 1e6) * 1000
    tag = next((str(facts[name]) for name in _TAGS if facts.get(name)), None)
    return 0 if tag is None else int(_short_hash(tag)[:7], 16) * 1_000_000_000  # before 1979: older than any result


def lay_out(root: Path, listed: Mapping[str, Listed], address: str) -> None:
    """Make an empty file for each that is not there yet as it was listed."""
    folders: set[Path] = set()
    for name, one in listed.items():
        path = root / name
        try:
            state = path.stat()
            if state.st_mtime_ns == one.changed and state.st_size in (0, one.size):
                continue
        except FileNotFoundError:
            pass
        except NotADirectoryError:
            raise _clash(address, name) from None
        if path.parent not in folders:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise _clash(address, name) from None
            folders.add(path.parent)
        # Moved there: another process may be reading what was there before.
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        temporary.touch()
        os.utime(temporary, ns=(one.changed, one.changed))
        try:
            os.replace(temporary, path)
        except IsADirectoryError:
            temporary.unlink()
            raise _clash(address, name) from None


def _clash(address: str, name: str) -> InputError:
    return InputError(f"{address} holds {name} beside a file that is named like its folder; rename one")


def _remove_others(root: Path, listed: Collection[str]) -> None:
    """Remove what is not there any more, and what killed processes left half fetched an hour ago."""
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            if path.relative_to(root).as_posix() not in listed:
                unfinished = path.name.startswith(".") and path.suffix == ".tmp"
                with suppress(FileNotFoundError):
                    if not unfinished or path.stat().st_ctime < time.time() - 3600:
                        path.unlink()
