"""How maps become masks: thresholds as values, read once from their text or file, and what is done to masks."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer

from camseg.base.errors import OutputError, ThresholdError
from camseg.base.files import read_json, sha256, write_json
from camseg.base.settings import Option, checked, settings
from camseg.base.sizes import SizeText, parse_size

AUTOMATIC = ("otsu", "li", "triangle")
"""The rules that choose the threshold from the map's own histogram."""
GRAMMAR = (
    "a number in [0, 1], as in 0.4; max:SHARE, as in max:0.75 (of the map's maximum); area:SHARE, as in area:0.1 "
    "(the hottest tenth of the pixels); otsu, li or triangle; or a threshold file that camseg evaluate wrote"
)


@dataclass(frozen=True, kw_only=True)
class ThresholdSource:
    """Where a threshold that was chosen on true masks comes from."""

    path: str
    """The threshold file."""
    name: str
    """The set of images that chose it."""
    masks: int
    """How many true masks chose it."""
    sha256: str | None = None
    """Of the file's content."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """One rule of the grammar; ``str`` gives its text back."""

    kind: str
    """``absolute``, ``max`` (a share of the map's maximum), ``area`` (a share of its pixels), ``level`` (of the 8-bit
    map, from a file), or one of ``AUTOMATIC``."""
    value: float = 0.0
    """The number, share or level; the automatic rules (otsu, li, triangle) have none and ignore it."""
    source: ThresholdSource | None = None
    """Set when, and only when, the rule is a level read from a threshold file."""

    def __str__(self) -> str:
        if self.source is not None:
            return self.source.path
        if self.kind in AUTOMATIC:
            return self.kind
        return f"{self.value}" if self.kind == "absolute" else f"{self.kind}:{self.value}"


def parse_threshold(text: str | Path | float | Threshold) -> Threshold:
    """The threshold that a text of the grammar, a number or the path of a threshold file stands for.

    A file is read now: what it says later changes nothing. Raises ThresholdError, which lists the grammar.
    """
    if isinstance(text, Threshold):
        return text
    word = str(text).strip()
    if isinstance(text, Path):
        return load_threshold(text)
    if word in AUTOMATIC:
        return Threshold(kind=word)
    kind, colon, number = word.rpartition(":")
    if not colon or kind in ("max", "area"):
        try:
            value = float(number)
        except ValueError:
            pass  # then it is a path, or nothing
        else:
            if not 0.0 <= value <= 1.0:  # NaN fails both comparisons
                raise ThresholdError(f"threshold {word!r} is outside [0, 1]; expected {GRAMMAR}")
            return Threshold(kind=kind or "absolute", value=value)
    if os.path.isfile(word):
        return load_threshold(word)
    raise ThresholdError(f"threshold {word!r} is no rule and no file; expected {GRAMMAR}")


def load_threshold(path: str | Path) -> Threshold:
    """The level that a threshold file holds, with the set of images that chose it.

    Raises ThresholdError if the file cannot be read or lacks ``level``, ``name`` or ``masks``.
    """
    content = read_json(path, ThresholdError)
    if not isinstance(content, dict):
        content = {}
    level, name, masks = (content.get(key) for key in ("level", "name", "masks"))
    if type(level) is not int or not 0 <= level <= 255 or not isinstance(name, str) or type(masks) is not int:
        raise ThresholdError(
            f"{path}: expected a level in 0..255, a name and a number of masks; got {level!r}, {name!r}, {masks!r}"
        )
    source = ThresholdSource(path=str(path), name=name, masks=masks, sha256=sha256(path))
    return Threshold(kind="level", value=level, source=source)


def save_threshold(
    path: str | Path,
    level: int,
    *,
    name: str,
    masks: int,
    scores: Mapping[str, float] | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write a threshold file: the level t in 0..255, for the 8-bit map > t, and what chose it.

    ``name`` is the set of images, ``masks`` how many of its true masks chose the level, ``scores`` what that reached,
    ``details`` further JSON values by name, such as how masks were drawn. Folders are made as needed; the file appears
    whole or not at all. Raises ThresholdError for a level outside 0..255, OutputError where nothing can be written.
    """
    if not 0 <= level <= 255:
        raise ThresholdError(f"expected a level in 0..255; got {level}")
    content = {"threshold": int(level) / 255, "level": int(level), "name": name, "masks": int(masks)}
    try:
        write_json(path, {**content, **({"scores": dict(scores)} if scores else {}), **(details or {})})
    except OSError as error:
        raise OutputError(f"{path}: the threshold file cannot be written ({error.strerror})") from None


def _from_config(value: Any) -> Threshold:
    if not isinstance(value, Mapping):
        return parse_threshold(value)
    try:
        source = value.get("source")
        return Threshold(
            kind=str(value["kind"]), value=float(value["value"]), source=source and ThresholdSource(**source)
        )
    except (KeyError, TypeError, ValueError):
        raise ThresholdError(f"expected the kind, value and source of a threshold; got {dict(value)!r}") from None


def _to_config(threshold: Threshold) -> Any:
    """The text; of what came from a file all that was read, so that it needs no file again."""
    return str(threshold) if threshold.source is None else asdict(threshold)


ThresholdText: TypeAlias = Annotated[
    Threshold,
    BeforeValidator(checked(_from_config)),
    PlainSerializer(_to_config),
    Option(metavar="THRESHOLD"),
]
"""A field of settings that takes a threshold, its text or its file."""


def _area_or_word(value: Any) -> Any:
    return value if value in ("none", "all") else parse_size(value)


@settings
class CleaningSettings:
    """What is done to a mask, in the order of the fields; the defaults leave it as it is.

    Smoothing comes first, because it may open holes or cut islands off; then what the later steps promise
    holds of the result.
    """

    smooth: Annotated[SizeText, Option(metavar="RADIUS")] = parse_size(0)
    """Smooth the outline: radius of the disc over which the majority decides, in pixels (3) or of the shorter side
    (1%)."""
    fill_holes: Annotated[
        Literal["none", "all"] | SizeText, BeforeValidator(_area_or_word), Option(metavar="none|all|AREA")
    ] = "none"
    """Fill holes: all, or up to an area in pixels (50) or of the image (0.1%)."""
    min_area: Annotated[SizeText, Option(metavar="AREA")] = parse_size(0)
    """Drop smaller islands: pixels (50) or part of the image (0.1%)."""
    keep: Annotated[int, Field(ge=1)] | None = None
    """Keep the largest so many objects."""


@settings
class MaskSettings:
    """How a map becomes a mask."""

    threshold: ThresholdText = parse_threshold("max:0.75")
    """What lies above is object: 0.4, max:0.75 (of the map's maximum), otsu, li, triangle, area:0.1, or a threshold
    file."""


FusionName: TypeAlias = Literal["maps", "mean", "median", "votes"]


@settings
class FusionSettings:
    """How the maps of an ensemble's members become one."""

    fusion: FusionName = "maps"
    """Of an ensemble: maps: the mean of its members' maps, then propagated; mean or median: of the maps that each
    member's becomes by propagation; votes: of those, the pixels over the threshold in more than half of them."""
    centrality: Annotated[float, Field(gt=0)] | None = None
    """Of an ensemble: for each image, members count by how far their masks agree with the others': by 1/e for each
    such difference of the mean Dice, as in 0.1; default: all as their shares say."""
