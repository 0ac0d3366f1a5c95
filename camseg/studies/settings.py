"""What studies are told."""

import os
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from camseg.base.errors import InputError
from camseg.base.registry import choose
from camseg.base.settings import Option, checked, settings
from camseg.cams.methods.registry import METHODS
from camseg.cams.settings import CamSettings
from camseg.classify.settings import Voting
from camseg.label.settings import LabelSettings
from camseg.masks.settings import MaskSettings, ThresholdText
from camseg.propagation.settings import PropagateSettings

MemberWeights: TypeAlias = Literal["equal", "accuracy", "agreement"] | tuple[Annotated[float, Field(ge=0)], ...]
"""What the members count: all the same, by the validation accuracy in their ``metrics.json``, by how far their masks
agree with the others', or a number for each."""


def _check_method(name: str) -> str:
    choose("CAM method", name, METHODS)
    return name


def _or_none(value: Any) -> Any:
    return None if value == "none" else value


def _separate_methods(cams: Any) -> Any:
    """Settings of maps with each method by itself, where one text names several: gradcam,layercam."""
    if not isinstance(cams, Mapping) or "methods" not in cams:
        return cams
    names = [name.strip() for text in cams["methods"] for name in text.split(",")]
    return {**cams, "methods": [name for name in names if name]}


@settings
class AuditSettings:
    """How runs are audited."""

    method: Annotated[str, AfterValidator(checked(_check_method))] = "layercam"
    """CAM method, as camseg methods lists them."""
    epochs: Annotated[int, Field(ge=1)] = 30
    """Most epochs of each training."""
    seeds: Annotated[int, Field(ge=1)] = 3
    """Repeats of each training, each with another split, other weights and another order."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Start of all random choices."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share split off for validation, by label and never through a group."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Images per pass of the network."""
    learning_rate: Annotated[float, Field(gt=0), Option(flags=("--learning-rate", "--lr"))] = 1e-3
    """The optimiser's rate at the start."""
    image_size: Annotated[int, Field(ge=8)] | None = None
    """Side of the inputs of what is trained; default: the run's own."""
    weights: Annotated[str | None, BeforeValidator(_or_none), Option(metavar="none|imagenet|FILE", default="none")] = (
        None
    )
    """Where trainings start; none: from scratch, as in the paper."""
    steps: Annotated[int, Field(ge=1)] = 50
    """Steps of the insertion and deletion curves."""


@settings
class CompareSettings:
    """What a comparison is told beside the options of its trainings."""

    cams: Annotated[CamSettings, BeforeValidator(_separate_methods)] = field(default_factory=CamSettings)
    """How maps are extracted."""
    recipe: Annotated[str | None, Option(metavar="NAME")] = None
    """Training recipe, as in train-cls."""
    test_fraction: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, Option(default="the recipe's, else 0.2")] = (
        None
    )
    """Share split off for the test where no images are given for it."""

    def __post_init__(self) -> None:
        if self.cams.raw or not self.cams.gate:
            raise InputError("a comparison judges maps in [0, 1] of classes with an object; leave raw and gate out")


@settings
class EnsembleSettings:
    """How runs are joined."""

    method: Voting = "soft"
    """Mean of the members' probabilities; or a rule over their features, fitted on --data."""
    weights: Annotated[MemberWeights, Option(metavar="equal|accuracy|agreement|W,W,...")] = "equal"
    """What members count in means of probabilities and maps; accuracy: that of their own validation; agreement: of
    their masks of the images of --data and --val with the other members' masks, which takes a while."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """As in train-cls, whose split it repeats with an equal --seed."""
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of --data that is split off before that and not used, as in train-cls."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Images per pass of the network."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Start of all random choices."""


def _listed(values: Any) -> Any:
    """Each value by itself where a text names several: par,none; a file's name may hold a comma."""
    if not isinstance(values, (list, tuple)):
        values = [values]
    parts: list[Any] = []
    for value in values:
        several = isinstance(value, str) and not os.path.isfile(value)
        parts += [part.strip() for part in value.split(",") if part.strip()] if several else [value]
    return parts


def _check_propagation(name: str) -> str:
    PropagateSettings(method=name)
    return name


@settings
class ChooseSettings:
    """How runs and settings are ranked without true masks."""

    cams: CamSettings = field(default_factory=lambda: LabelSettings().cams)
    """How maps are extracted; as in camseg label."""
    propagations: Annotated[
        tuple[Annotated[str, AfterValidator(checked(_check_propagation))], ...],
        BeforeValidator(_listed),
        Field(min_length=1),
    ] = (PropagateSettings.method,)
    """How maps are spread: par, crf, guided, superpixels, random-walk or none; several are ranked."""
    thresholds: Annotated[tuple[ThresholdText, ...], BeforeValidator(_listed), Field(min_length=1)] = (
        MaskSettings.threshold,
    )
    """What lies above is object, as in camseg label; several are ranked."""
    negative: Annotated[tuple[str, ...], Option(metavar="CLASS")] = ()
    """Class without object, instead of the run's own."""
    limit: Annotated[int, Field(ge=1)] = 50
    """Most images with an object that are looked at, and most without one; drawn by chance."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Images per pass of the network."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Start of all random choices."""

    def __post_init__(self) -> None:
        if len(self.cams.methods) != 1 or self.cams.raw or not self.cams.gate:
            raise InputError("masks are made of one CAM method's maps in [0, 1]; name one method, and no raw maps")
        for what in (self.propagations, tuple(map(str, self.thresholds))):
            if len(set(what)) < len(what):
                raise InputError(f"expected different settings to rank; got {', '.join(what)}")
