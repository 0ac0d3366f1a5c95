"""Time and memory of refiners against pymatting and OpenCV, how they grow, and how alike the results are.

    python benchmarks/refine_cost.py [--sizes 256 512 1024] [--bands 2% 6% 30%] [--methods grabcut ...] [--json FILE]
    python benchmarks/refine_cost.py --scenes astronaut coffee chelsea --sizes 1024 --bands 25px

Each cell is measured in a process of its own: a small image first, so that what is compiled or loaded at first use is
there, then the image itself, ``--repeats`` times; the best time counts. Memory is how far the process's peak rises
above what it held before. Peers: pymatting with its defaults; its Laplacian with scipy.sparse.linalg.spsolve for the
unknown pixels; cv2.grabCut with five iterations. A call that takes longer than ``--limit`` seconds is stopped, and
larger images of that method and band are left out. ``differs by`` is the mean difference of the alphas in the band; the
IoU is that of the masks.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from camseg.base.geometry import squared_distance
from camseg.refinement.nearest import nearest_known

PEERS = {
    "closed-form": ("pymatting", "scipy"),
    "grabcut": ("OpenCV",),
    "knn": ("pymatting",),
    "lkm": ("pymatting",),
}
"""What each refiner is measured against: the libraries' own ways on the whole image."""


def main() -> None:
    """Measure and print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument(
        "--bands",
        nargs="+",
        default=["2%", "6%", "30%"],
        help="Unknown pixels: their share, or how wide their band is.",
    )
    parser.add_argument("--methods", nargs="+", default=["closed-form", "grabcut"], choices=PEERS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument(
        "--scenes", nargs="+", default=["synthetic"], help="synthetic, names of scikit-image's photos, or image files."
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        print(json.dumps(measure(**json.loads(args.cell))))
        return
    rows = []
    print(f"{os.cpu_count()} cores\n")
    head = ["method", "scene", "side, px", "unknown", "peer", "peer, s", "camseg, s", "peer / camseg"]
    head += ["peer, MB", "camseg, MB", "differs by", "IoU"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for method, scene_name, band in itertools.product(args.methods, args.scenes, args.bands):
        slow: set[str] = set()
        for size in args.sizes:
            call = {"method": method, "scene": scene_name, "size": size, "band": band}
            cells = {}
            for who in ("camseg", *PEERS[method]):
                cells[who] = None if who in slow else cell(call | {"who": who}, args.repeats, args.limit)
                if cells[who] is None:
                    slow.add(who)
            unknown = draw(scene_name, size, band)[1] == 128
            for peer_name in PEERS[method]:
                rows.append(call | {"by": peer_name} | compared(cells["camseg"], cells[peer_name], unknown))
                print(line(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


def compared(camseg: dict | None, peer: dict | None, unknown: np.ndarray) -> dict:
    """Both measurements without their alphas, and how far these differ."""
    row: dict = {who: found and {key: found[key] for key in ("seconds", "megabytes")}
                 for who, found in (("camseg", camseg), ("peer", peer))}  # fmt: skip
    if camseg is not None and peer is not None:
        ours, theirs = (found["alpha"] for found in (camseg, peer))
        row["difference"] = float(np.abs(ours - theirs)[unknown].mean())
        row["iou"] = float(((ours > 0.5) & (theirs > 0.5)).sum() / ((ours > 0.5) | (theirs > 0.5)).sum())
    return row


def line(row: dict) -> str:
    """One row of the table."""
    ours, peer = row["camseg"], row["peer"]
    time_of, memory_of = (["-" if one is None else f"{one[key]:{form}}" for one in (peer, ours)]
                          for key, form in (("seconds", ".3f"), ("megabytes", ".0f")))  # fmt: skip
    both = ours is not None and peer is not None
    alike = [f"{row['difference']:.4f}", f"{row['iou']:.3f}"] if both else ["-", "-"]
    cells = [
        *(row[key] for key in ("method", "scene", "size", "band")),
        row["by"],
        *time_of,
        f"{peer['seconds'] / ours['seconds']:.1f}" if both else "-",
        *memory_of,
        *alike,
    ]
    return f"| {' | '.join(map(str, cells))} |"


def cell(call: dict, repeats: int, limit: float) -> dict | None:
    """One measurement in a process of its own, with its alpha; None where it takes too long or fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "alpha.npy")
        command = [sys.executable, __file__, "--cell", json.dumps(call | {"repeats": repeats, "file": file})]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60 + limit * repeats)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            print(f"{call}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            return None
        found = json.loads(done.stdout.splitlines()[-1])
        return found | {"alpha": np.load(file)} if found["seconds"] <= limit else None


def measure(method: str, scene: str, size: int, band: str, who: str, repeats: int, file: str) -> dict:
    """Best time and rise of the peak; the alpha goes into a file."""
    function = ours(method) if who == "camseg" else peer(method, who)
    function(*draw("synthetic", 64, "20%"))
    image, trimap = draw(scene, size, band)
    best, held = float("inf"), memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux)
    for _ in range(repeats):
        clock = time.perf_counter()
        alpha = function(image, trimap)
        best = min(best, time.perf_counter() - clock)
    rise = memory("VmHWM") - held
    np.save(file, alpha.astype(np.float32))
    return {"seconds": best, "megabytes": rise}


