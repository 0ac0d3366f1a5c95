"""Which epoch to keep: by accuracy, as training does, or by criteria that look at masks and need no true one.

    python benchmarks/stopping.py DATA/NAME --weights FILE [--negative CLASS] --out runs/stopping [--seeds 0,1,2]

DATA/NAME holds images/{train,test}/<class>/ and masks/{train,test}/<class>/. For each seed a classifier is trained, and
the average of its weights kept after every epoch; every other one is measured. Criteria see the training images alone:
the validation's macro-F1 (and loss, as early stopping has it), the mean Dice of an epoch's masks with those of the
other seeds at the same epoch, and the mean rank by planted objects (``camseg choose``). Dice is of masks before
refinement, by the defaults of ``label``. Interrupted, it keeps the seeds that were trained whole.
"""

import argparse
import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from grids import drawn_cases
from scipy.stats import kendalltau

from camseg.base.arrays import Mask
from camseg.base.settings import from_json
from camseg.classify.checkpoint import load_classifier
from camseg.label.chain import label_image
from camseg.label.settings import LabelSettings
from camseg.measure.metrics import dice, mask_counts
from camseg.studies.choose import choose_runs
from camseg.studies.settings import ChooseSettings
from camseg.train.plan import plan_training, prepare_training, run_training

LABEL: Final = from_json(LabelSettings, {"refinement": {"method": "none"}})
LAST: Final = "the last epoch"
BEST: Final = "the best epoch by true masks"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure, then print a line for each criterion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--model", help="Default: that of the weights.")
    parser.add_argument("--negative", default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/stopping"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--images", type=int, default=20, help="Of each half, drawn once.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    epochs = list(range(2, args.epochs + 1, 2))
    for seed in seeds:
        train(args, seed)
    runs = [[args.out / str(seed) / str(epoch) for epoch in epochs] for seed in seeds]
    masks = {half: [[drawn(args, run, half) for run in of_seed] for of_seed in runs] for half in ("train", "test")}
    true = {half: np.array([[mean_dice(one) for one in of_seed] for of_seed in masks[half]]) for half in masks}
    criteria = {
        "macro-F1, as early stopping": np.array([validation(args.out / str(seed) / "run", epochs) for seed in seeds]),
        "agreement with other seeds": agreement(masks["train"]),
        **planted(args, runs),
        LAST: np.tile(np.arange(len(epochs), dtype=float), (len(seeds), 1)),
        BEST: true["train"],
    }
    report(criteria, true, epochs)


def train(args: argparse.Namespace, seed: int) -> None:
    """A run per epoch, ``OUT/SEED/EPOCH``."""
    out = args.out / str(seed)
    if (out / str(args.epochs)).exists():
        return
    run = out / "run"
    changes = {"model": args.model, "weights": args.weights, "image_size": args.image_size}
    changes |= {"seed": seed, "epochs": args.epochs}
    # Of every epoch the weights are saved then, and after the last one nothing is taken back.
    changes |= {"keep": "last", "patience": 0} | ({"negative": [args.negative]} if args.negative else {})

    def keep(epoch: int) -> None:
        shutil.rmtree(out / str(epoch), ignore_errors=True)
        (out / str(epoch)).mkdir()
        for name in ("model.safetensors", "classifier.json"):
            shutil.copy(run / name, out / str(epoch) / name)

    def say(line: str) -> None:
        print(line, flush=True)
        epoch = int(line.split("/")[0].split()[1]) if line.startswith("epoch ") else 0
        if epoch > 1:  # said before the epoch's own weights are there
            keep(epoch - 1)

    training = prepare_training(plan_training(args.set / "images" / "train", changes=changes), run)
    run_training(training, run, device="cpu", overwrite=run.exists(), say=say)
    keep(args.epochs)


def validation(run: Path, epochs: Sequence[int]) -> list[float]:
    """A number for each epoch that is larger for a better macro-F1, and of equal ones for a lower loss."""
    with (run / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = {int(row["epoch"]): row for row in csv.DictReader(file)}
    return [float(rows[epoch]["val_macro_f1"]) - 1e-6 * float(rows[epoch]["val_loss"]) for epoch in epochs]


def drawn(args: argparse.Namespace, run: Path, half: str) -> list[tuple[Mask, Mask]]:
    """A run's masks beside the true ones, of the images of one half that are drawn."""
    classifier = load_classifier(run, "cpu")
    cases = drawn_cases(classifier, args.set, half, args.images)
    return [(label_image(image, classifier, target, LABEL).mask, truth) for image, target, truth in cases]


def mean_dice(pairs: Sequence[tuple[Mask, Mask]]) -> float:
    """Over pairs of masks; two empty ones agree on nothing."""
    return float(
        np.mean([dice(mask_counts(mask, other)) if mask.any() or other.any() else 0.0 for mask, other in pairs])
    )


def agreement(masks: Sequence[Sequence[Sequence[tuple[Mask, Mask]]]]) -> np.ndarray:
    """(seeds, epochs): mean Dice of masks with those of the other seeds at the same epoch."""
    found = np.zeros((len(masks), len(masks[0])))
    for seed, of_seed in enumerate(masks):
        for epoch, own in enumerate(of_seed):
            others = [one[epoch] for place, one in enumerate(masks) if place != seed]
            pairs = [[(mine, its) for (mine, _), (its, _) in zip(own, other, strict=True)] for other in others]
            found[seed, epoch] = np.mean([mean_dice(each) for each in pairs])
    return found


def planted(args: argparse.Namespace, runs: Sequence[Sequence[Path]]) -> Mapping[str, np.ndarray]:
    """(seeds, epochs): the mean rank by planted objects, turned round; nothing where no image is without an object."""
    settings = from_json(ChooseSettings, {"limit": args.images})
    every = [str(run) for of_seed in runs for run in of_seed]
    images = args.set / "images" / "train"
    found = choose_runs(every, images, settings, cache=args.out / "choose", device="cpu", say=print)
    ranks = {one.run: one.planted_rank for one in found.candidates}
    if any(rank is None for rank in ranks.values()):
        return {}
    return {"planted objects": -np.array([[ranks[str(run)] for run in of_seed] for of_seed in runs], float)}


def report(criteria: Mapping[str, np.ndarray], true: Mapping[str, np.ndarray], epochs: Sequence[int]) -> None:
    """The epochs that each criterion keeps, their Dice, and how it orders the epochs of a seed."""
    print("\n| kept by | epochs | Dice, training | Dice, test | Kendall's tau, training |\n|---|---|---|---|---|")
    for name, values in criteria.items():
        kept = values.argmax(axis=1)
        means = [float(np.mean([row[place] for row, place in zip(each, kept, strict=True)])) for each in true.values()]
        taus = [kendalltau(said, row).statistic for said, row in zip(values, true["train"], strict=True)]
        cells = [name, ", ".join(str(epochs[place]) for place in kept), *(f"{one:.3f}" for one in means)]
        print(f"| {' | '.join(cells)} | {np.nanmean(taus):.2f} |")


if __name__ == "__main__":
    main()
