"""What CAMs cost beside one plain forward pass of the network, and beside grad-cam, in one run.

    python benchmarks/cam_cost.py [--device cuda] [--archs resnet50 ...] [--json FILE] [--quick]

Markdown goes to stdout, the same as JSON into FILE. Every time is the best of several rounds in which all
contestants run in turn, so that other work on the machine hits all of them. Networks are untrained, since time
does not depend on the weights; how far reduced precision moves maps is measured on a trained one
(--data IMAGES --classifier RUN).
"""

import argparse
import copy
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from camseg.base.arrays import Image
from camseg.base.device import find_device
from camseg.cams.capture import PRECISIONS, Network, Precision, network
from camseg.cams.compute import compute_cams
from camseg.cams.methods.registry import METHODS
from camseg.classify.checkpoint import load_classifier
from camseg.classify.classifier import Classifier
from camseg.data.images import find_images, read_image

ARCHITECTURES = ("resnet50", "legacy_xception", "efficientnet_b0", "convnext_tiny", "vit_small_patch16_224")
LARGE = ("legacy_xception", 2, 512)
"""A further case of the whole run: architecture, batch and side."""
Call: TypeAlias = Callable[[], object]
CLASSES = ("a", "b", "c")
PEERS = {
    "gradcam": "GradCAM",
    "hirescam": "HiResCAM",
    "gradcam-elementwise": "GradCAMElementWise",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
}
"""The gradient and activation methods that both have, and grad-cam's names of them."""
ONE_METHOD, ONE_METHOD_OF_TOKENS, ALL_METHODS = 1.05, 1.15, 1.2
"""At most so many plain forward passes. The layer of transformers lies before their last block."""
FASTER, ALL_FASTER, SCORING_FASTER = 1.8, 12.0, 2.0
"""At least so many times as fast as grad-cam."""
CHANNEL_PEERS = {"scorecam": "ScoreCAM", "ablationcam": "AblationCAM"}
FEW_CHANNELS = {"resnet50": "act1", "legacy_xception": "act1", "efficientnet_b0": "blocks.1"}
"""Layers at which a pass per channel takes seconds, not minutes."""
OURS_PER_PEER = 3
"""In every round what is quick runs so often, what is slow once: the minimum of more runs is less noisy."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    network: str
    """Architecture, batch and side."""
    what: str
    """What was asked for."""
    plain_ms: float | None
    """One plain forward pass of the same batch."""
    ours_ms: float
    """camseg."""
    peer_ms: float | None
    """grad-cam doing the same."""
    target: str | None
    """Whether what is to be reached is ``met`` or ``missed``; None where nothing is set."""
    ours_mib: float | None
    """The most memory that camseg's run held on the GPU."""
    peer_mib: float | None
    """The same of grad-cam's."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """grad-cam on one layer of a network."""

    model: nn.Module
    """The network."""
    layer: nn.Module
    """Its layer."""
    reshape: Callable[[Tensor], Tensor] | None
    """Where the map is in what the layer gives; None where grad-cam finds it."""

    @staticmethod
    def beside(chosen: Network, x: Tensor) -> "Peer":
        """grad-cam on the layer that camseg takes."""
        model = chosen.classifier.model
        layout = chosen.forward(x[:1], gradients=False).layouts[0]
        reshape = None if layout.kind == "channels first" else layout.maps
        return Peer(model=model, layer=model.get_submodule(chosen.layers[0]), reshape=reshape)

    def maps(self, x: Tensor, name: str, target: int) -> np.ndarray:
        """The maps (N, H, W) of one of its classes, without progress bars."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Not before camseg, which makes the installed torchvision importable.
            import pytorch_grad_cam
            from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
        quiet = patch("tqdm.tqdm", iter) if name in CHANNEL_PEERS.values() else nullcontext()
        with quiet, getattr(pytorch_grad_cam, name)(self.model, [self.layer], self.reshape) as cam:
            return cam(x, [ClassifierOutputTarget(target)] * len(x))

    def several(self, x: Tensor, methods: Sequence[str], classes: int) -> None:
        """One object and call for every method and class."""
        for target in range(classes):
            for name in methods:
                self.maps(x, PEERS[name], target)

    def end_to_end(self, classifier: Classifier, images: Sequence[Image]) -> list[np.ndarray]:
        """What compute_cams does: images in, maps of the images' sizes out."""
        maps = self.maps(classifier.preprocess(images), PEERS["layercam"], 0)
        return [cv2.resize(cam, image.shape[1::-1]) for cam, image in zip(maps, images, strict=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables as Markdown, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda.")
    parser.add_argument("--archs", nargs="+", default=list(ARCHITECTURES), metavar="ARCH")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="Side of the network's input, pixels.")
    parser.add_argument("--repeats", type=int, default=5, help="Rounds; the best counts.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="Of the CPU.")
    parser.add_argument("--quick", action="store_true", help="Two rounds; no large images, no passes per channel.")
    parser.add_argument("--compile", action="store_true", help="Also time torch.compile.")
    parser.add_argument("--data", type=Path, metavar="IMAGES", help="Images for the error of reduced precision ...")
    parser.add_argument("--classifier", type=Path, metavar="RUN", help="... and a trained classifier.")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    device = find_device(args.device)
    repeats = 2 if args.quick else args.repeats
    cases = [(arch, args.batch, args.size) for arch in args.archs]
    if not args.quick and LARGE[0] in args.archs:
        cases.append(LARGE)
    found: dict[str, Any] = {"machine": machine(device)}
    print(", ".join(f"{key} {value}" for key, value in found["machine"].items()), "\n")

    print_header(device)
    found["cost"] = []
    for case in cases:
        rows = cost_rows(*case, device, repeats)
        found["cost"] += [asdict(row) for row in rows]
        print_rows(rows, device)
    if not args.quick:
        print("\nMethods of one pass per channel, one image\n")
        print_header(device)
        found["channels"] = []
        for arch in [arch for arch in args.archs if arch in FEW_CHANNELS]:
            rows = channel_rows(arch, args.size, device, max(1, repeats // 2))
            found["channels"] += [asdict(row) for row in rows]
            print_rows(rows, device)
    found["precision"] = [precision_row(*case, device, repeats, args.compile) for case in cases]
    print_table("Reduced precision, layercam: plain forward pass, and camseg's whole extraction", found["precision"])
    if args.data and args.classifier:
        classifier = load_classifier(args.classifier, device)
        images = [read_image(path) for path in find_images(args.data).files]
        found["differences"] = difference_rows(classifier, images)
        print_table(f"How far maps in [0, 1] move from those of float32, {len(images)} images", found["differences"])
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def machine(device: torch.device) -> dict[str, str]:
    """What the times depend on."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu ({platform.machine()})",
        "threads": str(torch.get_num_threads()),
        **{name: version(name) for name in ("torch", "timm", "grad-cam")},
    }


def cost_rows(arch: str, batch: int, side: int, device: torch.device, repeats: int) -> list[Row]:
    """One method, the slowest of its kind, all eight, several targets, and images in, maps out."""
    classifier, x = _network(arch, batch, side, device)
    chosen, images = network(classifier), _images(batch, side)
    peer = Peer.beside(chosen, x)
    one, slowest, every = ["layercam"], _slowest(chosen, x), list(PEERS)
    limit = ONE_METHOD_OF_TOKENS if peer.reshape and arch.startswith(("vit", "deit")) else ONE_METHOD
    end_to_end = partial(compute_cams, classifier, images, [CLASSES[0]] * batch, one, batch_size=batch)
    several = len(CLASSES)
    contests: list[tuple[str, Call, Call, tuple[float, float] | None]] = [
        (title, partial(our_maps, chosen, x, methods, classes), partial(peer.several, x, methods, classes), target)
        for title, methods, classes, target in (
            ("layercam", one, 1, (limit, FASTER)),
            (f"{slowest}, the slowest gradient method", [slowest], 1, (limit, FASTER)),
            (f"all {len(every)}", every, 1, (ALL_METHODS, ALL_FASTER)),
            (f"layercam, {several} classes per image", one, several, None),
        )
    ]
    contests.append(("layercam, images in, maps out", end_to_end, partial(peer.end_to_end, classifier, images), None))
    plain = partial(plain_pass, classifier, x)
    ours, theirs = [contest[1] for contest in contests], [contest[2] for contest in contests]
    (plain_ms, *ours_ms), peer_ms = compare([plain, *ours], theirs, repeats)
    rows = []
    for (title, our, their, target), our_ms, their_ms in zip(contests, ours_ms, peer_ms, strict=True):
        reached = target and our_ms / plain_ms <= target[0] and their_ms / our_ms >= target[1]
        rows.append(
            Row(
                network=f"{arch}, {batch} x {side} px",
                what=title,
                plain_ms=plain_ms,
                ours_ms=our_ms,
                peer_ms=their_ms,
                target=None if target is None else "met" if reached else "missed",
                ours_mib=peak_mib(our),
                peer_mib=peak_mib(their),
            )
        )
    return rows


def channel_rows(arch: str, side: int, device: torch.device, repeats: int) -> list[Row]:
    """Methods that run the network once per channel, exact and with fewer channels."""
    classifier, x = _network(arch, 1, side, device)
    layer = FEW_CHANNELS[arch]
    chosen = network(classifier, layers=layer)
    (captured,) = chosen.forward(x).toward([0])
    channels = captured.activations.shape[1]
    # grad-cam's need the order of channels that torch has by default.
    plain_order = replace(classifier, model=copy.deepcopy(classifier.model).to(memory_format=torch.contiguous_format))
    peer = Peer.beside(network(plain_order, layers=layer), x)
    rows = []
    for name in [name for name in CHANNEL_PEERS if name in METHODS]:
        few = replace(captured, score_channels=channels // 4)
        ours = [partial(METHODS[name].load(), captured), partial(METHODS[name].load(), few)]
        theirs = partial(peer.maps, x.contiguous(), CHANNEL_PEERS[name], 0)
        (plain_ms, *ours_ms), (peer_ms,) = compare([partial(plain_pass, classifier, x), *ours], [theirs], repeats)
        for count, our, function in zip((channels, channels // 4), ours_ms, ours, strict=True):
            exact = count == channels
            rows.append(
                Row(
                    network=f"{arch}, 1 x {side} px, {layer}",
                    what=f"{name}, {f'all {count}' if exact else count} channels",
                    plain_ms=plain_ms,
                    ours_ms=our,
                    peer_ms=peer_ms,
                    target=("met" if peer_ms / our >= SCORING_FASTER else "missed")
                    if exact and name == "scorecam"
                    else None,
                    ours_mib=peak_mib(function),
                    peer_mib=peak_mib(theirs),
                )
            )
    return rows


def precision_row(arch: str, batch: int, side: int, device: torch.device, repeats: int, compiled: bool) -> dict:
    """Times of the plain pass and of one method in every precision, and of the compiled network."""
    classifier, x = _network(arch, batch, side, device)
    reduced: tuple[Precision, ...] = ("bf16", "fp16") if device.type == "cuda" else ("bf16",)
    functions: dict[str, Call] = {}
    for precision in ("float32", *reduced):
        chosen = network(classifier, precision=precision)
        functions[f"plain {precision}, ms"] = partial(plain_pass, classifier, x, precision)
        functions[f"camseg {precision}, ms"] = partial(our_maps, chosen, x, ["layercam"])
    seconds = None
    if compiled:
        fast = replace(classifier, model=torch.compile(classifier.model))
        clock = time.perf_counter()
        plain_pass(fast, x)
        _wait()
        seconds = time.perf_counter() - clock
        functions["plain compiled, ms"] = partial(plain_pass, fast, x)
    times, _ = compare(list(functions.values()), [], repeats)
    row = {"network": f"{arch}, {batch} x {side} px", **dict(zip(functions, times, strict=True))}
    return row if seconds is None else {**row, "compiling, s": seconds}


def difference_rows(classifier: Classifier, images: Sequence[Image]) -> list[dict]:
    """Largest and mean absolute difference of float32's maps to those of reduced precision."""
    targets = [next(name for name in classifier.classes if name not in classifier.negative)] * len(images)
    methods = list(PEERS)
    exact = compute_cams(classifier, images, targets, methods)
    rows = []
    reduced: tuple[Precision, ...] = ("bf16", "fp16")
    for precision in reduced:
        other = compute_cams(classifier, images, targets, methods, precision=precision)
        for method in methods:
            apart = [np.abs(a - b) for a, b in zip(exact[method], other[method], strict=True)]
            means = [float(difference.mean()) for difference in apart]
            rows.append(
                {
                    "precision": precision,
                    "method": method,
                    "mean": float(np.mean(means)),
                    "worst image's mean": max(means),
                    "largest": max(float(difference.max()) for difference in apart),
                }
            )
    return rows


def plain_pass(classifier: Classifier, x: Tensor, precision: Precision = "float32") -> None:
    """One forward pass as it is without CAMs."""
    reduced = PRECISIONS[precision] if precision != "float32" else None
    with torch.inference_mode(), torch.autocast(x.device.type, dtype=reduced, enabled=reduced is not None):
        classifier.model(x)


def our_maps(chosen: Network, x: Tensor, methods: Sequence[str], classes: int = 1) -> None:
    """camseg's raw maps of a batch: one pass, then every class and method."""
    seen = chosen.forward(x, gradients=any(METHODS[name].needs == "gradients" for name in methods))
    for target in range(classes):
        (captured,) = seen.toward([target] * len(x))
        for name in methods:
            METHODS[name].load()(captured)


def compare(quick: Sequence[Call], slow: Sequence[Call], repeats: int) -> tuple[list[float], list[float]]:
    """The best time of each function in milliseconds, all of them in turn in every round."""
    functions = [*quick, *slow]
    best = [float("inf")] * len(functions)
    for _ in range(repeats + 1):  # the first round warms up
        for turn in range(OURS_PER_PEER):
            for index, function in enumerate(functions):
                if turn and index >= len(quick):
                    continue
                _wait()
                clock = time.perf_counter()
                function()
                _wait()
                best[index] = min(best[index], 1000.0 * (time.perf_counter() - clock))
    return best[: len(quick)], best[len(quick) :]


def peak_mib(function: Call) -> float | None:
    """The most memory that a call adds on the GPU; None without one."""
    if not torch.cuda.is_initialized():
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def print_header(device: torch.device) -> None:
    """The head of a table of rows."""
    memory = " ours, MiB | grad-cam, MiB |" if device.type == "cuda" else ""
    columns = (
        f"| network | what | plain, ms | ours, ms | ours / plain | grad-cam, ms | grad-cam / ours | target |{memory}"
    )
    print(columns)
    print("|---" * (columns.count("|") - 1) + "|", flush=True)


def print_rows(rows: Sequence[Row], device: torch.device) -> None:
    """Rows of a table."""
    for row in rows:
        numbers = [
            _number(row.plain_ms, 1),
            _number(row.ours_ms, 1),
            _number(row.plain_ms and row.ours_ms / row.plain_ms, 2),
            _number(row.peer_ms, 1),
            _number(row.peer_ms and row.peer_ms / row.ours_ms, 1),
            row.target or "-",
        ]
        if device.type == "cuda":
            numbers += [_number(row.ours_mib, 0), _number(row.peer_mib, 0)]
        print(f"| {row.network} | {row.what} | {' | '.join(numbers)} |", flush=True)


def print_table(title: str, rows: Sequence[dict]) -> None:
    """Dictionaries with the same keys as a table."""
    print(f"\n{title}\n\n| {' | '.join(rows[0])} |\n{'|---' * len(rows[0])}|")
    for row in rows:
        print("|", " | ".join(f"{v:.3g}" if isinstance(v, float) and v < 1 else _cell(v) for v in row.values()), "|")
    sys.stdout.flush()


def _network(arch: str, batch: int, side: int, device: torch.device) -> tuple[Classifier, Tensor]:
    torch.manual_seed(0)
    classifier = Classifier.create(arch, classes=CLASSES, image_size=side)
    classifier.model.to(device)
    return classifier, torch.randn(batch, 3, side, side).to(device, memory_format=torch.channels_last)


def _images(count: int, side: int) -> list[Image]:
    """Images a little larger than the network's input, and not square."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (side * 8 // 7, side * 10 // 7, 3), np.uint8) for _ in range(count)]


def _slowest(chosen: Network, x: Tensor) -> str:
    """The method of the largest cost beyond the pass, among those that need gradients."""
    (captured,) = chosen.forward(x).toward([0] * len(x))
    names = [name for name in PEERS if METHODS[name].needs == "gradients"]
    times, _ = compare([partial(METHODS[name].load(), captured) for name in names], [], 3)
    return max(zip(times, names, strict=True))[1]


def _wait() -> None:
    """Until the GPU is done, where one is at work."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _cell(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
