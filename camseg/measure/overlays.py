"""Overlays on images and contact sheets, as RGB images; writing them is for ``images``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from camseg.base.arrays import Cam, Image, Mask, check_cam, check_image, check_mask, check_same_size, quantise
from camseg.base.errors import InputError

INK, FAINT, PAPER, GRID = "#24292f", "#6e7781", "#ffffff", "#e4e7eb"
"""The colours of all that is drawn beside images."""
MASK_COLOR = (0, 200, 255)
_HEAT: NDArray[np.uint8] = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[
    0, :, ::-1
]  # (256, 3), RGB


def colorize(cam: Cam) -> Image:
    """The map in colour, dark for 0 and bright for 1, equal steps looking equal (the colour map inferno).

    ``cam`` is float (H, W) in [0, 1]; the result is uint8 (H, W, 3). Raises InputError otherwise.
    """
    colors: Image = _HEAT[quantise(check_cam(cam))]
    return colors


def overlay_cam(image: Image, cam: Cam, opacity: float = 0.7) -> Image:
    """The map in colour over the image: the higher the map, the less of the image shows.

    Where the map is 0 the image is unchanged; where it is 1 the colour covers it by ``opacity``,
    in [0, 1]. Raises InputError for other arrays, sizes that differ or another opacity.
    """
    colors = colorize(cam)
    check_same_size(check_image(image), cam, "image and map")
    return _mix(image, colors, _check_opacity(opacity) * np.sqrt(cam))


def overlay_mask(image: Image, mask: Mask, *, color: tuple[int, int, int] = MASK_COLOR, opacity: float = 0.3) -> Image:
    """The image with the mask tinted by ``opacity`` and outlined; outside the mask it is unchanged.

    The outline lies inside the mask, 1 pixel wide for every 160 pixels of the image's shorter side.
    Raises InputError for other arrays, sizes that differ, an opacity outside [0, 1] or a colour
    that is not three numbers from 0 to 255.
    """
    check_same_size(check_image(image), check_mask(mask), "image and mask")
    if len(color) != 3 or not all(0 <= channel <= 255 for channel in color):
        raise InputError(f"expected a colour of three numbers from 0 to 255; got {color}")
    width = max(1, round(min(mask.shape) / 160))
    # cv2 takes what lies beyond the image as part of the mask: an object that leaves it stays open there.
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    inner = cv2.erode(mask.astype(np.uint8), disc).astype(bool)
    alpha = np.where(inner, _check_opacity(opacity), 1.0) * mask
    return _mix(image, np.asarray(color, np.uint8), alpha)


def _mix(below: Image, above: NDArray[np.uint8], alpha: NDArray[np.floating]) -> Image:
    return np.rint(below + (above.astype(np.float32) - below) * alpha.astype(np.float32)[..., None]).astype(np.uint8)


def _check_opacity(opacity: float) -> float:
    if not 0 <= opacity <= 1:
        raise InputError(f"expected an opacity from 0 to 1; got {opacity}")
    return opacity


# ---- contact sheet -------------------------------------------------------------------------------


def contact_sheet(
    rows: Sequence[Sequence[NDArray[Any]]],
    titles: Sequence[str],
    *,
    captions: Sequence[str] | None = None,
    cell: int = 192,
) -> Image:
    """Rows of pictures under column titles, each fitted into a square of ``cell`` pixels.

    A picture is an Image, a map (coloured), a mask (black and white) or any other uint8 (H, W), such
    as a trimap (grey). ``captions`` are written below the rows, one each. Text too long for its
    place is cut. Raises InputError if there is nothing to show, a row is not as long as ``titles``,
    an array is none of these or ``cell`` is below 32.
    """
    if not rows or not titles:
        raise InputError(f"expected at least one row and one column; got {len(rows)} rows and {len(titles)} titles")
    if wrong := [len(row) for row in rows if len(row) != len(titles)]:
        raise InputError(f"expected {len(titles)} pictures in each row, one for each title; got a row of {wrong[0]}")
    if captions is not None and len(captions) != len(rows):
        raise InputError(f"expected a caption for each of {len(rows)} rows; got {len(captions)}")
    if cell < 32:
        raise InputError(f"expected cells of at least 32 pixels; got {cell}")

    gutter, text = max(2, cell // 32), max(11, cell // 12)
    title_height, caption_height = 2 * text, round(1.9 * text) if captions else 0
    pitch_x, pitch_y = cell + gutter, cell + gutter + caption_height
    width, height = gutter + pitch_x * len(titles), title_height + pitch_y * len(rows) + gutter * (not captions)
    sheet = PillowImage.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    title_font, caption_font = _font(text), _font(round(0.85 * text))
    for column, title in enumerate(titles):
        middle = gutter + pitch_x * column + cell // 2
        draw.text((middle, title_height // 2), _cut(title, title_font, cell), INK, title_font, anchor="mm")
    for index, row in enumerate(rows):
        top = title_height + pitch_y * index
        for column, picture in enumerate(row):
            left = gutter + pitch_x * column
            draw.rectangle((left, top, left + cell - 1, top + cell - 1), GRID)
            fitted = PillowImage.fromarray(_fit(_to_rgb(picture), cell))
            sheet.paste(fitted, (left + (cell - fitted.width) // 2, top + (cell - fitted.height) // 2))
        if captions:
            caption = _cut(captions[index], caption_font, width - 2 * gutter)
            draw.text((gutter, top + cell + caption_height * 0.45), caption, FAINT, caption_font, anchor="lm")
    return np.array(sheet)


def _to_rgb(picture: NDArray[Any]) -> Image:
    if picture.dtype == np.uint8 and picture.ndim == 3:
        return check_image(picture)
    if np.issubdtype(picture.dtype, np.floating):
        return colorize(picture)
    if picture.dtype in (np.uint8, np.bool_) and picture.ndim == 2 and picture.size:
        grey = picture if picture.dtype == np.uint8 else picture * np.uint8(255)
        return np.repeat(grey[..., None], 3, axis=2)
    raise InputError(
        "expected an image (uint8 (H, W, 3)), a map (float (H, W)), a mask (bool (H, W)) or a trimap (uint8 (H, W)); "
        f"got {picture.dtype} {picture.shape}"
    )


def _fit(picture: Image, cell: int) -> Image:
    scale = cell / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    fitted = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return np.asarray(fitted, np.uint8)


def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    text = text.replace("\n", " ")
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
