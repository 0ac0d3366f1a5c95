"""Quality of maps on folders of real images with true masks: the tables of docs/results.md.

    python benchmarks/quality.py DATA --weights FILE --out runs/quality --set NAME=NEGATIVE ...

DATA/NAME holds images/{train,test}/<class>/ and masks/{train,test}/<class>/; NAME= has no negative class. For every
set and seed a classifier is fine-tuned on the training images, and every way to extract maps is measured on the test
images; chains.py then measures what comes behind the maps. Interrupted, it continues. Means over seeds with their
lowest and highest value; Dice is a mean over images whose true mask is not empty.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from camseg.base.errors import InputError
from camseg.base.files import read_json, write_json
from camseg.cams.methods.registry import METHODS
from camseg.cams.settings import CamSettings
from camseg.classify.checkpoint import load_classifier
from camseg.classify.classifier import Classifier
from camseg.data.datasets import Dataset, load_images, load_training_data
from camseg.data.images import read_image
from camseg.data.splits import split
from camseg.label.folder import cams_folder
from camseg.label.settings import LabelSettings
from camseg.masks.settings import Threshold
from camseg.measure.evaluate import evaluate_folder
from camseg.measure.evaluate_report import save_best_threshold
from camseg.train.settings import TrainSettings
from camseg.train.trainer import train_classifier

QUICK = [name for name, method in METHODS.items() if method.passes == "1"]
SLOW = [name for name in METHODS if name not in QUICK and name != "fullgrad"]  # which cannot read this network
SLOW_EVERY = 6
"""Methods of more than one pass are measured on every sixth image of one seed."""
LABEL = LabelSettings()
METHOD = LABEL.cams.methods[0]
PLAIN = CamSettings(methods=LABEL.cams.methods)
PARTS: dict[str, tuple[CamSettings, int | None]] = {
    "one view, one layer, the class's score": (PLAIN, None),
    "margin alone": (replace(PLAIN, score="auto"), None),
    "mirrored alone": (replace(PLAIN, flip=True), None),
    "scales 1, 1.5, 2 alone": (replace(PLAIN, scales=(1.0, 1.5, 2.0)), None),
    "scale 2 alone": (replace(PLAIN, scales=(2.0,)), None),
    "scales auto alone": (replace(PLAIN, scales="auto"), None),
    "stages alone": (replace(PLAIN, layers=("stages",)), None),
    "output stride 16 alone": (PLAIN, 16),
    "margin, mirrored, scales 1, 1.5, 2": (replace(PLAIN, score="auto", flip=True, scales=(1.0, 1.5, 2.0)), None),
    "margin, mirrored, scales auto": (replace(PLAIN, score="auto", flip=True, scales="auto"), None),
    "margin, mirrored, stages": (replace(PLAIN, score="auto", flip=True, layers=("stages",)), None),
    "margin, mirrored, scales 1, 1.5, 2, stages": (
        replace(PLAIN, score="auto", flip=True, scales=(1.0, 1.5, 2.0), layers=("stages",)),
        None,
    ),
    "all: margin, mirrored, scales auto, stages": (
        replace(PLAIN, score="auto", flip=True, scales="auto", layers=("stages",)),
        None,
    ),
}
"""What makes maps better, each part alone and together: settings, and the output stride if it is not the network's.

Without a negative class there is no margin: the class's score is taken.
"""


def main() -> None:
    """Measure, then print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--set", dest="sets", action="append", required=True, metavar="NAME=NEGATIVE")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--skip-slow", action="store_true", help="Leave out methods of more than one pass.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    for entry in args.sets:
        name, _, negative = entry.partition("=")
        found = []
        for seed in seeds:
            out = args.out / f"{name}-{seed}"
            file = out / "scores.json"
            if not file.exists():
                write_json(file, measure(args.data / name, negative, args.weights, out, seed))
            found.append(read_json(file, InputError))
            print(f"{name}, seed {seed}: {json.dumps(found[-1]['accuracy'])}", flush=True)
        if not args.skip_slow:
            out = args.out / f"{name}-{seeds[0]}"
            if not (out / "slow.json").exists():
                write_json(out / "slow.json", slow_methods(args.data / name, out))
            for one in found[:1]:
                one["methods"].update(read_json(out / "slow.json", InputError))
        report(name, found)


def measure(data: Path, negative: str, weights: str, out: Path, seed: int) -> dict:
    """All scores of one set and seed, by name of method and of part."""
    classifier = train(data, negative, weights, out, seed)
    default_maps(data, classifier, out)
    test = load_images(data / "images" / "test", classifier.classes)
    cams_folder(test, classifier, out / "methods", CamSettings(methods=tuple(QUICK)))
    plain = {name: maps_score(out / "methods" / name, data) for name in QUICK}
    parts = {}
    for number, (part, (settings, stride)) in enumerate(PARTS.items()):
        parts[part] = part_score(data, classifier, out / "parts" / str(number), settings, stride)
    return {"accuracy": accuracy(classifier, test), "methods": plain, "parts": parts}


def default_maps(data: Path, classifier: Classifier, out: Path) -> None:
    """The maps that ``label`` makes by default, of either half: what chains.py reads."""
    for half in ("test", "train"):
        images = load_images(data / "images" / half, classifier.classes)
        cams_folder(images, classifier, out / "cams" / half, LABEL.cams)


