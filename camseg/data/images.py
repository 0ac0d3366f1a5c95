"""Files <-> pixels: the only place that finds, reads and writes images.

Every reader gives RGB uint8 as the photographer saw it (EXIF rotation applied, transparency laid on
white); every writer goes through a temporary name, so that a killed run never leaves half a file.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageOps

from camseg.base.arrays import Alpha, Cam, Image, Mask, Trimap, check_mask, check_trimap, dequantise, quantise
from camseg.base.errors import CamsegError, ImageError, InputError
from camseg.base.files import Found, by_name, find_files, write_bytes

IMAGE_SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
_ORIENTATION = 0x0112

Window: TypeAlias = str
"""How 16-bit and float pixels become 8-bit: ``full``, ``percentile`` (0.5 to 99.5) or ``LOW,HIGH``."""


def find_images(root: Path | str) -> Found:
    """Find the images below a folder, by ``IMAGE_SUFFIXES``, or take the one file that ``root`` names.

    Linked folders are entered, hidden files and folders passed over. Raises InputError when ``root`` does not exist,
    or holds no image and no unreadable folder.
    """
    expected = f"images ({', '.join(sorted(IMAGE_SUFFIXES))})"
    return find_files(root, lambda path: path.suffix.lower() in IMAGE_SUFFIXES, expected)


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


def read_image(path: Path | str, window: Window = "full") -> Image:
    """Read any image file as uint8 (H, W, 3), RGB.

    EXIF rotation is applied, grey is repeated to three channels, palettes and CMYK are converted,
    transparent pixels are laid on white, of several frames the first is taken. 16-bit and float pixels
    go through ``window``: ``full`` maps 0..65535 (float: 0..1), ``percentile`` the image's own 0.5th to
    99.5th percentile, ``LOW,HIGH`` those values, linearly to 0..255.

    Raises ImageError when the file is missing, empty, truncated, corrupt, too large or no image; InputError
    for another window.
    """
    check_window(window)

    def convert(picture: PilImage.Image) -> Image:
        deep = _deep_pixels(picture, Path(path))
        if deep is not None:
            oriented = PilImage.fromarray(_deep_to_rgb(deep, window))
            if picture.format != "TIFF":  # whose decoders turn the pixels themselves
                oriented.getexif()[_ORIENTATION] = picture.getexif().get(_ORIENTATION, 1)
            return np.array(ImageOps.exif_transpose(oriented))
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = PilImage.alpha_composite(PilImage.new("RGBA", picture.size, "white"), picture)
        return np.array(picture.convert("RGB"))

    return _open(Path(path), convert)


def read_levels(path: Path | str) -> NDArray[np.uint8]:
    """Read a grey 8-bit file (a map, mask or trimap) as uint8 (H, W); colour is reduced to its luminance.

    Raises ImageError when the file cannot be read, or has 16-bit or float pixels: those are no levels.
    """
    return _open(Path(path), _levels)


def read_cam(path: Path | str) -> Cam:
    """Read an 8-bit map as float32 (H, W) in [0, 1]."""
    return dequantise(read_levels(path))


def read_mask(path: Path | str) -> Mask:
    """Read a mask as bool (H, W): true where the grey level is above 127 of 255.

    A mask stored with small label numbers (0/1, or a palette of classes) would read as empty:
    ImageError tells so, when every level is below 128 and some are not 0.
    """

    def convert(picture: PilImage.Image) -> NDArray[np.uint8]:
        levels = _levels(picture)
        # A palette of black and white paints a mask; any other one numbers classes.
        return levels if picture.mode != "P" or np.isin(levels, (0, 255)).all() else np.array(picture)

    levels = _open(Path(path), convert)
    if 0 < levels.max(initial=0) < 128:
        raise ImageError(f"{path}: expected a mask of 0 and 255; its highest level is {levels.max()}; scale it to 255")
    return levels > 127


def read_trimap(path: Path | str) -> Trimap:
    """Read a trimap as uint8 (H, W) in {0, 128, 255}; ImageError when it holds anything else."""
    try:
        return check_trimap(read_levels(path))
    except InputError as error:
        raise ImageError(f"{path}: {error}") from None


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


def _open(path: Path, convert: Callable[[PilImage.Image], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty")
        # Opened here: of a file that Pillow opens itself it may map the memory, which turns rotated TIFF wrongly.
        with path.open("rb") as file, PilImage.open(file) as picture:
            return convert(picture)
    except CamsegError:
        raise
    except PilImage.UnidentifiedImageError:
        raise ImageError(f"{path}: not an image that can be read, or its header is damaged") from None
    except PilImage.DecompressionBombError as error:
        raise ImageError(f"{path}: {error}; tile it") from None
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except (PermissionError, IsADirectoryError) as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    # Pillow's decoders raise many kinds of error on damaged data.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ImageError(f"{path}: damaged or unsupported ({error})") from None


def _levels(picture: PilImage.Image) -> NDArray[np.uint8]:
    if picture.mode.startswith(("I", "F")):
        raise ValueError(
            f"expected 8-bit levels; its pixels are {'float' if picture.mode == 'F' else '16-bit or more'}"
        )
    return np.array(picture.convert("L"))


def _deep_pixels(picture: PilImage.Image, path: Path) -> NDArray | None:
    """The pixels of an image with more than 8 bits per channel, (H, W) or (H, W, channels); None for others."""
    if picture.mode.startswith(("I", "F")):
        return np.array(picture)
    raw_modes = [str(tile[3]) for tile in getattr(picture, "tile", [])]
    if picture.format in ("PNG", "TIFF") and any(";16" in mode for mode in raw_modes):
        # Pillow keeps only the high bytes of 16-bit colour; OpenCV keeps all.
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise ImageError(f"{path}: damaged or unsupported 16-bit image")
        if pixels.ndim == 3:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
        return pixels
    return None


def _deep_to_rgb(pixels: NDArray, window: Window) -> Image:
    """Grey, grey+alpha, RGB or RGBA pixels through the window to 8-bit RGB, alpha laid on white."""
    if pixels.ndim == 2:
        return np.repeat(_apply_window(pixels, window)[..., None], 3, axis=2)
    color = _apply_window(pixels[..., :3], window)
    if pixels.shape[2] == 3:
        return color
    share = _apply_window(pixels[..., 3:], "full") / 255.0
    return quantise(color / 255.0 * share + (1.0 - share))


def _apply_window(pixels: NDArray, window: Window) -> NDArray[np.uint8]:
    values = pixels.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    if window == "percentile":
        low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    elif window == "full":
        low, high = (0.0, 1.0) if np.issubdtype(pixels.dtype, np.floating) else (0.0, 65535.0)
        if values.min() < low or values.max() > high:
            raise ValueError(f"values outside {low:g}..{high:g}; choose the window percentile or LOW,HIGH")
    else:
        low, high = window_limits(window)
    return quantise((values - low) / max(high - low, 1e-12))


def window_limits(window: Window) -> tuple[float, float]:
    """The numbers of a window ``LOW,HIGH``; raises InputError for others."""
    try:
        low, high = (float(part) for part in window.split(","))
    except ValueError:
        raise InputError(f"expected a window full, percentile or LOW,HIGH; got {window!r}") from None
    if not -np.inf < low < high < np.inf:
        raise InputError(f"expected a window of finite LOW below HIGH; got {window!r}")
    return low, high
