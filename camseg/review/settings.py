"""What is told of masks, and how."""

from typing import Annotated, Literal, TypeAlias

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


Order: TypeAlias = Literal["worst", "uncertain", "random", "diverse"]
"""In which order masks are shown."""


@settings
class ReviewSettings:
    """How masks are shown to people."""

    order: Order = "worst"
    """worst: the least quality first; uncertain: near the middle of all qualities; random; diverse: each as unlike
    those before as can be. One mask of twenty is drawn at random in every order."""
    reviewers: Annotated[int, Field(ge=1, le=50)] = 1
    """How many people look at once; each gets an address."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8765
    """On this machine; 0 takes a free one."""
    annotator: str | None = None
    """Your name in corrections.jsonl; of several reviewers each says it on the page."""
    browser: bool = True
    """Open the page in a browser."""
    seed: int = 0
    """Start of all random choices."""
