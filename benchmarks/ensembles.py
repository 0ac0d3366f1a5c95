"""Several networks of one set: how their masks fuse best, and what their agreement tells without a true mask.

    python benchmarks/ensembles.py DATA/NAME --runs RUN RUN RUN ... [--split test] [--images 60] [--json FILE]

DATA/NAME holds images/{train,test}/<class>/ and masks/{train,test}/<class>/; the runs are single networks that
``camseg train-cls`` wrote. Maps and propagation are those that ``label`` has by default, masks are not refined; means
are of Dice over images whose true mask is not empty. Settings are to be chosen with ``--split train``.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from camseg.base.arrays import Cam, Mask
from camseg.cams.plan import plan
from camseg.classify.checkpoint import load_network
from camseg.classify.ensemble import Ensemble
from camseg.classify.targets import TargetRule
from camseg.data.datasets import Dataset, load_images
from camseg.data.images import read_image, read_mask
from camseg.label.agreement import WIDTH
from camseg.label.chain import map_stages
from camseg.label.settings import LabelSettings
from camseg.masks.consensus import FUSIONS, central_weights, centrality, pairwise_dice, weighted_mean
from camseg.masks.threshold import cam_to_mask
from camseg.propagation.propagate import propagate
from camseg.runs.stage import new_item, run_stages

SETTINGS = LabelSettings()
LEVEL = SETTINGS.masks.threshold
SET_WIDTHS = (WIDTH / 2, WIDTH, 2 * WIDTH, 4 * WIDTH)
"""Of weights by agreement over the set."""
IMAGE_WIDTHS = (0.03, 0.1, 0.3)
"""Of weights by agreement in each image."""


def dice(one: Mask, other: Mask) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


def members_maps(ensemble: Ensemble, data: Dataset, masks: Path, count: int) -> list[tuple[Any, list[Cam], Mask]]:
    """Images, each member's maps of them before propagation, and true masks."""
    samples = [sample for sample in data.samples if not set(sample.labels or ()) & set(ensemble.negative)]
    if len(samples) > count:
        samples = [samples[i] for i in sorted(np.random.default_rng(0).permutation(len(samples))[:count])]
    stages = map_stages(plan(ensemble, SETTINGS.cams), TargetRule(word="label"), 1, apart=True)
    for stage in stages:
        stage.setup("cpu")
    found = []
    for sample in samples:
        truth = read_mask(masks / f"{sample.name}.png")
        (item,) = run_stages(stages, [new_item(sample, ensemble.window)])
        if truth.any() and item.members:
            found.append((read_image(sample.path, ensemble.window), list(item.members), truth))
    return found


def measure(found: list[tuple[Any, list[Cam], Mask]]) -> dict[str, Any]:
    """Figures by name."""
    count = len(found[0][1])
    shares = [1 / count] * count
    spread = [[propagate(image, cam) for cam in cams] for image, cams, _ in found]
    masks = [[cam_to_mask(cam, LEVEL) for cam in cams] for cams in spread]
    single = np.array([[dice(mask, truth) for mask in row] for row, (*_, truth) in zip(masks, found, strict=True)])
    central = np.array([centrality(pairwise_dice(row)) for row in masks])  # (images, members)
    weights: dict[str, list[NDArray[np.float64]]] = {
        "equal": [np.array(shares)] * len(found),
        **{
            f"agreement over the set, {w:g}": [central_weights(central.mean(axis=0), shares, w)] * len(found)
            for w in SET_WIDTHS
        },
        **{f"agreement per image, {w:g}": [central_weights(one, shares, w) for one in central] for w in IMAGE_WIDTHS},
    }
    table: dict[str, dict[str, float]] = {}
    for name, rows in weights.items():
        before, after = [], {how: [] for how in ("mean", "median", "votes")}
        for (image, cams, truth), own, cut, weight in zip(found, spread, masks, rows, strict=True):
            before.append(dice(cam_to_mask(propagate(image, weighted_mean(cams, weight)), LEVEL), truth))
            for how, scores in after.items():
                if how == "votes":
                    fused = FUSIONS[how]([mask.astype(np.float32) for mask in cut], weight) > 0.5
                else:
                    fused = cam_to_mask(FUSIONS[how](own, weight), LEVEL)
                scores.append(dice(fused, truth))
        if name == "equal":
            order = float(spearmanr(central.mean(axis=1), before)[0])
        table[name] = {"maps": np.mean(before), **{how: np.mean(scores) for how, scores in after.items()}}
    return {
        "images": len(found),
        "Dice of each member": single.mean(axis=0).round(4).tolist(),
        "agreement of each member": central.mean(axis=0).round(4).tolist(),
        "Spearman of agreement and Dice, over images": round(order, 3),
        "Dice by weights and fusion": {
            name: {how: round(float(one), 4) for how, one in row.items()} for name, row in table.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--runs", nargs="+", required=True, type=Path)
    parser.add_argument("--split", default="test", choices=("train", "test"))
    parser.add_argument("--images", default=60, type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    members = tuple(load_network(run) for run in arguments.runs)
    ensemble = Ensemble(members=members, shares=(1 / len(members),) * len(members))
    data = load_images(arguments.set / "images" / arguments.split, ensemble.classes)
    figures = measure(members_maps(ensemble, data, arguments.set / "masks" / arguments.split, arguments.images))
    print(f"{arguments.set.name}, {arguments.split}, {len(members)} networks, {figures['images']} images")
    for name, value in figures.items():
        if isinstance(value, list | float):
            print(f"{name}: {value}")
    print(f"{'weights':32} {'maps':>7} {'mean':>7} {'median':>7} {'votes':>7}")
    for name, row in figures["Dice by weights and fusion"].items():
        print(f"{name:32} " + " ".join(f"{row[how]:7.3f}" for how in ("maps", "mean", "median", "votes")))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
