"""What is told of masks, and how."""

from typing import Annotated

from pydantic import Field

from camseg.base.settings import settings


@settings
class ReportSettings:
    """What a report shows."""

    worst: Annotated[int, Field(ge=0, le=5000)] = 500
    """Pictures of so many masks of the least quality."""
    random: Annotated[int, Field(ge=0, le=5000)] = 100
    """Pictures of so many others, drawn at random."""
    picture: Annotated[int, Field(ge=48, le=1024)] = 192
    """Their longest side in pixels."""
    seed: int = 0
    """Start of all random choices."""


@settings
class QualitySettings:
    """What is made of corrections."""

    calibrate: bool = False
    """Fit qualities to what people said of masks: a quality then is the probability that a mask's Dice is at least that
    of --least-dice."""
    least_dice: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7
    """From which Dice on, with what a person let stand, a mask counts as right."""
