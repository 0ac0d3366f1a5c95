"""Whole files, written in one step: a killed run never leaves half a file under its final name."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from camseg.errors import CamsegError, InputError


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write ``data`` under a temporary name beside ``path``, then move it there with ``os.replace``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes files that only their owner may read; these get the usual rights.
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path | str, text: str) -> None:
    """``write_bytes`` for UTF-8 text."""
    # File names that are no UTF-8 come as lone surrogates; in JSON backslashes spell them as they should be.
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path | str, value: Any) -> None:
    """``write_bytes`` for a value as indented JSON; NaN and infinity are refused, as JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str, error: type[CamsegError]) -> Any:
    """Read a JSON file; raise ``error`` in words when it is missing or no JSON."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from None
    except ValueError as problem:
        raise error(f"{path}: not valid JSON ({problem})") from None


def sha256(path: Path | str) -> str:
    """The hash of a file's content, in hexadecimal; raises InputError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as problem:
        raise InputError(f"{path}: cannot be read ({problem.strerror})") from None
    return digest.hexdigest()


def _current_umask() -> int:
    umask = os.umask(0o022)  # there is no way to read it without setting it
    os.umask(umask)
    return umask


_UMASK = _current_umask()  # once, at import: setting it later would race with other threads
