"""What camseg does on a GPU, in one run of a few minutes, which installs nothing: python benchmarks/gpu.py

    python benchmarks/gpu.py [--device cuda] [--out gpu_bench] [--limit 480]
    python benchmarks/gpu.py --device cpu --tiny      the same code, in seconds, where there is no GPU

Trains a classifier on the sample data, and with it measures: how far maps and masks are from the CPU's in every
precision; what every CAM method costs beside the plain forward pass, and beside grad-cam where that is installed;
propagation and segmentation on the device; the images per second of ``label`` beside those of its network alone; what
is copied back; and what happens when memory is short, which is filled for that. Markdown goes to stdout and into
OUT/gpu.md, JSON into OUT/gpu.json. Sections that would begin after --limit seconds are left out, and say so.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from cam_cost import CHANNEL_PEERS, PEERS, Peer, compare, machine, peak_mib, plain_pass
from torch import Tensor

from camseg.base.arrays import Image
from camseg.base.device import find_device
from camseg.cams import extract as extraction
from camseg.cams.capture import network
from camseg.cams.compute import compute_cams
from camseg.cams.extract import BatchLimit, stack_inputs
from camseg.cams.methods.registry import METHODS, NATIVE
from camseg.cams.plan import Plan, plan
from camseg.classify.checkpoint import load_classifier
from camseg.classify.classifier import Classifier
from camseg.classify.targets import target_rule
from camseg.data.datasets import load_images, load_training_data
from camseg.data.images import read_image, write_image
from camseg.data.splits import split
from camseg.label.chain import label_image, map_stages
from camseg.label.folder import label_folder
from camseg.label.settings import LabelSettings
from camseg.measure.metrics import dice, mask_counts
from camseg.propagation.propagate import propagate
from camseg.refinement.settings import RefineSettings
from camseg.runs.settings import FolderOptions
from camseg.runs.stage import new_item
from camseg.segment.segmenter import Segmenter
from camseg.train.settings import TrainSettings
from camseg.train.trainer import train_classifier

SAMPLES = Path(__file__).parents[1] / "sample_data/images"
TOLERANCES = {"float32": (0.002, 0.99), "bf16": (0.02, 0.95), "fp16": (0.01, 0.97)}
"""How far maps in [0, 1] may be from the CPU's on average, and the Dice that their masks must have with the CPU's."""
RATE, COPIED, DIFFERENCE = 0.9, 1.05, 0.005
"""The share of the network's own rate that label is to reach; the bytes that may be copied back for each byte of
finished maps and scores; how far propagated maps and probabilities may be from the CPU's on average."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large everything is."""

    arch: str
    costs: tuple[str, ...]
    """The architectures whose methods are timed."""
    side: int
    batch: int
    images: int
    """How many go through ``label``."""
    epochs: int
    repeats: int
    segmenter: str


FULL = Size(
    arch="resnet50",
    costs=("resnet50", "convnext_tiny", "vit_small_patch16_224"),
    side=224,
    batch=32,
    images=512,
    epochs=3,
    repeats=5,
    segmenter="unet",
)
TINY = Size(
    arch="test_resnet", costs=("test_resnet",), side=64, batch=4, images=8, epochs=1, repeats=1, segmenter="unet"
)


