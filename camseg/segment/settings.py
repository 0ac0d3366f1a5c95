"""How images go through a segmentation network; nothing here loads one."""

from typing import Annotated

from pydantic import Field

from camseg.base.settings import settings


@settings
class ViewSettings:
    """How an image is shown to a segmentation network."""

    flip: bool = False
    """Take the mean with what it says of the mirrored image."""
    tile: Annotated[int, Field(ge=32)] | None = None
    """Cut images with a longer side than this many pixels into overlapping squares of that side, each shown by itself:
    for networks that learned from images cut so. Default: every image is shown whole."""
