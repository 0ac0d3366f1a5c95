"""Refiners on composites whose alpha is known: python benchmarks/matting.py [--size 256] [--peers] [--json]

Soft blobs, hair, glass and thin branches are laid over procedural textures, several of each; a trimap is drawn
tightly or loosely around the true alpha, or comes from a shifted mask, so that some of what it calls known is wrong.
The errors are those of camseg.measure.matting_errors, over the unknown pixels; Dice is that of alpha > 0.5 over the
image. The last column but those of single kinds says how many times as fast a method is as pymatting's closed form.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pymatting

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN, Alpha, Image, Trimap
from camseg.measure.matting_errors import (
    connectivity_error,
    gradient_error,
    mean_squared_error,
    sum_of_absolute_differences,
)
from camseg.measure.metrics import dice, mask_counts
from camseg.refinement.nearest import nearest_known
from camseg.refinement.refine import refine
from camseg.refinement.registry import METHODS
from camseg.refinement.trimaps import mask_to_trimap

SUPERSAMPLING = 4
SCORES = {
    "SAD": sum_of_absolute_differences,
    "MSE": mean_squared_error,
    "Grad": gradient_error,
    "Conn": connectivity_error,
}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print Markdown tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="height and width of the composites, in pixels")
    parser.add_argument("--seeds", type=int, default=3, help="how many composites of each kind")
    parser.add_argument("--fba-weights", type=Path, help="weights file of the FBA network, which is then measured too")
    parser.add_argument(
        "--peers", action="store_true", help="pymatting's knn and lkm too, which take half a minute each"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    rows = measure(refiners(args.fba_weights, args.peers), args.size, args.seeds)
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    for trimap in TRIMAPS:
        print(f"\n## {args.size} px, {trimap} trimap, mean of {len(ALPHAS)} x {args.seeds} composites\n")
        print_table([row for row in rows if row["trimap"] == trimap])


PEER = "pymatting's closed-form"


def refiners(fba_weights: Path | None, peers: bool) -> dict[str, Callable[[Image, Trimap], Alpha]]:
    """Every refiner by name, between the two that they should beat: the nearest known region and the peer."""
    found: dict[str, Callable[[Image, Trimap], Alpha]] = {
        "nearest known": lambda image, trimap: nearest_known(trimap).astype(np.float32)
    }
    found |= {name: partial(refine, method=name) for name, method in METHODS.items() if not method.needs_weights}
    if fba_weights is not None:
        found["fba"] = partial(refine, method="fba", weights=fba_weights)
    found[PEER] = partial(whole, pymatting.estimate_alpha_cf)
    if peers:
        found["pymatting's knn"] = partial(whole, pymatting.estimate_alpha_knn)
        found["pymatting's lkm"] = partial(whole, pymatting.estimate_alpha_lkm)
    return found


def whole(estimate: Callable[[np.ndarray, np.ndarray], np.ndarray], image: Image, trimap: Trimap) -> Alpha:
    """A function of pymatting's on the whole image, with its defaults."""
    return estimate(image / 255, trimap / 255).astype(np.float32)


def measure(methods: dict[str, Callable[[Image, Trimap], Alpha]], size: int, seeds: int) -> list[dict]:
    """One row per composite, trimap and method."""
    rows = []
    for kind, draw in ALPHAS.items():
        for seed in range(seeds):
            random = np.random.default_rng(seed)
            truth = draw(random, size)
            image = composite(random, truth)
            for trimap_kind, make in TRIMAPS.items():
                trimap = make(truth)
                for name, method in methods.items():
                    if not rows or name not in {row["method"] for row in rows}:
                        method(image, trimap)  # compiles and loads what the method needs
                    clock = time.perf_counter()
                    alpha = method(image, trimap)
                    seconds = time.perf_counter() - clock
                    row = {"composite": kind, "seed": seed, "trimap": trimap_kind, "method": name}
                    row["unknown"] = float((trimap == UNKNOWN).mean())
                    row |= {score: error(alpha, truth, trimap) for score, error in SCORES.items()}
                    row["Dice"] = float(dice(mask_counts(alpha > 0.5, truth > 0.5)))
                    rows.append(row | {"seconds": seconds})
    return rows


def print_table(rows: list[dict]) -> None:
    """The mean scores of each method, and its mean squared error on each kind of composite."""
    head = ["method", *SCORES, "Dice", "seconds", "times as fast", *(f"MSE, {kind}" for kind in ALPHAS)]
    peer = np.mean([row["seconds"] for row in rows if row["method"] == PEER])
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        cells = [f"{np.mean([row[score] for row in own]):.4g}" for score in (*SCORES, "Dice", "seconds")]
        cells.append(f"{peer / np.mean([row['seconds'] for row in own]):.1f}")
        for kind in ALPHAS:
            cells.append(f"{np.mean([row['MSE'] for row in own if row['composite'] == kind]):.4f}")
        print(f"| {name} | {' | '.join(cells)} |")


def composite(random: np.random.Generator, alpha: Alpha) -> Image:
    """alpha F + (1 - alpha) B with a texture each for F and B, and a camera's noise."""
    foreground, background = (texture(random, len(alpha)) for _ in range(2))
    mixed = alpha[..., None] * foreground + (1 - alpha[..., None]) * background
    return np.rint(255 * mixed + random.normal(0, 2, mixed.shape)).clip(0, 255).astype(np.uint8)


