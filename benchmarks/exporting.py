"""How fast masks are exported and imported, and in how much memory: python benchmarks/exporting.py [--masks 10000]

Makes a folder of masks (one to three rings each) and of small images, exports it in every format, each in a process of
its own, and prints a Markdown table: masks per second, and the peak memory of the process with a tenth of the masks and
with all. Volumes and DICOM files are left out, as they need sources. Then the exports are brought in as corrections of
other masks of the same images. Last what one mask of 11 megapixels takes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from camseg.data.images import write_image, write_mask
from camseg.exchange.registry import EXPORTERS, IMPORTERS

CHILD = """
import json, resource, sys, time
from pathlib import Path
from camseg.base.files import write_text
from camseg.exchange.export import export_folder
from camseg.exchange.settings import ExportInputs, ExportSettings
root, out, name, geometry, images, count = sys.argv[1:]
settings = ExportSettings(geometry=geometry, images=images, only_images=Path(root, f"{count}.txt"))
started = time.perf_counter()
report = export_folder(Path(root, "masks"), out, name, settings, ExportInputs(image_folder=Path(root, "images")))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([report.images, time.perf_counter() - started, peak]))
"""
IMPORT = """
import json, resource, sys, time
from pathlib import Path
from camseg.exchange.importing import import_corrections
from camseg.exchange.settings import ExportInputs
root, file, name = sys.argv[1:]
started = time.perf_counter()
report = import_corrections(Path(root, "machine"), file, name, None, ExportInputs(image_folder=Path(root, "images")))
assert not report.failed and not report.stale
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([sum(report.decisions.values()), time.perf_counter() - started, peak]))
"""
FILES = {
    "coco": "annotations/instances_default.json", "cvat": "annotations.xml", "label-studio": "tasks.json", "labelme": ""
}  # fmt: skip
"""What each tool gives back, in the folder of an export."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=128, help="height and width of the images")
    parser.add_argument("--images", default="none", choices=("copy", "link", "none"))
    parser.add_argument("--formats", nargs="*", default=[name for name in EXPORTERS if not EXPORTERS[name].extra])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root, args.masks, args.size)
        print(f"{args.masks} masks of {args.size} x {args.size} px, images: {args.images}\n")
        few = max(1, args.masks // 10)
        print(f"| format | masks per second | MiB at {few} | MiB at {args.masks} |\n|---|---|---|---|")
        for name in args.formats:
            for geometry in EXPORTERS[name].holds:
                _, _, small = export(root, name, geometry, args.images, few)
                count, seconds, large = export(root, name, geometry, args.images, args.masks)
                words = name if len(EXPORTERS[name].holds) == 1 else f"{name}, {geometry}s"
                print(f"| {words} | {count / seconds:.0f} | {small:.0f} | {large:.0f} |", flush=True)
        print(f"\n| import | masks per second | MiB at {args.masks} |\n|---|---|---|")
        for name in IMPORTERS:
            count, seconds, large = import_back(root, name, args.masks)
            print(f"| {name} | {count / seconds:.0f} | {large:.0f} |", flush=True)
    noise = np.random.default_rng(0).standard_normal((2800, 3930)).astype(np.float32)
    photo = cv2.GaussianBlur(noise, (0, 0), 6) > 0.02
    print("\nA mask of 11 megapixels and 4000 pieces\n\n| encoding | seconds |\n|---|---|")
    for words, seconds in encodings(photo):
        print(f"| {words} | {seconds:.3f} |")


def make(root: Path, count: int, size: int) -> None:
    """Write masks and images, in a hundred folders."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (size, size, 3)).astype(np.uint8)
    y, x = np.mgrid[:size, :size]
    names = [f"{number % 100:02}/{number:06}" for number in range(count)]
    for name in names:
        mask = np.zeros((size, size), bool)
        for row, column, radius in random.uniform(0.1, 0.9, (random.integers(1, 4), 3)) * size:
            distance = np.hypot(y - row, x - column)
            mask |= (distance < radius / 3) & (distance > radius / 12)
        write_mask(root / "masks" / f"{name}.png", mask)
        write_mask(root / "machine" / f"{name}.png", np.roll(mask, size // 16, axis=1))
        write_image(root / "images" / f"{name}.png", image)
    for number in (max(1, count // 10), count):
        (root / f"{number}.txt").write_text("\n".join(names[:number]))


def export(root: Path, name: str, geometry: str, images: str, count: int) -> tuple[int, float, float]:
    """How many images were written, in how many seconds, with how many MiB at most."""
    out = root.parent / f"{root.name}-out"
    found = run(CHILD, root, out, name, geometry, images, count)
    shutil.rmtree(out)
    return found


def import_back(root: Path, name: str, count: int) -> tuple[int, float, float]:
    """How many corrections were brought in, in how many seconds, with how many MiB at most."""
    out = root.parent / f"{root.name}-out"
    file = root / "masks"
    if name in FILES:
        run(CHILD, root, out, name, "mask", "none", count)
        file = out / FILES[name]
        # As if a person had drawn all of them, over the machine's: those of the other folder.
        for path in out.rglob("*.json") if name in ("label-studio", "labelme") else ():
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace('"predictions"', '"annotations"').replace('"hashes"', '"others"'))
    found = run(IMPORT, root, file, name)
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(root / "machine/corrected")
    (root / "machine/corrections.jsonl").unlink()
    return found


def run(code: str, *words: object) -> tuple[int, float, float]:
    """What the code of a process of its own prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: tuple[int, float, float] = tuple(json.loads(done.stdout))
    return found


def encodings(mask: np.ndarray) -> list[tuple[str, float]]:
    """The seconds that one large mask takes, by what it is turned into: the best of three."""
    from camseg.exchange.polygons import mask_to_polygons
    from camseg.exchange.rle import encode_coco, encode_cvat, encode_label_studio

    def seconds(function) -> float:
        times = []
        for _ in range(3):
            started = time.perf_counter()
            function(mask)
            times.append(time.perf_counter() - started)
        return min(times)

    cv2.setNumThreads(1)
    return [
        ("COCO run lengths", seconds(encode_coco)),
        ("CVAT run lengths", seconds(encode_cvat)),
        ("Label Studio run lengths", seconds(encode_label_studio)),
        ("polygons at corners, tolerance 0", seconds(lambda one: mask_to_polygons(one, "corners"))),
        ("polygons at centres, tolerance 0", seconds(lambda one: mask_to_polygons(one, "centres"))),
        ("polygons at corners, tolerance 1", seconds(lambda one: mask_to_polygons(one, "corners", 1.0))),
    ]


if __name__ == "__main__":
    main()
