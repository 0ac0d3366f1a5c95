"""Quality of propagators and refiners together, on maps that quality.py extracted: tables of docs/results.md.

    python benchmarks/chains.py DATA RUNS --set NAME ... [--propagation par ...] [--refiner none closed-form ...]

RUNS/NAME-SEED/cams/{train,test}/layercam holds maps, RUNS/NAME-SEED/classifier what made them (for propagators that
need its features), DATA/NAME/{images,masks}/{train,test} images and true masks. Every chain is measured on the test
images with an object, once with the default threshold, without any mask, and once with the level that is best on the
training masks, chosen after the propagation. Dice and IoU are means per image; tables show the mean over seeds, with
the lowest and the highest.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch

from camseg.base.arrays import Cam, Mask, Trimap, dequantise, quantise
from camseg.cams.compute import classifier_features
from camseg.classify.checkpoint import load_classifier
from camseg.classify.classifier import Classifier
from camseg.data.datasets import Sample
from camseg.data.images import find_images, read_cam, read_image, read_mask, relative_name
from camseg.label.settings import LabelSettings
from camseg.label.stages import TrimapStage
from camseg.masks.settings import Threshold
from camseg.masks.threshold import cam_to_mask
from camseg.measure.metrics import dice, iou, mask_counts, threshold_counts
from camseg.propagation.propagate import propagate
from camseg.propagation.registry import METHODS as PROPAGATORS
from camseg.propagation.settings import PropagateSettings
from camseg.refinement.refine import refine_with_report
from camseg.refinement.registry import METHODS as REFINERS
from camseg.runs.stage import new_item

LABEL = LabelSettings()


@dataclass(frozen=True)
class Job:
    """One image of one seed under one propagator."""

    image: Path
    cam: Path
    mask: Path
    run: Path
    propagation: str


def main() -> None:
    """Measure, then print one table per set and threshold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--set", dest="sets", action="append", required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--propagation", nargs="+", default=["none", *PROPAGATORS])
    parser.add_argument("--refiner", nargs="+", default=["none", "closed-form", "grabcut", "auto"])
    parser.add_argument("--threshold", default=str(LABEL.masks.threshold))
    parser.add_argument("--every", type=int, default=1, help="Measure every Nth image only.")
    parser.add_argument("--half", default="test", choices=("test", "train"), help="Which images are scored.")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="Also write every seed's figures there.")
    args = parser.parse_args()
    known = {"none", "auto", *(name for name, method in REFINERS.items() if not method.needs_weights)}
    if unknown := set(args.refiner) - known:
        parser.error(f"no refiner to measure is called {sorted(unknown)[0]}; choose among {', '.join(sorted(known))}")
    found: dict[str, dict[str, list[dict]]] = {}
    with ProcessPoolExecutor(args.processes, initializer=_one_thread) as pool:
        for name in args.sets:
            found[name] = {}
            for propagation in args.propagation:
                for seed in map(int, args.seeds.split(",")):
                    run = args.runs / f"{name}-{seed}"
                    chosen = best_level(pool.map(levels_counts, jobs(args.data / name, run, "train", propagation)))
                    thresholds = {"no mask": args.threshold, "training masks": chosen}
                    some = jobs(args.data / name, run, args.half, propagation)[:: args.every]
                    measure = _Measure(thresholds=thresholds, refiners=tuple(args.refiner))
                    for key, row in mean_rows(list(pool.map(measure, some))).items():
                        found[name].setdefault(f"{propagation}, {key}", []).append(row)
                    print(name, propagation, seed, f"training level {chosen.value}", flush=True)
    for name, chains in found.items():
        report(name, chains)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))


def jobs(data: Path, run: Path, half: str, propagation: str) -> list[Job]:
    """The images of one half whose true mask is not empty."""
    cams = run / "cams" / half / LABEL.cams.methods[0]
    images = find_images(data / "images" / half)
    every = [
        Job(
            image=path,
            cam=cams / f"{relative_name(path, images.root)}.png",
            mask=data / "masks" / half / f"{relative_name(path, images.root)}.png",
            run=run / "classifier",
            propagation=propagation,
        )
        for path in images.files
    ]
    return [job for job in every if job.mask.exists() and read_mask(job.mask).any()]


def propagated(job: Job) -> np.ndarray:
    """The map after its propagator, as a file would hold it."""
    cam = read_cam(job.cam)
    if job.propagation == "none":
        return cam
    image, features = read_image(job.image), None
    if PropagateSettings(method=job.propagation).needs_features:
        features = classifier_features(classifier(job.run), image)
    return dequantise(quantise(propagate(image, cam, job.propagation, features=features)))


def trimap_of(job: Job, mask: Mask, cam: Cam) -> Trimap:
    """The trimap that the chain would make."""
    item = replace(new_item(Sample(path=job.image, name=job.image.stem)), mask=mask, cams={"": cam})
    trimap = TrimapStage(settings=LABEL.trimap).each(item).trimap
    assert trimap is not None
    return trimap


@lru_cache(maxsize=1)
def classifier(run: Path) -> Classifier:
    """The classifier of the last call."""
    return load_classifier(run)


def levels_counts(job: Job) -> np.ndarray:
    """Dice of the map at every level (256,)."""
    return dice(threshold_counts(quantise(propagated(job)), read_mask(job.mask)))


def best_level(curves: Sequence[np.ndarray]) -> Threshold:
    """The level with the highest mean Dice."""
    return Threshold(kind="level", value=int(np.mean(list(curves), axis=0).argmax()))


@dataclass(frozen=True)
class _Measure:
    thresholds: dict[str, str | Threshold]
    refiners: tuple[str, ...]

    def __call__(self, job: Job) -> dict[str, tuple[float, float, str | None]]:
        """Dice, IoU and the fallback of every refiner, by refiner and threshold."""
        image, cam, truth = read_image(job.image), propagated(job), read_mask(job.mask)
        scores = {}
        for basis, threshold in self.thresholds.items():
            mask = cam_to_mask(cam, threshold)
            trimap = trimap_of(job, mask, cam)
            for refiner in self.refiners:
                final, fallback = mask, None
                if refiner != "none":
                    refined = refine_with_report(image, trimap, refiner, mask)
                    final, fallback = quantise(refined.alpha) > 127, refined.fallback
                counts = mask_counts(final, truth)
                scores[f"{refiner}|{basis}"] = float(dice(counts)), float(iou(counts)), fallback
        return scores


def mean_rows(scores: Sequence[dict[str, tuple[float, float, str | None]]]) -> dict[str, dict]:
    """Per refiner and threshold the means over the images, and how many fell back."""
    return {
        key: {
            "dice": float(np.mean([one[key][0] for one in scores])),
            "iou": float(np.mean([one[key][1] for one in scores])),
            "fallbacks": sum(one[key][2] is not None for one in scores),
            "images": len(scores),
        }
        for key in scores[0]
    }


def report(name: str, chains: dict[str, list[dict]]) -> None:
    """Print one set's tables."""
    for basis in ("no mask", "training masks"):
        print(f"\n### {name}, threshold: {basis}\n\n| chain | Dice | IoU | fell back |\n|---|---|---|---|")
        for key, rows in chains.items():
            chain, _, of = key.partition("|")
            if of == basis:
                numbers = [spread([row[kind] for row in rows]) for kind in ("dice", "iou")]
                share = sum(row["fallbacks"] for row in rows) / sum(row["images"] for row in rows)
                print(f"| {chain} | {' | '.join(numbers)} | {100 * share:.0f} % |")


def spread(values: Sequence[float]) -> str:
    """Mean, lowest and highest."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _one_thread() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
