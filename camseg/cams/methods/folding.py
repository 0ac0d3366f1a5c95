"""Batch norms folded into the convolutions before them: the same scores from fewer steps, for methods that run
the network hundreds of times."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from camseg.cams.capture import Network
from camseg.cams.hooks import Hook, hooked, private_copy


def folded(network: Network, images: Tensor, targets: Tensor, regions: Tensor | None = None) -> Network:
    """The network with a copy of its model whose batch norms are folded, or as it is where that changes scores.

    ``images`` (M, 3, H, W), normalised, class indices ``targets`` int64 (M,) and ``regions`` as ``Network.scores``
    takes them are what the two are compared on.
    """
    model = private_copy(network.classifier.model).eval()
    quick = replace(network, classifier=replace(network.classifier, model=model))
    pairs = _pairs(quick, images, targets)
    if not pairs:
        return network
    with torch.no_grad():
        for convolution, name in pairs:
            norm = model.get_submodule(name)
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight,
                convolution.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            # timm's batch norms hold an activation too.
            rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
            model.set_submodule(name, nn.Sequential(*rest))
    before, after = (one.scores(images, targets, regions) for one in (network, quick))
    # A convolution that changes its weights as it runs, or that something else reads too, cannot be folded.
    return quick if (before - after).abs().max() <= 1e-4 * before.abs().max() else network


def _pairs(network: Network, images: Tensor, targets: Tensor) -> list[tuple[nn.Conv2d, str]]:
    """Convolutions and the name of the batch norm that takes their output, in the network's own model."""
    made: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # so that no other tensor gets the same identity
    taken: list[tuple[nn.Conv2d, str]] = []

    def note(module: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
        assert isinstance(module, nn.Conv2d)
        assert isinstance(output, Tensor)
        made[id(output)] = module
        kept.append(output)

    def look(name: str) -> Hook:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], _output: object) -> None:
            if id(inputs[0]) in made:
                taken.append((made[id(inputs[0])], name))

        return hook

    hooks: dict[str, Hook] = {}
    for name, module in network.classifier.model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks[name] = note
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            hooks[name] = look(name)
    with hooked(network.classifier.model, hooks):
        network.scores(images, targets)
    return taken
