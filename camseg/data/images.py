"""Files <-> pixels: the only place that finds, reads and writes images.

Every reader gives pixels as the photographer saw them (EXIF rotation applied); every writer goes through a temporary
name, so that a killed run never leaves half a file.
"""

import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageOps
from PIL.ImageFile import ImageFile

from camseg.base.arrays import Alpha, Cam, Image, Mask, Trimap, check_mask, check_trimap, dequantise, quantise
from camseg.base.errors import CamsegError, ImageError, InputError, first_line
from camseg.base.files import Found, by_name, count_text, find_files, write_bytes
from camseg.data.mask_settings import MaskClasses, MaskReading, parse_mask_classes
from camseg.data.masks import MaskAndVoid, to_mask
from camseg.data.opening import read_file
from camseg.data.samples import ORIENTATION, TURNS, Samples
from camseg.data.stored import Stored, color_codes, grey, name_codes, read_stored

# fmt: off
IMAGE_SUFFIXES: Final = frozenset(
    [
        ".apng", ".avif", ".avifs", ".bmp", ".bw", ".dcx", ".dds", ".dib", ".gif", ".icb", ".j2c", ".j2k",
        ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".msp", ".pbm", ".pcx", ".pfm",
        ".pgm", ".png", ".pnm", ".ppm", ".psd", ".pxr", ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".sr", ".tga",
        ".tif", ".tiff", ".vda", ".vst", ".webp", ".xbm", ".xpm",
    ]
)
# fmt: on
"""Suffixes of pictures that Pillow reads by itself."""
HEIC_SUFFIXES: Final = frozenset([".heic", ".heics", ".heif", ".heifs", ".hif"])
"""Suffixes of pictures that it reads with pillow-heif."""
SQUEEZED: Final = 0.3
"""Images that fill a smaller part of their numbers' range are squeezed by the window ``full``."""

_TWO_LEVELS: Final = MaskReading()

Window: TypeAlias = str
"""How 16-bit and float pixels become 8-bit: ``full``, ``percentile`` (0.5 to 99.5) or ``LOW,HIGH``."""


class ImageHeader(NamedTuple):
    """What is known of an image without its pixels."""

    width: int
    """In pixels, as ``read_image`` gives it."""
    height: int
    """The same."""
    turned: bool
    """Whether EXIF turns or mirrors the stored pixels, so that programs which ignore it show others."""


def find_images(root: Path | str) -> Found:
    """Find the images below a folder, by ``image_suffixes``, or take the one file that ``root`` names.

    Linked folders are entered, hidden files and folders passed over. Raises InputError when ``root`` does not exist,
    or holds no image and no unreadable folder.
    """
    suffixes = image_suffixes()
    expected = "images (.png, .jpg, .tif and others)"
    return find_files(root, lambda path: path.suffix.lower() in suffixes, expected)


def image_suffixes() -> frozenset[str]:
    """The suffixes that are taken for images, in small letters: HEIC's only where pillow-heif is installed."""
    return IMAGE_SUFFIXES | (HEIC_SUFFIXES if importlib.util.find_spec("pillow_heif") else frozenset())


def passed_over_line(passed_over: Sequence[tuple[str, int]]) -> str | None:
    """``6 other files passed over (.heic 1, ...)``, with what may be done about it; None for none.

    passed_over: as in ``Found`` and ``Dataset``.
    """
    if not passed_over:
        return None
    count = sum(number for _, number in passed_over)
    heic = any(suffix in HEIC_SUFFIXES for suffix, _ in passed_over)
    hint = "; pip install 'camseg[heic]' reads .heic" if heic else ""
    return f"{count} other {'file' if count == 1 else 'files'} passed over ({count_text(passed_over)}){hint}"


def relative_name(path: Path, root: Path) -> str:
    """The name an input's outputs carry: its path below ``root`` with ``/`` between, without suffix."""
    return path.relative_to(root).with_suffix("").as_posix()


