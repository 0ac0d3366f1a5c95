"""What a file says -> mask and void: two levels are a mask, class numbers and colours need a chosen class.

What could be read in two ways is refused with what was found; nothing is guessed.
"""

from typing import Any, Final, NamedTuple, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Mask
from camseg.base.errors import ImageError
from camseg.data.mask_settings import ANY, BACKGROUND_NAMES, VOID_NAMES, MaskReading
from camseg.data.stored import Stored, color_codes, grey, name_codes

_NEAR: Final = 31
"""How far from 0 or 255 levels still count as black or white, with noise."""
_FEW, _MANY, _FLAT = 4, 32, 0.7
"""Up to so many levels between are antialiasing; of more than so many levels class numbers fill flat regions, where
this share of the pixels equal their neighbours."""

_EXACT: Final = ("JPEG", "MPO", "OJPEG")
"""Formats that keep a flat level far from edges, though only nearly elsewhere."""


class MaskAndVoid(NamedTuple):
    """A true mask, and the pixels that take part in no score."""

    mask: Mask
    """(H, W): the object."""
    void: Mask
    """(H, W): neither object nor background."""


def to_mask(stored: Stored, reading: MaskReading) -> MaskAndVoid:
    """The mask that a file holds; ImageError, which says what was found, where it may be read otherwise or not at all.

    Without a chosen class: two levels, or 0 and 1; near 0 and 255 with the noise of JPEG and antialiased edges between;
    a palette of black and white; or alpha, where the colour is constant. With one: the class's number in whole numbers
    or a palette of others, or its colour.
    """
    classes = reading.mask_classes
    if reading.mask_class is None:
        mask = _two_levels(stored, _levels(stored))
        return MaskAndVoid(mask, np.zeros(mask.shape, np.bool_))
    if classes is not None and classes.colors and (not classes.numbers or stored.values.ndim == 3):
        return _by_color(stored, reading)
    values = stored.values if stored.palette is not None else grey(stored)
    return _by_number(stored, _coloured(stored) if values is None else values, reading)


def _levels(stored: Stored) -> NDArray[Any]:
    """(H, W): what decides the mask where no class is chosen, grey levels or alpha."""
    if not stored.opaque:
        return _alpha(stored)
    if stored.palette is None:
        levels = grey(stored)
        return _coloured(stored) if levels is None else levels
    used = np.unique(stored.values)
    colors = stored.palette[used]
    if (colors == used[:, None]).all():
        return stored.values  # grey, with a palette that changes nothing
    if not (np.isin(colors, (0, 255)).all() and (colors == colors[:, :1]).all()):
        raise ImageError(
            f"{stored.path}: expected a mask of black and white; its palette gives colours to the class numbers "
            f"{_listed(used)}; choose one by --mask-class N, or save the mask as 0 and 255"
        )
    painted: NDArray[Any] = stored.palette[:, 0][stored.values]
    return painted


def _alpha(stored: Stored) -> NDArray[Any]:
    """Alpha, where it says which pixels are object; ImageError where colours say another thing, or more."""
    assert stored.alpha is not None
    colors, visible = stored.colors, stored.alpha > 0
    seen = colors[visible] if visible.any() else colors.reshape(-1, 3)
    tolerance = 8 if stored.lossy else 0
    constant = bool((np.ptp(seen.astype(np.float64), axis=0) <= tolerance).all())
    solid = stored.alpha > stored.highest / 2
    black_and_white = bool((colors == colors[..., :1]).all()) and np.isin(colors, (0, stored.highest)).all()
    bright = colors[..., 0] > stored.highest / 2
    says_nothing = not black_and_white or bright.all() or not bright.any()
    if (constant and says_nothing) or (black_and_white and np.array_equal(bright, solid)):
        return stored.alpha
    codes = color_codes(stored)[visible]
    raise ImageError(
        f"{stored.path}: expected a mask in its colours or in its alpha; both vary and differ: alpha has "
        f"{_listed(stored.alpha)}, over the colours {name_codes(codes)}; save the mask as 0 and 255 without alpha"
    )


