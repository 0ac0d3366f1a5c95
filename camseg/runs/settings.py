"""How a folder is worked through."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer

from camseg.base.errors import InputError
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.base.settings import Option, checked, settings


@settings
class FolderOptions:
    """How a folder is worked through; none of these changes a result."""

    workers: Annotated[int, Field(ge=1), Option(default="one per core, at most 8")] = Field(
        default_factory=lambda: min(8, os.cpu_count() or 1)
    )
    """Images that are read, refined and written at once; results do not depend on it."""
    overwrite: Annotated[bool, Option(flags=("--overwrite",))] = False
    """Remove what an earlier run wrote to --out first, instead of continuing it."""
    dry_run: Annotated[bool, Option(flags=("--dry-run",))] = False
    """Check everything and say what would be done; write nothing."""
    progress: Annotated[Progress, Option(hidden=True)] = silent
    """Shows how far the work is."""
    say: Annotated[Say, Option(hidden=True)] = unheard
    """Hears of every failed input."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several calls that share a folder; ``str`` gives its text back."""

    number: int
    """Which, from 1."""
    count: int
    """Of how many."""

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(text: str | Shard) -> Shard:
    """The shard that ``1/8`` to ``8/8`` stand for; InputError for another text."""
    if isinstance(text, Shard):
        return text
    match = re.fullmatch(r"\s*(\d{1,6})/(\d{1,6})\s*", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"expected a shard I/N with I from 1 to N, such as 1/8 to 8/8; got {text!r}")
    return Shard(number=int(match[1]), count=int(match[2]))


ShardText: TypeAlias = Annotated[
    Shard, BeforeValidator(checked(parse_shard)), PlainSerializer(str), Option(metavar="I/N")
]
"""A field of settings that takes a shard or its text."""


@settings
class Placement:
    """Where a folder is worked through: in which of several calls, on which devices or machines.

    Results do not depend on it.
    """

    shard: ShardText | None = None
    """Take part I of N of the images, as one of N calls that fill the same --out; camseg merge then joins them."""
    devices: Annotated[str, Option(metavar="DEVICE,...")] | None = None
    """Work side by side on these, a process on each: cuda:0,cuda:1, or cpu:2 for two processes on the CPU."""

    engine: Literal["local", "ray"] = "local"
    """ray: on the machines of a Ray cluster that share --out and the images, an actor on each GPU, or on the cores with
    --devices cpu."""
    ray_address: Annotated[str, Option(metavar="ADDRESS")] | None = None
    """Where the cluster is, such as host:6379; default: RAY_ADDRESS, else one on this machine."""
    cache: Annotated[Path, Option(metavar="DIR", default="camseg's among the user's caches")] | None = None
    """Where images that come from an address are kept, for this call and later ones."""

    def __post_init__(self) -> None:
        if self.ray_address is not None and self.engine != "ray":
            raise InputError("an address of Ray, but another engine; add --engine ray, or leave --ray-address out")
        if self.engine == "ray" and self.devices not in (None, "cpu", "cuda"):
            raise InputError(f"Ray shares out devices itself: expected --devices cpu or cuda; got {self.devices}")

    def load_on(self, device: str) -> str:
        """Where a network is loaded that else would be on ``device``: where other processes have theirs, on the CPU."""
        return device if self.devices is None and self.engine == "local" else "cpu"
