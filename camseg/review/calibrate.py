"""Qualities of a folder's masks: told, and fitted to what people said of some of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import TypeAdapter, ValidationError

from camseg.base.errors import OutputError
from camseg.base.files import read_json, write_json, write_text
from camseg.masks.quality import quality
from camseg.measure.risk import RiskCoverage, risk_coverage
from camseg.measure.trust import Trust, TrustFit, fit_trust
from camseg.review.items import MaskItems, list_items
from camseg.review.settings import QualitySettings
from camseg.runs.manifest import MANIFEST, read_manifest
from camseg.runs.record import Record, to_line
from camseg.runs.run import read_run

CALIBRATION: Final = "quality.json"
"""What was fitted, in the output folder."""
RAW: Final = "agreement"
"""What a mask's quality is called before it is calibrated."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QualityReport:
    """The qualities of a folder's masks, and what is known of their worth."""

    items: MaskItems
    """The masks, with the qualities that count now."""
    fit: TrustFit | None
    """What was fitted just now; None where that was not asked for."""
    applied: bool
    """Whether the qualities in the manifest are probabilities that a mask is right: by this fit or an earlier one."""
    least_dice: float | None
    """From which Dice on a mask counts as right, where they are."""
    risk: RiskCoverage | None
    """How well qualities order the masks that people looked at: before calibration, or as masks were judged that the
    fit did not see; None for fewer than two."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        known = [one.record.quality for one in self.items if one.record.quality is not None]
        reasons: dict[str, int] = {}
        for one in self.items:
            for reason in one.reasons:
                reasons[reason] = reasons.get(reason, 0) + 1
        return {
            "masks": len(self.items),
            "of_known_quality": len(known),
            "mean_quality": float(np.mean(known)) if known else None,
            "quartiles": [float(one) for one in np.quantile(known, (0.25, 0.5, 0.75))] if known else None,
            "reasons": dict(sorted(reasons.items(), key=lambda one: -one[1])),
            "calibrated": self.applied,
            "least_dice": self.least_dice,
            "fit": None if self.fit is None else fit_facts(self.fit),
            "spearman": None if self.risk is None else self.risk.spearman,
            "area": None if self.risk is None else self.risk.area,
            "random_area": None if self.risk is None else self.risk.random_area,
            "perfect_area": None if self.risk is None else self.risk.perfect_area,
        }


def quality_folder(
    folder: Path | str, settings: QualitySettings | None = None, *, images: Path | str | None = None
) -> QualityReport:
    """Tell of the qualities in an output folder; with ``calibrate`` fit them to corrections first.

    A fit that explains anything of what it did not see replaces the qualities of masks with an object in
    ``manifest.jsonl`` by the probability that their Dice is at least ``least_dice``, and is kept in ``quality.json``;
    masks that were added since get theirs by it whenever the command is called. Raises InputError where there are too
    few corrections, OutputError for damaged files.
    """
    settings, folder = settings or QualitySettings(), Path(folder)
    items = list_items(folder, images)
    scored = read_run(folder).get("command") != "segment"
    judged = [item for item in items if item.record.area and item.judged_dice is not None]
    dices = [item.judged_dice or 0.0 for item in judged]
    fit = None
    if settings.calibrate:
        facts = [mask_facts(item.record, scored) for item in judged]
        names = list(dict.fromkeys(name for one in facts for name in one)) or [RAW]
        table = {name: [one.get(name) for one in facts] for name in names}
        fit = fit_trust(table, [value >= settings.least_dice for value in dices], RAW)
        if fit.explained > 0:
            write_json(folder / CALIBRATION, {"least_dice": settings.least_dice, **fit_facts(fit)})
    known = _read_calibration(folder)
    if known is not None:
        trust, least = known
        _apply(folder, trust, scored)
        items = list_items(folder, images)
    order = [fit.probabilities[n] if fit else item.record.quality or 0.0 for n, item in enumerate(judged)]
    return QualityReport(
        items=items,
        fit=fit,
        applied=known is not None,
        least_dice=None if known is None else least,
        risk=risk_coverage(order, dices) if len(judged) > 1 else None,
    )


def mask_facts(record: Record, scored: bool) -> dict[str, float]:
    """What a fit looks at, by name: agreements, the score and the area; ``scored``: whether the score is a class's."""
    facts = dict(record.agreements)
    score = record.score if scored else None
    if (raw := quality(record.agreements, score)) is not None:
        facts[RAW] = raw
    if score is not None:
        facts["score"] = score
    if record.area:
        facts["log area"] = math.log(record.area)
    return facts


def fit_facts(fit: TrustFit) -> dict[str, Any]:
    """A fit as JSON values."""
    return {
        "masks": fit.masks,
        "right": fit.right,
        "brier": fit.brier,
        "base_brier": fit.base_brier,
        "explained": fit.explained,
        "tried": dict(fit.tried),
        "trust": _TRUST.dump_python(fit.trust, mode="json"),
    }


_TRUST: Final = TypeAdapter(Trust)


def _read_calibration(folder: Path) -> tuple[Trust, float] | None:
    """What an earlier call fitted, and from which Dice on masks count as right; None where nothing was."""
    path = folder / CALIBRATION
    if not path.is_file():
        return None
    content = read_json(path, OutputError)
    try:
        return _TRUST.validate_python(content["trust"]), float(content["least_dice"])
    except (ValidationError, KeyError, TypeError, ValueError):
        raise OutputError(f"{path} is no calibration; remove it, or calibrate again") from None


def _apply(folder: Path, trust: Trust, scored: bool) -> None:
    """Put a fit's probabilities into the manifest, all lines at once; what it says of empty masks stays."""
    records = read_manifest(folder)
    places = [n for n, one in enumerate(records) if one.area and not one.failed and one.agreements]
    if not places:
        return
    facts: list[Mapping[str, float]] = [mask_facts(records[place], scored) for place in places]
    matrix = np.array([[one.get(name, np.nan) for name in trust.facts] for one in facts], np.float64)
    for place, value in zip(places, trust.probabilities(matrix).tolist(), strict=True):
        records[place] = replace(records[place], quality=round(value, 4))
    write_text(folder / MANIFEST, "".join(map(to_line, records)))