def _two_levels(stored: Stored, levels: NDArray[Any]) -> Mask:
    """True where levels are white or near it; ImageError where they are not two."""
    if levels.dtype == np.uint8 and stored.highest == 255:  # nearly all masks: 0 and 255 alone
        white_ones = np.asarray(levels == 255)
        if cv2.countNonZero(levels) == np.count_nonzero(white_ones):
            return white_ones
    found = _found(levels)
    low, high = found[0], found[-1]
    if low == high == 0:
        return np.zeros(levels.shape, np.bool_)
    if not stored.lossy and np.isin(found, (0, 1)).all():
        return np.asarray(levels == 1)
    # A file of deeper numbers may hold those of 8 bits.
    white = 255.0 if high <= 255 < stored.highest else stored.highest
    if levels.dtype.kind == "f":
        white = next((top for top in (1.0, 255.0, 65535.0) if high <= top), white)
    if np.isin(found, (0, white)).all():
        return np.asarray(levels == levels.dtype.type(white))
    if low < 0 or high > white:
        _refuse_levels(stored, found)
    near = np.rint(levels * (255.0 / white)).astype(np.uint8) if white != 255 or levels.dtype != np.uint8 else levels
    dark, bright = found * (255.0 / white) <= _NEAR, found * (255.0 / white) >= 255 - _NEAR
    if stored.lossy and bright.all() and low >= 250:
        return np.ones(levels.shape, np.bool_)
    # Without loss, noise at one end only may be none: low numbers beside 255 are classes and void.
    lopsided = not stored.lossy and bool(found[dark].any()) and bool((found[bright] == white).all())
    numbered = lopsided and np.count_nonzero(dark) <= _FEW + 1
    if not dark.any() or not bright.any() or numbered:
        _refuse_levels(stored, found)
    if not _are_edges(near, strict=not stored.lossy and len(found) <= _FEW + 2) or _has_more_levels(
        near, exact=lopsided or stored.lossy in _EXACT
    ):
        _refuse_levels(stored, found)
    return np.asarray(near > 127)


def _are_edges(levels: NDArray[np.uint8], strict: bool) -> bool:
    """Whether grey levels (H, W) are few and lie between black and white, not in regions of their own.

    ``strict``: for a handful of levels, which may as well be those of other classes: nearly all touch both sides.
    """
    dark, bright = levels <= _NEAR, levels >= 255 - _NEAR
    between = ~(dark | bright)
    count = int(np.count_nonzero(between))
    side = 3 if strict else 5
    by_dark, by_bright = (
        cv2.dilate(one.astype(np.uint8), np.ones((side, side), np.uint8)) > 0 for one in (dark, bright)
    )
    edges = int(np.count_nonzero(between & by_dark & by_bright))
    alone = int(np.count_nonzero(between & ~(by_dark | by_bright)))
    if strict:
        return edges >= 0.75 * count
    # Of thin objects and of JPEG's ripples only one side is near.
    return alone <= 0.02 * count and count <= levels.size / 4 and (edges >= count / 2 or count <= levels.size / 100)


def _has_more_levels(levels: NDArray[np.uint8], exact: bool) -> bool:
    """Whether flat regions have more than two levels, as those of classes that noise or loss hides.

    ``exact``: where regions far from edges keep their level, as in JPEG; else they may waver by 1.
    """
    window = np.ones((5, 5), np.uint8)
    flat = cv2.subtract(cv2.dilate(levels, window), cv2.erode(levels, window)) <= (0 if exact else 1)
    counts = np.bincount(levels[flat], minlength=256)
    black, white = int(counts[:128].argmax()), 128 + int(counts[128:].argmax())
    places = np.arange(256)
    others = np.minimum(np.abs(places - black), np.abs(places - white)) >= (1 if exact else 3)
    share = 0.02 if exact else 0.1
    return int(counts[others].sum()) > max(8.0, share * np.count_nonzero(levels > 127))


def _by_number(stored: Stored, values: NDArray[Any], reading: MaskReading) -> MaskAndVoid:
    found = _found(values)
    if not np.array_equal(found, np.rint(found)):
        raise ImageError(
            f"{stored.path}: expected class numbers; it has the values {_listed(found)}, which are not whole"
        )
    if stored.lossy and found.any():
        raise ImageError(
            f"{stored.path}: expected class numbers; {stored.lossy} keeps levels only nearly; save it as PNG"
        )
    if stored.bits in (2, 4) and stored.palette is None:
        raise ImageError(
            f"{stored.path}: expected class numbers; levels of {stored.bits} bits may be those or brightness; save it "
            "as 8-bit PNG"
        )
    number, void, top = reading.number, reading.void_number, found[-1]
    if void == 255 < top and not reading.names_void:  # then 255 is a number like others, as of the objects of one image
        void = 65535 if top == 65535 != number else None
    if stored.palette is None:
        _check_numbers(stored, values, found, reading)
    hidden = None if stored.opaque or stored.alpha is None else stored.alpha < stored.highest
    if hidden is not None and (values[hidden] != reading.background_number).any():
        raise ImageError(
            f"{stored.path}: expected class numbers that can be seen; {_listed(values[hidden])} are transparent in "
            "places; save it without alpha"
        )
    nowhere = np.asarray(values == void) if void is not None else np.zeros(values.shape, np.bool_)
    if reading.mask_class == ANY and number is None:
        return MaskAndVoid(np.asarray(values != reading.background_number) & ~nowhere, nowhere)
    return MaskAndVoid(np.asarray(values == number), nowhere)


