"""Time of the stages behind the CAMs, beside a peer where there is one: python benchmarks/speed.py [--json]

Each row is the best of several repeats, peer and ours in turn, so that other work on the machine hits both.
What CAMs cost is measured by cam_cost.py.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from camseg.measure.metrics import mean_dice
from camseg.propagation.propagate import propagate
from camseg.propagation.registry import METHODS as PROPAGATORS
from camseg.refinement.refine import refine
from camseg.refinement.registry import METHODS

REPEATS = 5


def main() -> None:
    """Measure and print a Markdown table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [mean_dice_row(), *propagation_rows(), *refinement_rows(), help_row()]
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| what | peer | peer, ms | camseg, ms | peer / camseg |\n|---|---|---|---|---|")
    for row in rows:
        peer = "-" if row["peer_ms"] is None else f"{row['peer_ms']:.1f}"
        ratio = "-" if row["peer_ms"] is None else f"{row['peer_ms'] / row['ours_ms']:.1f}"
        print(f"| {row['what']} | {row['peer']} | {peer} | {row['ours_ms']:.1f} | {ratio} |")


def mean_dice_row() -> dict:
    """Equation 9 by one histogram against the loop over thresholds."""
    random = np.random.default_rng(0)
    levels, mask = random.integers(0, 256, (512, 512), np.uint8), random.random((512, 512)) < 0.1

    def loop() -> None:
        for threshold in range(256):
            binary = levels > threshold
            2 * (binary & mask).sum() / max(1, binary.sum() + mask.sum())

    peer_ms, ours_ms = compare(loop, lambda: mean_dice(levels, mask))
    return {"what": "mean-Dice, 512 x 512", "peer": "loop in NumPy", "peer_ms": peer_ms, "ours_ms": ours_ms}


def propagation_rows() -> list[dict]:
    """Every propagator on one map; a random walk goes over features like those of mobilenetv2_100 at stride 16."""
    random = np.random.default_rng(0)
    image, cam = random.integers(0, 256, (512, 512, 3), np.uint8), random.random((512, 512), np.float32)
    features = random.random((96, 14, 14), np.float32)
    found = []
    for name in PROPAGATORS:
        (ours_ms,) = compare(lambda name=name: propagate(image, cam, name, features=features))
        found.append({"what": f"{name}, 512 x 512", "peer": "-", "peer_ms": None, "ours_ms": ours_ms})
    return found


def refinement_rows() -> list[dict]:
    """Every refiner on a disc whose outline is unknown, 6 % of the pixels."""
    rows, columns = np.mgrid[:512, :512]
    distance = np.hypot(rows - 250, columns - 260)
    noise = np.random.default_rng(0).normal(0, 8, (512, 512, 1))
    image = np.clip(60 + 100 * (distance < 100)[..., None] + noise, 0, 255).astype(np.uint8).repeat(3, axis=2)
    trimap = np.where(distance < 88, 255, np.where(distance < 113, 128, 0)).astype(np.uint8)
    found = []
    for name in (name for name, method in METHODS.items() if not method.needs_weights):
        (ours_ms,) = compare(lambda name=name: refine(image, trimap, name))
        found.append({"what": f"{name}, 512 x 512", "peer": "-", "peer_ms": None, "ours_ms": ours_ms})
    return found


def help_row() -> dict:
    """What a user waits for ``camseg --help``."""
    (ours_ms,) = compare(lambda: subprocess.run([sys.executable, "-m", "camseg", "--help"], stdout=subprocess.DEVNULL))
    return {"what": "camseg --help", "peer": "-", "peer_ms": None, "ours_ms": ours_ms}


def compare(*functions: Callable[[], object]) -> list[float]:
    """The best time of each function in milliseconds, run in turn."""
    best = [float("inf")] * len(functions)
    for _ in range(REPEATS + 1):  # the first round warms up
        for index, function in enumerate(functions):
            clock = time.perf_counter()
            function()
            best[index] = min(best[index], 1000.0 * (time.perf_counter() - clock))
    return best


if __name__ == "__main__":
    main()
