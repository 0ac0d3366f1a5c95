"""What people have said so far -> where one stands: times by decision, and how good the accepted and the rest are."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean, median
from typing import Any

from camseg.review.items import MaskItem
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
