"""What the chain from an image to its mask is told: the settings of its stages, and with which classifier it runs."""

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from camseg.base.errors import InputError
from camseg.base.settings import Option, settings
from camseg.cams.settings import CamSettings
from camseg.masks.settings import (
    CleaningSettings,
    FusionSettings,
    MaskSettings,
    Threshold,
    ThresholdText,
    parse_threshold,
)
from camseg.propagation.settings import PropagateSettings
from camseg.refinement.settings import RefineSettings, TrimapSettings
from camseg.segment.settings import ViewSettings

Kind: TypeAlias = Literal["cams", "trimaps", "alphas", "overlays"]
"""What ``label`` writes beside masks on request."""


@settings
class LabelSettings:
    """The chain from an image to its mask; the defaults are the best on average in the results table."""

    cams: CamSettings = field(default_factory=lambda: CamSettings(score="auto", layers=("stages",), effort="best"))
    """How the map is extracted."""
    propagation: PropagateSettings = field(default_factory=PropagateSettings)
    """How it is spread."""
    consensus: FusionSettings = field(default_factory=FusionSettings)
    """How the maps of an ensemble's members become one."""
    masks: MaskSettings = field(default_factory=MaskSettings)
    """How it becomes a mask."""
    trimap: TrimapSettings = field(default_factory=TrimapSettings)
    """How the refiner's trimap is made."""
    refinement: RefineSettings = field(default_factory=lambda: RefineSettings(method="auto"))
    """How the mask is refined."""
    cleaning: CleaningSettings = field(default_factory=CleaningSettings)
    """What is done to the final mask."""
    save: tuple[Kind, ...] = ()
    """Also write cams, trimaps, alphas or overlays."""

    def __post_init__(self) -> None:
        if len(self.cams.methods) != 1 or self.cams.raw:
            raise InputError("masks are made of one CAM method's maps in [0, 1]; name one method, and no raw maps")
        _check_saved(self.refinement, self.save)


@settings
class SegmentSettings:
    """The chain from an image to its mask by a segmentation network."""

    views: ViewSettings = field(default_factory=ViewSettings)
    """How images are shown to it."""
    gate: bool = True
    """Where an image's label is known, keep the masks of classes empty that it excludes."""
    propagation: PropagateSettings = field(default_factory=PropagateSettings)
    """How probabilities are spread over the image; their maximum is kept."""
    threshold: Annotated[
        ThresholdText | None,
        Option(default="0.4, with --propagation none 0.5; of exclusive classes the likeliest wins"),
    ] = None
    """What lies above is object, of the class's probability: 0.4, max:0.75 (of its maximum), otsu, li, triangle,
    area:0.1, or a threshold file."""
    trimap: TrimapSettings = field(default_factory=TrimapSettings)
    """How the refiner's trimap is made."""
    refinement: RefineSettings = field(default_factory=lambda: RefineSettings(method="none"))
    """How the mask is refined."""
    cleaning: CleaningSettings = field(default_factory=CleaningSettings)
    """What is done to the final mask."""
    save: tuple[Kind, ...] = ()
    """Also write cams (the probabilities as maps), trimaps, alphas or overlays."""

    def __post_init__(self) -> None:
        if self.propagation.needs_features:
            raise InputError(
                f"{self.propagation.method} walks over a classifier's features; choose another propagation"
            )
        _check_saved(self.refinement, self.save)

    @property
    def usual_threshold(self) -> Threshold:
        """What is taken where none is given; of spread probabilities the level that lost least on each of two sets."""
        return parse_threshold(0.5 if self.propagation.method == "none" else 0.4)


def _check_saved(refinement: RefineSettings, save: tuple[Kind, ...]) -> None:
    if refinement.method == "none" and (lost := sorted({"trimaps", "alphas"} & {*save})):
        raise InputError(f"without a refiner there are no {lost[0]}; choose a refiner, or leave them out")


@settings
class CamsOutput:
    """What ``cams`` writes beside maps."""

    save: tuple[Literal["overlays"], ...] = ()
    """Also write overlays, maps drawn over the images: OUT/overlays/<method>."""


@settings
class ImageOptions:
    """How the images are read that maps and trimaps belong to, and where what is done with them runs."""

    window: Annotated[str, Option(metavar="full|percentile|LOW,HIGH")] = "full"
    """How 16-bit and float images become 8-bit."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@settings
class PropagateInputs(ImageOptions):
    """What propagation reads beside the maps."""

    classifier: Annotated[Path | None, Option(metavar="RUN", flags=("--classifier", "-c"))] = None
    """For random-walk: whose features it walks on."""


@settings
class TrimapInputs:
    """What a trimap is made of beside the masks."""

    cams: Path | None = None
    """Folder of the maps that the masks were made of, for --sure."""


@settings
class RefineInputs(ImageOptions):
    """What refinement reads beside the trimaps, and what it writes beside masks."""

    masks: Path | None = None
    """Masks to fall back to; else unknown pixels take the nearest known region."""
    alpha: Annotated[bool, Option(flags=("--alpha",))] = False
    """Also write OUT/alphas."""
    foreground: Annotated[bool, Option(flags=("--foreground",))] = False
    """Also write cut-outs, RGBA: OUT/foregrounds."""


@settings
class ClassifierOptions:
    """Which classifier runs, and toward what."""

    classifier: Annotated[Path, Option(metavar="RUN", flags=("--classifier", "-c"))]
    """Classifier run that train-cls wrote."""
    negative: Annotated[tuple[str, ...], Option(metavar="CLASS")] = ()
    """Class without object, instead of the run's own."""
    output_stride: Annotated[int | None, Option(metavar="8|16|32")] = None
    """Input pixels per step of the last map, where the network leaves the choice: 16 instead of 32 makes its maps twice
    as wide and high."""
    targets: Annotated[tuple[str, ...], Option(metavar="CLASS")] = ()
    """label, predicted, all, or a CLASS; default: the label where known, else predicted."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Images per pass of the network."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@settings
class LookedIntoOptions(ClassifierOptions):
    """Which classifier or segmentation network is looked into, and toward what."""

    classifier: Annotated[Path | None, Option(metavar="RUN", flags=("--classifier", "-c"))] = None  # type: ignore[assignment]  # here it may be left out
    """Classifier run that train-cls wrote; this, or a segmentation network."""
    segmenter: Annotated[Path | None, Option(metavar="RUN", flags=("--segmenter", "-s"))] = None
    """Segmenter run that train-seg wrote: what it looked at for its answer."""
    masks: Path | None = None
    """For --score mask: folder of the masks over which the score is, MASKS/<path>.png or MASKS/<class>/<path>.png."""

    def __post_init__(self) -> None:
        if (self.classifier is None) == (self.segmenter is None):
            got = "none" if self.classifier is None else "both"
            raise InputError(f"expected one run to look into, a classifier's or a segmenter's; got {got}")
        if self.segmenter is not None and self.output_stride is not None:
            raise InputError("a segmenter is built for its decoder; leave the output stride out")


@settings
class SegmenterOptions:
    """Which segmentation network runs."""

    segmenter: Annotated[Path, Option(metavar="RUN", flags=("--segmenter", "-s"))]
    """Segmenter run that train-seg wrote."""
    negative: Annotated[tuple[str, ...], Option(metavar="CLASS")] = ()
    """Class without object, instead of the run's own."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Images per pass of the network, or tiles of them."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
