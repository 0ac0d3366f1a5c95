"""Whole files: found below a folder, and written in one step, so that no killed run leaves half a file behind."""

import csv
import hashlib
import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from camseg.base.errors import CamsegError, InputError, OutputError


@dataclass(frozen=True, kw_only=True)
class Found:
    """The files below a root."""

    root: Path
    """The folder that relative names start from."""
    files: tuple[Path, ...]
    """Sorted by relative name."""
    failures: tuple[tuple[Path, str], ...] = ()
    """Folders that could not be listed, with the reason."""
    passed_over: tuple[tuple[str, int], ...] = ()
    """Other files by their suffix in small letters, "" for none, the commonest first; hidden ones and such as tell of
    others (tables, texts, settings) are not counted. Folders that systems write count whole, by their name."""


# fmt: off
_BESIDE: Final = frozenset(
    [
        ".aux", ".bpw", ".cpg", ".csv", ".db", ".dbf", ".html", ".ini", ".jgw", ".json", ".jsonl", ".log", ".md",
        ".ovr", ".pgw", ".prj", ".rst", ".sha256", ".shp", ".shx", ".tfw", ".toml", ".tsv", ".txt", ".wld", ".xml",
        ".xmp", ".yaml", ".yml",
    ]
)
# fmt: on
"""Suffixes of files that lie beside others and tell of them."""
_SYSTEM: Final = frozenset(
    ["@eadir", "__macosx", "$recycle.bin", "#recycle", "#snapshot", "system volume information", "lost+found"]
)
"""Folders that systems write beside people's, in small letters: smaller copies, what was thrown away."""


def find_files(root: Path | str, accept: Callable[[Path], bool], expected: str) -> Found:
    """Find the files below a folder that ``accept`` takes, or take the one file that ``root`` names.

    Linked folders are entered, unless they lead back to where the way to them came through; hidden files and folders,
    and those that systems write, are passed over. ``expected`` says in errors what there should be, in the plural.
    Raises InputError when ``root`` does not exist, or holds nothing of it and no unreadable folder.
    """
    root = Path(root)
    if root.is_file():
        return Found(root=root.parent, files=(root,))
    if not root.is_dir():
        raise InputError(f"expected {expected}, or a folder of them; {root} does not exist")
    files: list[Path] = []
    failures: list[tuple[Path, str]] = []

    def refuse(error: OSError) -> None:
        failures.append((Path(error.filename), error.strerror or type(error).__name__))

    others: Counter[str] = Counter()
    ways = {os.fspath(root): frozenset(_lineage(root))}  # to folders not listed yet: the real folders passed through
    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=True):
        way = ways.pop(folder)
        for name in subfolders.copy():
            path = os.path.join(folder, name)
            lineage = _lineage(path)
            if name.startswith(".") or lineage[0] in way:
                subfolders.remove(name)
            elif name.lower() in _SYSTEM:
                subfolders.remove(name)
                others[name] += sum(len(inside) for _, _, inside in os.walk(path))
            else:
                ways[path] = way.union(lineage)
        for file in (Path(folder, name) for name in names if not name.startswith(".")):
            if accept(file):
                files.append(file)
            elif file.suffix.lower() not in _BESIDE:
                others[file.suffix.lower()] += 1
    passed_over = tuple(sorted((+others).items(), key=lambda item: (-item[1], item[0])))
    if not files and not failures:
        found = f"; it holds {count_text(passed_over)}" if passed_over else ""
        raise InputError(f"nothing to read in {root}: expected {expected}{found}")
    files.sort(key=lambda path: path.relative_to(root).as_posix())
    return Found(root=root, files=tuple(files), failures=tuple(sorted(failures)), passed_over=passed_over)


def count_text(passed_over: Iterable[tuple[str, int]], shown: int = 6) -> str:
    """``.heic 3, .mov 1, no suffix 1``: files by their suffix, as in ``Found``."""
    counts = [f"{suffix or 'no suffix'} {count}" for suffix, count in passed_over]
    return ", ".join(counts[:shown]) + (f" and {len(counts) - shown} other kinds" if len(counts) > shown else "")


def _lineage(folder: Path | str) -> tuple[Path, ...]:
    """The folder without links, and those that it lies in."""
    real = Path(os.path.realpath(folder))
    return (real, *real.parents)


