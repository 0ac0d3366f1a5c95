"""CAM methods of the grad-cam library, as methods of the same signature.

grad-cam is optional, and loaded when one of them runs. It takes the images one by one, so that a map does not
depend on its batch, with a pass of its own over the whole network; the model's mode, flags, gradients and hooks
are put back. Maps are the library's, before ReLU and scaling where it has such a stage.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from camseg.base.compat import import_torchvision
from camseg.base.errors import InputError
from camseg.base.extras import require
from camseg.cams.capture import Capture, Network
from camseg.cams.hooks import Hook, hooked, inference
from camseg.cams.layers import layout_at, list_layers
from camseg.segment.segmenter import Segmenter

_COMPARED = 3
"""How many of the most similar classes Finer-CAM sets the target apart from."""


def finercam(capture: Capture) -> Tensor:
    """Grad-CAM of the target's logit minus those of the classes closest to it -> (N, h, w).

    The three closest are compared, weighted by their probabilities; with the score ``margin`` only negative
    classes are. Zhang et al., Finer-CAM, CVPR 2025.
    """
    if isinstance(capture.network.classifier, Segmenter):
        raise InputError("finercam compares the scores of classes, which pixels have none of; choose another method")
    classes = capture.network.classifier.classes
    allowed = capture.network.rivals or range(len(classes))

    def target(n: int) -> Callable[[Tensor], Tensor]:
        own = int(capture.targets[n])
        others = [index for index in allowed if index != own]

        def score(logits: Tensor) -> Tensor:
            closest = sorted(others, key=lambda index: abs(float(logits[index] - logits[own])))[:_COMPARED]
            if not closest:
                return logits[own]
            weighted: Tensor = _library().utils.model_targets.FinerWeightedTarget(own, closest, 1.0)(logits)
            return weighted

        return score

    return _at_layer(capture, "FinerCAM", target)


def shapleycam(capture: Capture) -> Tensor:
    """sum_k w_k A_k, w_k = mean_ij(G_k - 1/2 (Hessian times A)_k) -> (N, h, w). Cai, Shapley-CAM, 2025."""
    with sdpa_kernel(SDPBackend.MATH):  # the one attention that has second derivatives
        return _at_layer(capture, "ShapleyCAM")


def kpcacam(capture: Capture) -> Tensor:
    """``eigencam`` with a kernel, the sigmoid one, in the principal component -> (N, h, w).

    Its sign is the library's. Karmani et al., KPCA-CAM, 2024.
    """
    return _at_layer(capture, "KPCA_CAM")


def fem(capture: Capture) -> Tensor:
    """sum_k w_k A_k, w_k = the share of positions where A_k is over its mean by two deviations -> (N, h, w).

    Fuad et al., Features Understanding in 3D CNNs, IPTA 2020.
    """
    return _at_layer(capture, "FEM")


def segeigencam(capture: Capture) -> Tensor:
    """``eigencam`` of |G| A, its sign such that the largest value is positive -> (N, h, w).

    Chung and Ying, Seg-Eigen-CAM, Applied Sciences 2025.
    """
    return _at_layer(capture, "SegEigenCAM")


def fullgrad(capture: Capture) -> Tensor:
    """|x dS/dx| plus |b dS/db| of every bias b, each scaled to [0, 1] before it is added -> (N, H, W) in [0, 1].

    The library counts the biases of torch's own convolutions and batch norms, not those of timm's batch norms with
    an activation inside. Raises InputError where that leaves none. Srinivas and Fleuret, NeurIPS 2019.
    """
    modules = capture.network.classifier.model.modules()
    if not any(type(module) in (nn.Conv2d, nn.BatchNorm2d) and module.bias is not None for module in modules):
        raise InputError(
            f"fullgrad finds no bias that grad-cam can read in {capture.network.classifier.arch}; choose another method"
        )
    return _at_input(capture, "FullGrad", [])


def refinecam(capture: Capture) -> Tensor:
    """The product of several layers' Grad-CAM++ maps -> (N, H, W) in [0, 1].

    The layers are the capture's network's; where that names a single one, it and the last of each larger map before
    it. Paper: arXiv 2605.14641.
    """
    network = capture.network
    names = list(network.layers)
    if len(names) == 1:
        layers = list_layers(network.classifier)
        ran = [layer.name for layer in layers]
        before = layers[: ran.index(names[0])] if names[0] in ran else []
        larger = {layer.height: layer.name for layer in before if layer.stage and layer.speaks}
        if before:
            larger.pop(layers[ran.index(names[0])].height, None)
        names = [*larger.values(), *names]
    return _at_input(capture, "RefineCAM", names)


def sess(capture: Capture) -> Tensor:
    """Grad-CAM of windows slid over the image at twelve scales, averaged by their scores -> (N, H, W) in [0, 1].

    Tursun et al., SESS, ECCV 2022.
    """
    if isinstance(capture.network.classifier, Segmenter):
        raise InputError("sess shows the network windows of the image, with other pixels; choose another method")
    multi_label = capture.network.classifier.multi_label
    return _at_input(capture, "SESS", [capture.layer], use_softmax_scores=not multi_label)


Target = Callable[[Tensor], Tensor]
"""Logits (classes,), or (M, classes), of a segmenter with (h, w) behind -> the score, or (M,)."""


def _at_layer(capture: Capture, name: str, target: Callable[[int], Target] | None = None) -> Tensor:
    """Raw maps (N, h, w) of a method that weighs one layer."""
    raw: list[Any] = []
    with _tapped(capture.network, [capture.layer]) as taps, _quiet():
        method = _method(name)(capture.network.classifier.model, taps)
        base = getattr(method, "base_cam", method)
        original = base.get_cam_image

        def spy(*args: Any) -> Any:
            raw.append(original(*args))
            return raw[-1]

        base.get_cam_image = spy
        try:
            for n in range(len(capture.inputs)):
                method(capture.inputs[n : n + 1].clone(), [target(n) if target else _score(capture, n)])
        finally:
            _release(base)
            del base.get_cam_image  # which would keep the method alive
    return _tensor(raw, capture)


def _at_input(capture: Capture, name: str, layers: Sequence[str], **settings: bool) -> Tensor:
    """Maps (N, H, W) in [0, 1] of a method that gives them at the input's size."""
    maps = []
    with _tapped(capture.network, layers) as taps, _quiet():
        method = _method(name)(capture.network.classifier.model, taps, **settings)
        parts = getattr(method, "base_cam_per_layer", [getattr(method, "base_cam", method)])
        try:
            for n in range(len(capture.inputs)):
                maps.append(method(capture.inputs[n : n + 1].clone(), [_score(capture, n)]))
        finally:
            for part in parts:
                _release(part)
    return _tensor(maps, capture)