def part_score(data: Path, classifier: Classifier, out: Path, settings: CamSettings, stride: int | None) -> dict:
    """Scores of one way to extract maps, at the threshold that is best on training masks, and its cost."""
    if stride is not None:
        classifier = classifier.with_output_stride(stride)
    seconds = 0.0
    for half in ("train", "test"):
        objects = object_images(load_images(data / "images" / half, classifier.classes), classifier)
        seconds = cams_folder(objects, classifier, out / half, settings).seconds["network"] / len(objects.samples)
    truth = {half: linked_masks(data, half, classifier, out / f"{half}-masks") for half in ("train", "test")}
    chosen = evaluate_folder(out / "train" / METHOD, truth["train"])
    save_best_threshold(out / "threshold.json", chosen, name=f"{data.name} training masks")
    return {**scores(out / "test" / METHOD, truth["test"], str(out / "threshold.json")), "seconds": seconds}


def object_images(images: Dataset, classifier: Classifier) -> Dataset:
    """The images of positive classes."""
    samples = tuple(sample for sample in images.samples if set(sample.labels or ()) - set(classifier.negative))
    return replace(images, samples=samples)


def linked_masks(data: Path, half: str, classifier: Classifier, out: Path) -> Path:
    """A folder with links to the masks of positive classes alone."""
    for name in set(classifier.classes) - set(classifier.negative):
        out.mkdir(parents=True, exist_ok=True)
        if not (out / name).exists():
            (out / name).symlink_to((data / "masks" / half / name).resolve())
    return out


def train(data: Path, negative: str, weights: str, out: Path, seed: int) -> Classifier:
    """The classifier of one seed, trained with the defaults of ``camseg train-cls``."""
    run = out / "classifier"
    if not (run / "metrics.json").exists():
        dataset = load_training_data(data / "images" / "train")
        train_part, val_part = split(dataset, 0.2, seed)
        torch.manual_seed(seed)
        absent = (negative,) if negative else ()
        classifier = Classifier.create(None, classes=dataset.classes, negative=absent, weights=weights)
        train_classifier(classifier, train_part, val_part, run, TrainSettings(seed=seed), device="cpu")
    return load_classifier(run)


def slow_methods(data: Path, out: Path) -> dict:
    """The methods of more than one pass, on every sixth test image with an object."""
    classifier = load_classifier(out / "classifier")
    test = load_images(data / "images" / "test", classifier.classes)
    some = replace(test, samples=object_images(test, classifier).samples[::SLOW_EVERY])
    cams_folder(some, classifier, out / "slow", CamSettings(methods=tuple(SLOW)))
    truth = out / "slow-masks"
    for sample in some.samples:
        link = truth / f"{sample.name}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to((data / "masks" / "test" / f"{sample.name}.png").resolve())
    return {name: scores(out / "slow" / name, truth, LABEL.masks.threshold) for name in SLOW}


def maps_score(folder: Path, data: Path, threshold: Threshold = LABEL.masks.threshold) -> dict:
    """The scores of test maps or masks."""
    return scores(folder, data / "masks" / "test", threshold)


def scores(folder: Path, truth: Path, threshold: Threshold | str) -> dict:
    """Headline scores of one folder; ``best`` is Dice at the level that is best on these very masks."""
    overall = evaluate_folder(folder, truth, thresholds=(threshold,)).overall
    cut = overall.thresholds[0]
    best = overall.best.dice if overall.best else None
    return {"mean_dice": overall.mean_dice, "dice": cut.dice, "iou": cut.iou, "best": best, "images": overall.images}


def accuracy(classifier: Classifier, test: Dataset) -> float:
    """The share of test images whose likeliest class is right."""
    right = 0
    with torch.inference_mode():
        for sample in test.samples:
            logits = classifier.model(classifier.preprocess([read_image(sample.path, classifier.window)]))
            right += (classifier.classes[int(logits.argmax())],) == sample.labels
    return right / len(test.samples)


def report(name: str, found: list[dict]) -> None:
    """Print one set's tables."""
    print(f"\n### {name}: {found[0]['methods'][QUICK[0]]['images']} test images with an object, {len(found)} seeds\n")
    print(f"Test accuracy {spread([one['accuracy'] for one in found])}.\n")
    print("| method | mean-Dice | Dice at its best single threshold | images |\n|---|---|---|---|")
    for method in METHODS:
        rows = [one["methods"][method] for one in found if method in one["methods"]]
        if rows:
            numbers = [spread([row[key] for row in rows]) for key in ("mean_dice", "best")]
            print(f"| {method} | {' | '.join(numbers)} | {rows[0]['images']} |")
    print("\n| part | mean-Dice | Dice, threshold from training masks | s per image |\n|---|---|---|---|")
    for part in found[0]["parts"]:
        rows = [one["parts"][part] for one in found]
        numbers = [spread([row[key] for row in rows]) for key in ("mean_dice", "dice")]
        print(f"| {part} | {' | '.join(numbers)} | {min(row['seconds'] for row in rows):.3f} |")


def spread(values: list[float]) -> str:
    """Mean, lowest and highest."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
