"""Whether a set's maps and images tell, without a mask, at which level maps should be cut: two criteria, and the truth.

    python benchmarks/levels.py DATA --set NAME=OUT ... [--half train]

DATA/NAME holds images/{train,test}/<class>/ and masks/{train,test}/<class>/; OUT is what ``camseg label --save cams``
wrote of the half. For each level, a share of each map's maximum, over images whose true mask is not empty:

- dice: the mean of the mask above the level; purity: the share of true pixels between this level and the next.
- ring: pixels within a narrow ring inside and outside the contour, from all images, told apart by their colour and its
  surroundings (logistic regression, four folds of images): the area under the ROC curve. At the true contour what
  changes is the same in all images.
- alike: how far pixels between this level and the next look like those above 0.9 (1) and not like those below 0.3 (0),
  by such a regression between these two, of the image's own fold.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from camseg.base.arrays import Cam, Mask
from camseg.data.datasets import load_images
from camseg.data.images import read_cam, read_image, read_mask
from camseg.measure.metrics import dice, mask_counts

LEVELS: Final = np.arange(0.3, 0.96, 0.05)
FOLDS: Final = 4
DRAWN: Final = 60
"""Pixels of one image and kind."""


class Example(NamedTuple):
    """One image: its map over its maximum, its true mask, and what is seen at each pixel, (H * W, features)."""

    cam: Cam
    truth: Mask
    seen: NDArray[np.float32]


def read_examples(data: Path, half: str, out: Path) -> list[Example]:
    """Those images with an object of which there is a map."""
    examples = []
    for sample in load_images(data / "images" / half).samples:
        found = [*(out / "cams").glob(f"{sample.name}.png"), *(out / "cams").glob(f"*/{sample.name}.png")]
        truth = read_mask(data / "masks" / half / f"{sample.name}.png")
        if found and truth.any() and (cam := read_cam(found[0])).any():
            examples.append(Example(cam / cam.max(), truth, seen(read_image(sample.path))))
    return examples


def seen(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Colour, brightness beside the image's own, their surroundings at two sizes, and texture: (H * W, features)."""
    colour = image.astype(np.float32) / 255
    grey = colour.mean(axis=2)
    near = np.dstack([colour, (grey - grey.mean()) / (grey.std() + 1e-6)])
    size = 0.01 * max(grey.shape)
    around = [cv2.GaussianBlur(near, (0, 0), factor * size) for factor in (1, 2)]
    mean, square = (cv2.GaussianBlur(one, (0, 0), size) for one in (grey, grey**2))
    texture = np.sqrt(np.maximum(square - mean**2, 0))
    features: NDArray[np.float32] = np.dstack([near, *around, texture, near**2])
    return features.reshape(-1, features.shape[2])


def ring_area(examples: Sequence[Example], level: float) -> float:
    """The area under the ROC curve of telling both sides of the contour apart."""
    rng = np.random.default_rng(0)
    sides: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    for one in examples:
        mask = one.cam >= level
        width = max(2, round(0.15 * float(mask.sum()) ** 0.5))
        inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
        rings = [np.flatnonzero((side > 0) & (side <= width)) for side in (inside, outside)]
        count = min(DRAWN, *map(len, rings))
        sides.append(tuple(one.seen[rng.choice(ring, count, replace=False)] for ring in rings))
    areas = []
    for fold in range(FOLDS):
        told = _told([one for n, one in enumerate(sides) if n % FOLDS != fold])
        own = [one for n, one in enumerate(sides) if n % FOLDS == fold]
        scores = [told.decision_function(np.concatenate(side)) for side in zip(*own, strict=True)]
        truth = np.repeat([1, 0], [len(one) for one in scores])
        areas.append(roc_auc_score(truth, np.concatenate(scores)))
    return float(np.mean(areas))


def alike(examples: Sequence[Example]) -> list[float]:
    """Of every band of levels how much its pixels look like the maps' peaks."""
    rng = np.random.default_rng(0)

    def draw(one: Example, low: float, high: float) -> NDArray[np.float32]:
        places = np.flatnonzero((one.cam >= low) & (one.cam < high))
        return one.seen[rng.choice(places, min(DRAWN, len(places)), replace=False)]

    edges = [(0.0, 0.3), *((level, level + 0.05) for level in LEVELS), (0.9, 1.01)]
    bands = [[draw(one, *edge) for edge in edges] for one in examples]
    scores = np.full((len(examples), len(edges)), np.nan)
    for fold in range(FOLDS):
        told = _told([(own[-1], own[0]) for n, own in enumerate(bands) if n % FOLDS != fold])
        for n in range(fold, len(examples), FOLDS):
            scores[n] = [told.predict_proba(band)[:, 1].mean() if len(band) else np.nan for band in bands[n]]
    far, *between, peak = np.nanmean(scores, axis=0)
    return [float((one - far) / (peak - far)) for one in between]


def _told(sides: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> LogisticRegression:
    first, second = (np.concatenate(side) for side in zip(*sides, strict=True))
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    return regression.fit(np.concatenate([first, second]), np.repeat([1, 0], [len(first), len(second)]))


def main() -> None:
    """Print one table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", dest="sets", action="append", required=True, metavar="NAME=OUT")
    parser.add_argument("--half", default="train", choices=("train", "test"))
    args = parser.parse_args()
    for name, _, out in (entry.partition("=") for entry in args.sets):
        examples = read_examples(args.data / name, args.half, Path(out))
        rows: dict[str, list[float]] = {"dice": [], "purity": [], "ring": [], "alike": alike(examples)}
        for level in LEVELS:
            rows["dice"].append(float(np.mean([dice(mask_counts(one.cam >= level, one.truth)) for one in examples])))
            bands = [one.truth[(one.cam >= level) & (one.cam < level + 0.05)] for one in examples]
            rows["purity"].append(float(np.mean([band.mean() for band in bands if band.size])))
            rows["ring"].append(ring_area(examples, float(level)))
        print(f"\n| {name}, {len(examples)} images | {' | '.join(f'{level:.2f}' for level in LEVELS)} |")
        print("|---" * (len(LEVELS) + 1) + "|")
        for row, values in rows.items():
            print(f"| {row} | {' | '.join(f'{one:.2f}' for one in values)} |", flush=True)


if __name__ == "__main__":
    main()
