"""What the chain from an image to its mask is told: the choice at each stage, with its default."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from camseg.base.errors import InputError
from camseg.cams.capture import Precision, Score
from camseg.cams.extract import CamSettings, Scales
from camseg.cams.methods.registry import METHODS as CAM_METHODS
from camseg.classify.classifier import AnyClassifier
from camseg.masks.cleaning import PostprocessingSettings
from camseg.masks.threshold import parse_threshold
from camseg.propagation.propagate import METHODS as PROPAGATORS
from camseg.propagation.propagate import check_settings
from camseg.propagation.settings import Settings as PropagationSettings
from camseg.refinement.refine import AUTO, check_method
from camseg.refinement.refine import METHODS as REFINERS
from camseg.refinement.trimaps import parse_radius


@dataclass(frozen=True, kw_only=True)
class TrimapSettings:
    """The unknown band of a trimap; radii in pixels (``5``) or in percent of the object's width (``10%``)."""

    recipe: Literal["fitted", "published"] = "fitted"
    """``published``: that of Laptev and Gerget as it stands, which has no other settings."""
    open: str = "0"
    """Opening: what is thinner than twice this becomes unknown."""
    close: str = "0"
    """Closing: fills what is narrower than twice this."""
    dilate: str = "20%"
    """How far the band reaches out of the mask."""
    erode: str = "20%"
    """How far it reaches into the mask."""
    sure: str | None = "max:0.85"
    """Where a map is at hand: what of the mask lies above this threshold is foreground however much is eroded."""
    low: str | None = None
    """With ``high``: cut the trimap from the map at two thresholds instead; below this is background."""
    high: str | None = None
    """Above this is foreground."""

    def __post_init__(self) -> None:
        if self.recipe not in ("fitted", "published"):
            raise InputError(f"expected the trimap recipe fitted or published, got {self.recipe!r}")
        fitted = [self.open, self.close, self.dilate, self.erode, self.sure, self.low, self.high]
        defaults = [type(self).open, type(self).close, type(self).dilate, type(self).erode, type(self).sure, None, None]
        if self.recipe == "published" and fitted != defaults:
            raise InputError("the published trimap recipe has its own radii; leave the others and thresholds out")
        for text in (self.open, self.close, self.dilate, self.erode):
            parse_radius(text)
        if self.sure is not None:
            parse_threshold(self.sure)
        if (self.low is None) != (self.high is None):
            raise InputError("a trimap from two thresholds needs both, a low and a high one")
        if self.low is not None and self.high is not None:
            low, high = parse_threshold(self.low), parse_threshold(self.high)
            # Of an area the larger share is the lower threshold.
            ordered = low.value >= high.value if low.kind == "area" else low.value <= high.value
            if low.kind == high.kind and not ordered:
                raise InputError(f"expected a low threshold below the high one; got {self.low} and {self.high}")


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """The chain from an image to its mask; the defaults are the best on average in the results table."""

    scales: Scales = "auto"
    """As in CamSettings."""
    flip: bool = True
    """As in CamSettings."""
    method: str = "layercam"
    """A CAM method."""
    score: Score | Literal["auto"] = "auto"
    """``class``, ``margin``, or ``auto``: margin where the classifier has a negative class."""
    layers: tuple[str, ...] = ("stages",)
    """As in CamSettings."""
    precision: Precision = "float32"
    """As in CamSettings."""
    propagation: str = "par"
    """A propagator, or ``none``."""
    propagation_settings: PropagationSettings | None = None
    """The propagator's own settings, if not its defaults."""
    threshold: str = "max:0.7"
    """A threshold in the grammar of masks."""
    trimap: TrimapSettings = field(default_factory=TrimapSettings)
    """How the refiner's trimap is made."""
    refiner: str = "auto"
    """A refiner, ``auto`` or ``none``."""
    refiner_weights: str | None = None
    """The file of a trained refiner's weights."""
    postprocessing: PostprocessingSettings = field(default_factory=PostprocessingSettings)
    """What is done to the final mask."""

    def __post_init__(self) -> None:
        parse_threshold(self.threshold)
        check_choice("CAM method", self.method, CAM_METHODS)
        check_choice("propagation", self.propagation, {**PROPAGATORS, "none": None})
        if self.propagation_settings is not None:
            check_settings(self.propagation, self.propagation_settings)
        check_choice("refiner", self.refiner, {AUTO: None, **REFINERS, "none": None})
        if self.refiner != "none":
            check_method(self.refiner, self.refiner_weights)
        elif self.refiner_weights is not None:
            raise InputError("weights for a refiner, but no refiner; choose fba, or leave them out")
        if self.score not in ("auto", "class", "margin"):
            raise InputError(f"expected score auto, class or margin, got {self.score!r}")

    def cams(self, classifier: AnyClassifier) -> CamSettings:
        """The settings of the map's extraction with this classifier."""
        score: Score = "margin" if classifier.negative else "class"
        if self.score != "auto":
            score = self.score
        return CamSettings(
            methods=(self.method,),
            scales=self.scales,
            flip=self.flip,
            score=score,
            layers=self.layers,
            precision=self.precision,
        )


def check_choice(kind: str, name: str, choices: Mapping[str, object]) -> None:
    """Raise InputError, with the choices, for a name that is none of them."""
    if name not in choices:
        raise InputError(f"unknown {kind} {name!r}; choose among {', '.join(choices)}")
