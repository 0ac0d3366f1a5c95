"""The settings of each propagator."""

from typing import Annotated

from pydantic import Field

from camseg.base.errors import InputError
from camseg.base.settings import settings

Positive = Annotated[float, Field(gt=0, lt=1e30)]
"""A width, or another number that is divided by."""
Weight = Annotated[float, Field(ge=0, lt=1e30)]
Rounds = Annotated[int, Field(ge=0)]


@settings
class GridSettings:
    """The grid on which a map is spread; every propagator adds its own settings and has its own defaults."""

    working_size: Annotated[int, Field(ge=8)]
    """Longest side of the grid, in cells: a larger guide is averaged down to it, a smaller one keeps its size."""


@settings
class ParSettings(GridSettings):
    """Pixel-adaptive refinement; the defaults are those of the results table."""

    working_size: Annotated[int, Field(ge=8)] = 192
    """As in GridSettings, in pixels."""
    rounds: Rounds = 20
    """How often every pixel is averaged with its neighbours."""
    dilations: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 2, 4, 8, 12)
    """Distances of the rings of eight neighbours, in pixels of the working grid."""
    color_width: Positive = 0.3
    """Colour differences are divided by this many local standard deviations: smaller keeps to edges more."""
    position_weight: Weight = 0.01
    """Weight of nearness beside likeness of colour."""

    def __post_init__(self) -> None:
        if max(self.dilations) >= self.working_size:
            raise InputError(f"expected dilations below the working size of {self.working_size}; got {self.dilations}")


@settings
class CrfSettings(GridSettings):
    """The dense conditional random field; widths are standard deviations of the Gaussian kernels."""

    working_size: Annotated[int, Field(ge=8)] = 48
    """As in GridSettings, in pixels. All pairs of pixels are compared, so that time and memory grow with its fourth
    power: a square of 48 takes 20 MiB, one of 128 takes 1 GiB."""
    rounds: Rounds = 5
    """Updates of the mean field."""
    certainty: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """The map's values are clipped to [1 - certainty, certainty] before they are taken for probabilities."""
    appearance_weight: Weight = 2.0
    """Weight of the kernel of pixels that are near and alike."""
    appearance_width: Positive = 0.15
    """How far that kernel reaches, as a share of the image's longest side."""
    color_width: Positive = 0.05
    """How unlike colours in [0, 1] may be."""
    smoothness_weight: Weight = 1.0
    """Weight of the kernel of near pixels."""
    smoothness_width: Positive = 0.02
    """How far that kernel reaches, as a share of the image's longest side."""


@settings
class GuidedSettings(GridSettings):
    """The guided filter with a colour guide."""

    working_size: Annotated[int, Field(ge=8)] = 128
    """As in GridSettings, in pixels."""
    radius: Annotated[float, Field(gt=0, le=1)] = 0.12
    """Half the window's side, as a share of the image's longest side."""
    smoothness: Positive = 1e-4
    """The variance of colours in [0, 1] below which a window counts as flat and is only averaged."""


@settings
class SuperpixelSettings(GridSettings):
    """Voting of SLIC's superpixels."""

    working_size: Annotated[int, Field(ge=8)] = 128
    """As in GridSettings, in pixels."""
    count: Annotated[int, Field(ge=1)] = 100
    """About how many superpixels an image is cut into."""
    compactness: Positive = 10.0
    """Weight of nearness beside likeness of colour: larger makes superpixels squarer."""


@settings
class WalkSettings(GridSettings):
    """The random walk."""

    working_size: Annotated[int, Field(ge=8)] = 64
    """As in GridSettings, in cells of the features. All pairs are compared: memory grows with its fourth power."""
    power: Positive = 4.0
    """Affinities are raised to this power: larger keeps to what is most alike."""
    rounds: Rounds = 1
    """Steps of the walk."""
