"""The papers' segmentation networks on one set, and what they looked at: a table and a picture.

    python benchmarks/paper_networks.py DATA --set NAME=NEGATIVE --out runs/networks [--only NETWORK ...]

DATA/NAME holds images/{train,test}/<class>/ and masks/{train,test}/<class>/; NAME= has no negative class. Every network
is trained from nothing by its paper's recipe, as far as options do not say otherwise, and scored on the test images at
its own size by the papers' measures: per image over the images with an object (accuracy and cross-entropy: over all),
and Dice and IoU over all pixels too. Rows are kept in OUT/rows.jsonl, one JSON object each, and a training that was
stopped continues. OUT/NAME.png shows test images, their masks, and for each network the Grad-CAM map of its bottleneck
(above) and of its last decoder (below) for the pixels that it predicts. --table prints what is there, and draws it.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from camseg.base.arrays import Image
from camseg.base.errors import InputError
from camseg.base.files import read_json
from camseg.cams.compute import compute_cams
from camseg.data.datasets import load_images
from camseg.data.images import read_image, read_mask, write_image
from camseg.measure.overlays import contact_sheet, overlay_cam, overlay_mask
from camseg.models.segmenters.building import build_segmenter
from camseg.segment.checkpoint import load_segmenter
from camseg.train.segmenter_plan import plan_segmenter_training, prepare_segmenter_training, run_segmenter_training

NETWORKS: Final[Mapping[str, Mapping[str, Any]]] = {
    "unet": {"recipe": "sarmah", "model": "unet"},
    "multiresunet": {"recipe": "sarmah", "model": "multiresunet"},
    "dcunet": {"recipe": "sarmah", "model": "dcunet"},
    "med-ic-seg": {"recipe": "med-ic-seg", "model": "med-ic-seg"},
    "med-ic-seg, 2 involutions": {
        "recipe": "med-ic-seg",
        "model": "med-ic-seg",
        "model_args": {"involutions": 2},
    },
    "med-ic-seg, 3 involutions": {
        "recipe": "med-ic-seg",
        "model": "med-ic-seg",
        "model_args": {"involutions": 3},
    },
    "unet-extra": {"recipe": "med-ic-seg", "model": "unet-extra"},
}
"""By name: the recipe, and what differs from it."""
MEASURES: Final = {
    "accuracy": "mean_accuracy_per_image",
    "precision": "mean_precision_per_image",
    "recall": "mean_recall_per_image",
    "IoU": "mean_iou_per_image",
    "Dice": "mean_dice_per_image",
    "cross-entropy": "mean_binary_cross_entropy_per_image",
    "IoU over pixels": "iou_over_pixels",
    "Dice over pixels": "dice_over_pixels",
}
"""By what the table calls them, their names in ``metrics.json``."""
LAYERS: Final = ("bottleneck", "last-decoder")
CELL: Final = 160
"""Side of a picture in the sheet, pixels."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure what is not there yet, then print the table and draw the picture of each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/networks"))
    parser.add_argument("--set", dest="sets", action="append", required=True, metavar="NAME=NEGATIVE")
    parser.add_argument("--only", action="append", choices=NETWORKS)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, help="Instead of the recipes'.")
    parser.add_argument("--image-size", type=int, help="Instead of the recipes' 128 pixels.")
    parser.add_argument(
        "--learning-rate", type=float, help="Instead of the recipes': short trainings need a larger one."
    )
    parser.add_argument(
        "--loss", help="Instead of cross-entropy, which the papers report: short trainings find nothing small by it."
    )
    parser.add_argument("--images", type=int, default=4, help="Test images in the picture.")
    parser.add_argument("--score", default="predicted", choices=("predicted", "mean"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--table", action="store_true", help="Only print and draw what is there.")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    for seed in seeds:
        for entry in args.sets:
            for network in args.only or NETWORKS:
                if not args.table and not rows(args, entry, network, [seed]):
                    append(args.out / "rows.jsonl", measure(args, entry, network, seed))
    for entry in args.sets:
        table(args, entry, seeds)
        picture(args, entry, seeds[0])


def measure(args: argparse.Namespace, entry: str, network: str, seed: int) -> dict[str, Any]:
    """A network's scores on the test images."""
    name, _, negative = entry.partition("=")
    run = place(args, entry, network, seed)
    if not (run / "metrics.json").exists():
        how = dict(NETWORKS[network])
        changes: dict[str, Any] = {key: value for key, value in how.items() if key != "recipe"}
        changes |= {"masks": args.data / name / "masks", "seed": seed, "weights": "none"}
        changes |= {"negative": [negative]} if negative else {}
        changes |= {"epochs": args.epochs} if args.epochs else {}
        changes |= {"image_size": args.image_size} if args.image_size else {}
        changes |= {"learning_rate": args.learning_rate} if args.learning_rate else {}
        changes |= {"loss": args.loss} if args.loss else {}
        # The set comes divided: its test images are what the run is tested on.
        plan = plan_segmenter_training(args.data / name / "images", recipe=how["recipe"], changes=changes)
        run_segmenter_training(prepare_segmenter_training(plan, run), run, device=args.device)
    metrics = read_json(run / "metrics.json", InputError)
    found = {key: metrics["test"][key] for key in MEASURES.values()}
    row = {**facts(args, entry, network, seed), **found, "best_epoch": metrics["best_epoch"]}
    print(json.dumps(row), flush=True)
    return row


def facts(args: argparse.Namespace, entry: str, network: str, seed: int) -> dict[str, Any]:
    """What a row is of."""
    given = ("epochs", "image_size", "learning_rate", "loss")
    options = {**{key: getattr(args, key) for key in given}, "how": NETWORKS[network]}
    return {"set": entry, "seed": seed, "network": network, "options": options}


def place(args: argparse.Namespace, entry: str, network: str, seed: int) -> Path:
    """Where a network's run lies."""
    size = f"{args.image_size or 'own'}px-{args.epochs or 'own'}epochs-{args.learning_rate or 'own'}rate"
    size += f"-{args.loss or 'own'}"
    folder = network.replace(",", "").replace(" ", "_")
    return args.out / f"{entry.partition('=')[0]}-{seed}-{size}" / folder


def rows(args: argparse.Namespace, entry: str, network: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What has been measured of a network, a row for each of the seeds that there are."""
    file = args.out / "rows.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    kept = [json.loads(line) for line in lines]
    found = []
    for seed in seeds:
        wanted = facts(args, entry, network, seed)
        found += [one for one in kept if wanted.items() <= one.items()][-1:]
    return found


def append(file: Path, row: Mapping[str, Any]) -> None:
    """Add a row, which a kill cannot take away."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def table(args: argparse.Namespace, entry: str, seeds: Sequence[int]) -> None:
    """Print means over the seeds, with the lowest and the highest Dice."""
    print(f"\n### {entry.partition('=')[0]}, test images\n\n| network | parameters | seeds | {' | '.join(MEASURES)} |")
    print("|---|" + "---|" * (2 + len(MEASURES)))
    for network, how in NETWORKS.items():
        if seen := rows(args, entry, network, seeds):
            with torch.device("meta"):  # no memory is filled
                model = build_segmenter(how["model"], arguments=how.get("model_args"))
            count = sum(parameter.numel() for parameter in model.parameters())
            cells = []
            for name, key in MEASURES.items():
                values = [float(one[key] or 0.0) for one in seen]
                spread = f" ({min(values):.3f} to {max(values):.3f})" if name == "Dice" and len(values) > 1 else ""
                cells.append(f"{np.mean(values):.3f}{spread}")
            print(f"| {network} | {count:,} | {len(seen)} | {' | '.join(cells)} |")


def picture(args: argparse.Namespace, entry: str, seed: int) -> None:
    """Draw test images beside each network's maps."""
    name, _, negative = entry.partition("=")
    runs = {network: place(args, entry, network, seed) for network in NETWORKS}
    runs = {network: run for network, run in runs.items() if (run / "metrics.json").exists()}
    test = args.data / name / "images" / "test"
    shown = [sample for sample in load_images(test).samples if negative not in (sample.labels or ())]
    chosen = np.random.default_rng(0).permutation(len(shown))[: args.images]
    samples = [shown[place] for place in sorted(chosen.tolist())]
    images = [read_image(sample.path) for sample in samples]
    maps: dict[str, dict[str, list[Any]]] = {}
    for network, run in runs.items():
        segmenter = load_segmenter(run, args.device)
        maps[network] = {
            layer: compute_cams(segmenter, images, methods=["gradcam"], score=args.score, layer=layer)["gradcam"]
            for layer in LAYERS
        }
    lines: list[list[Image]] = []
    for number, (sample, image) in enumerate(zip(samples, images, strict=True)):
        truth = read_mask(args.data / name / "masks" / "test" / f"{sample.name}.png")
        for layer in LAYERS:
            cams = [overlay_cam(image, found[layer][number]) for found in maps.values()]
            lines.append([image, overlay_mask(image, truth), *cams])
    if maps:
        file = args.out / f"{name}.png"
        write_image(file, contact_sheet(lines, ["image", "true mask", *maps], cell=CELL))
        print(f"\npicture of seed {seed}, bottleneck above and last decoder below: {file}")


if __name__ == "__main__":
    main()