def by_relative_name(found: Found) -> dict[str, Path]:
    """The files that were found by their ``relative_name``; raises InputError when two have one name."""
    return by_name((relative_name(path, found.root), path) for path in found.files)


def check_window(window: Window) -> Window:
    """Return ``window`` if it is ``full``, ``percentile`` or ``LOW,HIGH``; raise InputError otherwise."""
    if window not in ("full", "percentile"):
        window_limits(window)
    return window


def read_image(path: Path | str, window: Window = "full", page: int = 0) -> Image:
    """Read any image file as uint8 (H, W, 3), RGB.

    EXIF rotation is applied, grey is repeated to three channels, palettes and CMYK are converted,
    transparent pixels are laid on white; ``page``: which of several pages or frames, from 0. 16-bit and float pixels
    go through ``window``: ``full`` maps 0..65535 (float: 0..1, and other white levels as their format tells) to
    0..255, so that they look as their 8-bit twins; ``percentile`` the image's own 0.5th to 99.5th percentile,
    ``LOW,HIGH`` those values, linearly. 8-bit pixels stay.

    Raises ImageError when the file is missing, empty, truncated, corrupt, too large, no image, or of a kind of pixels
    that is none of grey and RGB; InputError for another window or page.
    """
    check_window(window)
    return read_file(Path(path), _to_rgb, lambda samples: _through_window(str(path), samples, window), page)


def read_header(path: Path | str) -> ImageHeader:
    """The size of an image without its pixels, which only 16-bit files are read for.

    Raises ImageError when the file cannot be read.
    """

    def shown(picture: ImageFile) -> ImageHeader:
        turn = TURNS.get(picture.getexif().get(ORIENTATION, 1))
        height, width = picture.size[::-1] if turn is None else turn(np.empty(picture.size[::-1], np.bool_)).shape
        return ImageHeader(width, height, turn is not None)

    return read_file(
        Path(path), shown, lambda samples: ImageHeader(samples.values.shape[1], samples.values.shape[0], False)
    )


def read_levels(path: Path | str) -> NDArray[np.uint8]:
    """Read the levels of a map from a grey 8-bit file as uint8 (H, W).

    Raises ImageError when the file cannot be read, has 16-bit or float pixels, is coloured, partly transparent or of a
    format that keeps levels only nearly, as photos are: those are no levels.
    """
    stored = read_stored(path)
    levels = _levels(stored)
    if stored.lossy:
        raise ImageError(
            f"{path}: expected the levels of a map; {stored.lossy} keeps levels only nearly, and photos are stored so; "
            "give the map itself, saved as PNG"
        )
    return levels


def _levels(stored: Stored) -> NDArray[np.uint8]:
    path = stored.path
    if stored.values.dtype != np.uint8 or stored.highest > 255:
        kind = {"f": "float", "i": "signed"}.get(stored.values.dtype.kind, "16-bit or more")
        raise ImageError(f"{path}: expected 8-bit levels; its pixels are {kind}; save it as 8-bit grey")
    levels = grey(stored)
    if levels is None:
        raise ImageError(
            f"{path}: expected grey levels; it has the colours {name_codes(color_codes(stored))}; give the map itself, "
            "not a picture of it in colours"
        )
    if not stored.opaque:
        raise ImageError(f"{path}: expected grey levels; some of its pixels are transparent; save it without alpha")
    return levels if stored.highest == 255 else quantise(levels / stored.highest)


def read_cam(path: Path | str) -> Cam:
    """Read an 8-bit map as float32 (H, W) in [0, 1]; ImageError as ``read_levels``."""
    return dequantise(read_levels(path))


