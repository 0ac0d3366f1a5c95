"""Samples: pixels as files store them where 8 bits do not hold them, read from PNG, PNM and JPEG 2000.

TIFF, which has most of them, is read by ``camseg.data.tiff``.
"""

import math
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile

ORIENTATION: Final = 0x0112
"""The tag that says how stored pixels are turned, in EXIF and TIFF alike."""
TURNS: Final[Mapping[int, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],
    7: lambda stored: stored.swapaxes(0, 1)[::-1, ::-1],
    8: lambda stored: stored.swapaxes(0, 1)[::-1],
}
"""Orientation -> what turns an array (H, W, ...) as it is to be seen; 1 and unknown ones leave it."""

_DEFLATED: Final = 1032
"""How many bytes one byte can stand for in a PNG, at most."""

_Deep: TypeAlias = tuple[NDArray[Any], float]  # pixels, and what stands for full brightness


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Pixels as they are stored, but turned as they are to be seen."""

    values: NDArray[Any]
    """(H, W) grey or (H, W, 3) RGB: integers or floats."""
    alpha: NDArray[Any] | None = None
    """(H, W), of the same type; None where there is none."""
    premultiplied: bool = False
    """Whether colours have been multiplied by alpha."""
    inverted: bool = False
    """Whether 0 is white."""
    highest: float
    """What stands for full brightness: 2^bits - 1, or 1 for floats."""
    lossy: str = ""
    """The name of the format, where it keeps values only nearly; else empty."""


def turned(pixels: NDArray[Any], orientation: object) -> NDArray[Any]:
    """An array (H, W, ...) turned as an orientation, 1 to 8, says."""
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return pixels if turn is None else turn(pixels)


def deep_samples(picture: ImageFile, file: BinaryIO) -> Samples | None:
    """The samples of an open picture that is no TIFF; None where it has 8 bits or less, which Pillow keeps whole.

    ``file`` is what it was opened from. Raises ValueError for pixels that cannot be had as they are stored.
    """
    read = _READERS.get(picture.format or "")
    deep = read(picture, file) if read is not None else None
    if deep is None and picture.mode.startswith(("I", "F")):
        deep = np.array(picture), 1.0 if picture.mode == "F" else 65535.0
    if deep is None:
        return None
    pixels, highest = deep
    alpha = pixels[..., 3] if pixels.ndim == 3 and pixels.shape[2] == 4 else None
    key = picture.info.get("transparency")
    if isinstance(key, int) and pixels.ndim == 2:
        alpha = np.where(pixels == key, 0, highest).astype(pixels.dtype)
    orientation = picture.getexif().get(ORIENTATION, 1)
    return Samples(
        values=turned(pixels if pixels.ndim == 2 else pixels[..., :3], orientation),
        alpha=None if alpha is None else turned(alpha, orientation),
        highest=highest,
        lossy="JPEG2000" if picture.format == "JPEG2000" else "",
    )


def decode(data: bytes | bytearray) -> NDArray[Any]:
    """The pixels of a file by OpenCV, (H, W), (H, W, 3) RGB or (H, W, 4); ValueError where it cannot read them."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(0)  # else it tells stderr what is wrong
    try:
        pixels: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise ValueError("its pixels end early, or are of an unknown kind")
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return pixels


def pnm_white(picture: ImageFile) -> int:
    """What a PGM or PPM file calls white, which may be any number up to 65535."""
    arguments = picture.tile[0].args if picture.tile else None
    if isinstance(arguments, tuple) and len(arguments) == 2:
        return int(arguments[1])
    return 65535 if picture.mode.startswith("I") else 255


