"""TIFF -> samples, for what an 8-bit reader gets wrong: more bits, floats, signs, planes, extra samples, white as zero.

Tags are read by tifffile, and obeyed or refused with their names. What tifffile cannot decompress without its codecs
is decoded by OpenCV where that gives the same samples.
"""

import io
import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from camseg.base.errors import ImageError, InputError
from camseg.data.samples import ORIENTATION, Samples, decode, turned

MAGIC: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How files begin, those of more than 4 GB included."""
_PREMULTIPLIED, _ALPHA, _COREL_ALPHA = 1, 2, 999
_LOSSY: Final = ("JPEG", "OJPEG", "WEBP", "JPEGXL", "JPEGXR_NDPI", "JPEG_LOSSY", "LERC")
_OPENCV: Final = ("NONE", "LZW", "DEFLATE", "ADOBE_DEFLATE", "PACKBITS")
"""Compressions that OpenCV undoes everywhere."""
_KNOWN_EXTRAS: Final = {(*alpha, *(0,) * others) for alpha in ((), (1,), (2,)) for others in range(4)} | {(999,)}
"""The extra samples of 8-bit RGB that Pillow knows."""


@contextmanager
def opened(file: BinaryIO) -> Iterator[Any]:
    """The tags of an open TIFF, tifffile's ``TiffFile``; raises tifffile's errors."""
    import tifffile  # here: few files need it

    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else its warnings go to stderr
    file.seek(0)
    with tifffile.TiffFile(file) as tags:
        yield tags


def find_page(name: str, tags: Any, number: int) -> int:
    """The place among all pages of the picture of that number, from 0; InputError for one that is not there."""
    if number == 0 and not _is_part(tags.pages[0]):
        return 0  # without a look at the others, which may be thousands
    pages = _pictures(tags)
    if not 0 <= number < len(pages):
        raise InputError(f"{name}: expected a page from 0 to {len(pages) - 1}; got {number}")
    return pages[number]


def count_pages(tags: Any) -> int:
    """How many pictures a TIFF holds; ImageJ lists only the first of those of a large stack."""
    listed = len(_pictures(tags))
    stack = (tags.imagej_metadata or {}).get("images", 1) if tags.is_imagej else 1
    return max(listed, stack if isinstance(stack, int) else 1)


def _is_part(page: Any) -> bool:
    """Whether a page is a smaller copy or the mask of another."""
    return bool(int(getattr(page, "subfiletype", 0) or 0) & 0b101)


def _pictures(tags: Any) -> list[int]:
    found, places = [], set()
    for number, page in enumerate(tags.pages):
        if page.offset in places:
            break  # a damaged file, whose pages follow each other in a circle
        places.add(page.offset)
        if not _is_part(page):
            found.append(number)
    return found or [0]


def describe(page: Any) -> str:
    """A page's kind of pixels in words."""
    kind = {"i": "signed ", "f": "float ", "c": "complex "}.get(page.dtype.kind if page.dtype else "", "")
    bands = "1 band" if page.samplesperpixel == 1 else f"{page.samplesperpixel} bands"
    return f"{kind}{page.bitspersample}-bit TIFF of {bands}, {_photometric(page)}"


def is_plain(page: Any) -> bool:
    """Whether Pillow reads a page as it is meant: unsigned samples of up to 8 bits in one of the usual orders."""
    if page.dtype not in (np.dtype(np.uint8), np.dtype(np.bool_)) or page.bitspersample > 8:
        return False
    count, extra, together = page.samplesperpixel, _extra(page), page.planarconfig == 1
    match _photometric(page):
        case "MINISBLACK" | "MINISWHITE":
            return bool(count == 1 or (count == 2 and extra == (_ALPHA,) and together))
        case "RGB" if together:
            return extra in _KNOWN_EXTRAS
        case "RGB":
            return bool(count == 3 or (count == 4 and extra == (_ALPHA,)))
    return True


