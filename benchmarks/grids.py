"""What the grid of the maps does to masks: sizes of the input, layers and strides, for networks that are trained.

    python benchmarks/grids.py DATA/NAME --runs RUN RUN ... [--layer stages --layer auto ...] [--stride 16 ...]

DATA/NAME holds images/{train,test}/<class>/ and masks/{train,test}/<class>/; the runs are single networks that
``camseg train-cls`` wrote, say at several ``--image-size``. Maps, propagation and level are those that ``label`` has by
default but for the layers and the stride, masks are not refined; means are of Dice over images whose true mask is not
empty. Settings are to be chosen by the column of the training images.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from camseg.base.arrays import Image, Mask
from camseg.base.errors import CamsegError
from camseg.base.settings import from_json
from camseg.cams.capture import network
from camseg.classify.checkpoint import AnyClassifier, load_network
from camseg.classify.classifier import Classifier
from camseg.data.datasets import load_images
from camseg.data.images import read_image, read_mask
from camseg.label.chain import label_image
from camseg.label.settings import LabelSettings
from camseg.measure.metrics import dice, mask_counts


def grids(classifier: Classifier, layers: Sequence[str]) -> str:
    """The sides of the layers' maps at scale 1, as text."""
    side = classifier.image_size
    blank = classifier.normalise(torch.zeros(1, side, side, 3, dtype=torch.uint8))
    seen = network(classifier, layers=layers).forward(blank, gradients=False)
    return ", ".join("{} x {}".format(*one.shape[-2:]) for one in seen.maps)


def drawn_cases(
    classifier: AnyClassifier, data: Path, half: str, count: int
) -> Iterator[tuple[Image, str | None, Mask]]:
    """Images of one half with an object, their label and true mask; of more than ``count`` a random choice."""
    samples = [
        sample
        for sample in load_images(data / "images" / half, classifier.classes).samples
        if not set(sample.labels or ()) & set(classifier.negative)
    ]
    for place in sorted(np.random.default_rng(0).permutation(len(samples))[:count]):
        sample = samples[place]
        truth = read_mask(data / "masks" / half / f"{sample.name}.png")
        if truth.any():
            yield read_image(sample.path), sample.labels[0] if sample.labels else None, truth


def mean_dice(classifier: AnyClassifier, settings: LabelSettings, data: Path, half: str, count: int) -> float:
    """Over ``drawn_cases``."""
    cases = drawn_cases(classifier, data, half, count)
    masks = ((label_image(image, classifier, target, settings).mask, truth) for image, target, truth in cases)
    return float(np.mean([dice(mask_counts(mask, truth)) for mask, truth in masks]))


def main() -> None:
    """Print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--runs", nargs="+", required=True, type=Path)
    parser.add_argument("--layer", dest="layers", action="append", help="As for --layer of label; repeats.")
    parser.add_argument("--stride", dest="strides", action="append", type=int, help="Output stride; repeats.")
    parser.add_argument("--images", default=40, type=int, help="Of each half, drawn once.")
    args = parser.parse_args()
    print("| network | input | stride | layers | grids | Dice, training | Dice, test |")
    print("|---|---|---|---|---|---|---|")
    for run in args.runs:
        own = load_network(run)
        for stride in (None, *(args.strides or ())):
            try:
                classifier = own if stride is None else own.with_output_stride(stride)
            except CamsegError:
                continue  # the network leaves no choice
            for layer in args.layers or ["stages"]:
                changes = {"cams": {"layers": layer.split(",")}, "refinement": {"method": "none"}}
                settings = from_json(LabelSettings, changes)
                found = [mean_dice(classifier, settings, args.set, half, args.images) for half in ("train", "test")]
                facts = [classifier.arch, str(own.image_size), str(stride or "own"), layer]
                cells = [*facts, grids(classifier, settings.cams.layers), *(f"{one:.3f}" for one in found)]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
