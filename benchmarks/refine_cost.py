"""Time and memory of refiners against pymatting, OpenCV and scikit-image, and how they grow.

    python benchmarks/refine_cost.py [--sizes 256 512 1024] [--shares 2 6 30] [--methods closed-form ...] [--json FILE]

Each cell is measured in a process of its own: a small image first, so that what is compiled or loaded at first use is
there, then the image itself, ``--repeats`` times; the best time counts. Memory is how far the process's peak rises
above what it held before. A call that takes longer than ``--limit`` seconds is stopped, and larger images of that
method and share of unknown pixels are left out.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

PEERS = {
    "closed-form": "pymatting",
    "grabcut": "OpenCV",
    "random-walker": "scikit-image",
    "knn": "pymatting",
    "lkm": "pymatting",
    "lbdm": "pymatting",
    "rw": "pymatting",
}
"""What each refiner is measured against."""


def main() -> None:
    """Measure and print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--shares", type=int, nargs="+", default=[2, 6, 30], help="Unknown pixels, in percent.")
    parser.add_argument("--methods", nargs="+", default=["closed-form", "grabcut"], choices=PEERS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--photo", type=Path, help="An image file to take instead of the synthetic one.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        print(json.dumps(measure(**json.loads(args.cell))))
        return
    rows = []
    print(f"{os.cpu_count()} cores\n")
    head = ["method", "side, px", "unknown", "peer", "peer, s", "camseg, s", "peer / camseg"]
    print(f"| {' | '.join([*head, 'peer, MB', 'camseg, MB', 'differs by'])} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for method in args.methods:
        for share in args.shares:
            slow: set[str] = set()
            for size in args.sizes:
                cells = {}
                for who in ("camseg", "peer"):
                    cells[who] = None if who in slow else cell(method, who, size, share, args)
                    if cells[who] is None:
                        slow.add(who)
                rows.append({"method": method, "size": size, "share": share, **cells})
                print(line(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


def line(row: dict) -> str:
    """One row of the table; the last cell: how far the alphas differ, mean over unknown pixels."""
    ours, peer = row["camseg"], row["peer"]
    time_of, memory_of = (["-" if one is None else f"{one[key]:{form}}" for one in (peer, ours)]
                          for key, form in (("seconds", ".3f"), ("megabytes", ".0f")))  # fmt: skip
    both = ours is not None and peer is not None
    ratio = f"{peer['seconds'] / ours['seconds']:.1f}" if both else "-"
    difference = "-"
    if both:
        difference = f"{np.abs(np.array(ours['sample']) - np.array(peer['sample'])).mean():.4f}"
    cells = [
        row["method"],
        row["size"],
        f"{row['share']} %",
        PEERS[row["method"]],
        *time_of,
        ratio,
        *memory_of,
        difference,
    ]
    return f"| {' | '.join(map(str, cells))} |"


def cell(method: str, who: str, size: int, share: int, args: argparse.Namespace) -> dict | None:
    """One measurement in a process of its own; None where it takes too long or fails."""
    photo = None if args.photo is None else str(args.photo)
    call = {"method": method, "who": who, "size": size, "share": share, "repeats": args.repeats, "photo": photo}
    command = [sys.executable, __file__, "--cell", json.dumps(call)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 + args.limit * args.repeats)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        print(f"{method}, {who}, {size} px: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    return found if found["seconds"] <= args.limit else None


def measure(method: str, who: str, size: int, share: int, repeats: int, photo: str | None) -> dict:
    """Best time, rise of the peak, and a sample of the alpha."""
    function = ours(method) if who == "camseg" else peer(method)
    function(*scene(64, 20, None))
    image, trimap = scene(size, share, photo)
    best, held = float("inf"), memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux)
    for _ in range(repeats):
        clock = time.perf_counter()
        alpha = function(image, trimap)
        best = min(best, time.perf_counter() - clock)
    rise = memory("VmHWM") - held
    unknown = np.flatnonzero(trimap == 128)
    sample = alpha.ravel()[unknown[:: max(1, len(unknown) // 2000)]]
    return {"seconds": best, "megabytes": rise, "sample": [round(float(value), 5) for value in sample]}


def memory(kind: str) -> float:
    """This process's memory in MB, as Linux counts it: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1024


def scene(size: int, share: int, photo: str | None) -> tuple[np.ndarray, np.ndarray]:
    """An image and a trimap whose band, ``share`` percent of the pixels, runs along a wavy outline."""
    rows, columns = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    angle = np.arctan2(rows, columns)
    height = np.hypot(rows, columns) - 0.28 * (1 + 0.08 * np.sin(5 * angle) + 0.03 * np.sin(11 * angle))
    width = np.quantile(np.abs(height), share / 100)
    trimap = np.where(height < -width, 255, np.where(height > width, 0, 128)).astype(np.uint8)
    if photo is not None:
        return cv2.cvtColor(cv2.resize(cv2.imread(photo), (size, size)), cv2.COLOR_BGR2RGB), trimap
    random = np.random.default_rng(0)
    grain = cv2.resize(random.random((size // 8 + 1, size // 8 + 1, 3), np.float32), (size, size))
    alpha = np.clip(0.5 - height / (4 * width), 0, 1)[..., None]
    colors = alpha * (0.5 * grain + [0.4, 0.1, 0.0]) + (1 - alpha) * (0.5 * grain[::-1] + [0.0, 0.1, 0.4])
    noisy = colors + random.normal(0, 0.02, colors.shape)
    return np.clip(np.rint(255 * noisy), 0, 255).astype(np.uint8), trimap


def ours(method: str) -> Callable:
    """camseg's refiner."""
    from camseg.refinement.refine import refine

    return lambda image, trimap: refine(image, trimap, method)


def peer(method: str) -> Callable:
    """The library's own way, on the whole image."""
    if method == "grabcut":
        return opencv_grabcut
    if method == "random-walker":
        from skimage.segmentation import random_walker

        labels = np.array([2, 0, 1])  # background, unknown, foreground

        def walk(image: np.ndarray, trimap: np.ndarray) -> np.ndarray:
            marked = labels[np.searchsorted([0, 128, 255], trimap)]
            return random_walker(image / 255.0, marked, mode="cg_j", return_full_prob=True, channel_axis=-1)[0]

        return walk
    import pymatting

    name = {"closed-form": "cf"}.get(method, method)
    estimate = getattr(pymatting, f"estimate_alpha_{name}")
    return lambda image, trimap: estimate(image / 255.0, trimap / 255.0)


def opencv_grabcut(image: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    """Five iterations on the whole image; unknown pixels start as what is nearest."""
    from camseg.refinement.nearest import nearest_known

    labels = np.where(nearest_known(trimap), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[trimap == 255], labels[trimap == 0] = cv2.GC_FGD, cv2.GC_BGD
    cv2.setRNGSeed(0)
    cv2.grabCut(image, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)


if __name__ == "__main__":
    main()