def read_samples(name: str, file: BinaryIO, page: Any) -> Samples:
    """The samples of a page; ImageError for a layout that is none of grey or RGB, with and without alpha."""
    photometric = _photometric(page)
    if photometric not in ("MINISBLACK", "MINISWHITE", "RGB"):
        raise ImageError(f"{name}: {describe(page)}, is no grey or RGB of more than 8 bits; save it as one of them")
    colors, count, extra = 3 if photometric == "RGB" else 1, page.samplesperpixel, _extra(page)
    if colors == 3 and count == 4 and not extra:
        extra = (_ALPHA,)  # so do all readers where the tag is missing
    alphas = [place for place, kind in enumerate(extra) if kind in (_PREMULTIPLIED, _ALPHA, _COREL_ALPHA)]
    if count < colors or (colors == 1 and count - len(alphas) > 1):
        raise ImageError(f"{name}: TIFF of {count} bands; one grey band or RGB is expected: save the bands that matter")
    if page.imagedepth > 1:
        raise ImageError(f"{name}: TIFF of a volume of {page.imagedepth} slices; save the slices by themselves")
    if page.dtype is None or page.dtype.kind not in "uifb":
        raise ImageError(f"{name}: {describe(page)}, holds no brightness; save it as unsigned 16-bit")
    pixels = _pixels(name, file, page)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)
    if alphas:
        alpha = pixels[..., colors + alphas[0]]
    return Samples(
        values=pixels[..., 0] if colors == 1 else pixels[..., :3],
        alpha=alpha if alphas else None,
        premultiplied=bool(alphas) and extra[alphas[0]] == _PREMULTIPLIED,
        inverted=photometric == "MINISWHITE",
        highest=_highest(page),
        lossy=page.compression.name if page.compression.name in _LOSSY else "",
    )


def _extra(page: Any) -> tuple[int, ...]:
    return tuple(int(kind) for kind in page.extrasamples)


def _photometric(page: Any) -> str:
    return str(getattr(page.photometric, "name", page.photometric))


def _highest(page: Any) -> float:
    if page.dtype.kind == "f":
        return 1.0
    # Of more bits than 16 nobody uses all; 16 are what their values are taken for.
    return float(min(2 ** (page.bitspersample - (page.dtype.kind == "i")) - 1, 65535))


def _pixels(name: str, file: BinaryIO, page: Any) -> NDArray[Any]:
    """(H, W, bands), turned as they are to be seen."""
    height, width, count = page.imagelength, page.imagewidth, page.samplesperpixel
    if height * width == 0:
        raise ImageError(f"{name}: TIFF of {width}x{height} pixels, of which there are none")
    limit = 2 * (PilImage.MAX_IMAGE_PIXELS or math.inf)  # Pillow's own
    if height * width > limit:
        raise ImageError(f"{name}: {height * width} pixels, more than the limit of {limit:.0f}; tile it")
    orientation = page.tags[ORIENTATION].value if ORIENTATION in page.tags else 1
    try:
        pixels: NDArray[Any] = page.asarray(maxworkers=1)  # images are read side by side
    except (ValueError, NotImplementedError, ImportError) as error:
        if isinstance(error, ValueError) and "imagecodecs" not in str(error):
            raise
        other = _without_codecs(file, page)
        if other is None:
            raise ImageError(
                f"{name}: {describe(page)}, compressed by {page.compression.name}; pip install 'camseg[tiff]', or save "
                "it uncompressed"
            ) from None
        pixels, orientation = other
    if page.planarconfig == 2 and count > 1:
        pixels = np.moveaxis(pixels.reshape(count, height, width), 0, -1)
    return turned(pixels.reshape(height, width, count), orientation)


def check_whole(name: str, file: BinaryIO, page: Any) -> None:
    """ImageError where the file lacks strips or tiles of a page, for readers would fill them with zeros."""
    size, offsets = file.seek(0, 2), page.dataoffsets
    if page.is_contiguous:
        whole = offsets[0] + page.nbytes <= size
    else:
        whole = len(offsets) >= math.prod(page.chunked) and max(offsets) < size
    if not whole:
        raise ImageError(f"{name}: the file ends before its pixels do; it may have been cut short")


def _without_codecs(file: BinaryIO, page: Any) -> tuple[NDArray[Any], int] | None:
    """The samples of a page as they are stored, by OpenCV or Pillow, and how they lie; None where those cannot."""
    height, width, count = page.imagelength, page.imagewidth, page.samplesperpixel
    packed = page.bitspersample == 12 and count == 1 and page.parent.byteorder == "<"
    known = page.dtype in (np.uint16, np.int16, np.uint32, np.int32, np.float32)
    chunky = page.planarconfig == 1 and count in (1, 3, 4) and page.compression.name in _OPENCV
    if not chunky or not (packed or known):
        return None
    file.seek(0)
    data, order = bytearray(file.read()), page.parent.byteorder
    # Both read the page that the header names, and turn it, OpenCV in some versions only.
    place, form = (8, "Q") if page.parent.is_bigtiff else (4, "I")
    struct.pack_into(order + form, data, place, page.offset)
    orientation = 1
    if (tag := page.tags.get(ORIENTATION)) is not None:
        orientation = tag.value
        struct.pack_into(order + "H", data, tag.valueoffset, 1)
    if packed:
        with PilImage.open(io.BytesIO(data)) as picture:
            pixels: NDArray[Any] = np.array(picture)
    else:
        pixels = decode(data)
    if pixels.dtype != page.dtype or pixels.shape[:2] != (height, width) or pixels.size != height * width * count:
        return None
    return pixels, orientation
