"""How well the quality of masks orders them by their true Dice: the table of docs/results.md.

    python benchmarks/mask_quality.py DATA/NAME --run RUN [--split test] [--images 40] --out FOLDER [--json FILE]

DATA/NAME holds images/{train,test}/<class>/ and masks/{train,test}/<class>/; RUN is a classifier that ``camseg
train-cls`` or ``ensemble`` wrote. Up to ``--images`` images with an object, drawn by ``--seed``, are labelled into
FOLDER with the defaults of ``camseg label``; interrupted, it continues. Printed are, for the quality and for each thing
that it may be made of, Spearman's correlation with the true Dice, and the area under the curve of risk (1 - Dice) over
coverage beside those of random and perfect order. What is made of what is to be chosen with ``--split train``.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from camseg.classify.checkpoint import load_classifier
from camseg.data.datasets import load_images
from camseg.data.images import read_mask
from camseg.label.folder import label_folder
from camseg.label.settings import LabelSettings
from camseg.measure.metrics import dice, mask_counts
from camseg.measure.risk import risk_coverage
from camseg.runs.manifest import read_manifest
from camseg.runs.record import Record
from camseg.runs.settings import FolderOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--split", default="test", choices=("train", "test"))
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    label(arguments.set, arguments.run, arguments.split, arguments.images, arguments.seed, arguments.out)
    found = measure(arguments.out, arguments.set / "masks" / arguments.split)
    table(f"{arguments.set.name}, {arguments.split}, {arguments.run}", found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


def label(data: Path, run: Path, split: str, count: int, seed: int, out: Path) -> None:
    """Label some images of a set that their labels say hold an object."""
    classifier = load_classifier(run)
    images = load_images(data / "images" / split, classifier.classes)
    shown = [sample for sample in images.samples if not set(sample.labels or ()) & set(classifier.negative)]
    if len(shown) > count:
        order = np.random.default_rng(seed).permutation(len(shown))[:count]
        shown = [shown[place] for place in sorted(order)]
    settings = LabelSettings(save=("cams",))  # for review.py
    label_folder(replace(images, samples=tuple(shown)), classifier, out, settings, options=FolderOptions(workers=1))


def measure(out: Path, masks: Path) -> dict[str, object]:
    """The figures of an output folder, over the masks whose true mask is not empty."""
    judged: list[tuple[Record, float]] = []
    for record in read_manifest(out):
        truth = read_mask(masks / f"{record.name}.png")
        if truth.any() and record.quality is not None:
            found = read_mask(out / record.files["mask"])
            judged.append((record, float(dice(mask_counts(found, truth)))))
    names = list(dict.fromkeys(name for record, _ in judged for name in record.agreements))
    values = {"quality": [record.quality for record, _ in judged], "score": [record.score for record, _ in judged]}
    for name in names:  # an empty mask has no agreements
        values[name] = [record.agreements.get(name, 0.0) for record, _ in judged]
    scores = [score for _, score in judged]
    rows = {}
    for name, qualities in values.items():
        curve = risk_coverage([value or 0.0 for value in qualities], scores)
        rows[name] = {"spearman": curve.spearman, "area": curve.area, "gain": curve.gain}
    return {
        "images": len(scores),
        "dice": float(np.mean(scores)),
        "random_area": curve.random_area,
        "perfect_area": curve.perfect_area,
        "orders": rows,
    }


def table(title: str, found: dict) -> None:
    """Print it."""
    print(f"### {title}: {found['images']} images, mean Dice {found['dice']:.3f}\n")
    print(f"area under risk-coverage: random {found['random_area']:.3f}, perfect {found['perfect_area']:.3f}\n")
    print("| order | Spearman | area | of the way from random to perfect |\n|---|---|---|---|")
    for name, row in found["orders"].items():
        cells = [row["spearman"], row["area"], row["gain"]]
        print(f"| {name} | {' | '.join('-' if cell is None else f'{cell:.3f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