def texture(random: np.random.Generator, size: int) -> np.ndarray:
    """Noise of four octaves that blends two random colours, and a little of it in each channel by itself."""

    def octaves(channels: int) -> np.ndarray:
        total = np.zeros((size, size, channels))
        for octave in range(4):
            cells = 4 * 2**octave
            coarse = random.normal(0, 0.6**octave, (cells, cells, channels))
            total += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).reshape(total.shape)
        return total

    first, second = random.random((2, 3))
    blend = 1 / (1 + np.exp(-2 * octaves(1)))
    return np.clip(blend * first + (1 - blend) * second + 0.04 * octaves(3), 0, 1)


def blobs(random: np.random.Generator, size: int) -> Alpha:
    """Three discs with soft, wavy outlines, as a thing out of focus has."""
    y, x = np.mgrid[:size, :size] / size
    alpha = np.zeros((size, size))
    for _ in range(3):
        center_y, center_x, radius = *random.uniform(0.3, 0.7, 2), random.uniform(0.1, 0.2)
        angle = np.arctan2(y - center_y, x - center_x)
        wave = 0.02 * np.sin(random.integers(3, 7) * angle + random.uniform(0, 6))
        inside = radius + wave - np.hypot(y - center_y, x - center_x)
        alpha = np.maximum(alpha, np.clip(inside / random.uniform(0.02, 0.08) + 0.5, 0, 1))
    return alpha.astype(np.float32)


def hair(random: np.random.Generator, size: int) -> Alpha:
    """A head with strokes around it, thinner than a pixel at their ends."""
    center = random.uniform(0.42, 0.58, 2)
    angles = random.uniform(0, 2 * np.pi, 70)
    paths = []
    for angle in angles:
        along = np.linspace(0.15, 0.2 + random.uniform(0.05, 0.15), 20)
        bent = angle + random.normal(0, 1.5) * (along - 0.15)
        paths.append(center + along[:, None] * np.stack([np.cos(bent), np.sin(bent)], axis=1))
    alpha = strokes(size, paths, widths=random.uniform(0.5, 1.5, len(paths)))
    y, x = np.mgrid[:size, :size] / size
    head = np.clip((0.18 - np.hypot(x - center[0], y - center[1])) * 60 + 0.5, 0, 1)
    return np.maximum(alpha, head).astype(np.float32)


def glass(random: np.random.Generator, size: int) -> Alpha:
    """An opaque ring around a pane that lets a part of the background through, with a gradient and a glare."""
    y, x = np.mgrid[:size, :size] / size
    center_y, center_x = random.uniform(0.42, 0.58, 2)
    distance = np.hypot((y - center_y) / 1.2, x - center_x)
    pane = np.clip(0.4 + random.uniform(-1, 1) * (y - center_y) + random.uniform(-1, 1) * (x - center_x), 0.1, 0.7)
    glare = 0.3 * np.exp(-(((y - center_y + 0.08) / 0.05) ** 2) - ((x - center_x) / 0.02) ** 2)
    ring = np.clip((0.05 - np.abs(distance - 0.25)) * size / 4 + 0.5, 0, 1)
    return np.where(distance < 0.25, np.maximum(ring, pane + glare), ring).clip(0, 1).astype(np.float32)


def branches(random: np.random.Generator, size: int) -> Alpha:
    """A tree that forks five times, from a stem of some pixels to twigs of one."""
    paths, widths = [], []

    def grow(start: np.ndarray, angle: float, length: float, width: float, forks: int) -> None:
        bend = angle + random.normal(0, 0.4) * np.linspace(0, 1, 12)
        path = start + np.cumsum(length / 12 * np.stack([np.cos(bend), np.sin(bend)], axis=1), axis=0)
        paths.append(np.vstack([start, path]))
        widths.append(width)
        for side in (-1, 1) if forks else ():
            grow(path[-1], bend[-1] + side * random.uniform(0.3, 0.7), 0.75 * length, 0.62 * width, forks - 1)

    grow(np.array([0.5, 0.97]), -np.pi / 2, 0.26, size / 12, 5)
    return strokes(size, paths, widths)


def strokes(size: int, paths: list[np.ndarray], widths: list[float] | np.ndarray) -> Alpha:
    """Curves of the given widths in pixels; ``paths`` hold points (x, y) in [0, 1]. Drawn large and averaged down."""
    large = np.zeros((size * SUPERSAMPLING,) * 2, dtype=np.uint8)
    for path, width in zip(paths, widths, strict=True):
        points = np.rint(path * size * SUPERSAMPLING).astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(large, [points], False, 255, max(1, round(width * SUPERSAMPLING)))
    return cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)


def band(alpha: Alpha, share: float) -> Trimap:
    """Unknown within a share of the image's size around all that is neither 0 nor 1."""
    sure = np.where(alpha > 0.5, FOREGROUND, BACKGROUND).astype(np.uint8)
    edge = cv2.morphologyEx((alpha > 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    mixed = ((alpha > 0) & (alpha < 1)) | edge
    reach = cv2.distanceTransform((~mixed).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.where(reach <= share * len(alpha), np.uint8(UNKNOWN), sure)


def shifted(alpha: Alpha) -> Trimap:
    """The trimap of a mask that lies a fiftieth of the image's size off to the right and below."""
    step = len(alpha) // 50
    mask = np.zeros(alpha.shape, dtype=bool)
    mask[step:, step:] = (alpha > 0.5)[:-step, :-step]
    return mask_to_trimap(mask)


ALPHAS = {"blobs": blobs, "hair": hair, "glass": glass, "branches": branches}
TRIMAPS = {"tight": partial(band, share=0.004), "loose": partial(band, share=0.035), "shifted": shifted}

if __name__ == "__main__":
    main()
