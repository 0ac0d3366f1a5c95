"""Addresses such as s3://bucket/images, and folders of this machine that stand for them: mirrors.

In a mirror each file has its name and its time of change from the address; a file that was not fetched yet is empty.
Readers call ``fetch`` first, which costs nothing anywhere else, so that no command has to know where its files lie.
``runs.remote`` makes mirrors and sends back what is written into them.
"""

import importlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from camseg.base.errors import CamsegError, InputError, RemoteError, first_line
from camseg.base.files import write_json

_ADDRESS: Final = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_HERE: Final = ("file", "local")
"""Protocols of this machine's own files."""
_DENIED: Final = re.compile("credential|denied|forbidden|signature|token|unauthorized", re.IGNORECASE)
"""What packages say where it is the credentials that lack."""
_PACKAGES: Final = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "sftp": "paramiko",
}
"""The packages beside fsspec that protocols need."""
_MARK, _FILES = "mirror.json", "files"
"""A mirror is the folder ``files`` beside a file that names the address."""


def parse_place(place: Path | str) -> Path | str:
    """A path of this machine, also for ``file://``, or as a str the address that a text is.

    Raises InputError for the ``file://`` of another machine.
    """
    found = _ADDRESS.match(place) if isinstance(place, str) else None
    if found is None:
        return Path(place)
    address = str(place)
    if found[1].lower() not in _HERE:
        return address.rstrip("/") if len(address.rstrip("/")) > found.end() else address
    rest = address[found.end() :].removeprefix("localhost")
    if not rest.startswith("/"):
        raise InputError(f"expected file:///PATH with three slashes, or the path alone; got {place}")
    return Path(rest)


def open_address(address: str) -> tuple[Any, str]:
    """The file system of fsspec behind an address, and the path there.

    Raises InputError where fsspec, or the package that the protocol needs, is not installed; RemoteError.
    """
    protocol = address.partition("://")[0].lower()
    try:
        fsspec = importlib.import_module("fsspec")
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        wanted = f"'camseg[remote]' {_PACKAGES.get(protocol, '')}".strip()
        raise InputError(
            f"{address} needs a package that is not here ({first_line(error)}); pip install {wanted}"
        ) from None
    except ValueError:
        raise InputError(f"{address}: fsspec knows no {protocol}://; s3://, gs:// and others are such") from None
    with worded(address):
        files, place = fsspec.core.url_to_fs(address)
    return files, str(place).rstrip("/")


@contextmanager
def worded(address: str) -> Iterator[None]:
    """What libraries raise of an address as a RemoteError in one line."""
    try:
        yield
    except CamsegError:
        raise
    except FileNotFoundError:
        raise RemoteError(f"{address} does not exist") from None
    except Exception as error:  # of every kind: each protocol's package has its own
        kind, words = type(error).__name__, " ".join(str(error).split())[:300]
        denied = isinstance(error, PermissionError) or _DENIED.search(f"{kind} {words}")
        hint = "; are this machine's credentials for it set, valid and sufficient?" if denied else ""
        raise RemoteError(f"{address} cannot be reached ({kind}: {words}){hint}") from None


def new_mirror(folder: Path, address: str) -> Path:
    """The empty mirror of an address below a folder, or the one that is there."""
    root = folder / _FILES
    if not (folder / _MARK).exists():
        write_json(folder / _MARK, {"address": address})
    root.mkdir(exist_ok=True)
    return root


def origin(path: Path | str) -> str | None:
    """The address that a path in a mirror stands for; None for all others."""
    found = _mirror(os.fspath(path) if os.path.basename(path) == _FILES else os.path.dirname(path))
    if found is None:
        return None
    root, address = found
    below = os.path.relpath(path, root)
    return address if below == "." else f"{address.removesuffix('/')}/{Path(below).as_posix()}"


@lru_cache(maxsize=65536)
def _mirror(folder: str) -> tuple[str, str] | None:
    """The root of the mirror that a folder lies in, and its address."""
    for place in (*reversed(Path(folder).parents), Path(folder)):  # what was fetched cannot pretend to be one
        if place.name == _FILES:
            try:
                address = json.loads((place.parent / _MARK).read_bytes())["address"]
            except (OSError, ValueError, KeyError, TypeError):
                continue
            return (str(place), address) if isinstance(address, str) else None
    return None


def fetch(path: Path | str) -> None:
    """Bring the content of a file in a mirror that was not fetched yet; nothing is done to other files.

    Raises RemoteError when it cannot be fetched; InputError as ``open_address``.
    """
    try:
        state = os.stat(path)
    except (OSError, ValueError):  # whoever opens it says so
        return
    if state.st_size or (address := origin(path)) is None:
        return
    files, place = open_address(address)
    temporary = Path(path).with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with worded(address):
            files.get_file(place, str(temporary))
        os.utime(temporary, ns=(state.st_mtime_ns, state.st_mtime_ns))  # as which it was listed
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def changed_at(path: Path) -> float:
    """When a file was last changed, in seconds since 1970; raises OSError.

    Copies and moves may keep the time of an older file's content, but not that of its entry in a folder. In a mirror
    the entry is ours, and the time of the content the address's.
    """
    state = path.stat()
    return state.st_mtime if origin(path) else max(state.st_mtime, state.st_ctime)