def _release(method: Any) -> None:
    """Take off the library's hooks, now rather than when the method is collected."""
    hooked = method.activations_and_grads
    hooked.activations, hooked.gradients = [], []  # which it would detach in place, and views cannot be
    hooked.release()


def _score(capture: Capture, n: int) -> Target:
    region = None if capture.regions is None else capture.regions[n]

    def score(logits: Tensor) -> Tensor:
        several = logits.ndim in (2, 4)
        rows = logits if several else logits[None]
        regions = None if region is None else region.expand(len(rows), -1, -1)
        values = capture.network.measured(rows.float(), capture.targets[n].expand(len(rows)), regions)
        return values if several else values[0]

    return score


def _tensor(maps: Sequence[Any], capture: Capture) -> Tensor:
    """One-image maps -> (N, ...), float32, 0 where the library divided by nothing."""
    stacked = torch.from_numpy(np.concatenate([np.asarray(one, np.float32) for one in maps]))
    return stacked.nan_to_num(0.0, 0.0, 0.0).to(capture.inputs.device)


@contextmanager
def _tapped(network: Network, layers: Sequence[str]) -> Iterator[list[nn.Module]]:
    """Modules through which the layers' maps pass as (N, C, h, w), for the library to hook into.

    Gradients end there, unless the input asks for them. What goes on is a tensor of its own, so that
    an in-place activation behind the layer does not change what the library has kept. The library empties the
    gradients of parameters; they come back, as modes and flags do.
    """
    model = network.classifier.model
    taps: list[nn.Module] = [nn.Identity() for _ in layers]
    # Gradients behind a linear head would else have no graph for Shapley-CAM to differentiate.
    one = torch.ones((), device=network.classifier.device, requires_grad=True)
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]

    def through(tap: nn.Module, name: str) -> Hook:
        def hook(_module: nn.Module, _inputs: tuple[Any, ...], output: object) -> Tensor:
            layout = layout_at(output, network.classifier, name)
            assert isinstance(output, Tensor)
            maps = layout.maps(output).clone()
            if not maps.requires_grad:
                maps.requires_grad_(torch.is_grad_enabled())
            return layout.output(tap(maps) * one, output)

        return hook

    list_layers(network.classifier)  # so that layouts are known before the pass
    hooks = {name: through(tap, name) for name, tap in zip(layers, taps, strict=True)}
    try:
        with inference(model), torch.inference_mode(False), torch.enable_grad(), hooked(model, hooks):
            for parameter, _ in kept:
                parameter.grad = None
            yield taps
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


@contextmanager
def _quiet() -> Iterator[None]:
    """No words of the library on the terminal, and its random numbers the same in every run."""
    state = np.random.get_state()  # noqa: NPY002 (the one that the library's solvers draw from)
    try:
        np.random.seed(0)  # noqa: NPY002
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _method(name: str) -> Any:
    found = getattr(_library(), name, None)
    if found is None:
        raise InputError(f"this grad-cam has no {name}; pip install 'camseg[grad-cam]'")
    return found


def _library() -> Any:
    """grad-cam; InputError where it is not installed."""
    import_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return require("pytorch_grad_cam", "grad-cam", "a method of grad-cam")
