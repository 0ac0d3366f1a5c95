"""Outputs sent to an address: a mirror on this machine, in which runs are written and continued as always.

First go results, then the manifest that names them, so that no reader there, and no continued run, finds less than the
manifest says.
"""

import json
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from camseg.base.addresses import fetch, new_mirror, open_address, parse_place, worded
from camseg.base.errors import CamsegError, RemoteError
from camseg.base.progress import Say, unheard
from camseg.runs.manifest import MANIFEST
from camseg.runs.mirrors import lay_out, list_files
from camseg.runs.record import from_line
from camseg.runs.run import RUN
from camseg.runs.settings import Shard
from camseg.runs.shards import find_shard_files, shard_file

_FIRST: Final = 1.0
"""Seconds until the first time that something is sent."""
_EVERY: Final = 5.0
"""Seconds between two times, or ten times as long as the last one took, where that is more."""
_AT_ONCE: Final = 16
"""Files that are sent at once."""
_BEFORE: Final = "before"
"""The folder beside the mirror with the manifests as they were at first."""


class OutputMirror:
    """A folder of this machine that stands for an output at an address, while it is entered.

    It begins with what is there: results by name, manifests and run files with their content. What is written into it
    is sent from time to time, and at the end, however that comes; what a run removes in it is removed there. A path is
    its own folder, and nothing is sent.
    """

    folder: Path
    """Where to write."""

    def __init__(self, out: Path | str, *, shard: Shard | None = None, say: Say = unheard) -> None:
        """``shard``: which one is to be written, if one is; the manifests of others stay where they are. ``say`` hears
        when sending fails and is tried again.

        Raises InputError where fsspec, or the package of the protocol, is not installed.
        """
        place = parse_place(out)
        self._shard, self._say = shard, say
        self._address = place if isinstance(place, str) else None
        self.folder = place if isinstance(place, Path) else Path()
        if self._address is not None:
            open_address(self._address)
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="camseg sends")
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep_sending, name="camseg sends", daemon=True)
        self._there: set[str] = set()
        self._own: frozenset[str] = frozenset()
        self._states: dict[str, tuple[int, ...]] = {}
        self._sent: dict[str, tuple[int, str]] = {}
        self._identity: Any = None

    def __enter__(self) -> "OutputMirror":
        """List and fetch what is there. Raises RemoteError where the address cannot be read or written to."""
        if self._address is None:
            return self
        self._check_can_write()
        listed = list_files(self._address)
        self._there = set(listed)
        self._home = Path(tempfile.mkdtemp(prefix="camseg-"))
        try:
            self.folder = new_mirror(self._home, self._address)
            lay_out(self.folder, listed, self._address)
            self._begin()
        except BaseException:
            shutil.rmtree(self._home, ignore_errors=True)
            raise
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Send the rest; where that cannot be, RemoteError says where it is kept."""
        if self._address is None:
            return
        self._ended.set()
        self._thread.join()
        try:
            self.send()
        except CamsegError as problem:
            for path in self.folder.rglob("*"):
                if path.is_file() and not path.stat().st_size:  # is there
                    path.unlink()
            raise RemoteError(f"{problem}; what was not sent is kept in {self.folder}") from None
        finally:
            self._pool.shutdown(wait=False)
        shutil.rmtree(self._home, ignore_errors=True)

    def send(self) -> None:
        """Send what is finished by now. Raises RemoteError."""
        if self._address is not None:
            with self._lock:
                self._send()

    def _begin(self) -> None:
        runs, manifests = self._kept(RUN), self._kept(MANIFEST)
        self._own = frozenset(path.name for path in (*runs, *manifests))
        if self._shard is not None:
            manifests = [one for one in manifests if one.name in (MANIFEST, shard_file(MANIFEST, self._shard))]
        list(self._pool.map(fetch, (*runs, *manifests)))
        self._states = {path.name: _state(path) for path in (*self._kept(RUN), *self._kept(MANIFEST))}
        self._sent = {path.name: _mark(path.read_bytes()) for path in manifests}
        self._identity = next((_identity(path.read_bytes()) for path in runs if path.name == RUN), None)
        (self._home / _BEFORE).mkdir()
        for path in manifests:
            shutil.copyfile(path, self._home / _BEFORE / path.name)

    def _keep_sending(self) -> None:
        said, pause = False, _FIRST
        while not self._ended.wait(pause):
            clock = time.monotonic()
            try:
                self.send()
                said = False
            except (CamsegError, OSError) as error:
                if not said:
                    self._say(f"note: {error}; the work goes on, and sending is tried again")
                said = True
            pause = max(_EVERY, 10 * (time.monotonic() - clock))

    def _send(self) -> None:
        runs, manifests = self._changed(RUN), self._changed(MANIFEST)
        if self._identity is not None and RUN in runs and _identity(runs[RUN][1]) != self._identity:
            # Overwritten with other settings: nothing that was there may count as made with these.
            self._delete([*self._gone(), *(self._there & self._own)])
            self._identity = None
        if not any(one.startswith("run.") and one.endswith(".json") for one in self._there):
            for name, (_, data) in runs.items():  # so that what a kill leaves there is known as a run's
                self._put(name, _opened(data))
        files = dict.fromkeys(file for name, (_, data) in manifests.items() for file in self._new_files(name, data))
        sending = [self._pool.submit(self._send_result, file) for file in files]
        try:
            for one in sending:
                one.result()
        finally:  # where one fails, the others may wait for the next time
            for one in sending:
                one.cancel()
            wait(sending)
        for name, (state, data) in (*manifests.items(), *runs.items()):
            self._put(name, data)
            self._states[name] = state
            if name in manifests:
                self._sent[name] = _mark(data)
        if runs:  # as when a run begins and ends
            self._delete(self._gone())

    def _kept(self, name: str) -> list[Path]:
        """The manifests, or run files, in the folder."""
        return [one for one in (self.folder / name, *find_shard_files(self.folder, name).values()) if one.is_file()]

    def _changed(self, name: str) -> dict[str, tuple[tuple[int, ...], bytes]]:
        """Those of them that are not as they are there, by name: their state and whole lines."""
        found = {}
        for path in self._kept(name):
            state = _state(path)
            if state != self._states.get(path.name):
                data = path.read_bytes()
                found[path.name] = state, data[: data.rfind(b"\n") + 1]
        return found

    def _new_files(self, name: str, data: bytes) -> Iterator[str]:
        """The files that a manifest names in lines which were not sent; in all, where it is no continuation."""
        length, digest = self._sent.get(name, (0, ""))
        return _files_named(data[length:] if _mark(data[:length]) == (length, digest) else data)

    def _send_result(self, file: str) -> None:
        """Send a file, and empty it here; what is empty is there."""
        path = self.folder / file
        with suppress(FileNotFoundError):  # a later line took it back
            if path.stat().st_size:
                self._put(file, path.read_bytes())
                os.truncate(path, 0)

    def _gone(self) -> list[str]:
        """What is there and was removed here: files that no manifest names any more, then manifests and run files."""
        missing = [name for name in self._there if not (self.folder / name).exists()]
        if not missing:
            return []
        copies = (self._home / _BEFORE).iterdir()
        before = {file for path in copies for file in _files_named(path.read_bytes())}
        now = {file for path in self._kept(MANIFEST) for file in _files_named(path.read_bytes())}
        results = [name for name in missing if name in before - now]
        return results + ([name for name in missing if name in self._own] if self._shard is None else [])

    def _put(self, name: str, data: bytes) -> None:
        assert self._address is not None
        files, path = open_address(self._address)  # each thread has its own
        place = f"{path}/{name}"
        with worded(f"{self._address}/{name}"):
            try:
                files.pipe_file(place, data)
            except FileNotFoundError:  # where folders are made before files; but never a bucket
                if not files.exists(place.lstrip("/").partition("/")[0]):
                    raise
                files.makedirs(place.rpartition("/")[0], exist_ok=True)
                files.pipe_file(place, data)
        self._there.add(name)

    def _delete(self, names: Iterable[str]) -> None:
        assert self._address is not None
        files, path = open_address(self._address)
        for name in names:
            with worded(f"{self._address}/{name}"), suppress(FileNotFoundError):
                files.rm_file(f"{path}/{name}")
            self._there.discard(name)

    def _check_can_write(self) -> None:
        """Raise RemoteError where nothing can be written, found out by writing; leaves nothing behind."""
        name = f".camseg-{uuid.uuid4().hex}"
        try:
            self._put(name, b"")
        except RemoteError as error:
            words = str(error).replace(f"/{name}", "")
            raise RemoteError(f"cannot write: {words}; choose another --out, or make its bucket or folder") from None
        self._delete([name])


def _state(path: Path) -> tuple[int, ...]:
    state = path.stat()
    return state.st_ino, state.st_mtime_ns, state.st_size


def _mark(data: bytes) -> tuple[int, str]:
    """What a text is recognised by where it has grown."""
    return len(data), sha256(data).hexdigest()


def _files_named(lines: bytes) -> Iterator[str]:
    """The files that lines of a manifest name; damaged ones, which a run refuses, name none."""
    for line in lines.splitlines():
        with suppress(ValueError):
            yield from from_line(line).files.values()


def _identity(run: bytes) -> Any:
    """What decides the results of a run file; None where it is no such."""
    with suppress(ValueError, AttributeError):
        facts = json.loads(run)
        return facts.get("command"), facts.get("identity")
    return None


def _opened(run: bytes) -> bytes:
    """A run file as it is when a run begins."""
    facts = json.loads(run)
    facts["seconds"] = {}
    if "shard" in facts:
        facts["shard"]["complete"] = False
    return (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