def read_mask(
    path: Path | str,
    mask_class: str | int | None = None,
    mask_classes: MaskClasses | Mapping[str, int | str] | Path | str | None = None,
) -> Mask:
    """Read a mask as bool (H, W): true where the object is.

    Two levels are a mask: 0 and 255, or 0 and 1, with the noise of JPEG and antialiased edges; a palette of black and
    white; or alpha over one colour. Of class numbers, or of a palette that stands for them, ``mask_class`` chooses one,
    by its number or by its name in ``mask_classes``: a mapping to numbers or colours #RRGGBB, its file, or ``voc``;
    ``any`` takes all but the background. What belongs to no class (255) is not in the mask.

    Raises ImageError, with what was found, for files that say no such thing; InputError for a class that is not there.
    """
    if mask_class is None and mask_classes is None:
        return read_mask_and_void(path).mask
    chosen = None if mask_class is None else str(mask_class)
    classes = None if mask_classes is None else parse_mask_classes(mask_classes)
    return read_mask_and_void(path, MaskReading(mask_class=chosen, mask_classes=classes)).mask


def read_mask_and_void(path: Path | str, reading: MaskReading | None = None) -> MaskAndVoid:
    """Read a mask as ``read_mask`` does, with the pixels of no class, which take part in no score: both bool (H, W)."""
    return to_mask(read_stored(path), reading or _TWO_LEVELS)


def read_trimap(path: Path | str) -> Trimap:
    """Read a trimap as uint8 (H, W) in {0, 128, 255}; ImageError when it holds anything else."""
    try:
        return check_trimap(_levels(read_stored(path)))
    except InputError as error:
        raise ImageError(f"{path}: {error}") from None


