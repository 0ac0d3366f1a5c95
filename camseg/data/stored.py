"""What a file of a mask, map or trimap says: numbers or colours as they are stored, with alpha and palette."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps
from PIL.ImageFile import ImageFile

from camseg.base.errors import ImageError
from camseg.data.opening import read_file
from camseg.data.samples import Samples, pnm_white

_LOSSY: Final = ("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF")
"""Formats of Pillow that keep values only nearly; so does most WebP, and TIFF that holds JPEG."""
_TINT: Final = 24
"""How far R, G and B of a grey pixel may lie apart in a file that keeps values only nearly."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The pixels of a file, turned as they are to be seen."""

    path: Path
    values: NDArray[Any]
    """(H, W): levels, class numbers, or places in the palette; (H, W, 3): RGB."""
    alpha: NDArray[Any] | None
    """(H, W), from 0 to ``highest``; None where there is none."""
    palette: NDArray[np.uint8] | None
    """(N, 3): the colours that the values are places of."""
    highest: float
    """What stands for white."""
    lossy: str
    """The name of the format, where it keeps values only nearly; else empty."""
    bits: int = 8
    """How many bits a level has in the file; those of 1, 2 or 4 bits have been spread over 0 to 255."""

    @property
    def opaque(self) -> bool:
        """Whether nothing is transparent."""
        return self.alpha is None or bool((self.alpha == self.highest).all())

    @property
    def colors(self) -> NDArray[Any]:
        """(H, W, 3): the values, or what the palette paints for them."""
        if self.palette is not None:
            painted: NDArray[np.uint8] = self.palette[self.values]
            return painted
        return self.values if self.values.ndim == 3 else np.repeat(self.values[..., None], 3, axis=2)


def read_stored(path: Path | str) -> Stored:
    """What a file says; ImageError for one that cannot be read."""
    place = Path(path)
    return read_file(place, lambda picture: _of_picture(place, picture), lambda samples: _of_samples(place, samples))


def grey(stored: Stored) -> NDArray[Any] | None:
    """(H, W): the levels, or those of a palette or of RGB that paint grey; None for a coloured file."""
    if stored.palette is not None:
        used = stored.palette[np.unique(stored.values)]
        if (used.max(axis=1, initial=0) != used.min(axis=1, initial=255)).any():
            return None
        painted: NDArray[np.uint8] = stored.palette[:, 0][stored.values]
        return painted
    if stored.values.ndim == 2:
        return stored.values
    red, green, blue = (stored.values[..., band] for band in range(3))
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return green
    if not stored.lossy or stored.highest != 255:
        return None
    span = stored.values.max(axis=2) - stored.values.min(axis=2)  # of uint8, which does not wrap here
    return green if span.max() <= _TINT else None


def color_codes(stored: Stored) -> NDArray[np.uint32]:
    """(H, W): the colours as numbers 0xRRGGBB of 8 bits."""
    colors = stored.colors
    if stored.highest != 255:
        colors = np.rint(colors * (255.0 / stored.highest))
    red, green, blue = (np.clip(colors[..., band], 0, 255).astype(np.uint32) for band in range(3))
    codes: NDArray[np.uint32] = red << 16 | green << 8 | blue
    return codes


def name_codes(codes: NDArray[np.uint32], shown: int = 5) -> str:
    """The commonest colours in words: #FF0000, #00FF00 and 3 more."""
    found, counts = np.unique(codes, return_counts=True)
    commonest = found[np.argsort(-counts, kind="stable")[:shown]]
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return ", ".join(f"#{code:06X}" for code in commonest) + more


def _of_picture(path: Path, picture: ImageFile) -> Stored:
    lossy, packing = _lossy(picture), " ".join(str(tile.args) for tile in picture.tile)
    bits = 1 if picture.mode == "1" else 2 if "L;2" in packing else 4 if "L;4" in packing else 8
    white = pnm_white(picture) if picture.format == "PPM" and picture.mode in ("L", "RGB") else 255
    key = picture.info.get("transparency")
    ImageOps.exif_transpose(picture, in_place=True)
    mode, palette, alpha = picture.mode, None, None
    if mode in ("P", "PA"):
        table = picture.getpalette("RGB") or []
        palette = np.zeros((256, 3), np.uint8)
        palette.flat[: len(table)] = table
        bands = np.array(picture)
        values = bands if mode == "P" else bands[..., 0]
        if mode == "PA":
            alpha = bands[..., 1]
        elif key is not None:
            shares = np.full(256, 255, np.uint8)
            if isinstance(key, int):
                shares[key] = 0
            else:
                shares[: len(key)] = list(key)
            alpha = shares[values]
    elif mode in ("1", "L", "LA", "La"):
        bands = np.array(picture if mode in ("L", "LA") else picture.convert("L" if mode == "1" else "LA"))
        values, alpha = (bands, None) if bands.ndim == 2 else (bands[..., 0], bands[..., 1])
        if isinstance(key, int):
            alpha = np.where(values == key * 255 // (2**bits - 1), 0, 255).astype(np.uint8)
    elif mode in ("RGBA", "RGBa"):
        bands = np.array(picture.convert("RGBA"))
        values, alpha = bands[..., :3], bands[..., 3]
    else:
        values = np.array(picture.convert("RGB"))
        if isinstance(key, tuple):
            alpha = np.where((values == key).all(axis=2), 0, 255).astype(np.uint8)
    if white != 255:  # Pillow has stretched the levels of a PNM file
        values = np.rint(values * (white / 255.0)).astype(np.uint8)
    return Stored(
        path=path,
        values=values,
        alpha=alpha,
        palette=palette,
        highest=float(white),
        lossy=lossy,
        bits=bits,
    )


def _of_samples(path: Path, samples: Samples) -> Stored:
    values = samples.values
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: it holds values that are not finite; write numbers there")
    if samples.inverted:
        values = (samples.highest - values.astype(np.float64)).astype(values.dtype)
    return Stored(
        path=path,
        values=values,
        alpha=samples.alpha,
        palette=None,
        highest=samples.highest,
        lossy=samples.lossy,
    )


def _lossy(picture: ImageFile) -> str:
    if picture.format == "WEBP":
        # Its file begins with RIFF, length, WEBP, then chunks; one of pixels without loss is called VP8L.
        assert picture.fp is not None
        place = picture.fp.tell()
        picture.fp.seek(12)
        start = picture.fp.read(1 << 16)
        picture.fp.seek(place)
        return "" if b"VP8L" in start else "WEBP"
    if "jpeg" in str(picture.info.get("compression", "")):
        return "JPEG"
    return picture.format if picture.format in _LOSSY else ""