def _check_numbers(stored: Stored, values: NDArray[Any], found: NDArray[Any], reading: MaskReading) -> None:
    """ImageError for grey levels that are no class numbers: a mask of black and white, or a photo."""
    if len(found) > _MANY and np.mean(values[:, 1:] == values[:, :-1]) < _FLAT:
        raise ImageError(f"{stored.path}: expected class numbers; it has {len(found)} levels, as photos have")
    number = reading.number
    told = np.isin(found, (0, 255)).all() and reading.names_void
    if told or np.isin(found, (0, 1)).all() or (number is not None and number > _NEAR and number in found):
        return
    try:
        _two_levels(stored, values)
    except ImageError:
        return
    raise ImageError(
        f"{stored.path}: expected class numbers; it has the levels {_listed(found)}, as a mask of one object has; "
        "leave --mask-class out, or name 255 as void in --mask-classes"
    )


def _by_color(stored: Stored, reading: MaskReading) -> MaskAndVoid:
    assert reading.mask_classes is not None
    if stored.lossy or stored.highest != 255:
        kind = f"that are kept, which {stored.lossy} does not," if stored.lossy else "of 8 bits"
        raise ImageError(f"{stored.path}: expected colours {kind}, to tell classes by them; save it as 8-bit PNG")
    codes = color_codes(stored)
    named = {name: int(color[1:], 16) for name, color in reading.mask_classes.colors.items()}
    if stored.alpha is not None:
        if not np.isin(stored.alpha, (0, 255)).all():
            raise ImageError(
                f"{stored.path}: expected colours of classes; some are half transparent; save it without alpha"
            )
        codes[stored.alpha == 0] = next((named[name] for name in BACKGROUND_NAMES if name in named), 0)
    unknown = codes[~np.isin(codes, [0, *named.values()])]
    if unknown.size:
        raise ImageError(
            f"{stored.path}: expected the colours of its mask classes; it also has {name_codes(unknown)}; name those "
            "too, or save the mask without smoothing"
        )
    void = np.isin(codes, [named[name] for name in VOID_NAMES if name in named])
    if reading.color is not None:
        return MaskAndVoid(np.asarray(codes == int(reading.color[1:], 16)), void)
    background = [named[name] for name in BACKGROUND_NAMES if name in named] or [0]
    return MaskAndVoid(~np.isin(codes, background) & ~void, void)


def _found(values: NDArray[Any]) -> NDArray[Any]:
    """The different values in their order."""
    if values.dtype == np.uint8:
        counts = cv2.calcHist([np.ascontiguousarray(values)], [0], None, [256], [0, 256])
        return np.flatnonzero(counts)
    if values.dtype == np.uint16:
        return np.flatnonzero(np.bincount(values.ravel(), minlength=1))
    return np.unique(values)


def _refuse_levels(stored: Stored, found: NDArray[Any]) -> NoReturn:
    if len(found) > _MANY:
        raise ImageError(
            f"{stored.path}: expected a mask of two levels; it has {len(found)}, as photos and maps have; camseg masks "
            "makes masks of maps"
        )
    kind = f"; {stored.lossy} keeps levels only nearly" if stored.lossy else ""
    raise ImageError(
        f"{stored.path}: expected a mask of two levels, 0 and 255 or 0 and 1; it has {_listed(found)}{kind}; of class "
        "numbers choose one by --mask-class N, else save the mask as 0 and 255"
    )


def _coloured(stored: Stored) -> NoReturn:
    raise ImageError(
        f"{stored.path}: expected a mask in grey; it has the colours {name_codes(color_codes(stored))}; choose one by "
        "--mask-class NAME and --mask-classes FILE with name,#RRGGBB, or save the mask as 0 and 255"
    )


def _listed(values: NDArray[Any], shown: int = 8) -> str:
    """Different values in words: 0, 15, 255."""
    found = [f"{value:g}" for value in _found(values)]
    if len(found) <= shown:
        return ", ".join(found)
    return f"{', '.join(found[: shown - 1])}, ... {found[-1]} ({len(found)} levels)"