def squeezed(paths: Sequence[Path | str], sample: int = 8) -> str | None:
    """A line where the window ``full`` leaves images only a few of the 256 levels, with windows that fit; else None.

    It looks at ``sample`` files, spread evenly; those of 8 bits, or that cannot be read, say nothing.
    """
    low, high, top, count = math.inf, -math.inf, 0.0, 0
    for path in list(paths)[:: max(1, len(paths) // sample)][:sample]:
        try:
            found = read_file(Path(path), lambda picture: None, lambda samples: samples)
        except CamsegError:
            continue
        if found is not None:
            low, high = min(low, float(found.values.min())), max(high, float(found.values.max()))
            top, count = max(top, found.highest), count + 1
    if not (count and 0.0 <= low < high <= top and high - low <= SQUEEZED * top):
        return None
    # 10- to 14-bit values from 0 on; others are best told by themselves.
    fits = next((f"0,{2**bits - 1} or " for bits in (10, 12, 14) if high < 2**bits and high - low > 2**bits / 4), "")
    first, last = (round(255.0 * value / top) for value in (low, high))
    return (
        f"the window full leaves these images the levels {first} to {last} of 255, for their values end at {high:g} of "
        f"{top:g} in {count} of them; choose --window {fits if top > 1 else ''}percentile"
    )


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """The bytes of a PNG of uint8 (H, W), for formats that hold pictures within texts."""
    done, data = cv2.imencode(".png", pixels)
    assert done
    return data.tobytes()


def decode_png(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The pixels of a PNG as uint8 (height, width, 4), RGBA; those of 1 bit are spread over 0 to 255.

    Raises ImageError, before anything is unpacked, for another size or format, and for bytes that are damaged.
    """
    try:
        with PilImage.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.size != (width, height):
                raise ImageError(f"expected a PNG of {width} x {height}; it is {' x '.join(map(str, picture.size))}")
            return np.array(picture.convert("RGBA"))
    except ImageError:
        raise
    except Exception as error:  # of every kind: decoders meet data that nobody foresaw
        raise ImageError(f"expected a PNG; it cannot be read ({first_line(error)})") from None


def write_classes(
    path: Path | str, numbers: NDArray[np.uint8] | NDArray[np.uint16], palette: Sequence[tuple[int, int, int]] = ()
) -> None:
    """Write class numbers, uint8 or uint16 (H, W), as PNG; uint8 with up to 256 colours as a PNG with that palette."""
    buffer = io.BytesIO()
    picture = PilImage.fromarray(numbers)
    if palette:
        picture.putpalette([band for color in palette for band in color])
    picture.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())


def write_image(path: Path | str, image: NDArray[np.uint8]) -> None:
    """Write uint8 (H, W), (H, W, 3) RGB or (H, W, 4) RGBA in the format of the suffix: PNG, JPEG (quality 90), ...

    Raises InputError for pixels or a suffix that cannot be written.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, 90] if Path(path).suffix.lower() in (".jpg", ".jpeg") else []
    try:
        order = {2: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[2 if image.ndim == 2 else image.shape[2]]
        pixels = image if order is None else cv2.cvtColor(image, order)
        done, data = cv2.imencode(Path(path).suffix, pixels, options)
    except (KeyError, IndexError, cv2.error):
        done = False
    if not done or image.dtype != np.uint8:
        raise InputError(
            f"cannot encode {image.dtype} {image.shape} pixels as {path}; write uint8 with the suffix .png"
        )
    write_bytes(path, data.tobytes())


def write_mask(path: Path | str, mask: Mask) -> None:
    """Write a mask as 8-bit PNG, 0 and 255."""
    write_image(path, check_mask(mask).astype(np.uint8) * np.uint8(255))


def write_cam(path: Path | str, cam: Cam | Alpha) -> None:
    """Write a map or alpha in [0, 1] as 8-bit PNG, round(255 * cam)."""
    write_image(path, quantise(cam))


def write_raw(path: Path | str, raw: NDArray[np.floating]) -> None:
    """Write an unnormalised map as float32 TIFF."""
    buffer = io.BytesIO()
    PilImage.fromarray(raw.astype(np.float32)).save(buffer, format="TIFF")
    write_bytes(path, buffer.getvalue())


def _to_rgb(picture: ImageFile) -> Image:
    ImageOps.exif_transpose(picture, in_place=True)
    shown: PilImage.Image = picture
    if shown.mode in ("La", "RGBa"):
        shown = shown.convert(shown.mode.upper())
    if shown.mode in ("RGBA", "LA", "PA") or "transparency" in shown.info:
        shown = shown.convert("RGBA")
        shown = PilImage.alpha_composite(PilImage.new("RGBA", shown.size, "white"), shown)
    return np.array(shown.convert("RGB"))


def _through_window(name: str, samples: Samples, window: Window) -> Image:
    """Samples through the window to 8-bit RGB, alpha laid on white."""
    values = samples.values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ImageError(f"{name}: it holds values that are not finite; write numbers there")
    share = None if samples.alpha is None else samples.alpha.astype(np.float32) / np.float32(samples.highest)
    if share is not None and values.ndim == 3:
        share = share[..., None]
    if share is not None and samples.premultiplied:
        values = np.divide(values, share, out=np.zeros_like(values), where=share > 0)
        values = np.minimum(values, samples.highest)  # but for rounding
    if window == "percentile":
        low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    elif window == "full":
        low, high = 0.0, samples.highest
        if values.min() < low or values.max() > high:
            raise ImageError(
                f"{name}: values from {values.min():g} to {values.max():g}, outside {low:g}..{high:g}; choose the "
                "window percentile or LOW,HIGH"
            )
    else:
        low, high = window_limits(window)
    shown = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)
    if samples.inverted:
        shown = 1.0 - shown
    if share is not None:
        shown = shown * share + (1.0 - share)
    levels = quantise(shown)
    return np.repeat(levels[..., None], 3, axis=2) if levels.ndim == 2 else levels


def window_limits(window: Window) -> tuple[float, float]:
    """The numbers of a window ``LOW,HIGH``; raises InputError for others."""
    try:
        low, high = (float(part) for part in window.split(","))
    except ValueError:
        raise InputError(f"expected a window full, percentile or LOW,HIGH; got {window!r}") from None
    if not -np.inf < low < high < np.inf:
        raise InputError(f"expected a window of finite LOW below HIGH; got {window!r}")
    return low, high
