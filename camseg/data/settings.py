"""How training images are changed at random; nothing here loads an image library."""

from typing import Annotated, Final

from pydantic import Field

from camseg.base.settings import settings


@settings
class Augmentation:
    """Ranges of the random changes; all zero and False changes nothing."""

    rotation: Annotated[float, Field(ge=0, lt=360)] = 20.0
    """Largest rotation either way, degrees."""
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Largest relative change of size either way."""
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest shift either way along each axis, as a share of the side."""
    mirror: bool = True
    """Mirror left to right half of the time."""
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Largest change of brightness either way, as a share of the full range."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Largest relative change of contrast either way, about the image's mean."""


NONE: Final = Augmentation(rotation=0.0, zoom=0.0, shift=0.0, mirror=False, brightness=0.0, contrast=0.0)
"""Images as they are."""
