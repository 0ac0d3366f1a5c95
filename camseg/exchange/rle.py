"""Masks as runs of equal pixels, in the three encodings that editors exchange.

All start from runs that alternate background, object, background, ...: the first is 0 where the first pixel is object.
They differ in the order of the pixels and in how lengths are written. Everything is vectorised, and nothing larger
than the mask that is expected is ever made of what a file says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Mask
from camseg.base.errors import ExchangeError

_WORD: Final = 8
_SIZES: Final = (3, 4, 8, 16)
"""Of rle-pack: the bits that a length may take."""
_LONGEST: Final = 1 << _SIZES[-1]
_HEADER: Final = 32 + 5 + 4 * len(_SIZES)


@dataclass(frozen=True, kw_only=True)
class BoxedRuns:
    """A mask as CVAT writes it: the runs of its bounding box, row by row."""

    runs: tuple[int, ...]
    left: int
    top: int
    width: int
    height: int


def find_runs(pixels: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The lengths of the runs in a row of pixels, bool (n,); background first, maybe 0. Int64, their sum is n."""
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff(edges, prepend=0, append=pixels.size)
    return np.concatenate([[0], runs]) if pixels.size and pixels[0] else runs


def draw_runs(runs: NDArray[np.int64], pixels: int) -> NDArray[np.bool_]:
    """The row of pixels, bool (pixels,), that runs stand for; undoes ``find_runs``.

    Raises ExchangeError for negative lengths, and for such as do not fill the row.
    """
    # Each is compared before they are summed: a sum may run over.
    if runs.size and (runs.min() < 0 or runs.max() > pixels):
        raise ExchangeError(f"expected runs of 0 to {pixels} pixels; got {runs.min()} to {runs.max()}")
    if (total := int(runs.sum())) != pixels:
        raise ExchangeError(f"expected runs of {pixels} pixels together; got {total}")
    return np.repeat(np.arange(runs.size) % 2 == 1, runs)


def encode_coco(mask: Mask) -> str:
    """COCO's compressed counts of a mask, bool (H, W): columns from the left, each from the top.

    Lengths from the fourth on are differences to the one before the last; each number takes six-bit letters from
    ``0`` on, of which five carry it, lowest bits first. Equal to pycocotools'.
    """
    numbers = find_runs(mask.ravel(order="F"))
    numbers[3:] = numbers[3:] - numbers[1:-2]
    # An arithmetic shift by all bits before leaves 0 or -1 once the number and its sign have been written.
    shifts = 5 * np.arange(8)
    left = numbers[:, None] >> shifts  # (runs, letters): what is left before each letter
    groups, rest = left & 31, left >> 5
    more = np.where(groups & 16 != 0, rest != -1, rest != 0)
    written = np.cumprod(np.concatenate([np.ones((len(numbers), 1), bool), more[:, :-1]], axis=1), axis=1) == 1
    return bytes((groups | np.where(more, 32, 0))[written].astype(np.uint8) + 48).decode("ascii")


def decode_coco(counts: str | bytes | Sequence[int], height: int, width: int) -> Mask:
    """The mask, bool (height, width), of COCO's counts: compressed, or plain lengths; undoes ``encode_coco``.

    Raises ExchangeError for counts that are damaged or of another size.
    """
    if not isinstance(counts, str | bytes):
        return _columns(_lengths(counts), height, width)
    letters = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    if letters.size and (letters.min() < 0 or letters.max() > 63 or letters[-1] & 32):
        raise ExchangeError("expected compressed counts of COCO; these are damaged or cut short")
    ends = np.flatnonzero(letters & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: ends.size]
    place = np.arange(letters.size) - np.repeat(starts, ends - starts + 1)
    if place.size and place.max() > 11:
        raise ExchangeError("expected compressed counts of COCO; these hold a number beyond all images")
    values = np.add.reduceat((letters & 31) << (5 * place), starts) if starts.size else letters
    negative = letters[ends] & 16 != 0
    values = np.where(negative, values - (1 << (5 * (ends - starts + 1))), values)
    # Each length from the fourth on adds to the one two before it: a sum along every second one.
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return _columns(values, height, width)


