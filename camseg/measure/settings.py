"""How predictions are measured."""

from typing import Annotated

from pydantic import Field

from camseg.base.settings import settings
from camseg.masks.settings import MaskSettings, ThresholdText


@settings
class EvaluateSettings:
    """How predictions are compared with true masks."""

    thresholds: Annotated[tuple[ThresholdText, ...], Field(min_length=1)] = (MaskSettings.threshold,)
    """Binarise maps by this, as in camseg masks; also a threshold FILE."""
    draw: Annotated[int, Field(ge=1)] | None = None
    """Choose the best threshold on so many of the true masks that hold an object, drawn at random; the others score
    it. Default: all choose it."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Start of the random choices: which masks are drawn, and the bootstrap intervals."""
    corrected: bool = True
    """A person's corrected masks take the place of the machine's."""
