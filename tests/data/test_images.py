import contextlib
import os
import stat
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage

from camseg.base.errors import ImageError, InputError
from camseg.data.datasets import load_images
from camseg.data.images import (
    HEIC_SUFFIXES,
    IMAGE_SUFFIXES,
    check_window,
    find_images,
    image_suffixes,
    passed_over_line,
    read_cam,
    read_header,
    read_image,
    read_levels,
    read_mask,
    read_trimap,
    relative_name,
    squeezed,
    write_cam,
    write_image,
    write_mask,
    write_raw,
)

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (5, 7), dtype=np.uint8)
RGB = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(16)[:, None] * 8, np.arange(24)[None] * 5, 90), axis=-1).astype(
    np.uint8
)


def save(path, pixels, mode=None, **options):
    picture = PilImage.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def mode(path):
    with PilImage.open(path) as picture:
        return picture.mode


def write_png(path, pixels, color_type):
    """A 16-bit PNG by hand, of color types that no writer here gives."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


def save_deep(path, pixels):
    """16-bit pixels, grey, RGB or RGBA, as PNG or TIFF."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def on_white(color, alpha):
    share = alpha[..., None] / 255.0
    return color * share + 255.0 * (1 - share)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".ppm"])
def test_rgb_comes_as_it_is(tmp_path, suffix):
    image = read_image(save(tmp_path / f"x{suffix}", RGB))
    assert image.dtype == np.uint8
    assert np.array_equal(image, RGB)


