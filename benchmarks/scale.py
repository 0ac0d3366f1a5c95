"""How time and memory of ``label`` grow with the folder: python benchmarks/scale.py [--counts 2000 10000]

    python benchmarks/scale.py --counts 100000 --side 48 --folder /scratch/scale --json scale.json

For each count so many small images are written, named as real sets name theirs, and labelled by a tiny untrained
classifier, each run in a process of its own: once from nothing, once more when all is there (what a continued run
takes before it has work), and once with every tenth mask gone. What is measured is everything around the network: the
listing, the manifest, files, and the memory that is left with each image. Markdown goes to stdout, JSON into FILE.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

POINTS = 20
"""How often memory is looked at during a run."""


def main() -> None:
    """Write images, label them, and print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="+", type=int, default=[2000, 10000], metavar="N")
    parser.add_argument("--side", type=int, default=48, help="Of the images, pixels.")
    parser.add_argument("--folder", type=Path, help="Where everything is written; default: one that is removed.")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--run", nargs=2, type=Path, metavar=("IMAGES", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(label(*args.run)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        for count in args.counts:
            rows.append(measure(folder / str(count), count, args.side))
            if len(rows) == 1:
                print(f"| {' | '.join(rows[0])} |\n{'|---' * len(rows[0])}|")
            print(f"| {' | '.join(f'{value:.4g}' for value in rows[-1].values())} |", flush=True)
            if args.json:
                args.json.write_text(json.dumps(rows, indent=2) + "\n")


def measure(folder: Path, count: int, side: int) -> dict[str, float]:
    """The figures of one count of images."""
    clock = time.perf_counter()
    write_images(folder / "images", count, side)
    writing = time.perf_counter() - clock
    fresh, again = run(folder), run(folder)
    manifest = folder / "out/manifest.jsonl"
    before = manifest.read_bytes()
    masks = sorted((folder / "out/masks").rglob("*.png"))
    for path in masks[::10]:
        path.unlink()
    tenth = run(folder)
    assert (fresh["done"], again["kept"], tenth["done"]) == (count, count, len(masks[::10]))
    assert manifest.read_bytes() == before
    return {
        "images": count,
        "writing them, s": writing,
        "label, s": fresh["seconds"],
        "images/s": count / fresh["seconds"],
        **{f"{part}, ms per image": 1000 * fresh[part] / count for part in ("read", "network", "write")},
        "before the first, s": fresh["first"],
        "all there, s": again["seconds"],
        "every tenth gone, s": tenth["seconds"],
        "before its first, s": tenth["first"],
        "manifest, bytes per image": len(before) / count,
        "peak memory, MiB": fresh["peak"] / 2**20,
        "grown in the last half, bytes per image": fresh["growth"],
        "peak when all is there, MiB": again["peak"] / 2**20,
    }


def write_images(folder: Path, count: int, side: int) -> None:
    """JPEG files of noise around a disc: ``site_3/patient_0012/series_1_slice_034.jpg``."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    for number in range(count):
        patient, slice_ = divmod(number, 50)
        path = folder / f"site_{patient % 7}/patient_{patient:05}/series_1_slice_{slice_:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        row, column = random.integers(side // 4, 3 * side // 4, 2)
        disc = np.hypot(rows - row, columns - column) < side / 5
        cv2.imwrite(str(path), (random.integers(60, 120, (side, side)) + 100 * disc).astype(np.uint8))


def run(folder: Path) -> dict[str, float]:
    """``label`` in a process of its own."""
    command = [sys.executable, __file__, "--run", str(folder / "images"), str(folder / "out")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def label(images: Path, out: Path) -> dict[str, float]:
    """Label a folder, and note how time and memory passed."""
    import torch

    from camseg.classify.classifier import Classifier
    from camseg.label.folder import label_folder
    from camseg.label.settings import LabelSettings
    from camseg.refinement.settings import RefineSettings
    from camseg.runs.settings import FolderOptions

    torch.manual_seed(0)
    classifier = Classifier.create("test_resnet", classes=["disc", "none"], image_size=32, negative=["none"])
    settings = LabelSettings()
    settings = replace(
        settings, cams=replace(settings.cams, scales=(1.0,), flip=False), refinement=RefineSettings(method="none")
    )
    memory: list[tuple[int, int]] = []
    first: list[float] = []

    def watched(items: Iterable[Any], total: int, _title: str) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 0:
                first.append(time.perf_counter() - clock)
            if number % max(1, total // POINTS) == 0:
                memory.append((number, held()))
            yield item

    clock = time.perf_counter()
    options = FolderOptions(progress=watched)
    report = label_folder(images, classifier, out, settings, targets=["disc"], batch_size=64, options=options)
    seconds = time.perf_counter() - clock
    half = memory[len(memory) // 2 :]
    (start, before), (end, after) = (half[0], half[-1]) if memory else ((0, 0), (0, 0))
    return {
        **{part: report.seconds[part] for part in ("read", "network", "write")},
        "done": report.done,
        "kept": report.kept,
        "seconds": seconds,
        "first": first[0] if first else seconds,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "growth": (after - before) / max(1, end - start),
    }


def held() -> int:
    """The memory that this process holds now, in bytes; only on Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
