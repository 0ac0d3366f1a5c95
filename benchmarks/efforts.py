"""What fewer views cost in Dice and save in time: the efforts of ``label``, and other scales, mirrored or not.

    python benchmarks/efforts.py DATA --set NAME=RUN[,RUN...] ... [--half train] [--images 40] [--views 1,1.5 ...]

DATA/NAME holds images/{train,test}/<class>/ and masks/{train,test}/<class>/; the runs are classifiers trained on the
set. Passes are those through the network at scale 1 that all views cost together; seconds are those of the processor
for an image's whole chain without refinement (with one thread: no other work disturbs them). Dice is the mean over
images whose true mask is not empty, and over a set's runs. Choose by the column of the training images.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from grids import drawn_cases

from camseg.base.settings import from_json
from camseg.cams.settings import WEIGHED, Scales
from camseg.classify.checkpoint import AnyClassifier, load_classifier
from camseg.label.chain import label_image
from camseg.label.settings import LabelSettings
from camseg.measure.metrics import dice, mask_counts

TRIED: Final = ("1", "1m", "1.5", "1.5m", "0.75,1m", "1,1.5", "0.75,1,1.5", "1,2", "few", "fewm", "auto", "autom")
"""Scales, and m where mirrored images are looked at too."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """Which views of an image the network sees."""

    scales: Scales
    flip: bool

    @classmethod
    def parse(cls, text: str) -> "Views":
        """From scales with commas, auto or few, and m for mirrored ones too."""
        scales = text.removesuffix("m")
        weighed = next((name for name in WEIGHED if name == scales), None)
        return cls(scales=weighed or tuple(map(float, scales.split(","))), flip=text.endswith("m"))

    @property
    def passes(self) -> float:
        """What all views cost, in passes at scale 1; where no view is of scale 1, its scores cost one more."""
        scales = self.scales if isinstance(self.scales, tuple) else WEIGHED[self.scales]
        return (1 + self.flip) * sum(scale**2 for scale in scales) + (1.0 not in scales)


def score(classifier: AnyClassifier, views: Views, data: Path, half: str, count: int) -> tuple[float, float]:
    """Mean Dice and processor's seconds per image of one half, of more than ``count`` a random choice."""
    settings = from_json(
        LabelSettings, {"cams": {"scales": views.scales, "flip": views.flip}, "refinement": {"method": "none"}}
    )
    scores, seconds = [], 0.0
    for image, target, truth in drawn_cases(classifier, data, half, count):
        start = time.process_time()
        mask = label_image(image, classifier, target, settings).mask
        seconds += time.process_time() - start
        scores.append(float(dice(mask_counts(mask, truth))))
    return float(np.mean(scores)), seconds / len(scores)


def main() -> None:
    """Print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", dest="sets", action="append", required=True, metavar="NAME=RUN,RUN")
    parser.add_argument("--half", default="train", choices=("train", "test"))
    parser.add_argument("--images", default=40, type=int, help="Of each set, drawn once.")
    parser.add_argument("--views", action="append", help="Such as 1,1.5m; repeats.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs: Mapping[str, list[AnyClassifier]] = {
        name: [load_classifier(run) for run in listed.split(",")]
        for name, _, listed in (entry.partition("=") for entry in args.sets)
    }
    print(f"| views | passes | {' | '.join(runs)} | mean | s per image |")
    print("|---" * (len(runs) + 4) + "|")
    for text in args.views or TRIED:
        views = Views.parse(text)
        found = {
            name: [score(classifier, views, args.data / name, args.half, args.images) for classifier in classifiers]
            for name, classifiers in runs.items()
        }
        means = [float(np.mean([one for one, _ in scores])) for scores in found.values()]
        seconds = np.mean([one for scores in found.values() for _, one in scores])
        cells = [text, f"{views.passes:.1f}", *(f"{one:.3f}" for one in (*means, np.mean(means))), f"{seconds:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
