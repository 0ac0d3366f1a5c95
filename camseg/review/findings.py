"""What is told of an output folder: every mask in it, pictures of some, and where they come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from camseg.measure.risk import RiskCoverage
from camseg.review.items import MaskItem, MaskItems

COLUMNS: Final = (
    "image",
    "class",
    "quality",
    "reasons",
    "score",
    "area",
    "share",
    "empty",
    "fallback",
    "decision",
    "dice",
    "dice_from",
    "mask",
)
"""Of the CSV, and the keys of each mask in the JSON."""


@dataclass(frozen=True, kw_only=True)
class MaskRow:
    """One mask in the report."""

    item: MaskItem
    """What is known of it without opening it."""
    share: float | None
    """Of the image that it covers; None where it cannot be read."""
    dice: float | None
    """With the true mask, or with what a person let stand; None where neither is known."""
    dice_from: str | None
    """``true mask`` or ``correction``."""

    def to_dict(self) -> dict[str, Any]:
        """By ``COLUMNS``."""
        record = self.item.record
        return {
            "image": record.input,
            "class": record.class_name,
            "quality": record.quality,
            "reasons": list(self.item.reasons),
            "score": record.score,
            "area": record.area,
            "share": None if self.share is None else round(self.share, 6),
            "empty": record.empty,
            "fallback": record.fallback,
            "decision": self.item.decision,
            "dice": None if self.dice is None else round(self.dice, 4),
            "dice_from": self.dice_from,
            "mask": record.files["mask"],
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What is told of a folder."""

    items: MaskItems
    """The folder's masks."""
    rows: tuple[MaskRow, ...]
    """All masks, in the order of the manifest."""
    shown: Mapping[str, str]
    """The pictures, JPEG as data URIs, by the item's id: the worst first, then some others."""
    at_random: frozenset[str]
    """The ids of those that were drawn at random."""
    risk: RiskCoverage | None
    """Over the masks with an object whose quality and Dice are known; None where too few are."""
    judged: int
    """How many these are."""
    run: Mapping[str, Any]
    """What ``run.json`` says."""
    network: Mapping[str, Any] | None
    """The metrics of the classifier or segmenter, where its run is at hand."""
    pictures: Mapping[str, str]
    """Its plots, as data URIs by title."""
    remarks: tuple[str, ...] = ()
    """What a reader should know: files that cannot be read, images that were not found."""

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON values."""
        risk = None
        if self.risk is not None:
            one = self.risk
            areas = {"area": one.area, "random_area": one.random_area, "perfect_area": one.perfect_area}
            risk = {"masks": self.judged, "spearman": one.spearman, **areas, "gain": one.gain}
        return {
            "folder": str(self.items.folder),
            "masks": [row.to_dict() for row in self.rows],
            "risk_coverage": risk,
            "run": dict(self.run),
            "remarks": list(self.remarks),
        }