def encode_cvat(mask: Mask) -> BoxedRuns:
    """CVAT's form of a mask, bool (H, W) with at least one object pixel: equal to ``cvat_sdk.masks.encode_mask``."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    crop = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    runs = tuple(find_runs(crop.ravel()).tolist())
    return BoxedRuns(runs=runs, left=left, top=top, width=crop.shape[1], height=crop.shape[0])


def decode_cvat(boxed: BoxedRuns, height: int, width: int) -> Mask:
    """The mask, bool (height, width), of CVAT's form; undoes ``encode_cvat``.

    Raises ExchangeError for a box outside the image, and runs that do not fill it.
    """
    inside = min(boxed.left, boxed.top) >= 0 and min(boxed.width, boxed.height) >= 1
    if not inside or boxed.left + boxed.width > width or boxed.top + boxed.height > height:
        raise ExchangeError(
            f"expected a box within {width} x {height}; got {boxed.width} x {boxed.height} at {boxed.left}, {boxed.top}"
        )
    crop = draw_runs(_lengths(boxed.runs), boxed.width * boxed.height)
    mask = np.zeros((height, width), np.bool_)
    mask[boxed.top : boxed.top + boxed.height, boxed.left : boxed.left + boxed.width] = crop.reshape(boxed.height, -1)
    return mask


def encode_label_studio(mask: Mask) -> list[int]:
    """Label Studio's form of a mask, bool (H, W): thi.ng's rle-pack over the rows as RGBA, all four 0 or 255.

    A header (32 bits: words; 5: bits of a word - 1; four times 4: bits of the lengths - 1), then per run a 1, two bits
    that choose the bits of the length, the length - 1 and the value. Returned byte by byte, 0..255.
    """
    words = 4 * mask.size
    if words >= 1 << 32:
        raise ExchangeError(f"expected fewer than {1 << 30} pixels; Label Studio cannot hold {mask.size}")
    runs = 4 * find_runs(mask.ravel())
    whole = np.maximum(-(-runs // _LONGEST), 1)  # a length beyond the longest takes several
    values = np.repeat(np.arange(runs.size) % 2, whole)
    lengths = np.full(values.size, _LONGEST, np.int64)
    lengths[np.cumsum(whole) - 1] = runs - (whole - 1) * _LONGEST
    values, lengths = values[lengths > 0], lengths[lengths > 0]
    kinds = np.searchsorted([1 << size for size in _SIZES], lengths)
    sizes = np.array(_SIZES)[kinds]
    tokens = ((((4 | kinds) << sizes) | (lengths - 1)) << _WORD) | (values * 255)
    parts = [_bits(np.array([words, _WORD - 1, *(size - 1 for size in _SIZES)]), np.array([32, 5, 4, 4, 4, 4]))]
    parts += [
        _bits(tokens[start : start + (1 << 18)], (3 + sizes + _WORD)[start : start + (1 << 18)])
        for start in range(0, tokens.size, 1 << 18)
    ]
    return np.packbits(np.concatenate(parts)).tolist()


def decode_label_studio(rle: Sequence[int], height: int, width: int) -> Mask:
    """The mask, bool (height, width), of Label Studio's bytes; undoes ``encode_label_studio``.

    What counts is the fourth word of each pixel, its opacity: object from 128 on, since brushes have soft edges. Runs
    of words that differ, which brushes in a browser write, are read too. Raises ExchangeError for bytes that are
    damaged or of another size.
    """
    try:
        data = np.array(rle, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        data = np.array([[-1]])
    if data.ndim != 1 or data.size * 8 < _HEADER or data.min() < 0 or data.max() > 255:
        raise ExchangeError("expected the bytes of Label Studio's run lengths; these are damaged or cut short")
    padded = np.concatenate([data, np.zeros(8, np.int64)])
    header = _read(padded, np.cumsum([0, 32, 5, 4, 4, 4]), np.array([32, 5, 4, 4, 4, 4]))
    words, word, sizes = int(header[0]), int(header[1]) + 1, header[2:] + 1
    if words != 4 * height * width:
        raise ExchangeError(f"expected run lengths of {width} x {height} pixels in 4 channels; got {words} words")
    if word != _WORD:
        raise ExchangeError(f"expected words of 8 bits; got {word}")
    starts, literal = _tokens(padded, data.size * 8, words, sizes.tolist())
    kinds = _read(padded, starts + 1, np.full(starts.size, 2))
    lengths = _read(padded, starts + 3, sizes[kinds]) + 1
    if int(lengths.sum()) < words:
        raise ExchangeError(f"expected run lengths of {words} words; they end after {int(lengths.sum())}")
    places = starts + 3 + sizes[kinds]
    if literal.any():  # each of these holds as many words as its length says
        counts = np.where(literal, lengths, 1)
        offsets = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(places, counts) + _WORD * offsets
        lengths = np.where(np.repeat(literal, counts), 1, np.repeat(lengths, counts))
    opaque = _read(padded, places, np.full(places.size, _WORD)) >= 128
    # The last run may be longer than what is left of the image; what follows is padding.
    ends = np.minimum(np.cumsum(lengths), words)
    mask: Mask = np.repeat(opaque, np.diff(ends, prepend=0))[3::4].reshape(height, width)
    return mask


def _tokens(padded: NDArray[np.int64], end: int, words: int, sizes: Sequence[int]) -> tuple[NDArray[np.int64], Mask]:
    """Where the runs of rle-pack start, in bits, and which of them hold words that differ.

    Where one starts follows from the one before; this loop is all that cannot be done for all at once.
    """
    bits = np.unpackbits(padded.astype(np.uint8))
    codes = (bits[:-2] << 2 | bits[1:-1] << 1 | bits[2:]).tobytes()
    packed = padded.astype(np.uint8).tobytes()
    steps = [3 + size + _WORD for size in sizes]
    starts: list[int] = []
    differing: list[int] = []
    place, left = _HEADER, words
    while place + 3 <= end and left > 0:
        code = codes[place]
        if code >= 4:
            step = steps[code - 4]
            left -= 1  # at least; the lengths are summed afterwards
        else:
            size = sizes[code]
            count = _number(packed, place + 3, size) + 1
            step = 3 + size + count * _WORD
            left -= count
            differing.append(len(starts))
        if place + step > end:
            break
        starts.append(place)
        place += step
    literal = np.zeros(len(starts), np.bool_)
    literal[[index for index in differing if index < len(starts)]] = True
    return np.array(starts, np.int64), literal


def _number(packed: bytes, place: int, size: int) -> int:
    """Up to 16 bits at a bit's place."""
    return (int.from_bytes(packed[place >> 3 : (place >> 3) + 3], "big") >> (24 - (place & 7) - size)) & (
        (1 << size) - 1
    )


def _read(padded: NDArray[np.int64], places: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of up to 32 bits at the places of bits."""
    first = places >> 3
    window = np.zeros(places.size, np.int64)
    for offset in range(5):
        window = window << 8 | padded[first + offset]
    return window >> (40 - (places & 7) - sizes) & ((1 << sizes) - 1)


def _bits(numbers: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The bits of numbers, each in as many as its size says, highest first, one after the other."""
    most = int(sizes.max(initial=0))
    places = sizes[:, None] - 1 - np.arange(most)  # (numbers, bits); negative: beyond the number's size
    return ((numbers[:, None] >> np.maximum(places, 0)) & 1).astype(np.uint8)[places >= 0]


def _columns(runs: NDArray[np.int64], height: int, width: int) -> Mask:
    return draw_runs(runs, height * width).reshape(width, height).T.copy()


def _lengths(numbers: Sequence[int]) -> NDArray[np.int64]:
    try:
        lengths = np.array(numbers, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        lengths = np.zeros((0, 0), np.int64)
    if lengths.ndim != 1:
        raise ExchangeError("expected whole numbers as lengths of runs")
    return lengths
