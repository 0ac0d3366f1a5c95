"""What a training recipe does to the mean and the spread of masks over seeds.

    python benchmarks/recipes.py DATA --weights FILE --out runs/recipes --set NAME=NEGATIVE ... [--recipe NAME ...]

DATA/NAME holds images/{train,test}/<class>/ and masks/{train,test}/<class>/. For every set, recipe and seed a
classifier is trained on the training images and labels images of both halves as ``label`` does by default, without
refinement; settings are to be chosen by the column of the training images. Interrupted, it continues.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from grids import mean_dice

from camseg.base.errors import InputError
from camseg.base.files import read_json, write_json
from camseg.base.settings import from_json
from camseg.classify.checkpoint import load_classifier
from camseg.label.settings import LabelSettings
from camseg.train.plan import plan_training, prepare_training, run_training

RECIPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "12 epochs": {"epochs": 12},
    "20 epochs": {"epochs": 20},
    "12 epochs, averaging 0.995": {"epochs": 12, "averaging": 0.995},
    "12 epochs, rate 0.0003": {"epochs": 12, "learning_rate": 3e-4},
    "12 epochs, batches of 32": {"epochs": 12, "batch_size": 32},
    "12 epochs, all images": {"epochs": 12, "val_fraction": 0.05},
    "12 epochs, smoothing 0.1": {"epochs": 12, "label_smoothing": 0.1},
    "6 epochs, side times 1.4": {"epochs": 6},
}
"""By name: what differs from the defaults of ``train-cls``."""
LARGER: Final = "6 epochs, side times 1.4"


def main() -> None:
    """Train and measure what is not there yet, then print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--set", dest="sets", action="append", required=True, metavar="NAME=NEGATIVE")
    parser.add_argument("--recipe", dest="recipes", action="append", choices=RECIPES)
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=40, help="Of each half, drawn once.")
    parser.add_argument("--threshold", default=str(LabelSettings().masks.threshold), help="Where maps are cut.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sets = dict(entry.partition("=")[::2] for entry in args.sets)
    names = args.recipes or list(RECIPES)
    # Seed by seed, so that a run which is stopped has something of every recipe.
    for seed in map(int, args.seeds.split(",")):
        for recipe in names:
            for name, negative in sets.items():
                out = args.out / name / recipe.replace(" ", "_").replace(",", "") / str(seed)
                if not (out / "scores.json").exists():
                    write_json(out / "scores.json", measure(args, name, negative, recipe, seed, out))
                print(name, recipe, seed, read_json(out / "scores.json", InputError), flush=True)
    for name in sets:
        report(args.out / name, name, names)


def measure(args: argparse.Namespace, name: str, negative: str, recipe: str, seed: int, out: Path) -> dict[str, float]:
    """Validation accuracy, and the mean Dice of masks of either half."""
    side = round(args.image_size * 1.4 / 32) * 32 if recipe == LARGER else args.image_size
    changes = {**RECIPES[recipe], "seed": seed, "weights": args.weights, "image_size": side}
    if negative:
        changes["negative"] = [negative]
    run = out / "run"
    data = args.data / name
    if not (run / "metrics.json").exists():
        run_training(
            prepare_training(plan_training(data / "images" / "train", changes=changes), run), run, device="cpu"
        )
    classifier = load_classifier(run, "cpu")
    found = {"accuracy": float(read_json(run / "metrics.json", InputError)["accuracy"])}
    settings = from_json(LabelSettings, {"masks": {"threshold": args.threshold}, "refinement": {"method": "none"}})
    return found | {half: mean_dice(classifier, settings, data, half, args.images) for half in ("train", "test")}


def report(folder: Path, name: str, recipes: list[str]) -> None:
    """Mean, standard deviation and extremes over the seeds of each recipe."""
    print(f"\n{name}\n\n| recipe | seeds | accuracy | Dice, training | Dice, test | spread (sd) | lowest to highest |")
    print("|---|---|---|---|---|---|---|")
    for recipe in recipes:
        files = sorted((folder / recipe.replace(" ", "_").replace(",", "")).glob("*/scores.json"))
        rows = [read_json(file, InputError) for file in files]
        if rows:
            test = [row["test"] for row in rows]
            means = [np.mean([row[key] for row in rows]) for key in ("accuracy", "train", "test")]
            figures = [*means, np.std(test, ddof=len(rows) > 1)]
            cells = [recipe, str(len(rows)), *(f"{one:.3f}" for one in figures), f"{min(test):.3f} to {max(test):.3f}"]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
