"""Arrays that a study computes of batches of images, kept in a folder so that a killed one goes on where it stopped."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from camseg.base.errors import OutputError
from camseg.base.files import check_can_write, sha256, write_bytes, write_json
from camseg.base.progress import Say, unheard
from camseg.studies.material import digest

SETTINGS: Final = "settings.json"
"""What all arrays beside it were computed with."""


class ArrayCache:
    """Arrays by name, each computed once of the same files and facts; without a folder nothing is kept."""

    def __init__(
        self, folder: Path | str | None = None, settings: Mapping[str, Any] | None = None, say: Say = unheard
    ) -> None:
        """``settings``: JSON values that decide all arrays; those of other settings lie apart in the same folder.

        Raises OutputError for a folder that holds other things, or cannot be written to.
        """
        self._root, self._say = None if folder is None else Path(folder), say
        self._folder = None if self._root is None else self._root / digest(settings)
        self._hashes: dict[Path, str] = {}
        self._said: set[str] = set()
        if self._root is not None and self._folder is not None:
            _check_own(self._root)
            write_json(self._folder / SETTINGS, settings)

    def once(
        self,
        name: str,
        files: Sequence[Path],
        facts: Mapping[str, Any],
        compute: Callable[[], Sequence[NDArray[Any]]],
    ) -> list[NDArray[Any]]:
        """The arrays that ``compute`` gives, or gave in an earlier call of the same contents of ``files`` and facts.

        name: a path of folders that tells the arrays from others; facts: JSON values, by what messages call them. What
        was kept under the name and no longer holds is computed again, and said.
        """
        if self._folder is None:
            return [*compute()]
        path = self._folder / f"{name}.safetensors"
        now = {"files": [[os.path.abspath(file), self._hash(file)] for file in files], **facts}
        known = {key: json.dumps(value) for key, value in now.items()}
        found = self._read(path, known)
        if found is None:
            found = [*compute()]
            named = {str(place): array for place, array in enumerate(found)}
            write_bytes(path, safetensors.numpy.save(named, known))
        return found

    def _read(self, path: Path, known: Mapping[str, str]) -> list[NDArray[Any]] | None:
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as file:
                before, names = file.metadata() or {}, sorted(file.keys(), key=int)
                if before == known:
                    self._tell(f"goes on with what {self._root} holds of an earlier call")
                    return [file.get_tensor(name) for name in names]
            self._tell(_difference(before, known))
        except (OSError, ValueError, SafetensorError):
            self._tell(f"{path} is damaged and computed again")
        return None

    def _hash(self, file: Path) -> str:
        if file not in self._hashes:
            self._hashes[file] = sha256(file)
        return self._hashes[file]

    def _tell(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._say(line)


def _check_own(root: Path) -> None:
    """Raise OutputError for a folder that cannot be written to, or with other things than an earlier call's."""
    check_can_write(root, option="--cache")
    # A kill may have left a folder that is empty but for a temporary file.
    if others := [path for path in _visible(root) or () if not (path / SETTINGS).is_file() and _visible(path) != []]:
        raise OutputError(
            f"{root} holds other files, such as {others[0].name}; choose an empty --cache, or one that an earlier call "
            "filled"
        )


def _visible(folder: Path) -> list[Path] | None:
    """What lies in a folder, without hidden files; None for a file."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else None


def _difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Why something has to be computed again."""
    old, new = (json.loads(one.get("files", "[]")) for one in (before, now))
    if [file for file, _ in old] != [file for file, _ in new]:
        return "other images than in an earlier call: what hangs on them is computed again"
    if changed := [file for (file, was), (_, now_is) in zip(old, new, strict=True) if was != now_is]:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return f"{changed[0]}{more} changed since an earlier call: what hangs on it is computed again"
    other = next((key for key in now if before.get(key) != now[key]), "facts")
    return f"other {other} than in an earlier call: what hangs on them is computed again"
