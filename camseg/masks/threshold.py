"""Cam -> Mask: the grammar of thresholds, and the files that keep a chosen one.

Every rule binarises strictly: a pixel is in the mask when it is *above* the threshold, so a map of
zeros gives an empty mask whatever the rule.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.filters import threshold_li, threshold_otsu, threshold_triangle

from camseg.base.arrays import Cam, Mask, check_cam, quantise
from camseg.base.errors import OutputError, ThresholdError
from camseg.base.files import read_json, write_json

GRAMMAR = (
    "a number in [0, 1], as in 0.4; max:SHARE, as in max:0.7 (of the map's maximum); area:SHARE, as in area:0.1 "
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
    """How many true masks that set held."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """One rule of the grammar; ``str`` gives its text back."""

    kind: str
    """A key of ``RULES``."""
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


def parse_threshold(text: str | Path | float) -> Threshold:
    """The threshold that a text of the grammar, a number or the path of a threshold file stands for.

    Raises ThresholdError, which lists the grammar.
    """
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


def cam_to_mask(cam: Cam, threshold: str | Path | float | Threshold = "max:0.7") -> Mask:
    """The pixels of a map that lie above a threshold.

    ``cam``: float (H, W) in [0, 1]. Returns bool (H, W). A file's level and the automatic rules work on the
    8-bit form of the map, so a map in memory and the same map from disk give the same mask; the other
    rules compare the float values. On a map of one value the automatic rules find nothing that stands
    out: the mask is empty. Raises InputError, ThresholdError.
    """
    rule = threshold if isinstance(threshold, Threshold) else parse_threshold(threshold)
    return RULES[rule.kind](check_cam(cam), rule.value)


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
    return Threshold(kind="level", value=level, source=ThresholdSource(path=str(path), name=name, masks=masks))


def save_threshold(
    path: str | Path, level: int, *, name: str, masks: int, scores: Mapping[str, float] | None = None
) -> None:
    """Write a threshold file: the level t in 0..255, for the 8-bit map > t, and what chose it.

    ``name`` is the set of images, ``masks`` how many true masks it held, ``scores`` what the level reached
    there. Folders are made as needed; the file appears whole or not at all. Raises ThresholdError for a
    level outside 0..255, OutputError where nothing can be written.
    """
    if not 0 <= level <= 255:
        raise ThresholdError(f"expected a level in 0..255; got {level}")
    content = {"threshold": int(level) / 255, "level": int(level), "name": name, "masks": int(masks)}
    try:
        write_json(path, content | ({"scores": dict(scores)} if scores else {}))
    except OSError as error:
        raise OutputError(f"{path}: the threshold file cannot be written ({error.strerror})") from None


def _above(cam: Cam, value: float) -> Mask:
    return cam > np.float32(value)


def _above_level(cam: Cam, level: float) -> Mask:
    return quantise(cam) > level


def _above_share_of_maximum(cam: Cam, share: float) -> Mask:
    # In double precision until the end: of an 8-bit map a limit that is a level then is exactly that level.
    return cam > np.float32(share * float(cam.max()))


def _hottest(cam: Cam, share: float) -> Mask:
    # Pixels of one value stay together: of the two masks with and without the last value the one whose area is
    # nearer to the share is taken, and the smaller one if both are as near.
    count = round(share * cam.size)
    if count == 0:
        return np.zeros(cam.shape, dtype=np.bool_)
    coolest = np.partition(cam, -count, axis=None)[-count]
    without, including = cam > coolest, (cam >= coolest) & (cam > 0)
    return including if including.sum() - count < count - without.sum() else without


def _automatic(method: Callable[..., float]) -> Callable[[Cam, float], Mask]:
    def rule(cam: Cam, _value: float) -> Mask:
        levels = quantise(cam)
        lowest, highest = levels.min(), levels.max()
        return levels > (highest if lowest == highest else method(levels))

    return rule


AUTOMATIC: dict[str, Callable[[Cam, float], Mask]] = {
    "otsu": _automatic(threshold_otsu),
    "li": _automatic(threshold_li),
    "triangle": _automatic(threshold_triangle),
}
"""The rules that choose the threshold from the map's own histogram (scikit-image)."""

RULES: dict[str, Callable[[Cam, float], Mask]] = {
    "absolute": _above,
    "max": _above_share_of_maximum,
    "area": _hottest,
    "level": _above_level,
    **AUTOMATIC,
}
"""Each kind of threshold: (Cam, value) -> Mask."""
