"""How the unknown band of a trimap is made, and how it is decided."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from camseg.base.errors import InputError
from camseg.base.settings import Option, settings
from camseg.base.sizes import SizeText, parse_size
from camseg.masks.settings import ThresholdText, parse_threshold
from camseg.refinement.registry import check_refiner, trained


def _or_none(value: Any) -> Any:
    return None if value == "none" else value


@settings
class TrimapSettings:
    """The unknown band of a trimap; radii in pixels (5) or in percent of the object's width (10%)."""

    recipe: Literal["fitted", "published"] = "fitted"
    """fitted to each object by the options here, or published: that of Laptev and Gerget as it stands."""
    open: Annotated[SizeText, Option(metavar="RADIUS")] = parse_size(0)
    """Opening: leave undecided what is thinner than twice this."""
    close: Annotated[SizeText, Option(metavar="RADIUS")] = parse_size(0)
    """Closing: fill what is narrower than twice this."""
    dilate: Annotated[SizeText, Option(metavar="RADIUS")] = parse_size("20%")
    """Unknown band outwards, in pixels (5) or of the object's width (20%)."""
    erode: Annotated[SizeText, Option(metavar="RADIUS")] = parse_size("20%")
    """Unknown band inwards, in pixels (5) or of the object's width (20%)."""
    sure: Annotated[ThresholdText | None, BeforeValidator(_or_none), Option(metavar="THRESHOLD|none")] = (
        parse_threshold("max:0.85")
    )
    """Foreground in any case, where a map is at hand: what of the mask lies above this threshold of it."""
    low: ThresholdText | None = None
    """With high: cut the trimap from the map at two thresholds instead; below this is background."""
    high: ThresholdText | None = None
    """Above this is foreground."""

    def __post_init__(self) -> None:
        own = ("open", "close", "dilate", "erode", "sure", "low", "high")
        if self.recipe == "published" and any(getattr(self, name) != getattr(type(self), name) for name in own):
            raise InputError("the published trimap recipe has its own radii; leave the others and thresholds out")
        if (self.low is None) != (self.high is None):
            raise InputError("a trimap from two thresholds needs both, a low and a high one")
        if self.low is not None and self.high is not None:
            # Of an area the larger share is the lower threshold.
            low, high = (self.high, self.low) if self.low.kind == "area" else (self.low, self.high)
            if low.kind == high.kind and low.value > high.value:
                raise InputError(f"expected a low threshold below the high one; got {self.low} and {self.high}")

    @property
    def from_map(self) -> bool:
        """Whether the trimap is cut from a map, not from a mask."""
        return self.low is not None


@settings
class RefineSettings:
    """How a trimap's unknown band is decided."""

    method: str = "closed-form"
    """auto (the clearest outline, image by image), closed-form, grabcut, knn, lkm, or fba or sam with weights; in a
    chain none leaves the mask as it is."""
    weights: Annotated[Path | None, Option(metavar="FILE|FOLDER")] = None
    """Weights of the refiner fba, .pth or .safetensors, or of sam: a folder as save_pretrained writes it."""

    def __post_init__(self) -> None:
        if self.method != "none":
            check_refiner(self.method, self.weights)
        elif self.weights is not None:
            raise InputError(f"weights for a refiner, but no refiner; choose {trained()}, or leave them out")