def memory(kind: str) -> float:
    """This process's memory in MB, as Linux counts it: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1024


def draw(scene: str, size: int, band: str) -> tuple[np.ndarray, np.ndarray]:
    """An image whose longer side has ``size`` pixels, and a trimap whose band runs along an outline.

    That of the synthetic image is wavy and close to the object's; that of a photo is an ellipse in its middle.
    """
    photo = None if scene == "synthetic" else resized(load(scene), size)
    height, width = (size, size) if photo is None else photo.shape[:2]
    rows, columns = (axis.astype(np.float32) for axis in np.mgrid[:height, :width])
    rows, columns = rows / height - 0.5, columns / width - 0.5
    angle, radius = np.arctan2(rows, columns), np.hypot(rows, columns)
    if photo is None:
        inside = radius < 0.28 * (1 + 0.08 * np.sin(5 * angle) + 0.03 * np.sin(11 * angle))
    else:
        inside = radius < 1 / 3
    distance = np.sqrt(np.where(inside, squared_distance(~inside), squared_distance(inside))) - 0.5
    reach = float(band[:-2]) / 2 if band.endswith("px") else np.quantile(distance, float(band.rstrip("%")) / 100)
    trimap = np.where(distance <= reach, 128, np.where(inside, 255, 0)).astype(np.uint8)
    if photo is not None:
        return photo, trimap
    random = np.random.default_rng(0)
    grain = cv2.resize(random.random((size // 8 + 1, size // 8 + 1, 3), np.float32), (size, size))
    alpha = np.clip(0.5 + np.where(inside, distance, -distance) / (4 * reach), 0, 1)[..., None]
    colors = alpha * (0.5 * grain + [0.4, 0.1, 0.0]) + (1 - alpha) * (0.5 * grain[::-1] + [0.0, 0.1, 0.4])
    noisy = colors + random.normal(0, 0.02, colors.shape)
    return np.clip(np.rint(255 * noisy), 0, 255).astype(np.uint8), trimap


def load(name: str) -> np.ndarray:
    """An image file, or one of scikit-image's photos."""
    if Path(name).exists():
        return cv2.cvtColor(cv2.imread(name), cv2.COLOR_BGR2RGB)
    import skimage.data

    return getattr(skimage.data, name)()


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """The image with a longer side of ``size`` pixels."""
    scale = size / max(image.shape[:2])
    shape = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return cv2.resize(image, shape, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)


def ours(method: str) -> Callable:
    """camseg's refiner."""
    from camseg.refinement.refine import refine

    return lambda image, trimap: refine(image, trimap, method)


def peer(method: str, library: str) -> Callable:
    """The library's own way, on the whole image."""
    if library == "OpenCV":
        return opencv_grabcut
    if library == "scipy":
        return scipy_closed_form
    import pymatting

    name = {"closed-form": "cf"}.get(method, method)
    estimate = getattr(pymatting, f"estimate_alpha_{name}")
    return lambda image, trimap: estimate(image / 255.0, trimap / 255.0)


def scipy_closed_form(image: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    """Levin's Laplacian of the whole image, by pymatting, and SciPy's direct solver for the unknown pixels."""
    import pymatting
    from scipy.sparse.linalg import spsolve

    laplacian = pymatting.cf_laplacian(image / 255.0).tocsr()
    alpha = np.where(trimap == 255, 1.0, 0.0).ravel()
    unknown = np.flatnonzero(trimap.ravel() == 128)
    rows = laplacian[unknown]
    alpha[unknown] = spsolve(rows[:, unknown].tocsc(), -(rows @ alpha))  # alpha is zero where it is unknown
    return np.clip(alpha, 0, 1).reshape(trimap.shape)


def opencv_grabcut(image: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    """Five iterations on the whole image; unknown pixels start as what is nearest."""
    labels = np.where(nearest_known(trimap), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[trimap == 255], labels[trimap == 0] = cv2.GC_FGD, cv2.GC_BGD
    cv2.setRNGSeed(0)
    cv2.grabCut(image, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)


if __name__ == "__main__":
    main()
