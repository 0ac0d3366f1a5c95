"""The same image more than once: by a link, or as a copy of the same bytes."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from camseg.base.errors import InputError
from camseg.base.files import sha256


def contents(paths: Sequence[Path]) -> Mapping[Path, str]:
    """Paths -> what tells the content of one file from another's; equal where the bytes are.

    Only files of one size are read. What is not there, or empty, has no content and is left out.
    """
    states = {}
    for path in dict.fromkeys(paths):
        try:
            state = os.stat(path)
        except (OSError, ValueError):  # ValueError: a null byte, say in a CSV
            continue
        if state.st_size:
            states[path] = state
    sizes = Counter(state.st_size for state in states.values())
    found = {}
    for path, state in states.items():
        if sizes[state.st_size] == 1:
            found[path] = f"size {state.st_size}"
            continue
        try:
            found[path] = _hash(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, path)
        except InputError:
            continue
    return found


def twins(paths: Sequence[Path]) -> list[list[int]]:
    """The places in ``paths`` of images that are the same one, as far as there are several of it."""
    known = contents(paths)
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, path in enumerate(paths):
        if path in known:
            places[known[path]].append(place)
    return [group for group in places.values() if len(group) > 1]


# A split may be followed by another of the same images; a file that was written anew has another time.
@lru_cache(maxsize=1 << 17)
def _hash(_device: int, _inode: int, _size: int, _time: int, path: Path) -> str:
    return sha256(path)
