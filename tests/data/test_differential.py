"""read_image against other readers: where they agree it agrees with them, or here it says why not."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image as PilImage

from camseg.data.images import read_image

RANDOM = np.random.default_rng(0)
SMOOTH = cv2.resize(RANDOM.integers(0, 256, (4, 5, 4)).astype(np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
SMOOTH[..., 3] = np.clip(SMOOTH[..., 3], 30, 255)


def deep(bands, dtype="uint16"):
    top = 1.0 if np.dtype(dtype).kind == "f" else float(np.iinfo(dtype).max)
    return (SMOOTH[..., bands] / 255.0 * top).astype(dtype)


def pillow(path):
    with PilImage.open(path) as picture:
        known = picture.mode in ("1", "L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I", "F")
        pixels = np.array(picture if known else picture.convert("RGBA"))
    if pixels.dtype == np.int32:  # how Pillow holds 16 bits of PGM
        pixels = pixels.astype(np.uint16)
    return pixels.astype(np.uint8) * 255 if pixels.dtype == np.bool_ else pixels


def opencv(path):
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def bands_last(pixels):
    return np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 and pixels.shape[0] in (3, 4) else pixels


def skimage(path):
    from skimage import io

    return bands_last(io.imread(path))


def tiff(path):
    pixels = bands_last(tifffile.imread(path))
    return pixels.astype(np.uint8) * 255 if pixels.dtype == np.bool_ else pixels


READERS = {"Pillow": pillow, "OpenCV": opencv, "skimage": skimage, "tifffile": tiff}


def shown(pixels):
    """What a reader's array shows, (H, W, 3) in 0..255: alpha on white, full ranges."""
    top = 1.0 if pixels.dtype.kind == "f" else float(np.iinfo(pixels.dtype).max)
    values = (pixels[..., None] if pixels.ndim == 2 else pixels) / top
    color = values[..., :1] if values.shape[2] < 3 else values[..., :3]
    share = values[..., -1:] if values.shape[2] in (2, 4) else 1.0
    return np.repeat(255 * (color * share + 1 - share), 3 // color.shape[2], axis=2)


def by_pillow(suffix, mode, **options):
    def write(path):
        picture = PilImage.fromarray(SMOOTH).convert(mode)
        picture.save(path, **options)

    return suffix, write


def by_opencv(suffix, pixels):
    def write(path):
        order = pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
        path.write_bytes(cv2.imencode(suffix, order)[1].tobytes())

    return suffix, write


def by_tifffile(pixels, photometric, **options):
    return ".tif", lambda path: tifffile.imwrite(path, pixels, photometric=photometric, **options)


PLANES = np.ascontiguousarray(np.moveaxis(deep([0, 1, 2]), -1, 0))
FORMATS: dict[str, tuple[str, Callable[..., None]]] = {
    **{f"{mode} png": by_pillow(".png", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    **{f"{mode} tiff": by_pillow(".tif", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")},
    **{f"{mode} bmp": by_pillow(".bmp", mode) for mode in ("1", "L", "P", "RGB", "RGBA")},
    **{f"{mode} jpeg": by_pillow(".jpg", mode, quality=95) for mode in ("L", "RGB", "CMYK")},
    **{f"{mode} webp": by_pillow(".webp", mode, lossless=True) for mode in ("RGB", "RGBA")},
    **{f"{mode} gif": by_pillow(".gif", mode) for mode in ("L", "P")},
    **{f"{mode} pnm": by_pillow(".pnm", mode) for mode in ("1", "L", "RGB")},
    **{f"{mode} jp2": by_pillow(".jp2", mode) for mode in ("L", "RGB", "RGBA")},
    "L tiff lzw": by_pillow(".tif", "L", compression="tiff_lzw"),
    "RGB tiff jpeg": by_pillow(".tif", "RGB", compression="jpeg", quality=95),
    "RGB tiff deflate": by_pillow(".tif", "RGB", compression="tiff_adobe_deflate"),
    "grey16 png": by_opencv(".png", deep(0)),
    "rgb16 png": by_opencv(".png", deep([0, 1, 2])),
    "rgba16 png": by_opencv(".png", deep([0, 1, 2, 3])),
    "grey16 pgm": by_opencv(".pgm", deep(0)),
    "rgb16 ppm": by_opencv(".ppm", deep([0, 1, 2])),
    "grey16 jp2": by_opencv(".jp2", deep(0)),
    "rgb16 jp2": by_opencv(".jp2", deep([0, 1, 2])),
    **{f"grey {kind} tiff": by_tifffile(deep(0, kind), "minisblack") for kind in ("uint16", "float32", "float64")},
    **{f"rgb {kind} tiff": by_tifffile(deep([0, 1, 2], kind), "rgb") for kind in ("uint16", "float32", "float64")},
    "rgba16 tiff": by_tifffile(deep([0, 1, 2, 3]), "rgb", extrasamples=[2]),
    "big-endian grey16 tiff": by_tifffile(deep(0), "minisblack", byteorder=">"),
    "big-endian rgb16 tiff": by_tifffile(deep([0, 1, 2]), "rgb", byteorder=">"),
    "deflated rgb16 tiff": by_tifffile(deep([0, 1, 2]), "rgb", compression="zlib"),
    "tiled rgb16 tiff": by_tifffile(deep([0, 1, 2]), "rgb", tile=(16, 16)),
    "white-is-zero grey8 tiff": by_tifffile(SMOOTH[..., 0], "miniswhite"),
    "white-is-zero grey16 tiff": by_tifffile(deep(0), "miniswhite"),
    "white-is-zero float tiff": by_tifffile(deep(0, "float32"), "miniswhite"),
    "planes rgb16 tiff": by_tifffile(PLANES, "rgb", planarconfig="separate"),
    "rgb and infrared 8 tiff": by_tifffile(SMOOTH, "rgb", extrasamples=[0]),
    "rgb and infrared 16 tiff": by_tifffile(deep([0, 1, 2, 3]), "rgb", extrasamples=[0]),
    "premultiplied rgba16 tiff": by_tifffile(deep([0, 1, 2, 3]), "rgb", extrasamples=[1]),
    "int16 tiff": by_tifffile(deep(0, "int16"), "minisblack"),
    "int8 tiff": by_tifffile(deep(0, "int8"), "minisblack"),
}

NEAR = 2.0
"""Levels of 255 that readers may differ by: some cut bits off where others round."""
STORED = "the other readers give what is stored, whatever the tags say of it"
WHY = {
    "white-is-zero grey16 tiff": STORED,
    "white-is-zero float tiff": STORED,
    "premultiplied rgba16 tiff": STORED,
    "rgb16 jp2": "Pillow, which scikit-image asks, turns what is as white as can be into black",
    "rgb and infrared 8 tiff": "the others give four bands; the fourth is no alpha by its tag",
    "rgb and infrared 16 tiff": "the others give four bands; the fourth is no alpha by its tag",
}
"""Why camseg does not go with the majority."""


def agreed(path):
    """The largest group of readers that show the same, and what; None where no two do."""
    groups: list[tuple[list[str], np.ndarray]] = []
    for name, read in READERS.items():
        try:
            image = shown(read(path))
        except Exception:  # of many kinds: this reader does not read it
            continue
        for names, first in groups:
            if first.shape == image.shape and np.abs(first - image).max() <= NEAR:
                names.append(name)
                break
        else:
            groups.append(([name], image))
    best = max(groups, key=lambda group: len(group[0]), default=([], SMOOTH))
    return best if len(best[0]) > 1 else None


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_camseg_reads_what_most_readers_do(tmp_path, name):
    suffix, write = FORMATS[name]
    path = tmp_path / f"x{suffix}"
    write(path)
    found = agreed(path)
    assert found is not None, "no two readers agree"
    image = read_image(path)
    assert image.shape == found[1].shape
    same = np.abs(image - found[1]).max() <= NEAR
    assert same == (name not in WHY), f"{', '.join(found[0])} agree, and camseg {'too' if same else 'does not'}"