def _png(picture: ImageFile, file: BinaryIO) -> _Deep | None:
    # Pillow keeps only the high bytes of 16-bit colour; OpenCV keeps all.
    if picture.mode not in ("RGB", "RGBA") or not any(";16" in str(tile.args) for tile in picture.tile):
        return None
    data = _bare_png(_bytes(file))
    width, height = struct.unpack_from(">II", data, 16)
    if (width, height) != picture.size or width * height * 2 * len(picture.getbands()) > _DEFLATED * len(data):
        raise ValueError(f"its {width}x{height} pixels end early")  # before memory is taken for them
    return decode(data), 65535.0


def _bare_png(data: bytes) -> bytes:
    """A PNG without all that is not its first picture's pixels, for OpenCV would believe it; ValueError for damage."""
    kept, place = [data[:8]], 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place) if place + 12 <= len(data) else (len(data),)
        chunk = data[place : place + 12 + length]
        kind = chunk[4:8]
        if len(chunk) < 12 + length:
            raise ValueError(f"its part {kind.decode('ascii', 'replace')!r} ends early")
        if kind in (b"IHDR", b"tRNS", b"IDAT", b"IEND"):
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big") or (kind == b"IHDR") != (len(kept) == 1):
                raise ValueError(f"its part {kind.decode()} is damaged")
            kept.append(chunk)
        if kind == b"IEND":
            break
        place += len(chunk)
    return b"".join(kept)


def _pnm(picture: ImageFile, file: BinaryIO) -> _Deep | None:
    # Pillow stretches to 16 bits, or shrinks to 8, what has another white.
    white = pnm_white(picture)
    if white <= 255 or picture.mode not in ("I", "L", "RGB"):
        return None
    shape = (picture.height, picture.width, *((3,) if picture.mode == "RGB" else ()))
    count, data = math.prod(shape), _bytes(file)[picture.tile[0].offset :]
    if picture.tile[0].codec_name == "ppm_plain":
        words = re.sub(rb"#[^\r\n]*", b"", data).split()[:count]
        pixels = np.array([int(word) for word in words], np.int64)
    else:
        pixels = np.frombuffer(data[: 2 * count], ">u2").astype(np.int64)
    if pixels.size < count:
        raise ValueError("its pixels end early")
    if pixels.min() < 0 or pixels.max() > white:
        raise ValueError(f"values from {pixels.min()} to {pixels.max()}, where it calls {white} white")
    return pixels.astype(np.uint16).reshape(shape), float(white)


def _jpeg_2000(picture: ImageFile, file: BinaryIO) -> _Deep | None:
    # Pillow keeps 8 bits of colours, and shifts grey up to 16.
    data = _bytes(file)
    start = data.find(b"\xff\x4f\xff\x51")
    header = data[start : start + 80]
    count = int.from_bytes(header[40:42], "big")
    bits = [(byte & 0x7F) + 1 for byte in header[42 : 42 + 3 * count : 3]]
    signed = any(byte & 0x80 for byte in header[42 : 42 + 3 * count : 3])
    if start < 0 or not bits or (max(bits) <= 8 and not signed):
        return None
    if signed or len(set(bits)) > 1 or count == 2 or picture.mode == "P":
        kind = "signed " if signed else ""
        raise ValueError(f"JPEG 2000 of {count} {kind}bands of {max(bits)} bits")
    pixels = decode(data)
    if pixels.dtype != np.uint16 or (1 if pixels.ndim == 2 else pixels.shape[2]) != count:
        raise ValueError(f"JPEG 2000 of {count} bands of {max(bits)} bits")
    return pixels, 2.0 ** max(bits) - 1.0


def _sgi(picture: ImageFile, file: BinaryIO) -> _Deep | None:
    if _bytes(file)[3] == 2:
        raise ValueError("SGI file of 16 bits")
    return None


_READERS: Final[Mapping[str, Callable[[ImageFile, BinaryIO], _Deep | None]]] = {
    "PNG": _png,
    "PPM": _pnm,
    "JPEG2000": _jpeg_2000,
    "SGI": _sgi,
}


def _bytes(file: BinaryIO) -> bytes:
    """The whole file; the place in it stays, since Pillow may have read to there."""
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    return data
