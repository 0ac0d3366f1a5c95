"""TIFF of all kinds against its 8-bit twin: the same colours, or a refusal that names the kind of pixels."""

import importlib.util
import itertools
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image as PilImage

from camseg.base.errors import ImageError, InputError
from camseg.data.images import read_image, read_mask
from camseg.data.opening import count_frames

SHOWN = np.random.default_rng(0).integers(0, 256, (20, 24, 3))
ALPHA = np.random.default_rng(1).integers(1, 256, (20, 24, 1))
TYPES = ("uint8", "int8", "uint16", "int16", "float16", "float32", "float64")
TURNS = {
    1: lambda a: a,
    3: lambda a: np.rot90(a, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
}


def scaled(levels, dtype):
    """Levels 0 to 255 as pixels of another type that show the same."""
    kind = np.dtype(dtype)
    top = 1.0 if kind.kind == "f" else float(np.iinfo(kind).max)
    values = levels / 255.0 * top
    return (values if kind.kind == "f" else np.rint(values)).astype(kind)


def write(path, bands, photometric, *, separate=False, orientation=1, **options):
    pixels = (
        bands[..., 0] if bands.shape[2] == 1 else np.ascontiguousarray(np.moveaxis(bands, -1, 0)) if separate else bands
    )
    if bands.shape[2] > 1:
        options["planarconfig"] = "separate" if separate else "contig"
    if orientation != 1:
        options["extratags"] = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(path, pixels, photometric=photometric, **options)
    return path


def check(path, want, tolerance=1):
    image = read_image(path)
    assert image.shape == want.shape
    assert np.abs(image.astype(int) - want).max() <= tolerance


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_grey_and_rgb(tmp_path, dtype, order):
    grey = np.repeat(SHOWN[..., :1], 3, axis=2)
    bits = 2 if dtype == "int8" else 1  # of 128 levels
    for orientation, compression in itertools.product(TURNS, (None, "zlib")):
        options = {"orientation": orientation, "byteorder": order, "compression": compression}
        turn = TURNS[orientation]
        check(write(tmp_path / "g.tif", scaled(SHOWN[..., :1], dtype), "minisblack", **options), turn(grey), bits)
        white = scaled(255 - SHOWN[..., :1], dtype)
        check(write(tmp_path / "w.tif", white, "miniswhite", **options), turn(grey), bits)
        for separate in (False, True):
            path = write(tmp_path / "c.tif", scaled(SHOWN, dtype), "rgb", separate=separate, **options)
            check(path, turn(SHOWN), bits)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("separate", [False, True])
def test_extra_samples(tmp_path, dtype, separate):
    infrared = write(
        tmp_path / "n.tif", scaled(np.dstack([SHOWN, ALPHA]), dtype), "rgb", separate=separate, extrasamples=[0]
    )
    check(infrared, SHOWN, 2 if dtype == "int8" else 1)
    on_white = np.rint(SHOWN * (ALPHA / 255.0) + 255.0 - ALPHA).astype(int)
    path = write(
        tmp_path / "a.tif", scaled(np.dstack([SHOWN, ALPHA]), dtype), "rgb", separate=separate, extrasamples=[2]
    )
    check(path, on_white, 2)
    multiplied = SHOWN * (ALPHA / 255.0)
    path = write(
        tmp_path / "p.tif", scaled(np.dstack([multiplied, ALPHA]), dtype), "rgb", separate=separate, extrasamples=[1]
    )
    check(path, on_white, 3)
    both = scaled(np.dstack([SHOWN, 255 - ALPHA, ALPHA]), dtype)
    check(write(tmp_path / "b.tif", both, "rgb", separate=separate, extrasamples=[0, 2]), on_white, 2)
    grey = write(
        tmp_path / "g.tif",
        scaled(np.dstack([SHOWN[..., :1], ALPHA]), dtype),
        "minisblack",
        separate=separate,
        extrasamples=[2],
    )
    check(grey, np.repeat(on_white[..., :1], 3, axis=2), 2)


def lzw(data):
    """Bytes as a stream of TIFF's LZW that only uses literals: tifffile cannot write it without its codecs."""
    codes = []
    for start in range(0, len(data), 200):
        codes += [256, *data[start : start + 200]]  # cleared before codes of 10 bits would come
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def write_lzw(path, pages, **options):
    """A TIFF of pages of one strip, or one per plane; written as another compression, whose name is then changed."""
    with tifffile.TiffWriter(path, byteorder=options.pop("byteorder", None)) as file:
        for strips, shape, dtype in pages:
            file.write(iter(map(lzw, strips)), shape=shape, dtype=dtype, compression="zlib", **options)
    with tifffile.TiffFile(path, mode="r+b") as tags:
        for page in tags.pages:
            page.tags[259].overwrite(5)
    return path


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
@pytest.mark.parametrize(
    ("photometric", "extra"),
    [("minisblack", ()), ("miniswhite", ()), ("rgb", ()), ("rgb", (0,)), ("rgb", (1,)), ("rgb", (2,))],
)
def test_lzw_has_the_pixels_of_its_uncompressed_twin(tmp_path, dtype, photometric, extra):
    bands = np.dstack([SHOWN, ALPHA])[..., : 1 if photometric != "rgb" else 3 + len(extra)]
    if extra == (1,):
        bands[..., :3] = bands[..., :3] * bands[..., 3:] // 255
    for orientation, order in itertools.product((1, 3, 6, 7), "<>"):
        options = {"orientation": orientation, "byteorder": order, "extrasamples": extra or None}
        plain = write(tmp_path / "plain.tif", scaled(bands, dtype), photometric, **options)
        stored = scaled(bands, dtype).astype(np.dtype(dtype).newbyteorder(order))
        shape = (20, 24) if bands.shape[2] == 1 else bands.shape
        write_lzw(
            tmp_path / "x.tif",
            [([stored.tobytes()], shape, dtype)],
            photometric=photometric,
            byteorder=order,
            extrasamples=extra or None,
            planarconfig=None if bands.shape[2] == 1 else "contig",
            extratags=[(274, 3, 1, orientation, True)] if orientation != 1 else [],
        )
        for window in ("full", "percentile"):
            assert np.array_equal(read_image(tmp_path / "x.tif", window), read_image(plain, window))


def test_lzw_in_planes_is_read_or_names_the_extra(tmp_path):
    planes = scaled(np.moveaxis(SHOWN, -1, 0), "uint16")
    strips = [plane.tobytes() for plane in planes]
    write_lzw(tmp_path / "x.tif", [(strips, planes.shape, "uint16")], photometric="rgb", planarconfig="separate")
    if importlib.util.find_spec("imagecodecs"):
        check(tmp_path / "x.tif", SHOWN)
    else:
        with pytest.raises(
            ImageError, match=r"16-bit TIFF of 3 bands, RGB, compressed by LZW; pip install 'camseg\[tiff"
        ):
            read_image(tmp_path / "x.tif")


def test_the_second_page_of_lzw(tmp_path):
    strips = [scaled(SHOWN[..., :1] // divisor, "uint16").tobytes() for divisor in (1, 2)]
    write_lzw(tmp_path / "x.tif", [([one], (20, 24), "uint16") for one in strips], photometric="minisblack")
    want = np.repeat(SHOWN[..., :1] // 2, 3, axis=2)
    assert np.abs(read_image(tmp_path / "x.tif", page=1).astype(int) - want).max() <= 1


@pytest.mark.parametrize("packed", [False, True])
def test_twelve_bits(tmp_path, packed):
    values = np.arange(480).reshape(20, 24) * 8
    rows = np.zeros((20, 36), np.uint8)
    first, second = values[:, ::2], values[:, 1::2]
    rows[:, ::3], rows[:, 1::3], rows[:, 2::3] = first >> 4, (first & 15) << 4 | second >> 8, second & 255
    data = lzw(rows.tobytes()) if packed else rows.tobytes()
    tags = {256: 24, 257: 20, 258: 12, 259: 5 if packed else 1, 262: 1, 273: 8, 277: 1, 278: 20, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data) + len(data) % 2)
    (tmp_path / "x.tif").write_bytes(
        head + data + b"\0" * (len(data) % 2) + struct.pack("<H", len(tags)) + entries + bytes(4)
    )
    assert np.abs(read_image(tmp_path / "x.tif")[..., 0] - values * (255 / 4095)).max() <= 0.51
    assert np.abs(read_image(tmp_path / "x.tif", "0,1000")[..., 0] - np.minimum(values, 1000) * 0.255).max() <= 0.51


def test_pages_and_smaller_copies(tmp_path):
    stack = [scaled(SHOWN[..., :1] // divisor, "uint16")[..., 0] for divisor in (1, 2, 3)]
    tifffile.imwrite(tmp_path / "x.tif", np.stack(stack), photometric="minisblack")
    assert count_frames(tmp_path / "x.tif") == 3
    for page, divisor in enumerate((1, 2, 3)):
        want = np.repeat(SHOWN[..., :1] // divisor, 3, axis=2)
        assert np.abs(read_image(tmp_path / "x.tif", page=page).astype(int) - want).max() <= 1
    for path in (tmp_path / "x.tif", write(tmp_path / "8.tif", scaled(SHOWN, "uint8"), "rgb")):
        with pytest.raises(InputError, match=r"expected a page from 0 to \d; got 7"):
            read_image(path, page=7)
    with tifffile.TiffWriter(tmp_path / "copies.tif") as file:
        file.write(scaled(SHOWN[:5, :5], "uint8"), photometric="rgb", subfiletype=1)
        file.write(scaled(SHOWN, "uint8"), photometric="rgb")
    assert count_frames(tmp_path / "copies.tif") == 1
    assert np.array_equal(read_image(tmp_path / "copies.tif"), SHOWN)
    imagej = np.zeros((9, 20, 24), np.uint16)
    tifffile.imwrite(tmp_path / "ij.tif", imagej, imagej=True)
    assert count_frames(tmp_path / "ij.tif") == 9


def test_frames_of_other_formats(tmp_path):
    frames = [PilImage.fromarray((SHOWN // divisor).astype(np.uint8)) for divisor in (1, 2, 3)]
    for suffix in (".gif", ".png", ".webp"):
        path = tmp_path / f"x{suffix}"
        frames[0].save(
            path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == ".webp" else {})
        )
        assert count_frames(path) == 3
        assert np.abs(read_image(path, page=2).astype(int) - SHOWN // 3).mean() < 20
        frames[0].save(path)
        assert count_frames(path) == 1
    with pytest.raises(ImageError, match="no such file"):
        count_frames(tmp_path / "none.png")


BANDS = np.zeros((20, 24, 5), np.uint16)


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (BANDS, {"photometric": "minisblack", "planarconfig": "contig"}, "TIFF of 5 bands"),
        (BANDS[..., :2], {"photometric": "minisblack", "planarconfig": "contig"}, "TIFF of 2 bands"),
        (BANDS[..., :2].astype(np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "TIFF of 2 bands"),
        (BANDS[..., 0].astype(np.complex64), {"photometric": "minisblack"}, "complex 64-bit TIFF of 1 band"),
        (BANDS[..., :3], {"photometric": "cielab"}, "16-bit TIFF of 3 bands, CIELAB"),
        (BANDS[..., :4], {"photometric": "separated"}, "16-bit TIFF of 4 bands, SEPARATED"),
        (np.zeros((4, 20, 24), np.uint16), {"photometric": "minisblack", "volumetric": True}, "volume of 4 slices"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, pixels, options, message):
    if "volumetric" in options:
        options = {**options, "tile": (4, 16, 16)}
    tifffile.imwrite(tmp_path / "x.tif", pixels, **options)
    for read in (read_image, read_mask):
        with pytest.raises(ImageError, match=message) as caught:
            read(tmp_path / "x.tif")
        assert "damaged" not in str(caught.value)


def test_windows_see_stored_values(tmp_path):
    values = np.linspace(0, 4000, 480).reshape(20, 24).astype(np.uint16)
    tifffile.imwrite(tmp_path / "b.tif", values, photometric="minisblack")
    tifffile.imwrite(tmp_path / "w.tif", values, photometric="miniswhite")
    for window in ("0,4095", "percentile"):
        black, white = (read_image(tmp_path / f"{name}.tif", window)[..., 0].astype(int) for name in "bw")
        assert np.abs(black + white - 255).max() <= 1
    signed = (values.astype(np.int32) - 1000).astype(np.int16)
    tifffile.imwrite(tmp_path / "s.tif", signed)
    with pytest.raises(
        ImageError, match=r"values from -1000 to 3000, outside 0\.\.32767; choose the window percentile"
    ):
        read_image(tmp_path / "s.tif")
    assert read_image(tmp_path / "s.tif", "-1000,3000")[..., 0].tolist()[0][:2] == [0, 1]


def test_files_cut_short(tmp_path):
    for compression, name in ((None, "plain"), ("zlib", "packed")):
        path = write(tmp_path / f"{name}.tif", scaled(SHOWN, "uint16"), "rgb", compression=compression, rowsperstrip=2)
        data = path.read_bytes()
        for share in (0.95, 0.6, 0.2):
            path.write_bytes(data[: int(len(data) * share)])
            with pytest.raises(ImageError, match=name):
                read_image(path)
    path = write(tmp_path / "x.tif", scaled(SHOWN, "uint16"), "rgb", compression="zlib")
    with tifffile.TiffFile(path) as tags:
        start, count = tags.pages[0].dataoffsets[0], tags.pages[0].databytecounts[0]
    data = bytearray(path.read_bytes())
    short = zlib.compress(bytes(100))
    data[start : start + len(short)] = short
    path.write_bytes(data)
    assert count > len(short)
    with pytest.raises(ImageError, match=r"x\.tif"):
        read_image(path)


def test_pages_in_a_circle_are_counted_once(tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((2, 8, 8), np.uint16), photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        first, second = (page.offset for page in file.pages)
    data = bytearray(path.read_bytes())
    (count,) = struct.unpack_from("<H", data, second)
    struct.pack_into("<I", data, second + 2 + 12 * count, first)
    path.write_bytes(data)
    assert count_frames(path) == 2
    with pytest.raises(InputError, match="expected a page from 0 to 1; got 2"):
        read_image(path, page=2)
