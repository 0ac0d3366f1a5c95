"""One folder by several calls: which batches each of them takes, and the files that tell of it until they are merged.

Whole batches of the full sorted list are dealt out, never single images: a network gives other last bits in another
company. They are dealt in the order of a hash of their first image's relative path, in turn, so that every shard has
as many as the others, but for one, and of all folders.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camseg.runs.settings import Shard


@dataclass(frozen=True, kw_only=True)
class Portion:
    """What a shard takes of the inputs."""

    shard: Shard
    """Which one."""
    names: tuple[str, ...]
    """The names of its inputs, in the order of the full list."""
    facts: dict[str, Any]
    """What its run file says of it: number, count, how many inputs there are in all and a hash of their names, the size
    of a batch, and the places of its batches in the full list."""


def cut_portion(shard: Shard, names: Sequence[str], batch_size: int) -> Portion:
    """The portion of a shard of all inputs' names in their order."""
    firsts = [_sha256(names[start]) for start in range(0, len(names), batch_size)]
    dealt = sorted(range(len(firsts)), key=lambda place: (firsts[place], place))
    batches = sorted(dealt[shard.number - 1 :: shard.count])
    own = [name for place in batches for name in names[place * batch_size : (place + 1) * batch_size]]
    facts = {
        "number": shard.number,
        "count": shard.count,
        "inputs": len(names),
        "names_sha256": _sha256("\0".join(names)),
        "batch_size": batch_size,
        "batches": batches,
    }
    return Portion(shard=shard, names=tuple(own), facts=facts)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def shard_file(name: str, shard: Shard) -> str:
    """What ``manifest.jsonl`` or ``run.json`` is called for a shard: ``manifest.2-of-8.jsonl``."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{shard.number}-of-{shard.count}.{suffix}"


def find_shard_files(folder: Path, name: str) -> dict[Shard, Path]:
    """The files of that kind of all shards in a folder, by shard."""
    stem, _, suffix = name.rpartition(".")
    pattern = re.compile(rf"{re.escape(stem)}\.(\d+)-of-(\d+)\.{re.escape(suffix)}")
    found = {}
    for path in folder.glob(f"{stem}.*-of-*.{suffix}"):
        if match := pattern.fullmatch(path.name):
            found[Shard(number=int(match[1]), count=int(match[2]))] = path
    return dict(sorted(found.items(), key=lambda one: (one[0].count, one[0].number)))
