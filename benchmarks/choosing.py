"""How each criterion of ``camseg choose`` orders runs, beside the true Dice that it does not know.

    python benchmarks/choosing.py IMAGES MASKS RUN RUN RUN ... [--threshold max:0.6,max:0.7] [--propagation par,none]

IMAGES as for ``camseg choose``, MASKS true masks of the same relative names. Prints every run (and setting) with its
mean true Dice on the images that the choice was made on, then Kendall's tau of each criterion with that; 1 is the
order of the truth. Masks are those before refinement, at the size at which ``choose`` compares them.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from scipy.stats import kendalltau

from camseg.base.settings import from_json
from camseg.classify.checkpoint import load_classifier
from camseg.data.datasets import load_images
from camseg.data.images import read_mask
from camseg.measure.metrics import dice, mask_counts
from camseg.studies.choose import choose_runs
from camseg.studies.choose_maps import BatchMaps, masks_of, read_views
from camseg.studies.choose_report import Choice
from camseg.studies.settings import ChooseSettings


def main() -> None:
    """Choose, measure, print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--threshold", default=None)
    parser.add_argument("--propagation", default=None)
    parser.add_argument("--negative", default=None)
    parser.add_argument("--limit", type=int, default=ChooseSettings.limit)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="Also write the figures there.")
    args = parser.parse_args()
    given = {"thresholds": args.threshold, "propagations": args.propagation}
    values = {name: value.split(",") for name, value in given.items() if value}
    negative = {"negative": [args.negative]} if args.negative else {}
    settings = from_json(ChooseSettings, {**values, **negative, "limit": args.limit, "seed": args.seed})
    found = choose_runs(args.runs, args.images, settings, device=args.device, say=print)
    truth = true_dice(found, args.images, args.masks, args.runs, settings, args.device)
    columns, rows = found.table()
    print(f"| {' | '.join(columns)} | true Dice |\n|{'---|' * (len(columns) + 1)}")
    for row, one in zip(rows, found.candidates, strict=True):
        print(f"| {' | '.join(row)} | {truth[key(one)]:.3f} |")
    taus = criteria(found, truth)
    print("\n| criterion | Kendall's tau |\n|---|---|")
    for name, tau in taus.items():
        print(f"| {name} | {tau:.2f} |")
    if args.json:
        named = {" | ".join(name): value for name, value in truth.items()}
        args.json.write_text(json.dumps({**found.to_dict(), "true_dice": named, "tau": taus}, indent=2))


def key(one) -> tuple[str, str, str]:
    """What tells a candidate from others."""
    return one.run, one.propagation, one.threshold


def true_dice(
    found: Choice, images: Path, masks: Path, runs: list[str], settings: ChooseSettings, device: str
) -> dict[tuple[str, str, str], float]:
    """Mean Dice of every candidate's masks with the true ones, over the images with an object that were chosen on."""
    places = {sample.name: sample.path for sample in load_images(images).samples}
    names = [
        (run, spread, str(level)) for run in runs for spread in settings.propagations for level in settings.thresholds
    ]
    scores: dict[tuple[str, str, str], list[float]] = {name: [] for name in names}
    for run in runs:
        classifier = load_classifier(run, device)
        classifier = classifier.with_negative(settings.negative) if settings.negative else classifier
        own = [name for name in names if name[0] == run]
        for name, target in found.positives:
            truth = read_mask(masks / f"{name}.png")
            inputs = [read_views(classifier, places[name])], [target]
            maps = BatchMaps(classifier=classifier, load=lambda inputs=inputs: inputs, settings=settings)
            (made,) = masks_of({name: maps.spread(name) for name in settings.propagations}, settings)
            for candidate, mask in zip(own, made, strict=True):
                size = mask.shape[::-1]
                small = cv2.resize(truth.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
                scores[candidate].append(float(dice(mask_counts(mask, small))))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def criteria(found: Choice, truth: dict[tuple[str, str, str], float]) -> dict[str, float]:
    """Kendall's tau of every criterion with the true Dice; of ranks the other way round."""
    values = {"agreement": [one.agreement for one in found.candidates]}
    for name in found.candidates[0].planted:
        values[f"planted: {name}"] = [one.planted[name] for one in found.candidates]
    if found.candidates[0].planted_rank is not None:
        values["planted: mean rank"] = [-(one.planted_rank or 0.0) for one in found.candidates]
    values["mean rank"] = [-one.rank for one in found.candidates]
    values["insertion - deletion"] = [one.faithfulness for one in found.candidates]
    true = [truth[key(one)] for one in found.candidates]
    return {name: float(kendalltau(scores, true).statistic) for name, scores in values.items()}


if __name__ == "__main__":
    main()