def by_name(names: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Files by their names; raises InputError when two have one name."""
    found: dict[str, Path] = {}
    for name, path in names:
        if (first := found.setdefault(name, path)) != path:
            raise InputError(f"{first} and {path} have the same name but for the suffix; rename or remove one")
    return found


def check_can_write(folder: Path | str, *, option: str = "--out") -> None:
    """Raise OutputError where nothing can be written into a folder, which need not exist; leaves nothing behind.

    Whether it can is found out by writing: rights, full disks and read-only mounts tell in no other way. ``option``:
    what named the folder.
    """
    folder = Path(folder)
    places = [folder, *folder.absolute().parents]
    try:
        if file := next((place for place in places if place.is_file()), None):
            raise OutputError(f"cannot write to {folder}: {file} is a file, no folder; choose another {option}")
        missing = [place for place in places if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            tempfile.TemporaryFile(dir=folder).close()
        finally:
            for place in missing:
                with suppress(OSError):  # something else is in it by now
                    place.rmdir()
    except (OSError, ValueError) as error:  # ValueError: a null byte
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write to {folder}: {reason}; choose another {option}") from None


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write ``data`` under a temporary name beside ``path``, then move it there with ``os.replace``."""
    with writing(path) as file:
        file.write(data)


@contextmanager
def writing(path: Path | str) -> Iterator[BinaryIO]:
    """A file to be filled bit by bit, which appears at ``path`` when the block ends, and not at all where it fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise naming(error, path) from None
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
        # mkstemp makes files that only their owner may read; these get the usual rights.
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, temporary):
            raise naming(error, path) from None
        raise


def append_text(path: Path | str, text: str) -> None:
    """Add UTF-8 text at the end of a file."""
    try:
        with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        raise naming(error, path) from None


def append_lines(path: Path | str, lines: str) -> None:
    """``append_text`` for whole lines of JSON; half a line that a kill left at the end is taken away first, and a whole
    one without its line break, as editors may leave it, gets that."""
    path = Path(path)
    if path.is_file() and (size := path.stat().st_size):
        with path.open("rb") as file:
            file.seek(size - 1)
            whole = file.read(1) == b"\n"
        if not whole:
            data = path.read_bytes()
            cut = data.rfind(b"\n") + 1
            if _is_json(data[cut:]):
                lines = f"\n{lines}"
            else:
                write_bytes(path, data[:cut])
    append_text(path, lines)


def whole_lines(path: Path | str) -> list[bytes]:
    """The lines of a file that grows by ``append_lines``, without half a line at the end; [] where there is none."""
    if not Path(path).is_file():
        return []
    lines = Path(path).read_bytes().splitlines(keepends=True)
    return [line for line in lines if line.endswith(b"\n") or _is_json(line)]


def _is_json(line: bytes) -> bool:
    """Whether a line is all there: no part of an object is valid JSON."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def naming(error: OSError, path: Path | str) -> OSError:
    """The error with the file that it is about; a full disk's, for one, says none."""
    return OSError(error.errno, error.strerror or str(error), str(path))


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed while they wrote left in a folder; no other process may write there."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """``write_bytes`` for UTF-8 text."""
    # File names that are no UTF-8 come as lone surrogates; in JSON backslashes spell them as they should be.
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path | str, value: Any) -> None:
    """``write_bytes`` for a value as indented JSON; NaN and infinity are refused, as JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path | str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """``write_bytes`` for a UTF-8 CSV; None becomes an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def read_json(path: Path | str, error: type[CamsegError]) -> Any:
    """Read a JSON file; raise ``error`` in words when it is missing or no JSON."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: not valid JSON ({problem})") from None


def sha256(path: Path | str) -> str:
    """The hash of a file's content, in hexadecimal; raises InputError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (OSError, ValueError) as problem:  # ValueError: a null byte, say in a CSV
        raise InputError(f"{path}: cannot be read ({getattr(problem, 'strerror', problem)})") from None
    return digest.hexdigest()


def contents_sha256(paths: Iterable[Path | str]) -> str:
    """One hash over the contents of files in their order, in hexadecimal; what cannot be read counts as empty."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(sha256(path).encode())
        except InputError:
            digest.update(b"-")
    return digest.hexdigest()


def _current_umask() -> int:
    umask = os.umask(0o022)  # there is no way to read it without setting it
    os.umask(umask)
    return umask


_UMASK = _current_umask()  # once, at import: setting it later would race with other threads
