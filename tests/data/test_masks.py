"""Files of masks as people have them: read as what they are, or refused with what was found."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage

from camseg.base.errors import ImageError, InputError
from camseg.base.settings import from_json, to_json
from camseg.data.images import read_mask, read_mask_and_void, write_mask
from camseg.data.mask_settings import VOC, MaskClasses, MaskReading, parse_mask_classes

OBJECT = np.zeros((48, 64), np.bool_)
OBJECT[10:34, 14:44] = True
OBJECT[20:26, 44:56] = True
RING = cv2.dilate(OBJECT.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool) & ~OBJECT
OTHER = np.zeros_like(OBJECT)
OTHER[38:46, 4:20] = True


def paint(black=0, white=255, **others):
    """uint8 (H, W): OBJECT in white on black, and by their names RING and OTHER."""
    levels = np.where(OBJECT, white, black)
    for name, level in others.items():
        levels[{"ring": RING, "other": OTHER}[name]] = level
    return levels.astype(np.uint8)


def save(path, pixels, **options):
    picture = pixels if isinstance(pixels, PilImage.Image) else PilImage.fromarray(pixels)
    picture.save(path, **options)
    return path


def palette(indices, colors, **options):
    picture = PilImage.fromarray(indices)
    table = np.zeros((256, 3), np.uint8)
    for place, color in colors.items():
        table[place] = color
    picture.putpalette(table.tobytes())
    return picture


def voc(indices):
    colors = {i: [int(color[1 + 2 * k : 3 + 2 * k], 16) for k in range(3)] for i, color in enumerate(VOC_COLORS)}
    return palette(indices, colors | {255: (224, 224, 192)})


VOC_COLORS = [*parse_mask_classes("voc").colors.values()]


def refused(path, match, **reading):
    with pytest.raises(ImageError, match=match) as caught:
        read_mask(path, **reading)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return True


# Two levels are a mask.


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".tif", ".webp", ".pgm", ".tga", ".jp2"])
def test_black_and_white(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    assert np.array_equal(read_mask(save(tmp_path / f"x{suffix}", paint(), **options)), OBJECT)
    assert not read_mask(save(tmp_path / f"empty{suffix}", np.zeros_like(paint()), **options)).any()
    assert read_mask(save(tmp_path / f"full{suffix}", np.full_like(paint(), 255), **options)).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".pbm", ".gif"])
def test_one_bit(tmp_path, suffix):
    assert np.array_equal(read_mask(save(tmp_path / f"x{suffix}", OBJECT)), OBJECT)


def test_zero_and_one(tmp_path):
    assert np.array_equal(read_mask(save(tmp_path / "x.png", paint(white=1))), OBJECT)
    assert read_mask(save(tmp_path / "full.png", np.ones((4, 5), np.uint8))).all()
    assert np.array_equal(read_mask(save(tmp_path / "rgb.png", np.dstack([paint(white=1)] * 3))), OBJECT)
    # In JPEG nobody can tell what was a 1.
    refused(save(tmp_path / "x.jpg", paint(white=1), quality=95), r"two levels.*it has 0, 1.*JPEG keeps levels only")


@pytest.mark.parametrize("white", [1, 255, 65535])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits(tmp_path, suffix, white):
    deep = OBJECT.astype(np.uint16) * np.uint16(white)
    assert np.array_equal(read_mask(save(tmp_path / f"x{suffix}", deep)), OBJECT)
    assert not read_mask(save(tmp_path / f"empty{suffix}", np.zeros_like(deep))).any()
    assert read_mask(save(tmp_path / f"full{suffix}", np.full_like(deep, white))).all()
    refused(save(tmp_path / f"k{suffix}", OBJECT.astype(np.uint16) * np.uint16(900)), "it has 0, 900")
    refused(save(tmp_path / f"v{suffix}", paint(other=1).astype(np.uint16)), "it has 0, 1, 255")


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_floats(tmp_path, white):
    assert np.array_equal(read_mask(save(tmp_path / "x.tif", OBJECT.astype(np.float32) * np.float32(white))), OBJECT)
    ramp = np.linspace(0, white, OBJECT.size, dtype=np.float32).reshape(OBJECT.shape)
    refused(save(tmp_path / "ramp.tif", ramp), "as photos and maps have; camseg masks makes")


def test_antialiased_edges(tmp_path):
    big = np.zeros((240, 320), np.uint8)
    cv2.circle(big, (150, 120), 80, 255, -1)
    cv2.line(big, (10, 10), (300, 60), 255, 9)
    for size in ((160, 120), (80, 60), (107, 80)):
        for method in (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC):
            small = cv2.resize(big, size, interpolation=method)
            assert np.array_equal(read_mask(save(tmp_path / "x.png", small)), small > 127)
    large = cv2.resize(big, (640, 480), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(read_mask(save(tmp_path / "x.png", large)), large > 127)


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95])
def test_noise_of_lossy_formats(tmp_path, quality):
    for suffix in (".jpg", ".webp"):
        path = save(tmp_path / f"x{suffix}", paint(), quality=quality)
        if suffix == ".webp" and quality < 75:
            continue
        assert np.array_equal(read_mask(path), OBJECT)
        colour = save(tmp_path / f"rgb{suffix}", np.dstack([paint()] * 3), quality=quality)
        assert np.array_equal(read_mask(colour), OBJECT)
    # A JPEG that was made a PNG.
    noisy = PilImage.open(tmp_path / "x.jpg")
    assert np.array_equal(read_mask(save(tmp_path / "again.png", noisy)), OBJECT)
    for level in (0, 255):
        flat = save(tmp_path / "flat.jpg", np.full((40, 50), level, np.uint8), quality=quality)
        assert (read_mask(flat) == (level == 255)).all()


def test_turned_as_images_are(tmp_path):
    exif = PilImage.Exif()
    exif[0x0112] = 6
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        path = save(tmp_path / f"x{suffix}", paint(), exif=exif, **({"quality": 95} if suffix != ".png" else {}))
        assert np.array_equal(read_mask(path), np.rot90(OBJECT, -1)), suffix


def test_painted_palettes(tmp_path):
    numbers = OBJECT.astype(np.uint8)
    for suffix in (".png", ".gif"):
        black_first = palette(numbers, {0: (0, 0, 0), 1: (255, 255, 255)})
        assert np.array_equal(read_mask(save(tmp_path / f"x{suffix}", black_first)), OBJECT)
        white_first = palette(numbers, {0: (255, 255, 255), 1: (0, 0, 0)})
        assert np.array_equal(read_mask(save(tmp_path / f"y{suffix}", white_first)), ~OBJECT)
    grey = palette(paint(), {i: (i, i, i) for i in range(256)})
    assert np.array_equal(read_mask(save(tmp_path / "grey.png", grey)), OBJECT)


def test_white_is_zero(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    for dtype in (np.uint8, np.uint16):
        top = np.iinfo(dtype).max
        tifffile.imwrite(tmp_path / "x.tif", np.where(OBJECT, 0, top).astype(dtype), photometric="miniswhite")
        assert np.array_equal(read_mask(tmp_path / "x.tif"), OBJECT)
        tifffile.imwrite(tmp_path / "n.tif", OBJECT.astype(dtype), photometric="miniswhite")
        refused(tmp_path / "n.tif", f"it has {top - 1}, {top}")


# Alpha.


def test_alpha_over_one_colour(tmp_path):
    alpha = paint()
    for color in ((255, 255, 255), (0, 0, 0), (200, 30, 30)):
        pixels = np.dstack([np.full((*alpha.shape, 3), color, np.uint8), alpha])
        assert np.array_equal(read_mask(save(tmp_path / "x.png", pixels)), OBJECT), color
        pixels[alpha == 0, :3] = 0  # as painting programs save what nobody sees
        assert np.array_equal(read_mask(save(tmp_path / "y.png", pixels)), OBJECT), color
    white = np.full_like(alpha, 255)
    assert np.array_equal(read_mask(save(tmp_path / "la.png", np.dstack([white, alpha]))), OBJECT)
    assert not read_mask(save(tmp_path / "none.png", np.dstack([white] * 3 + [np.zeros_like(alpha)]))).any()
    for deep in (np.dstack([white, white, white, alpha]).astype(np.uint16) * 257,):
        data = cv2.imencode(".png", deep)[1].tobytes()
        (tmp_path / "deep.png").write_bytes(data)
        assert np.array_equal(read_mask(tmp_path / "deep.png"), OBJECT)
    smooth = cv2.GaussianBlur(alpha, (3, 3), 0)
    assert np.array_equal(read_mask(save(tmp_path / "s.png", np.dstack([white, smooth]))), smooth > 127)


def test_opaque_alpha_says_nothing(tmp_path):
    opaque = np.full_like(paint(), 255)
    assert np.array_equal(read_mask(save(tmp_path / "x.png", np.dstack([paint()] * 3 + [opaque]))), OBJECT)
    assert np.array_equal(read_mask(save(tmp_path / "la.png", np.dstack([paint(white=1), opaque]))), OBJECT)
    assert not read_mask(save(tmp_path / "black.png", np.dstack([0 * opaque] * 3 + [opaque]))).any()


def test_alpha_that_agrees_or_not(tmp_path):
    assert np.array_equal(read_mask(save(tmp_path / "x.png", np.dstack([paint()] * 4))), OBJECT)
    refused(
        save(tmp_path / "y.png", np.dstack([paint(255, 0)] * 3 + [paint()])), "both vary and differ: alpha has 0, 255"
    )
    shifted = np.roll(paint(), 5, axis=1)
    refused(save(tmp_path / "z.png", np.dstack([shifted] * 3 + [paint()])), "both vary and differ")
    photo = np.random.default_rng(0).integers(0, 256, (*OBJECT.shape, 3)).astype(np.uint8)
    refused(save(tmp_path / "cut.png", np.dstack([photo, paint()])), "#.* and .* more; save the mask")


def test_transparent_colours_of_palettes_and_grey(tmp_path):
    white = palette(OBJECT.astype(np.uint8), {0: (255, 255, 255), 1: (255, 255, 255)})
    assert np.array_equal(read_mask(save(tmp_path / "p.png", white, transparency=0)), OBJECT)
    assert np.array_equal(read_mask(save(tmp_path / "l.png", paint(), transparency=0)), OBJECT)
    refused(save(tmp_path / "r.png", paint(), transparency=255), "both vary and differ")


# Class numbers.


@pytest.mark.parametrize("levels", [(0, 2), (0, 15), (0, 100), (0, 127), (0, 128), (3, 255), (7, 7), (15, 15)])
def test_other_levels_are_refused(tmp_path, levels):
    black, white = levels
    found = ", ".join(str(level) for level in sorted(set(levels)))
    refused(
        save(tmp_path / "x.png", paint(black, white)), f"it has {found}; of class numbers choose one by --mask-class"
    )
    refused(save(tmp_path / "rgb.png", np.dstack([paint(black, white)] * 3)), f"it has {found};")


@pytest.mark.parametrize("number", [1, 2, 15, 38, 100, 128, 200])
def test_numbers_with_void_need_a_class(tmp_path, number):
    levels = paint(white=number, ring=255)
    for path in (save(tmp_path / "x.png", levels), save(tmp_path / "x.tif", levels.astype(np.uint16))):
        refused(path, f"it has 0, {number}, 255")
        mask, void = read_mask_and_void(path, MaskReading(mask_class=str(number)))
        assert np.array_equal(mask, OBJECT)
        assert np.array_equal(void, RING)
        assert np.array_equal(read_mask(path, mask_class=number), OBJECT)
        assert not read_mask(path, mask_class=7).any()
    if number <= 100:
        refused(save(tmp_path / "x.jpg", levels, quality=90), "two levels")


def test_palettes_that_number_classes(tmp_path):
    path = save(tmp_path / "x.png", voc(paint(white=15, ring=255, other=12)))
    refused(path, r"palette gives colours to the class numbers 0, 12, 15, 255; choose one by --mask-class N")
    for reading in ({"mask_class": 15}, {"mask_class": "15"}, {"mask_class": "person", "mask_classes": "voc"}):
        assert np.array_equal(read_mask(path, **reading), OBJECT)
    assert np.array_equal(read_mask(path, "dog", "voc"), OTHER)
    assert np.array_equal(read_mask(path, "any"), OBJECT | OTHER)
    assert np.array_equal(read_mask(path, "any", "voc"), OBJECT | OTHER)
    mask, void = read_mask_and_void(path, MaskReading(mask_class="background", mask_classes=parse_mask_classes("voc")))
    assert np.array_equal(mask, ~(OBJECT | OTHER | RING))
    assert np.array_equal(void, RING)
    # The first class of a palette of colours is no 0 and 1.
    one = save(tmp_path / "one.png", voc(paint(white=1)))
    refused(one, "class numbers 0, 1;")
    assert np.array_equal(read_mask(one, mask_class=1), OBJECT)
    assert not read_mask(save(tmp_path / "none.png", voc(np.zeros_like(paint())))).any()


def test_a_class_of_sixteen_bit_numbers(tmp_path):
    numbers = np.zeros(OBJECT.shape, np.uint16)
    numbers[OBJECT], numbers[OTHER], numbers[RING] = 300, 255, 65535
    path = save(tmp_path / "x.png", numbers)
    refused(path, "it has 0, 255, 300, 65535")
    assert np.array_equal(read_mask(path, mask_class=300), OBJECT)
    mask, void = read_mask_and_void(path, MaskReading(mask_class="any"))
    assert np.array_equal(mask, OBJECT | OTHER)  # of so many objects 255 is one
    assert np.array_equal(void, RING)


def test_a_chosen_class_in_a_mask_of_two_levels(tmp_path):
    path = save(tmp_path / "x.png", paint())
    for chosen in (1, 15, 0, "any"):
        refused(path, "as a mask of one object has; leave --mask-class out", mask_class=chosen)
    assert np.array_equal(read_mask(path, mask_class=255), OBJECT)
    mask, void = read_mask_and_void(path, MaskReading(mask_class="dog", mask_classes=parse_mask_classes("voc")))
    assert not mask.any()
    assert np.array_equal(void, OBJECT)
    noisy = PilImage.open(save(tmp_path / "x.jpg", paint(), quality=75))
    refused(save(tmp_path / "noisy.png", noisy), "leave --mask-class out", mask_class=1)
    refused(tmp_path / "x.jpg", "expected class numbers; JPEG keeps levels only nearly", mask_class=1)
    ones = save(tmp_path / "ones.png", paint(white=1))
    assert np.array_equal(read_mask(ones, mask_class=1), OBJECT)
    assert not read_mask(ones, mask_class=2).any()


def test_numbers_of_files_that_stretch_levels(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 64 48 20\n" + paint(white=15, other=3).tobytes())
    assert np.array_equal(read_mask(tmp_path / "x.pgm", mask_class=15), OBJECT)
    (tmp_path / "y.pgm").write_bytes(b"P5 64 48 20\n" + paint(white=20).tobytes())
    assert np.array_equal(read_mask(tmp_path / "y.pgm"), OBJECT)
    picture = PilImage.fromarray(paint(white=3, other=1))
    picture.putpalette([i for level in (0, 85, 170, 255) for i in (level,) * 3])
    picture.save(tmp_path / "p.png", bits=2)
    assert np.array_equal(read_mask(tmp_path / "p.png", mask_class=3), OBJECT)


def test_numbers_and_alpha(tmp_path):
    numbers = paint(white=15, other=3)
    seen = np.where(numbers > 0, 255, 0).astype(np.uint8)
    path = save(tmp_path / "x.png", np.dstack([numbers, seen]))
    assert np.array_equal(read_mask(path, mask_class=15), OBJECT)
    path = save(tmp_path / "y.png", np.dstack([numbers, np.where(OBJECT, 0, 255).astype(np.uint8)]))
    refused(path, "expected class numbers that can be seen; 15 are transparent", mask_class=15)


# Colours.


def test_colours_are_refused_or_chosen(tmp_path):
    pixels = np.zeros((*OBJECT.shape, 3), np.uint8)
    pixels[OBJECT], pixels[OTHER] = (255, 0, 0), (0, 255, 0)
    path = save(tmp_path / "x.png", pixels)
    for reading in ({}, {"mask_class": 1}, {"mask_class": "rust", "mask_classes": {"rust": 1}}):
        refused(path, r"it has the colours #000000, #FF0000, #00FF00; choose one by --mask-class NAME", **reading)
    classes = {"rust": "#ff0000", "paint": "#00FF00"}
    assert np.array_equal(read_mask(path, "rust", classes), OBJECT)
    assert np.array_equal(read_mask(path, "paint", classes), OTHER)
    assert np.array_equal(read_mask(path, "any", classes), OBJECT | OTHER)
    refused(path, "also has #00FF00; name those too", mask_class="rust", mask_classes={"rust": "#FF0000"})
    refused(save(tmp_path / "x.jpg", pixels, quality=95), "it has the colours")
    refused(tmp_path / "x.jpg", "which JPEG does not", mask_class="rust", mask_classes=classes)
    void = MaskReading(mask_class="rust", mask_classes=parse_mask_classes({**classes, "void": "#FFFFFF"}))
    pixels[RING] = 255
    assert np.array_equal(read_mask_and_void(save(tmp_path / "v.png", pixels), void).void, RING)
    # A dark class number in one channel is a colour too, not noise.
    refused(save(tmp_path / "id.png", np.dstack([paint(white=1), paint(white=0), paint(white=0)])), "#010000")


def test_coloured_overlays_on_nothing(tmp_path):
    pixels = np.zeros((*OBJECT.shape, 4), np.uint8)
    pixels[OBJECT], pixels[OTHER] = (255, 0, 0, 255), (0, 0, 255, 255)
    path = save(tmp_path / "x.png", pixels)
    refused(path, "both vary and differ")
    assert np.array_equal(read_mask(path, "rust", {"rust": "#FF0000", "blue": "#0000FF"}), OBJECT)


def test_the_colours_of_voc(tmp_path):
    indices = paint(white=7, ring=255)  # cars are grey
    path = save(tmp_path / "x.png", voc(indices).convert("RGB"))
    mask, void = read_mask_and_void(path, MaskReading(mask_class="car", mask_classes=parse_mask_classes("voc")))
    assert np.array_equal(mask, OBJECT)
    assert np.array_equal(void, RING)
    assert np.array_equal(read_mask(path, "7", "voc"), OBJECT)
    assert not read_mask(path, "dog", "voc").any()


# Photos and maps.


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_photos_and_maps_are_no_masks(tmp_path, suffix):
    random = np.random.default_rng(0)
    photo = cv2.GaussianBlur(random.integers(0, 256, (60, 80, 3)).astype(np.uint8), (0, 0), 2)
    refused(save(tmp_path / f"x{suffix}", photo), "colours")
    grey = cv2.normalize(photo[..., 0], None, 0, 255, cv2.NORM_MINMAX)
    refused(save(tmp_path / f"g{suffix}", grey), "as photos and maps have; camseg masks makes masks of maps")
    refused(tmp_path / f"g{suffix}", "expected class numbers", mask_class=9)
    for width in (4, 8, 15):
        heat = cv2.GaussianBlur(paint(), (0, 0), width)
        heat = cv2.normalize(heat, None, 0, 255, cv2.NORM_MINMAX)
        refused(save(tmp_path / f"h{suffix}", heat), "as photos and maps have")


def test_trimaps_are_no_masks(tmp_path):
    trimap = paint(ring=128)
    refused(save(tmp_path / "x.png", trimap), "it has 0, 128, 255")
    wide = cv2.resize(trimap, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    refused(save(tmp_path / "x.jpg", wide, quality=90), "two levels")


# Settings.


def test_class_maps_from_files(tmp_path):
    want = MaskClasses(numbers={"rust": 1, "old paint": 2, "void": 255}, colors={})
    for name, text in {
        "a.csv": "name,value\nrust,1\n old paint , 2\nvoid,255\n",
        "b.csv": "rust,1\r\nold paint,2\r\n\r\nvoid,255",
        "c.csv": "\ufeffname,id\nrust,1\nold paint,2\nvoid,255\n",
        "d.json": '{"rust": 1, "old paint": 2, "void": 255}',
        "e.json": '{"rust": "1", "old paint": "2", "void": "255"}',
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert parse_mask_classes(tmp_path / name) == want
        assert parse_mask_classes(str(tmp_path / name)) == want
    (tmp_path / "colours.csv").write_text("name,value\nrust,#ff0000\n")
    assert parse_mask_classes(tmp_path / "colours.csv") == MaskClasses(numbers={}, colors={"rust": "#FF0000"})
    classes = parse_mask_classes("voc")
    assert classes.names == (*VOC, "void")
    assert [classes.colors[name] for name in ("aeroplane", "person", "tvmonitor", "void")] == [
        "#800000",
        "#C08080",
        "#004080",
        "#E0E0C0",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected classes"),
        ("{}", "expected classes"),
        ("name,value\n", "expected classes"),
        ("rust\n", "expected rows name,value; got 'rust'"),
        ("a,1,2\n", "expected rows name,value"),
        ("a,red\n", "expected a whole number or #RRGGBB as the value of 'a'; got 'red'"),
        ('{"a": 1.5}', "expected a whole number"),
        ('{"a": true}', "expected a whole number"),
        ('{"a": {"b": 1}}', "expected a whole number"),
        ("a,1\na,2\n", "a name of its own"),
        ('{"a": 1, "a": 2}', "a name of its own"),
        ("a,1\nb,#FF0000\n", "mixes both"),
        ('{"a": 1', "not valid JSON"),
        ("a,1\x00\n", "expected a whole number|not a readable CSV"),
    ],
)
def test_class_maps_that_say_nothing(tmp_path, text, message):
    (tmp_path / "x").write_text(text)
    with pytest.raises(InputError, match=message):
        parse_mask_classes(tmp_path / "x")


def test_class_maps_that_cannot_be_read(tmp_path):
    (tmp_path / "latin").write_bytes("ü,1".encode("latin-1"))
    for path, message in {
        tmp_path / "none": "there is no",
        tmp_path / "latin": "UTF-8",
        tmp_path: "cannot be read",
    }.items():
        with pytest.raises(InputError, match=message):
            parse_mask_classes(path)


def test_readings_that_cannot_be():
    for values, message in (
        ({"mask_classes": "voc"}, "none is chosen"),
        ({"mask_class": "dog"}, "expected as mask class a number, or any; got 'dog'; mask classes give names"),
        ({"mask_class": "cow boy", "mask_classes": "voc"}, "one of background, aeroplane.*got 'cow boy'"),
        ({"mask_class": "1", "mask_classes": {"rust": "#FF0000"}}, "one of rust, or any"),
        ({"mask_class": True}, "mask class"),
    ):
        with pytest.raises(InputError, match=message):
            from_json(MaskReading, values)
        with pytest.raises(InputError, match=message):
            MaskReading(**values)


@pytest.mark.parametrize("classes", [None, "voc", {"rust": 1, "void": 9}, {"rust": "#FF0000"}])
def test_readings_survive_json(classes):
    chosen = "3" if classes is None else "dog" if classes == "voc" else "rust"
    reading = from_json(MaskReading, {"mask_class": chosen, "mask_classes": classes})
    assert from_json(MaskReading, json.loads(json.dumps(to_json(reading)))) == reading


def test_what_is_written_is_read(tmp_path):
    write_mask(tmp_path / "x.png", OBJECT)
    assert np.array_equal(read_mask(tmp_path / "x.png"), OBJECT)
