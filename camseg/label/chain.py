"""The chain as lists of stages, written once: for one image, for folders, and the parts that single commands run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from camseg.base.arrays import Alpha, Cam, Image, Mask, Trimap, check_image
from camseg.base.progress import Say, unheard
from camseg.data.datasets import Sample
from camseg.data.truth import MaskSource
from camseg.label.quality_stage import QualityStage
from camseg.label.settings import LabelSettings, SegmentSettings
from camseg.label.stages import CleanStage, FuseStage, PropagateStage, RefineStage, ThresholdStage, TrimapStage
from camseg.masks.settings import MaskSettings, parse_threshold
from camseg.runs.record import Record
from camseg.runs.stage import Item, Stage, run_stages

if TYPE_CHECKING:
    from camseg.cams.plan import Plan
    from camseg.classify.checkpoint import AnyClassifier
    from camseg.classify.targets import TargetRule


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What the chain made of one image and class."""

    cam: Cam
    """The map that was thresholded, after propagation."""
    mask: Mask
    """The final mask."""
    trimap: Trimap | None = None
    """The refiner's trimap, where one was made."""
    alpha: Alpha | None = None
    """The refiner's alpha, where one ran."""
    refiner: str | None = None
    """Which refiner decided, or was to."""
    fallback: str | None = None
    """Why no refiner decided, if one was to."""
    agreement: float | None = None
    """How far an ensemble's members agree: the mean Dice of their masks with each other."""
    quality: float | None = None
    """How far the mask can be trusted, in [0, 1]; None where nothing tells."""
    quality_reasons: tuple[str, ...] = ()
    """What speaks against it, in words."""


def map_stages(
    plan: "Plan",
    rule: "TargetRule",
    batch_size: int,
    say: Say = unheard,
    *,
    apart: bool = False,
    views: bool = False,
    masks: MaskSource | None = None,
) -> list[Stage]:
    """Images -> maps at the images' size, an item for each image and class; ``apart``: by member of an ensemble too,
    ``views``: by view too, small; ``masks``: over which a segmenter's score is."""
    from camseg.label.network_stages import CamStage, LoadStage, PlaceStage

    return [
        LoadStage(plan=plan, masks=masks),
        CamStage(plan=plan, rule=rule, batch_size=batch_size, say=say, views=views),
        PlaceStage(plan=plan, apart=apart and len(plan.members) > 1),
    ]


def mask_stages(settings: LabelSettings, shares: Sequence[float] = (1.0,)) -> list[Stage]:
    """Maps -> masks: propagation, threshold, trimap, refinement, cleaning; ``shares``: of an ensemble's members, whose
    maps are fused before propagation or after it."""
    how = settings.consensus.fusion
    fuse = FuseStage(settings=settings.consensus, threshold=settings.masks.threshold, shares=tuple(shares))
    several = len(shares) > 1
    # More than half of the votes: the nearest 8-bit map of a half is 128 / 255, and the next one an object.
    masks = MaskSettings(threshold=parse_threshold(0.503)) if several and how == "votes" else settings.masks
    return [
        *([fuse] if several and how == "maps" else []),
        PropagateStage(settings=settings.propagation),
        *([fuse] if several and how != "maps" else []),
        ThresholdStage(settings=masks),
        *outline_stages(settings),
    ]


def outline_stages(settings: LabelSettings | SegmentSettings) -> list[Stage]:
    """Masks -> masks: trimap, refinement, cleaning; then how far they can be trusted."""
    refined = settings.refinement.method != "none"
    return [
        *([TrimapStage(settings=settings.trimap)] if refined else []),
        RefineStage(settings=settings.refinement),
        CleanStage(settings=settings.cleaning),
        QualityStage(may_be_empty=isinstance(settings, SegmentSettings)),
    ]


def label_image(
    image: Image,
    classifier: "AnyClassifier",
    target: str | None = None,
    settings: LabelSettings | None = None,
) -> Labelled:
    """The whole chain for one image, uint8 (H, W, 3), and one class: by default the likeliest one.

    A negative class gives an all-zero map and mask. Raises InputError for other arrays, settings or classes.
    """
    from camseg.cams.plan import plan
    from camseg.classify.targets import TargetRule

    settings = settings or LabelSettings()
    ready = plan(classifier, settings.cams, guided=settings.propagation.needs_features)
    place = Path("image")
    item = Item(
        sample=Sample(path=place, name=place.name),
        record=Record(input=place.name, name=place.name),
        name=place.name,
        source=None,
        pixels=check_image(image),
    )
    if target is not None:
        classifier.class_index(target)
    rule = TargetRule(word="likeliest") if target is None else TargetRule(word=None, named=(target,))
    stages: Sequence[Stage] = [
        *map_stages(ready, rule, 1, apart=True, views=True),
        *mask_stages(settings, classifier.shares),
    ]
    for stage in stages:
        stage.setup(str(classifier.device))
    (done,) = run_stages(stages, [item])
    assert done.cam is not None
    assert done.mask is not None
    return Labelled(
        cam=done.cam,
        mask=done.mask,
        trimap=done.trimap,
        alpha=done.alpha,
        refiner=done.record.refiner,
        fallback=done.record.fallback,
        agreement=done.record.agreement,
        quality=done.record.quality,
        quality_reasons=done.record.quality_reasons,
    )
