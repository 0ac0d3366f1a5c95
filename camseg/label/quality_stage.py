"""The stage that says how far a mask can be trusted: masks -> qualities in the manifest."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from camseg.base.arrays import Mask
from camseg.masks.consensus import agreement
from camseg.masks.quality import (
    level_agreement,
    quality,
    reasons,
    shrink_map,
    shrink_mask,
    view_agreements,
)
from camseg.runs.record import Record
from camseg.runs.stage import Item, Stage


@dataclass(kw_only=True, eq=False)
class QualityStage(Stage):
    """Compares the final mask with what it becomes where something cheap is varied.

    Of an empty mask an earlier stage may have said how sure it is that there is nothing to find; that stays.
    """

    name: ClassVar[str] = "quality"
    may_be_empty: bool = False
    """Whether an empty mask is an answer, whose quality is the probability that no pixel is object; else something was
    to be found."""

    def each(self, item: Item) -> Item:
        """The item with its agreements, its quality and what speaks against it."""
        assert item.mask is not None
        judged = self._of_object(item, item.mask) if item.mask.any() else self._of_nothing(item.record)
        return replace(item, record=judged, views=(), before=None)

    def _of_object(self, item: Item, mask: Mask) -> Record:
        found = _agreements(item, shrink_mask(mask))
        # Of a segmentation network it is the highest of a pixel, which tells of no mask.
        known = quality(found, None if self.may_be_empty else item.record.score)
        return replace(
            item.record,
            agreements={name: round(value, 4) for name, value in found.items()},
            quality=None if known is None else round(known, 4),
            quality_reasons=reasons(mask, found, item.record.score, item.record.fallback),
        )

    def _of_nothing(self, record: Record) -> Record:
        if record.quality is not None:  # a label or the classifier has said so
            return record
        if self.may_be_empty:
            return replace(record, quality=round(1.0 - (record.score or 0.0), 4))
        return replace(record, quality=0.0, quality_reasons=(record.empty or "an empty mask",))


def _agreements(item: Item, mask: Mask) -> Mapping[str, float]:
    """All that an item allows, by name; ``mask``: the final one, small."""
    found = {**item.record.agreements, **view_agreements(item.views)}
    if item.record.agreement is not None:
        found["members"] = item.record.agreement
    before = mask if item.before is None else shrink_mask(item.before)
    if item.cam is not None:
        found["levels"] = level_agreement(shrink_map(item.cam), before)
    elif item.alpha is not None:
        found["levels"] = level_agreement(shrink_map(item.alpha), mask)
    refined = item.record.refiner not in (None, "none") and item.record.fallback is None
    if refined and item.before is not None:
        found["refinement"] = agreement([before, mask])
    return found
