"""How close scorecam with few channels comes to the exact map: python benchmarks/score_channels.py DATA RUN

DATA holds images/test/<class>/..., RUN is a classifier that train-cls wrote. Prints a Markdown table of Spearman rank
correlations over the map's positions.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from camseg.cams.capture import capture
from camseg.cams.methods.scoring import scorecam
from camseg.classify.checkpoint import load_classifier
from camseg.data.images import read_image

COUNTS = (16, 64, 256)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--layer", default="auto")
    parser.add_argument("--images", type=int, default=4, help="images with an object, spread evenly over the test set")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    classifier = load_classifier(args.run, args.device)
    classes = [name for name in classifier.classes if name not in classifier.negative]
    files = sorted(file for name in classes for file in (args.data / "images/test" / name).iterdir())
    found: dict[int, list[float]] = {}
    for index in np.linspace(0, len(files) - 1, args.images).round().astype(int):
        file = files[index]
        target = classifier.class_index(file.parent.name)
        whole = capture(classifier, classifier.preprocess([read_image(file)]), [target], layer=args.layer)
        exact = scorecam(whole).cpu().numpy()
        for count in COUNTS:
            if count < whole.activations.shape[1]:
                quick = scorecam(replace(whole, score_channels=count)).cpu().numpy()
                found.setdefault(count, []).append(float(spearmanr(quick.ravel(), exact.ravel()).statistic))
    print(f"{args.data.name}, layer {whole.layer} ({whole.activations.shape[1]} channels), {args.images} images\n")
    print("| channels tried | mean rank correlation | lowest |\n|---|---|---|")
    for count, values in found.items():
        print(f"| {count} | {np.mean(values):.3f} | {min(values):.3f} |")


if __name__ == "__main__":
    main()