@pytest.mark.parametrize("suffix", [".png", ".pgm", ".tif", ".gif", ".bmp"])
def test_grey_is_repeated(tmp_path, suffix):
    assert np.array_equal(read_image(save(tmp_path / f"x{suffix}", GREY)), np.repeat(GREY[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG", ".webp"])
def test_lossy_formats_come_close(tmp_path, suffix):
    image = read_image(save(tmp_path / f"x{suffix}", SMOOTH, quality=95))
    assert np.abs(image.astype(int) - SMOOTH).mean() < 3


NO_PICTURES = {
    "documents and drawings": ".emf .eps .pdf .ps .wmf",
    "icons, brushes, textures of games, and what Pillow gives up": ".blp .cur .ftc .ftu .gbr .icns .ico .im",
    "videos": ".flc .fli .mpeg .mpg",
    "data whose values Pillow does not scale, or does not read": ".bufr .fit .fits .grib .h5 .hdf .iim .palm .pcd",
}
"""Suffixes that Pillow knows and camseg passes over."""
MODES = {".pgm": "L", ".pbm": "1", ".pfm": "F", ".xbm": "1", ".msp": "1", ".bw": "L", ".gif": "P"}


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_that_is_found_can_be_read(tmp_path, suffix):
    PilImage.init()
    kind = {".mpo": "JPEG", ".sr": "TIFF", ".ras": "TIFF"}.get(suffix) or PilImage.registered_extensions().get(suffix)
    if kind not in PilImage.SAVE:
        assert kind in PilImage.OPEN or suffix in (".avif", ".avifs")  # which Pillow has since 11.3
        return
    picture = PilImage.fromarray(SMOOTH).convert(MODES.get(suffix, "RGB"))
    if suffix == ".pfm":
        picture = PilImage.fromarray((SMOOTH[..., 0] / 255).astype(np.float32))
    picture.save(tmp_path / f"x{suffix}", format=kind)
    assert read_image(tmp_path / f"x{suffix}").shape == SMOOTH.shape


def test_every_picture_that_pillow_reads_is_found():
    PilImage.init()
    known = {suffix for suffix, kind in PilImage.registered_extensions().items() if kind in PilImage.OPEN}
    passed_over = {suffix for suffixes in NO_PICTURES.values() for suffix in suffixes.split()}
    assert known - passed_over - HEIC_SUFFIXES <= IMAGE_SUFFIXES
    assert not passed_over & IMAGE_SUFFIXES


def test_what_is_not_found_is_counted(tmp_path):
    for name in ["a.png", "b.jfif", "c.HEIC", "d.heic", "deep/e.mov", "f", ".g.heic", "h.txt", "Thumbs.db", "i.xml"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images(tmp_path)
    heic = () if image_suffixes() >= HEIC_SUFFIXES else ((".heic", 2),)
    assert [path.name for path in found.files if path.suffix.lower() != ".heic"] == ["a.png", "b.jfif"]
    assert found.passed_over == (*heic, ("", 1), (".mov", 1))
    assert load_images(tmp_path).passed_over == found.passed_over
    assert passed_over_line(()) is None
    assert passed_over_line(((".mov", 1),)) == "1 other file passed over (.mov 1)"
    line = "3 other files passed over (.heic 2, no suffix 1); pip install 'camseg[heic]' reads .heic"
    assert passed_over_line(((".heic", 2), ("", 1))) == line
    (tmp_path / "others").mkdir()
    (tmp_path / "others/x.mov").touch()
    with pytest.raises(InputError, match=r"nothing to read in .*; it holds \.mov 1"):
        find_images(tmp_path / "others")


def test_heic_is_read_or_named(tmp_path):
    if image_suffixes() >= HEIC_SUFFIXES:
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.register_heif_opener()
        exif = PilImage.Exif()
        exif[0x0112] = 6
        image = read_image(save(tmp_path / "x.heic", SMOOTH, exif=exif, quality=95))
        assert np.abs(image.astype(int) - np.rot90(SMOOTH, -1)).mean() < 3
        return
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ImageError, match=r"HEIC picture; pip install 'camseg\[heic\]'"):
        read_image(tmp_path / "x.heic")


def test_transparent_pixels_are_laid_on_white(tmp_path):
    alpha = RANDOM.integers(0, 256, (5, 7), dtype=np.uint8)
    image = read_image(save(tmp_path / "x.png", np.dstack([RGB, alpha])))
    assert np.abs(image - on_white(RGB, alpha)).max() <= 1
    grey = np.dstack([GREY, alpha])
    image = read_image(save(tmp_path / "la.png", grey))
    assert mode(tmp_path / "la.png") == "LA"
    assert np.abs(image - on_white(np.repeat(GREY[..., None], 3, axis=2), alpha)).max() <= 1


def test_palettes_are_looked_up(tmp_path):
    indices = RANDOM.integers(0, 4, (5, 7), dtype=np.uint8)
    colors = np.array([[10, 20, 30], [200, 0, 100], [0, 255, 0], [90, 90, 90]], np.uint8)
    picture = PilImage.fromarray(indices)
    picture.putpalette(colors.tobytes())
    picture.save(tmp_path / "x.png")
    assert mode(tmp_path / "x.png") == "P"
    assert np.array_equal(read_image(tmp_path / "x.png"), colors[indices])
    picture.save(tmp_path / "x.gif")
    assert np.array_equal(read_image(tmp_path / "x.gif"), colors[indices])
    picture.save(tmp_path / "t.png", transparency=2)
    seen = colors.copy()
    seen[2] = 255
    assert np.array_equal(read_image(tmp_path / "t.png"), seen[indices])


def test_one_transparent_colour_of_rgb_and_grey(tmp_path):
    marked = RGB.copy()
    marked[1, 2] = (1, 2, 3)
    seen = marked.copy()
    seen[1, 2] = 255
    assert np.array_equal(read_image(save(tmp_path / "x.png", marked, transparency=(1, 2, 3))), seen)
    grey = np.array([[0, 7], [9, 255]], np.uint8)
    assert read_image(save(tmp_path / "g.png", grey, transparency=7))[..., 0].tolist() == [[0, 255], [9, 255]]


def test_cmyk_jpeg(tmp_path):
    image = read_image(save(tmp_path / "x.jpg", SMOOTH, mode="CMYK", quality=95))
    assert mode(tmp_path / "x.jpg") == "CMYK"
    assert np.abs(image.astype(int) - SMOOTH).mean() < 4


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_one_bit(tmp_path, suffix):
    bits = GREY > 127
    image = read_image(save(tmp_path / f"x{suffix}", bits))
    assert mode(tmp_path / f"x{suffix}") == "1"
    assert np.array_equal(image, np.repeat(np.where(bits, 255, 0)[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("pixels", [DEEP[..., 0], DEEP], ids=["grey", "rgb"])
def test_sixteen_bits_through_every_window(tmp_path, suffix, pixels):
    path = save_deep(tmp_path / f"x{suffix}", pixels)
    values = pixels.astype(float)
    low, high = np.percentile(values, (0.5, 99.5))
    for window, (start, end) in {"full": (0, 65535), "percentile": (low, high), "1000,30000": (1000, 30000)}.items():
        want = 255 * np.clip((values - start) / (end - start), 0, 1)
        want = np.repeat(want[..., None], 3, axis=2) if want.ndim == 2 else want
        image = read_image(path, window)
        assert image.dtype == np.uint8
        assert np.abs(image - want).max() <= 0.51, window


def test_compressed_sixteen_bit_tiff_and_pgm(tmp_path):
    save(tmp_path / "x.tif", DEEP[..., 0], compression="tiff_lzw")
    assert np.abs(read_image(tmp_path / "x.tif")[..., 0] - DEEP[..., 0] / 257).max() <= 0.51
    (tmp_path / "x.pgm").write_bytes(b"P5 7 5 65535\n" + DEEP[..., 0].astype(">u2").tobytes())
    assert np.abs(read_image(tmp_path / "x.pgm")[..., 0] - DEEP[..., 0] / 257).max() <= 0.51


def test_sixteen_bit_transparency(tmp_path):
    alpha = RANDOM.integers(0, 65536, (5, 7), dtype=np.uint16)
    for suffix in (".png", ".tiff"):
        image = read_image(save_deep(tmp_path / f"x{suffix}", np.dstack([DEEP, alpha])))
        assert np.abs(image - on_white(DEEP / 257, alpha / 257)).max() <= 1
    image = read_image(write_png(tmp_path / "la.png", np.dstack([DEEP[..., 0], alpha]), color_type=4))
    assert np.abs(image - on_white(DEEP[..., :1] / 257, alpha / 257)).max() <= 1


def test_float_tiff(tmp_path):
    values = RANDOM.random((5, 7)).astype(np.float32)
    save(tmp_path / "x.tif", values)
    assert np.abs(read_image(tmp_path / "x.tif")[..., 1] - 255 * values).max() <= 0.51
    save(tmp_path / "y.tif", values * 50 - 10)
    want = 255 * np.clip((values * 50 - 10) / 20, 0, 1)
    assert np.abs(read_image(tmp_path / "y.tif", "0,20")[..., 1] - want).max() <= 0.51
    with pytest.raises(ImageError, match="window percentile or LOW,HIGH"):
        read_image(tmp_path / "y.tif")
    with pytest.raises(ImageError, match="not finite"):
        read_image(save(tmp_path / "nan.tif", np.full((2, 2), np.nan, np.float32)))


def test_a_constant_deep_image_has_no_percentiles_to_spread(tmp_path):
    flat = read_image(save(tmp_path / "x.png", np.full((4, 4), 999, np.uint16)), "percentile")
    assert not flat.any()


@pytest.mark.parametrize("window", ["", "half", "1", "1,2,3", "9,3", "5,5", "nan,1", "0,inf"])
def test_windows_outside_the_grammar(tmp_path, window):
    with pytest.raises(InputError, match="window"):
        check_window(window)
    for path in (save(tmp_path / "8.png", GREY), save(tmp_path / "16.png", DEEP[..., 0])):
        with pytest.raises(InputError, match="window"):
            read_image(path, window)


ORIENTED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
    8: np.rot90,
}
"""EXIF orientation -> how stored pixels are turned to be seen upright."""


@pytest.mark.parametrize("orientation", ORIENTED)
def test_exif_rotation_is_applied_once(tmp_path, orientation):
    turn = ORIENTED[orientation]
    exif = PilImage.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(read_image(save(tmp_path / "8.png", RGB, exif=exif)), turn(RGB))
    image = read_image(save(tmp_path / "x.jpg", SMOOTH, exif=exif, quality=95))
    assert image.shape == turn(SMOOTH).shape
    assert np.abs(image.astype(int) - turn(SMOOTH)).mean() < 3
    image = read_image(save(tmp_path / "16.png", DEEP[..., 0], exif=exif))
    assert np.abs(image[..., 0] - turn(DEEP[..., 0] / 257)).max() <= 0.51
    for compression in ("raw", "tiff_lzw"):
        options = {"tiffinfo": {0x0112: orientation}, "compression": compression}
        assert np.array_equal(read_image(save(tmp_path / "rgb.tif", RGB, **options)), turn(RGB))
        assert np.array_equal(read_image(save(tmp_path / "grey.tif", GREY, **options))[..., 0], turn(GREY))
        image = read_image(save(tmp_path / "16.tif", DEEP[..., 0], **options))
        assert np.abs(image[..., 0] - turn(DEEP[..., 0] / 257)).max() <= 0.51
    # Colour of 16 bits goes another way, through OpenCV; the tag is put into its file by hand.
    data = save_deep(tmp_path / "c.png", DEEP).read_bytes()
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    start = data.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "c.png").write_bytes(data[:start] + chunk + data[start:])
    assert np.abs(read_image(tmp_path / "c.png") - turn(DEEP / 257)).max() <= 0.51


def test_the_first_of_several_frames(tmp_path):
    frames = [PilImage.fromarray(GREY), PilImage.fromarray(255 - GREY)]
    for suffix in (".gif", ".tif"):
        frames[0].save(tmp_path / f"x{suffix}", save_all=True, append_images=frames[1:])
        assert np.array_equal(read_image(tmp_path / f"x{suffix}")[..., 0], GREY)


def test_one_pixel(tmp_path):
    assert read_image(save(tmp_path / "x.png", np.array([[[1, 2, 3]]], np.uint8))).tolist() == [[[1, 2, 3]]]
    assert read_image(save(tmp_path / "deep.png", np.array([[65535]], np.uint16))).tolist() == [[[255] * 3]]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on damaged TIFF
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.gif", "x.webp", "x.bmp", "x.tif", "deep.png", "deep.tiff"])
def test_truncated_files(tmp_path, name):
    big = RANDOM.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / name
    path = save_deep(path, big.astype(np.uint16) * 257) if name.startswith("deep") else save(path, big)
    data = path.read_bytes()
    for share in (0.9, 0.5, 0.05):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ImageError, match=name):
            read_image(path)


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("not a picture\n" * 50)
    (tmp_path / "folder.png").mkdir()
    for name, reason in {
        "empty.png": "the file is empty",
        "text.jpg": "not an image",
        "missing.png": "no such file",
        "folder.png": "cannot be read",
        "nul\0.png": "null",
    }.items():
        for read in (read_image, read_levels, read_mask):
            with pytest.raises(ImageError, match=reason) as caught:
                read(tmp_path / name)
            assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tif", ".webp", ".ppm"])
def test_flipped_bytes_are_read_or_refused(tmp_path, suffix, recwarn):
    good = save(tmp_path / f"x{suffix}", RGB).read_bytes()
    random = np.random.default_rng(1)
    for _ in range(40):
        data = bytearray(good)
        for position in random.integers(0, len(data), 3):
            data[position] = random.integers(0, 256)
        (tmp_path / "bad").write_bytes(data)
        with contextlib.suppress(ImageError):
            assert read_image(tmp_path / "bad").dtype == np.uint8


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="everything is readable here")
def test_a_file_without_permission(tmp_path):
    path = save(tmp_path / "x.png", RGB)
    path.chmod(0)
    with pytest.raises(ImageError, match="Permission denied"):
        read_image(path)


def test_too_many_pixels_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(PilImage, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match="tile it"):
        read_image(save(tmp_path / "x.png", RGB))


@pytest.mark.parametrize("name", ["with space.png", "übung/日本語 ñ.png", "a.b.c.png"])
def test_names_with_spaces_and_letters_of_all_kinds(tmp_path, name):
    write_image(tmp_path / name, RGB)
    assert np.array_equal(read_image(tmp_path / name), RGB)
    found = find_images(tmp_path)
    assert found.files == (tmp_path / name,)
    assert relative_name(found.files[0], found.root) + ".png" == name


def test_finding_mirrors_the_tree_in_the_order_of_names(tmp_path):
    for name in ["b/2.png", "b/10.PNG", "a.jpeg", "b.tif", "b/.hidden.png", ".git/x.png", "b/notes.txt", "z/y/x.webp"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images(tmp_path)
    assert [relative_name(path, found.root) for path in found.files] == ["a", "b", "b/10", "b/2", "z/y/x"]
    assert found.root == tmp_path
    assert found.failures == ()


def test_finding_one_file_nothing_or_no_folder(tmp_path):
    path = save(tmp_path / "x.png", RGB)
    assert find_images(path).files == (path,)
    assert find_images(path).root == tmp_path
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"nothing to read in .*images .*\.png"):
        find_images(tmp_path / "empty")
    with pytest.raises(InputError, match="does not exist"):
        find_images(tmp_path / "missing")


def test_folders_that_cannot_be_listed_are_told(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", RGB)
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # root may list everything
    found = find_images(tmp_path)
    assert found.files == (path,)
    assert found.failures == ((tmp_path / "closed", "Permission denied"),)
    assert find_images(tmp_path / "closed").files == ()


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    write_image(path, RGB)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_image(path, 255 - RGB)
    with pytest.raises(OSError, match="disk full"):
        write_image(tmp_path / "new.png", RGB)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.png"]
    assert np.array_equal(read_image(path), RGB)


@pytest.mark.skipif(sys.platform == "win32", reason="no such rights")
def test_written_files_have_the_usual_rights(tmp_path):
    (tmp_path / "usual").touch()
    write_image(tmp_path / "x.png", RGB)
    assert stat.S_IMODE((tmp_path / "x.png").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_round_trips(tmp_path):
    mask = GREY > 100
    write_mask(tmp_path / "sub/mask.png", mask)
    assert np.array_equal(read_mask(tmp_path / "sub/mask.png"), mask)
    assert set(np.unique(read_levels(tmp_path / "sub/mask.png"))) == {0, 255}
    cam = (GREY / 255).astype(np.float32)
    write_cam(tmp_path / "cam.png", cam)
    assert np.array_equal(read_levels(tmp_path / "cam.png"), GREY)
    assert np.array_equal(read_cam(tmp_path / "cam.png"), cam)
    trimap = np.array([[0, 128, 255]], np.uint8)
    write_image(tmp_path / "trimap.png", trimap)
    assert np.array_equal(read_trimap(tmp_path / "trimap.png"), trimap)
    rgba = np.dstack([RGB, GREY])
    write_image(tmp_path / "rgba.png", rgba)
    assert np.array_equal(np.array(PilImage.open(tmp_path / "rgba.png")), rgba)
    write_image(tmp_path / "x.jpg", SMOOTH)
    assert np.abs(read_image(tmp_path / "x.jpg").astype(int) - SMOOTH).mean() < 3


def test_raw_maps_keep_their_values_and_are_no_levels(tmp_path):
    raw = np.array([[0.0, 3.5], [-2.0, 1e6]])
    write_raw(tmp_path / "x.tif", raw)
    assert np.array_equal(np.array(PilImage.open(tmp_path / "x.tif")), raw.astype(np.float32))
    save(tmp_path / "deep.png", DEEP[..., 0])
    for name, kind in {"x.tif": "float", "deep.png": "16-bit or more"}.items():
        for read in (read_levels, read_cam, read_trimap):
            with pytest.raises(ImageError, match=f"expected 8-bit levels; its pixels are {kind}"):
                read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_maps_are_grey_and_opaque(tmp_path, suffix):
    cam = np.clip(255 - 5.0 * np.hypot(*np.mgrid[-40:40, -40:40]), 0, 255).astype(np.uint8)
    options = {".jpg": {"quality": 90}, ".webp": {"lossless": True, "exact": True}}.get(suffix, {})
    for mode in ("L", "RGB"):
        path = save(tmp_path / f"grey{suffix}", cam, mode=mode, **options)
        if suffix == ".jpg":  # as photos are
            for read in (read_levels, read_cam):
                with pytest.raises(ImageError, match="JPEG keeps levels only nearly"):
                    read(path)
        else:
            assert np.array_equal(read_levels(path), cam)
    heat = cv2.applyColorMap(cam, cv2.COLORMAP_JET)[..., ::-1]
    save(tmp_path / f"jet{suffix}", heat, **options)
    save(tmp_path / f"photo{suffix}", SMOOTH, **options)
    for name in ("jet", "photo"):
        for read in (read_levels, read_cam, read_trimap):
            with pytest.raises(ImageError, match=r"expected grey levels; it has the colours #[0-9A-F]{6}, #.* more;"):
                read(tmp_path / f"{name}{suffix}")
    if suffix != ".jpg":
        save(tmp_path / f"alpha{suffix}", np.dstack([cam, cam, cam, cam]), **options)
        with pytest.raises(ImageError, match="transparent"):
            read_levels(tmp_path / f"alpha{suffix}")
        opaque = np.dstack([cam, cam, cam, np.full_like(cam, 255)])
        assert np.array_equal(read_levels(save(tmp_path / f"opaque{suffix}", opaque, **options)), cam)


def test_maps_of_palettes_and_of_other_whites(tmp_path):
    picture = PilImage.fromarray(np.array([[0, 1, 2]], np.uint8))
    picture.putpalette([0, 0, 0, 90, 90, 90, 200, 200, 200])
    picture.save(tmp_path / "grey.png")
    assert read_levels(tmp_path / "grey.png").tolist() == [[0, 90, 200]]
    picture.putpalette([0, 0, 0, 90, 90, 90, 200, 200, 0])
    picture.save(tmp_path / "colours.png")
    with pytest.raises(ImageError, match="#C8C800"):
        read_levels(tmp_path / "colours.png")
    (tmp_path / "x.pgm").write_bytes(b"P5 3 1 100\n" + bytes([0, 50, 100]))
    assert read_levels(tmp_path / "x.pgm").tolist() == [[0, 128, 255]]
    assert read_levels(save(tmp_path / "bits.png", np.array([[True, False]]))).tolist() == [[255, 0]]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_maps_and_trimaps_are_turned_as_images_are(tmp_path, suffix):
    exif = PilImage.Exif()
    exif[0x0112] = 6
    trimap = np.zeros((48, 80), np.uint8)
    trimap[:16] = 255
    options = {".jpg": {"quality": 100}, ".webp": {"lossless": True}}.get(suffix, {})
    path = save(tmp_path / f"x{suffix}", trimap, exif=exif, **options)
    assert np.array_equal(read_trimap(path), np.rot90(trimap, -1))
    assert np.array_equal(read_image(path)[..., 0], np.rot90(trimap, -1))


def test_trimaps_of_other_levels_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"x\.png.*0, 128 and 255"):
        read_trimap(save(tmp_path / "x.png", np.array([[0, 127]], np.uint8)))


def test_what_cannot_be_written_is_said(tmp_path):
    for name, pixels in {
        "x.xyz": RGB,
        "x": RGB,
        "x.png": RGB.astype(np.float32),
        "y.png": RGB[..., :2],
        "z.png": RGB[0, 0],
    }.items():
        with pytest.raises(InputError, match="cannot encode"):
            write_image(tmp_path / name, pixels)
    with pytest.raises(InputError, match="expected a mask"):
        write_mask(tmp_path / "x.png", GREY)
    assert not list(tmp_path.iterdir())


def test_find_images_enters_linked_folders_but_not_in_circles(tmp_path):
    write_image(tmp_path / "store" / "x.png", np.zeros((4, 4, 3), np.uint8))
    root = tmp_path / "root"
    (root / "here").mkdir(parents=True)
    (root / "linked").symlink_to(tmp_path / "store")
    (root / "here" / "back").symlink_to(root)

    assert [relative_name(path, root) for path in find_images(root).files] == ["linked/x"]


def test_images_that_the_full_window_squeezes(tmp_path):
    random = np.random.default_rng(0)

    def folder(low, high, count=20, suffix=".png", dtype=np.uint16):
        paths = [tmp_path / f"{i:02}{suffix}" for i in range(count)]
        for i, path in enumerate(paths):
            values = random.integers(low, high, (8, 9)) if dtype == np.uint16 else random.random((8, 9)) * high
            values.flat[0] = high if i % 5 == 0 else low
            PilImage.fromarray(values.astype(dtype)).save(path)
        return paths

    assert squeezed(folder(600, 3000)) == (
        "the window full leaves these images the levels 2 to 12 of 255, for their values end at 3000 of 65535 in 8 of "
        "them; choose --window 0,4095 or percentile"
    )
    assert squeezed(folder(0, 1000)).endswith("choose --window 0,1023 or percentile")
    assert squeezed(folder(0, 16000)).endswith("choose --window 0,16383 or percentile")
    assert squeezed(folder(32000, 33000)).endswith(
        "levels 125 to 128 of 255, for their values end at 33000 of 65535 in 8 of them; choose --window percentile"
    )
    assert squeezed(folder(0, 60000)) is None
    assert squeezed(folder(0, 0.01, suffix=".tif", dtype=np.float32)).endswith("choose --window percentile")
    assert squeezed(folder(0, 1, suffix=".tif", dtype=np.float32)) is None
    assert squeezed([]) is None
    assert squeezed([save(tmp_path / "8.png", GREY), tmp_path / "none.png"]) is None
    assert squeezed([save(tmp_path / "flat.png", np.zeros((5, 5), np.uint16))]) is None
    (tmp_path / "x.pgm").write_bytes(b"P5 7 5 4095\n" + (DEEP[..., 0] >> 4).astype(">u2").tobytes())
    assert squeezed([tmp_path / "x.pgm"]) is None


@pytest.mark.parametrize("white", [1, 15, 100, 255, 1000, 4095, 65535])
@pytest.mark.parametrize("bands", [1, 3])
def test_pnm_of_any_white(tmp_path, white, bands):
    values = RANDOM.integers(0, white + 1, (5, 7, bands))
    head = f"P{5 if bands == 1 else 6} 7 5 {white}\n".encode()
    (tmp_path / "x.pnm").write_bytes(head + values.astype(">u2" if white > 255 else "u1").tobytes())
    plain = f"P{2 if bands == 1 else 3} 7 5 {white}\n" + " ".join(map(str, values.ravel()))
    (tmp_path / "y.pnm").write_text(plain + "\n")
    want = np.broadcast_to(values / white * 255, (5, 7, 3))
    for name in ("x.pnm", "y.pnm"):
        assert np.abs(read_image(tmp_path / name) - want).max() <= 0.51
        if white > 255:
            low = np.broadcast_to(np.minimum(values, white // 2) / (white // 2) * 255, (5, 7, 3))
            assert np.abs(read_image(tmp_path / name, f"0,{white // 2}") - low).max() <= 0.51


@pytest.mark.parametrize("bands", [1, 3])
def test_jpeg_2000_of_sixteen_bits(tmp_path, bands):
    smooth = cv2.resize(DEEP[..., :bands], (64, 48), interpolation=cv2.INTER_CUBIC).reshape(48, 64, bands)
    path = tmp_path / "x.jp2"
    done, data = cv2.imencode(".jp2", smooth[..., ::-1], [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    assert done
    path.write_bytes(data.tobytes())
    for window, top in {"full": 65535, "0,30000": 30000}.items():
        want = np.broadcast_to(np.minimum(smooth, top) / top * 255, (48, 64, 3))
        assert np.abs(read_image(path, window) - want).max() <= 2


def test_one_transparent_level_of_sixteen_bits(tmp_path):
    grey = np.array([[7, 70], [700, 65535]], np.uint16)
    path = write_png(tmp_path / "x.png", grey, color_type=0)
    data = path.read_bytes()
    start = data.index(b"IDAT") - 4
    body = b"tRNS" + struct.pack(">H", 7)
    path.write_bytes(data[:start] + struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body)) + data[start:])
    assert read_image(path)[..., 0].tolist() == [[255, 0], [3, 255]]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"\x93NUMPY\x01\0", "a NumPy array; save it anew"),
        (bytes(128) + b"DICM", "DICOM file; camseg prepare dicom"),
        (bytes(344) + b"n+1\0", "NIfTI volume; camseg prepare slices"),
        (b"\0\0\0\x20ftypisom", "video; camseg prepare frames"),
        (b"%PDF-1.7", "PDF"),
        (b"\xff\x0a\xfa", "JPEG XL"),
        (b"v/1\x01", "OpenEXR"),
        (b"8BPS\0\x01" + bytes(16) + b"\0\x10\0\x03", "Photoshop file of 16-bit channels"),
        (b"text", "not an image of a kind that can be read; save it anew"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, head, message):
    (tmp_path / "x.png").write_bytes(head + bytes(300))
    for read in (read_image, read_mask):
        with pytest.raises(ImageError, match=message):
            read(tmp_path / "x.png")


def test_files_that_look_like_sgi_of_sixteen_bits(tmp_path):
    header = struct.pack(">hBBHHHHii", 474, 0, 2, 2, 7, 5, 1, 0, 65535)
    (tmp_path / "x.sgi").write_bytes(header.ljust(512, b"\0") + DEEP[..., 0].astype(">u2").tobytes())
    with pytest.raises(ImageError, match="SGI file of 16 bits"):
        read_image(tmp_path / "x.sgi")


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_header_tells_the_size_that_is_seen(tmp_path, orientation):
    exif = PilImage.Exif()
    exif[0x0112] = orientation
    PilImage.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    header = read_header(tmp_path / "a.jpg")
    assert (header.height, header.width) == read_image(tmp_path / "a.jpg").shape[:2]
    assert header.turned == (orientation != 1)
    PilImage.fromarray(np.zeros((20, 30), np.uint16)).save(tmp_path / "deep.png")
    assert read_header(tmp_path / "deep.png") == (30, 20, False)
    with pytest.raises(ImageError, match="no such file"):
        read_header(tmp_path / "none.png")
