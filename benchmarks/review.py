"""A simulated expert: Dice of a whole set against the number of reviewed masks; a table of docs/results.md.

    python benchmarks/review.py OUT MASKS [--reviews 0,5,10,20,40] [--tolerance 0.05] [--repeats 20] [--json FILE]

OUT is what ``camseg label --save cams`` wrote, MASKS true masks of the same names. The expert looks at masks in the
order of their quality (worst first), at random, or worst first by the true Dice, which nobody knows. A slider-only
expert sets the level of each map to its best one, where that is better than the mask as it is, and with an error of
``--tolerance`` of the map's range; a full correction leaves the true mask. Everything is the mean Dice over all images
with an object.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from camseg.data.images import read_levels, read_mask
from camseg.measure.metrics import dice, mask_counts, threshold_counts
from camseg.review.items import list_items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--reviews", default="0,5,10,20,30,40")
    parser.add_argument("--tolerance", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    quality, before, curves = material(arguments.out, arguments.masks)
    counts = [count for count in map(int, arguments.reviews.split(",")) if count <= len(before)]
    found = simulate(quality, before, curves, counts, arguments.tolerance, arguments.repeats)
    print(f"### {arguments.out}: {len(before)} masks with an object, mean Dice of the set\n")
    print(f"| expert, order | {' | '.join(map(str, counts))} |\n|{'---|' * (len(counts) + 1)}")
    for name, row in found.items():
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} |")
    if arguments.json:
        arguments.json.write_text(json.dumps({"reviews": counts, "dice": found}, indent=2))


def material(out: Path, masks: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each mask its quality (N,), its true Dice (N,), and the Dice of its map at every level (N, 256)."""
    qualities, scores, curves = [], [], []
    for item in list_items(out):
        path, cam = masks / f"{item.place}.png", item.file("cam")
        truth = read_mask(path) if path.is_file() else None
        if truth is None or not truth.any() or cam is None:
            continue
        qualities.append(-1.0 if item.record.quality is None else item.record.quality)
        scores.append(float(dice(mask_counts(read_mask(item.mask), truth))))
        curves.append(dice(threshold_counts(read_levels(cam), truth)))
    return np.array(qualities), np.array(scores), np.array(curves)


def simulate(
    quality: np.ndarray,
    before: np.ndarray,
    curves: np.ndarray,
    counts: Sequence[int],
    tolerance: float,
    repeats: int,
) -> dict[str, list[float]]:
    """The set's mean Dice after so many reviews, by expert and order; random choices are averaged over."""
    rows: dict[str, list[np.ndarray]] = {}
    for seed in range(repeats):
        random = np.random.default_rng(seed)
        missed = np.rint(random.normal(0.0, 255 * tolerance, len(before))).astype(int)
        levels = np.clip(curves.argmax(axis=1) + missed, 0, 255)
        slid = np.maximum(before, curves[np.arange(len(before)), levels])  # what is worse is taken back
        orders = {
            "worst first": np.argsort(quality, kind="stable"),
            "at random": random.permutation(len(before)),
            "perfect": np.argsort(before, kind="stable"),
        }
        for expert, after in (("slider", slid), ("full", np.ones(len(before)))):
            for name, order in orders.items():
                values = []
                for count in counts:
                    now = before.copy()
                    now[order[:count]] = after[order[:count]]
                    values.append(now.mean())
                rows.setdefault(f"{expert}, {name}", []).append(np.array(values))
    return {name: np.mean(values, axis=0).tolist() for name, values in rows.items()}


if __name__ == "__main__":
    main()
