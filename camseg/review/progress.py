"""What people have said so far -> where one stands: times by decision, and how good the accepted and the rest are."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camseg.base.errors import InputError
from camseg.data.images import read_levels, read_mask
from camseg.masks.settings import save_threshold
from camseg.measure.metrics import dice, threshold_counts
from camseg.review.items import MaskItem, list_items
from camseg.review.queue import is_drawn
from camseg.runs.corrections import PUBLISHED_SECONDS


def decision_times(items: Iterable[MaskItem]) -> dict[str, Any]:
    """How many masks were decided on, and the seconds that it took, by decision and in all, as JSON values."""
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    counts: defaultdict[str, int] = defaultdict(int)
    total = 0
    for item in items:
        total += 1
        if item.decision is None:
            continue
        for key in (item.decision, "all"):
            counts[key] += 1
            if item.line is not None and item.line.seconds is not None:
                seconds[key].append(item.line.seconds)
    return {
        "masks": total,
        "reviewed": counts["all"],
        "decisions": {
            name: {
                "masks": count,
                "median_seconds": median(seconds[name]) if seconds[name] else None,
                "mean_seconds": fmean(seconds[name]) if seconds[name] else None,
            }
            for name, count in sorted(counts.items())
            if count
        },
        "published_seconds": PUBLISHED_SECONDS,
    }


def times_table(times: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The same as a table: its columns and rows."""
    rows: list[tuple[str, ...]] = [
        (
            name,
            str(one["masks"]),
            "-" if one["median_seconds"] is None else f"{one['median_seconds']:.1f}",
            "-" if one["mean_seconds"] is None else f"{one['mean_seconds']:.1f}",
        )
        for name, one in times["decisions"].items()
    ]
    rows.append(("Laptev and Gerget, as published", "-", "-", f"{times['published_seconds']}"))
    return ("decision", "masks", "median s", "mean s"), rows


FEWEST: Final = 10
"""Judged masks with an object from which anything is estimated."""
RESAMPLES: Final = 400
"""Of the bootstrap over judged masks."""
STEP: Final = 20
"""Reviews whose worth is told ahead."""


@dataclass(frozen=True, kw_only=True)
class MeanEstimate:
    """A mean Dice with its interval of 95 %."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where one stands with a folder's masks."""

    times: Mapping[str, Any]
    """As ``decision_times`` gives them."""
    judged: int
    """Masks with an object whose Dice with what a person let stand is known; rejected ones count as 0."""
    judged_dice: float | None
    """Its mean over these, of the machine's masks as they were; None for none."""
    at_random: int
    """How many of these were drawn at random, so that the others were not chosen by their quality alone."""
    rest: int
    """Masks with an object that nobody has looked at."""
    rest_dice: MeanEstimate | None
    """What their mean Dice would be found to be; None where too few masks were judged."""
    now_dice: MeanEstimate | None
    """Of the whole folder as it is: masks that people accepted, drew or emptied count as right, rejected ones as 0."""
    next_gain: MeanEstimate | None
    """By how much the next ``STEP`` reviews, the worst first, would raise that."""
    threshold: Mapping[str, Any] | None = None
    """The level that is best on corrected masks whose maps were saved, where it was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return asdict(self)


def stand(items: Iterable[MaskItem]) -> Standing:
    """Where one stands: what was decided, and what is to be expected of the masks that nobody has looked at.

    Their Dice is estimated by a line through the judged masks' Dice over their quality, moved by the mean residual of
    those that were drawn at random, if there are any: what the line gets wrong on a random sample it gets wrong on the
    rest. Intervals are bootstrapped over the judged masks.
    """
    items = list(items)
    sought = [item for item in items if item.record.area and item.record.quality is not None]
    judged = [item for item in sought if item.judged_dice is not None]
    rest = [item for item in sought if item.decision is None]
    dices = np.array([item.judged_dice or 0.0 for item in judged], np.float64)
    drawn = np.array([is_drawn(item) for item in judged], np.bool_)
    rest_dice = now_dice = next_gain = None
    if len(judged) >= FEWEST and rest:
        known = np.array([item.record.quality or 0.0 for item in judged], np.float64)
        open_ones = np.sort(np.array([item.record.quality or 0.0 for item in rest], np.float64))
        right = sum(item.decision in ("accepted", "edited", "empty") for item in sought)
        random, found = np.random.default_rng(0), []
        for n in range(RESAMPLES + 1):
            chosen = np.arange(len(judged)) if n == 0 else random.integers(0, len(judged), len(judged))
            expected = _expected(known[chosen], dices[chosen], drawn[chosen], open_ones)
            now = (right + expected.sum()) / len(sought)
            found.append((expected.mean(), now, (1.0 - expected[:STEP]).sum() / len(sought)))
        table = np.array(found)
        low, high = np.quantile(table[1:], (0.025, 0.975), axis=0)
        rest_dice, now_dice, next_gain = (
            MeanEstimate(mean=float(table[0, n]), low=float(low[n]), high=float(high[n])) for n in range(3)
        )
    return Standing(
        times=decision_times(items),
        judged=len(judged),
        judged_dice=float(dices.mean()) if len(judged) else None,
        at_random=int(drawn.sum()),
        rest=len(rest),
        rest_dice=rest_dice,
        now_dice=now_dice,
        next_gain=next_gain,
    )


def _expected(
    known: NDArray[np.float64], dices: NDArray[np.float64], drawn: NDArray[np.bool_], rest: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The Dice to be expected of masks of these qualities (N,), in [0, 1]."""
    spread = known - known.mean()
    slope = float((spread * dices).sum() / max(float((spread**2).sum()), 1e-12))
    residual = dices - (dices.mean() + slope * spread)
    moved = float(residual[drawn].mean()) if drawn.any() else 0.0
    result: NDArray[np.float64] = np.clip(dices.mean() + slope * (rest - known.mean()) + moved, 0.0, 1.0)
    return result


def corrected_levels(items: Iterable[MaskItem]) -> tuple[int, float, int]:
    """The level in 0..255 at which the saved maps agree best with the masks that people let stand, the mean Dice that
    it reaches, and how many masks chose it. Raises InputError where no map of a corrected mask was saved."""
    curves = []
    for item in items:
        cam = item.file("cam")
        if item.decision not in ("accepted", "edited") or cam is None or not cam.is_file():
            continue
        mask = read_mask(item.corrected or item.mask)
        if mask.any():
            curves.append(dice(threshold_counts(read_levels(cam), mask)))
    if not curves:
        raise InputError(
            "expected masks that a person accepted or edited, and their maps; label with --save cams, and review"
        )
    mean = np.mean(curves, axis=0)
    return int(mean.argmax()), float(mean.max()), len(curves)


def loop_folder(
    folder: Path | str, *, images: Path | str | None = None, save_threshold_to: Path | str | None = None
) -> Standing:
    """``stand`` for what ``label``, ``segment`` or ``refine`` wrote; on request also the best level of the corrected
    masks' maps, written as a threshold file that ``camseg label --threshold`` takes for the rest.

    Raises InputError where there are no masks, or no corrected ones with maps to choose a level from.
    """
    listed = list_items(folder, images)
    found = stand(listed)
    if save_threshold_to is None:
        return found
    level, reached, count = corrected_levels(listed)
    name = f"corrections of {listed.folder.resolve().name}"
    save_threshold(save_threshold_to, level, name=name, masks=count, scores={"dice": reached})
    return replace(found, threshold={"level": level, "dice": reached, "masks": count})