@dataclass(frozen=True, kw_only=True)
class World:
    """What all sections share."""

    device: torch.device
    size: Size
    folder: Path
    """For what they write."""
    images: list[Image]
    here: Classifier
    """The trained classifier on the device ..."""
    cpu: Classifier
    """... and on the CPU."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure section by section; 1 where one failed or a target was missed, 2 without the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, mps or cpu.")
    parser.add_argument("--out", type=Path, default=Path("gpu_bench"), metavar="FOLDER")
    parser.add_argument("--limit", type=float, default=480.0, metavar="SECONDS")
    parser.add_argument("--tiny", action="store_true", help="Small enough for a CPU: shows that it runs, not how fast.")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    args = parser.parse_args(arguments)
    try:
        device = find_device(args.device)
    except ValueError as error:
        print(f"{error}\nWithout a GPU, --device cpu --tiny goes through the same code.", file=sys.stderr)
        return 2
    started, size = time.monotonic(), TINY if args.tiny else FULL
    found: dict[str, Any] = {"machine": facts(device), "sections": {}}
    lines = ["# camseg on a GPU" if device.type == "cuda" else f"# camseg on {device.type}", ""]
    lines += [f"- {key}: {value}" for key, value in found["machine"].items()]
    print("\n".join(lines), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        clock = time.monotonic()
        world, rows = prepare(device, size, Path(folder))
        sections = {"training": rows} | dict.fromkeys(args.only)
        for name, rows in sections.items():
            if rows is None and time.monotonic() - started > args.limit:
                rows = [{"left out": f"began after {args.limit:.0f} s"}]
            elif rows is None:
                clock = time.monotonic()
                rows = attempt(SECTIONS[name], world)
            text = table(name, rows, time.monotonic() - clock)
            print(text, flush=True)
            lines.append(text)
            found["sections"][name] = rows
            found["seconds"] = round(time.monotonic() - started, 1)
            (args.out / "gpu.json").write_text(json.dumps(found, indent=2) + "\n")
            (args.out / "gpu.md").write_text("\n".join(lines) + "\n")
    every = [row for rows in found["sections"].values() for row in rows]
    return int(any("failed" in row or row.get("target") == "missed" for row in every))


def attempt(section: Callable[[World], list[Row]], world: World) -> list[Row]:
    """A section's rows; what goes wrong in it is one, and the others go on."""
    try:
        return section(world)
    except Exception as error:
        return [{"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}]


def facts(device: torch.device) -> dict[str, str]:
    """What the figures depend on."""
    with suppress(ImportError):
        return machine(device)
    return {"device": str(device), "threads": str(torch.get_num_threads()), "torch": torch.__version__}


def prepare(device: torch.device, size: Size, folder: Path) -> tuple[World, list[Row]]:
    """Train on the sample data, and read its test images."""
    data = load_training_data(SAMPLES / "train")
    train, val = split(data, 0.2, 0)
    torch.manual_seed(0)
    new = Classifier.create(size.arch, classes=data.classes, image_size=size.side, negative=["clean"], weights=None)
    clock = time.perf_counter()
    settings = TrainSettings(epochs=size.epochs, batch_size=size.batch)
    metrics = train_classifier(new, train, val, folder / "run", settings, device=str(device))
    row = {
        "network": f"{size.arch}, {size.side} px",
        "images": len(train.samples),
        "epochs": size.epochs,
        "seconds, reading included": round(time.perf_counter() - clock, 2),
        "validation macro-F1": round(metrics["macro_f1"], 3),
    }
    paths = [sample.path for sample in load_images(SAMPLES / "test").samples]
    world = World(
        device=device,
        size=size,
        folder=folder,
        images=[read_image(path) for path in paths][: size.batch],
        here=load_classifier(folder / "run", str(device)),
        cpu=load_classifier(folder / "run", "cpu"),
    )
    return world, [row]


def parity(world: World) -> list[Row]:
    """Maps and masks of the device beside those of the CPU in float32."""
    target = next(name for name in world.here.classes if name not in world.here.negative)
    images, rows = world.images[:8], []
    methods = ["layercam", "gradcam", "eigencam"]
    given = {"targets": [target] * len(images), "methods": methods, "scales": (1.0, 1.5), "flip": True}
    expected = compute_cams(world.cpu, images, **given)
    masks = [label_image(image, world.cpu, target, chain()).mask for image in images]
    for precision, (tolerance, least) in TOLERANCES.items():
        maps = compute_cams(world.here, images, **given, precision=precision)
        apart = [np.abs(a - b).mean() for name in methods for a, b in zip(maps[name], expected[name], strict=True)]
        made = [label_image(image, world.here, target, chain(precision)).mask for image in images]
        equal = [float(dice(mask_counts(a, b))) for a, b in zip(made, masks, strict=True) if a.any() or b.any()]
        met = np.mean(apart) <= tolerance and np.mean(equal or [1.0]) >= least
        rows.append(
            {
                "precision": precision,
                "maps, mean difference": float(np.mean(apart)),
                "worst map": float(np.max(apart)),
                "at most, on average": tolerance,
                "masks, mean Dice": float(np.mean(equal or [1.0])),
                "at least": least,
                "target": "met" if met else "missed",
            }
        )
    return rows


def chain(precision: str = "float32", refiner: str = "none") -> LabelSettings:
    """The settings that label has by default, but for these."""
    settings = LabelSettings()
    return replace(
        settings, cams=replace(settings.cams, precision=precision), refinement=RefineSettings(method=refiner)
    )


def costs(world: World) -> list[Row]:
    """Every method beside the plain forward pass and grad-cam's of that name; those of many passes on one image."""
    size, rows = world.size, []
    for arch in size.costs:
        torch.manual_seed(0)
        classifier = Classifier.create(arch, classes=("a", "b", "c"), image_size=size.side)
        classifier.model.to(world.device)
        for name in NATIVE:
            per_channel = name in CHANNEL_PEERS or METHODS[name].needs in ("rescoring", "input gradients")
            if per_channel and arch != size.costs[0]:
                continue
            count = 1 if per_channel else size.batch
            x = torch.randn(count, 3, size.side, size.side).to(world.device, memory_format=torch.channels_last)
            rows.append(method_row(classifier, name, x, size.repeats))
    return rows


def method_row(classifier: Classifier, name: str, x: Tensor, repeats: int) -> Row:
    """One method from pass to raw maps."""
    chosen = network(classifier)

    def ours() -> None:
        (captured,) = chosen.forward(x, gradients=METHODS[name].needs != "activations").toward([0] * len(x))
        METHODS[name].load()(captured)

    theirs = {**PEERS, **CHANNEL_PEERS}.get(name) if find_spec("pytorch_grad_cam") else None
    peers = [partial(Peer.beside(chosen, x).maps, x, theirs, 0)] if theirs else []
    once = len(x) == 1 and name not in PEERS
    (plain_ms, ours_ms), peer_ms = compare([partial(plain_pass, classifier, x), ours], peers, 1 if once else repeats)
    return {
        "network": f"{classifier.arch}, {len(x)} x {x.shape[-1]} px",
        "method": name,
        "plain, ms": plain_ms,
        "ours, ms": ours_ms,
        "ours / plain": ours_ms / plain_ms,
        "grad-cam / ours": peer_ms[0] / ours_ms if peer_ms else None,
        "peak, MiB": peak_mib(ours),
    }


def beside(world: World) -> list[Row]:
    """Propagation and segmentation on the device: time, and how far from the CPU's."""
    image = world.images[0]
    random = np.random.default_rng(0)
    cam = random.random((8, 8), np.float32).repeat(image.shape[0] // 8 + 1, 0).repeat(image.shape[1] // 8 + 1, 1)
    cam = cam[: image.shape[0], : image.shape[1]]
    features = random.random((96, 14, 14), np.float32)
    rows = []
    for name in ("par", "random-walk"):
        run = partial(propagate, image, cam, name, features=features)
        rows.append(_compared(name, world, run))
    torch.manual_seed(0)
    segmenter = Segmenter.create(world.size.segmenter, classes=["object"], image_size=world.size.side)
    squares = torch.from_numpy(np.stack([segmenter.to_input(one) for one in world.images]))

    def segment(device: torch.device | str) -> np.ndarray:
        segmenter.model.to(device)
        return segmenter.grids(squares).cpu().numpy()

    rows.append(_compared(f"{world.size.segmenter}, {len(squares)} images", world, segment))
    return rows


def _compared(what: str, world: World, run: Callable[..., np.ndarray]) -> Row:
    expected, made = run(device="cpu"), run(device=world.device)
    (ours_ms,), _ = compare([partial(run, device=world.device)], [], world.size.repeats)
    (cpu_ms,), _ = compare([partial(run, device="cpu")], [], 1)
    apart = float(np.abs(made - expected).mean())
    return {
        "what": what,
        "device, ms": ours_ms,
        "cpu, ms": cpu_ms,
        "mean difference": apart,
        "at most": DIFFERENCE,
        "target": "met" if apart <= DIFFERENCE else "missed",
    }


def rates(world: World) -> list[Row]:
    """Images per second of ``label``, files in and masks out, beside those of its network alone on the same batches."""
    folder, size, rows = world.folder / "photos", world.size, []
    for number in range(size.images):
        write_image(folder / f"{number:04}.jpg", world.images[number % len(world.images)])
    data = load_images(folder)
    for precision, refiner in (("float32", "none"), ("bf16", "none"), ("bf16", "auto")):
        settings = chain(precision, refiner)
        rule = target_rule((), world.here, data.samples)
        load, cams, _ = map_stages(plan(world.here, settings.cams), rule, size.batch, views=True)
        batch = load([new_item(sample) for sample in data.samples[: size.batch]])
        (network_ms,), _ = compare([partial(cams, batch)], [], size.repeats)
        alone = 1000 * len(batch) / network_ms
        out = world.folder / f"out_{precision}_{refiner}"
        report = label_folder(data, world.here, out, settings, batch_size=size.batch, options=FolderOptions())
        whole = report.done / report.seconds["total"]
        rows.append(
            {
                "precision": precision,
                "refiner": refiner,
                "images": report.done,
                "network alone, images/s": alone,
                "label, images/s": whole,
                "share": whole / alone,
                "at least": RATE,
                "target": ("met" if whole >= RATE * alone else "missed") if world.device.type == "cuda" else None,
            }
        )
    return rows


def _ready(world: World) -> tuple[Plan, list[Tensor], Callable[..., Sequence[int]]]:
    """What ``extract`` takes for one batch with the settings of ``label``."""
    ready = plan(world.here, chain().cams)
    inputs = stack_inputs([ready.inputs(dict.fromkeys(ready.windows, image)) for image in world.images])
    return ready, inputs, lambda n, probabilities: [0]


def copies(world: World) -> list[Row]:
    """The bytes that go from the device to the host for a batch, beside those of its finished maps and scores."""
    ready, inputs, choose = _ready(world)
    run = partial(extraction.extract, ready, inputs, choose)
    run()
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if world.device.type == "cuda" else []
    with torch.profiler.profile(activities=activities) as profiler:
        found = run()
    trace = world.folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    copied, times = device_to_host(json.loads(trace.read_text()))
    maps = sum(map_.nbytes for image in found.maps["layercam"] for target in image for map_ in target)
    finished = maps + found.probabilities.nbytes
    share = copied / finished
    return [
        {
            "images": len(world.images),
            "finished maps and scores, bytes": finished,
            "copied back, bytes": copied,
            "copies": times,
            "share": share,
            "at most": COPIED,
            "target": ("met" if share <= COPIED else "missed") if world.device.type == "cuda" else None,
        }
    ]


def device_to_host(trace: dict[str, Any]) -> tuple[int, int]:
    """The bytes and the number of the copies from a GPU to the host in a trace of the profiler."""
    events = [one for one in trace["traceEvents"] if str(one.get("name", "")).startswith("Memcpy DtoH")]
    return sum(int(one["args"]["bytes"]) for one in events), len(events)


def memory(world: World) -> list[Row]:
    """A batch in all memory, then with most of it taken: halved, said, and the maps nearly the same."""
    ready, inputs, choose = _ready(world)
    run = partial(extraction.extract, ready, inputs, choose)
    expected = run()
    peak = peak_mib(run)
    said: list[str] = []
    limit = BatchLimit(said.append)
    with short_of_memory(world, peak):
        made = run(limit)
    pairs = zip(expected.maps["layercam"], made.maps["layercam"], strict=True)
    apart = max(float(np.abs(a[0][0] - b[0][0]).mean()) for a, b in pairs)
    met = limit.size is not None and len(said) == 1 and apart <= TOLERANCES["float32"][0]
    return [
        {
            "batch": len(world.images),
            "peak, MiB": peak,
            "halved to": limit.size,
            "said": len(said),
            "mean difference of the worst map": apart,
            "target": "met" if met else "missed",
        }
    ]


@contextmanager
def short_of_memory(world: World, peak: float | None) -> Iterator[None]:
    """While it lasts the device has room for about half a batch; on a CPU larger ones fail as if it had."""
    if peak is not None:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(world.device)
        filler = torch.empty(int(free - 0.6 * peak * 2**20), dtype=torch.uint8, device=world.device)
        try:
            yield
        finally:
            del filler
            torch.cuda.empty_cache()
        return
    whole = extraction._extract

    def limited(squares: Sequence[Tensor], *others: Any) -> Any:
        if len(squares[0]) > len(world.images) // 2:
            raise torch.OutOfMemoryError("as if there were no more")
        return whole(squares, *others)

    with patch.object(extraction, "_extract", limited):
        yield


def table(name: str, rows: Sequence[Row], seconds: float) -> str:
    """Rows as a Markdown table below a heading."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"\n## {name}, {seconds:.0f} s\n", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(cell(row.get(key)) for key in columns)} |" for row in rows]
    return "\n".join(lines)


def cell(value: object) -> str:
    """A value in a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.2g}"
    return str(value)


SECTIONS: dict[str, Callable[[World], list[Row]]] = {
    "parity": parity,
    "rates": rates,
    "copies": copies,
    "memory": memory,
    "beside": beside,
    "costs": costs,
}
"""In this order; what matters most comes first."""


if __name__ == "__main__":
    sys.exit(main())
