from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from camseg.base.errors import InputError
from camseg.measure.overlays import colorize, contact_sheet, overlay_cam, overlay_mask

GREY = np.zeros((8, 8), np.uint8)
RGB = np.zeros((8, 8, 3), np.uint8)
CAM = np.zeros((8, 8), np.float32)


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def mask() -> NDArray[np.bool_]:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    return mask


def test_colorize_goes_from_dark_to_bright_in_like_steps() -> None:
    colors = colorize(np.linspace(0, 1, 256, dtype=np.float32)[None])[0] / 255.0
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)  # CIE 1976 L*
    assert lightness[0] < 2
    assert lightness[-1] > 95
    steps = np.diff(lightness[::15])
    assert 2.5 < steps.min() <= steps.max() < 7.5


def test_overlay_cam_leaves_the_image_where_the_map_is_zero(image: NDArray[np.uint8]) -> None:
    cam = np.zeros((40, 60), np.float32)
    cam[5:9, 7:20] = 1.0
    np.testing.assert_array_equal(overlay_cam(image, cam)[cam == 0], image[cam == 0])
    np.testing.assert_array_equal(overlay_cam(image, cam, opacity=1)[cam == 1], colorize(cam)[cam == 1])
    np.testing.assert_array_equal(overlay_cam(image, cam, opacity=0), image)


def test_overlay_mask_changes_the_mask_only(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    before = image.copy()
    drawn = overlay_mask(image, mask, color=(0, 255, 0), opacity=0)
    np.testing.assert_array_equal(drawn[~mask], image[~mask])
    np.testing.assert_array_equal(drawn[11:29, 21:49], image[11:29, 21:49])  # opacity 0: the outline alone is drawn
    for side in (drawn[10, 20:50], drawn[29, 20:50], drawn[10:30, 20], drawn[10:30, 49]):
        assert (side == (0, 255, 0)).all()
    tinted = overlay_mask(image, mask, color=(0, 255, 0), opacity=0.5)[11:29, 21:49]
    np.testing.assert_allclose(tinted, image[11:29, 21:49] / 2.0 + np.array([0, 127.5, 0]), atol=0.5)
    np.testing.assert_array_equal(image, before)


def test_the_outline_grows_with_the_image() -> None:
    mask = np.zeros((640, 640), bool)
    mask[100:500, 100:500] = True
    drawn = overlay_mask(np.zeros((640, 640, 3), np.uint8), mask, color=(255, 0, 0), opacity=0)
    assert (drawn[300, :, 0] > 0).sum() == 2 * 4


def test_an_object_that_leaves_the_image_has_no_outline_there() -> None:
    drawn = overlay_mask(np.zeros((20, 20, 3), np.uint8), np.ones((20, 20), bool), opacity=0)
    assert not drawn.any()


def test_contact_sheet_puts_each_picture_into_its_cell() -> None:
    red, blue = (np.full((50, 50, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))
    trimap, cam = np.full((50, 50), 128, np.uint8), np.ones((50, 50), np.float32)
    wide, full = np.full((10, 40, 3), (0, 255, 0), np.uint8), np.ones((50, 50), bool)
    sheet = contact_sheet([[red, blue, trimap], [cam, wide, full]], ["a", "b", "c"], cell=64)
    assert sheet.dtype == np.uint8
    assert sheet.flags.writeable
    rows = np.flatnonzero((sheet == (255, 0, 0)).all(axis=2).any(axis=1))
    columns = np.flatnonzero((sheet == (255, 0, 0)).all(axis=2).any(axis=0))
    assert (len(rows), len(columns)) == (64, 64)
    middle = rows[0] + 32, columns[0] + 32
    pitch = np.flatnonzero((sheet[middle[0]] == (0, 0, 255)).all(axis=1))[0] - columns[0]
    seen = [[tuple(sheet[middle[0] + y * pitch, middle[1] + x * pitch]) for x in range(3)] for y in range(2)]
    assert seen == [
        [(255, 0, 0), (0, 0, 255), (128, 128, 128)],
        [tuple(colorize(cam)[0, 0]), (0, 255, 0), (255, 255, 255)],
    ]
    green = (sheet == (0, 255, 0)).all(axis=2)
    assert (green.any(axis=1).sum(), green.any(axis=0).sum()) == (16, 64)  # 40 x 10 fitted into 64 x 64


def test_contact_sheet_titles_and_captions_are_seen_and_cut_to_their_place(image: NDArray[np.uint8]) -> None:
    plain = contact_sheet([[image, image]], ["", ""], cell=64)
    titled = contact_sheet([[image, image]], ["a title that is far too long", ""], cell=64)
    changed = np.flatnonzero((plain != titled).any(axis=(0, 2)))
    assert plain.shape == titled.shape
    assert 0 < len(changed) <= 64
    assert changed.max() < plain.shape[1] // 2
    captioned = contact_sheet([[image, image]], ["", ""], cell=64, captions=["Dice 0.83 " * 20])
    assert captioned.shape[0] > plain.shape[0]
    assert captioned.shape[1] == plain.shape[1]
    assert (captioned[plain.shape[0] :] < 200).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: colorize(CAM + 2), "in \\[0, 1\\]"),
        (lambda: overlay_cam(RGB, CAM[:4]), "differ in size"),
        (lambda: overlay_cam(RGB, CAM, opacity=2), "opacity from 0 to 1"),
        (lambda: overlay_mask(RGB, GREY), "expected a mask"),
        (lambda: overlay_mask(RGB, CAM[:4] > 0), "differ in size"),
        (lambda: overlay_mask(RGB, CAM > 0, color=(0, 0, 300)), "three numbers"),
        (lambda: contact_sheet([], ["a"]), "at least one row"),
        (lambda: contact_sheet([[RGB]], ["a", "b"]), "2 pictures in each row"),
        (lambda: contact_sheet([[RGB]], ["a"], captions=["b", "c"]), "caption for each of 1 rows"),
        (lambda: contact_sheet([[RGB]], ["a"], cell=8), "at least 32"),
        (lambda: contact_sheet([[CAM.astype(int)]], ["a"]), "got int64"),
        (lambda: contact_sheet([[GREY[:0]]], ["a"]), "got uint8 \\(0, 8\\)"),
        (lambda: contact_sheet([[CAM * np.nan]], ["a"]), "in \\[0, 1\\]"),
    ],
)
def test_refuses_what_cannot_be_drawn(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
