"""A network -> its layers with a map: how each one holds it, and which of them ``auto`` and ``stages`` stand for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from camseg.base.errors import LayerError
from camseg.cams.evidence import settle_layouts
from camseg.cams.hooks import Hook, alone, hooked, inference, private_copy
from camseg.cams.layout import Layout, plain_layout, possible_layouts
from camseg.classify.network import FedNetwork
from camseg.models.heads import POOLINGS
from camseg.models.segmenters.network import SegmentationNetwork


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of a network that can be named, because its output is a map."""

    name: str
    """The module's name in the model."""
    channels: int
    """C."""
    height: int
    """h, at the classifier's image size."""
    width: int
    """w."""
    layout: Layout
    """How its output holds the map: seen by its shape, or by where it answers to changes of the image."""
    stage: bool
    """Whether it is a part of the network's outline: a child of the model, a member of a sequence of blocks, a
    child of such a block that has no map of its own, or a normalisation of tokens."""
    speaks: bool
    """Whether a score depends on its map, and not on a few places only. That of a transformer's last block says
    nothing where only its class token is read."""


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """What a network's layers were found to be, at one image size."""

    layers: tuple[Layer, ...]
    refused: Mapping[str, str]
    """By name, what is wrong with the map of a layer whose shape could be that of one."""


_FOUND: WeakKeyDictionary[nn.Module, dict[int, _Listing]] = WeakKeyDictionary()


def find_layers(network: FedNetwork, name: str) -> tuple[str, ...]:
    """The layers, by their names in the model, that a user's name stands for.

    ``auto``: ``find_layer``; ``stages``: ``find_stages``; of a segmenter ``bottleneck`` and ``last-decoder`` those that
    its network calls so. Raises LayerError for one that has no map, or one of a segmenter that classifies.
    """
    model = network.model
    if name == "stages":
        return find_stages(network)
    if name == "auto":
        return (find_layer(network),)
    if isinstance(model, SegmentationNetwork):
        name = {"bottleneck": model.bottleneck, "last-decoder": model.last_decoder}.get(name, name)
    check_layer(network, name)
    return (name,)


def find_layer(classifier: FedNetwork) -> str:
    """The layer that ``auto`` stands for: the last one whose map the scores depend on; of a segmenter the bottleneck.

    Raises LayerError when there is none.
    """
    return find_stages(classifier)[-1]


def find_stages(classifier: FedNetwork) -> tuple[str, ...]:
    """The layers that ``stages`` stands for: those of ``stage_layers``; of a segmenter the last of its decoder, whose
    map is fine, and the bottleneck, whose is coarse.

    Raises LayerError when there is none.
    """
    if isinstance(classifier.model, SegmentationNetwork):
        return classifier.model.last_decoder, classifier.model.bottleneck
    listing = _listing(classifier)
    return _stages(classifier, listing, listing.layers)


def find_guide(classifier: FedNetwork) -> str:
    """The layer whose activations say what is alike: the finer one of ``find_stages``, or of those in front of a head
    of ``POOLINGS``, whose own maps are scores of classes.

    Raises LayerError when there is none.
    """
    if isinstance(classifier.model, SegmentationNetwork):
        return find_stages(classifier)[0]
    listing = _listing(classifier)
    heads = tuple(f"{name}." for name in POOLINGS)
    features = [layer for layer in listing.layers if not layer.name.startswith(heads)]
    return _stages(classifier, listing, features)[0]


def _stages(classifier: FedNetwork, listing: _Listing, layers: Sequence[Layer]) -> tuple[str, ...]:
    names = stage_layers(layers)
    if not names:
        raise LayerError(
            f"no layer of {classifier.arch} gives a map (N, C, h, w) larger than 1x1 that the scores depend on; "
            "choose one that `camseg layers` lists with --layer, or larger images"
            + "".join(f" (the map of {name} {reason})" for name, reason in [*listing.refused.items()][-1:])
        )
    return names


def stage_layers(layers: Sequence[Layer]) -> tuple[str, ...]:
    """The last of the layers whose map the scores depend on, after the last one with a finer map, if there is any.

    Each as its outermost module; of transformers that read only a class token it is the first normalisation in the
    last block. A finer map from the first third of the network, where features are edges and colours, does not count.
    """
    # Within attention blocks much is square that is no map.
    streams = tuple(f"{layer.name}." for layer in layers if layer.layout.kind == "tokens")
    spatial = [
        layer
        for layer in layers
        if layer.speaks and (layer.stage if layer.layout.kind == "tokens" else not layer.name.startswith(streams))
    ]
    if not spatial:
        return ()
    last = spatial[-1]
    deeper = layers[layers.index(last) // 3 :]
    finer = [layer.name for layer in spatial if layer.stage and layer.height > last.height and layer in deeper]
    return (*finer[-1:], last.name)


def list_layers(classifier: FedNetwork) -> list[Layer]:
    """Every layer that runs once and gives a map larger than 1x1, in the order in which the network runs them.

    Found by dry runs, once as long as the network lives.
    """
    return list(_listing(classifier).layers)


def _listing(classifier: FedNetwork) -> _Listing:
    with alone(classifier.model):
        known = _FOUND.setdefault(classifier.model, {})
        if classifier.image_size not in known:
            known[classifier.image_size] = _look(classifier.model, classifier.image_size)
        return known[classifier.image_size]


def _look(model: nn.Module, side: int) -> _Listing:
    outputs, slopes = _dry_run(_awake(model), side)
    possible = {}
    for name, output in outputs.items():
        layouts = () if _classifies(model, name) else possible_layouts(output, model)
        if layouts and (shape := layouts[0].maps(output).shape)[2] == shape[3] > 1:
            possible[name] = layouts
    # Within what gives tokens much is square that is no map.
    streams = tuple(f"{name}." for name, layouts in possible.items() if layouts[0].kind == "tokens")
    shown = {
        name: layouts[0]
        for name, layouts in possible.items()
        if plain_layout(outputs[name], model) and not name.startswith(streams)
    }
    open_ = {name: layouts for name, layouts in possible.items() if name not in shown}
    settled, refused = settle_layouts(model, side, open_) if open_ else ({}, {})
    found = []
    for name, layouts in possible.items():
        layout = shown.get(name) or settled.get(name) or layouts[0]
        _, channels, height, width = layout.maps(outputs[name]).shape
        slope = slopes[name]
        found.append(
            Layer(
                name=name,
                channels=channels,
                height=height,
                width=width,
                layout=layout,
                stage=False,
                speaks=slope is not None and float(layout.maps(slope).any(dim=1).float().mean()) > 0.1,
            )
        )
    outline = _outline(model, found)
    return _Listing(
        layers=tuple(replace(layer, stage=layer.name in outline) for layer in found if layer.name not in refused),
        refused=refused,
    )


def _dry_run(model: nn.Module, side: int) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """Of each layer that runs once and gives a tensor for one image: it, and the gradient of a score there if any."""
    seen: dict[str, Tensor] = {}
    runs: Counter[str] = Counter()

    def note(name: str) -> Hook:
        def hook(_module: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
            runs[name] += 1
            if isinstance(output, Tensor) and len(output) == 1 and output.requires_grad:
                seen[name] = output

        return hook

    hooks = {name: note(name) for name, _ in model.named_modules() if name}
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with inference(model), torch.inference_mode(False), torch.enable_grad(), hooked(model, hooks):
        x = noise.to(next(model.parameters())).requires_grad_()
        logits = model(x.clone())
        # Of all scores, unequally: some may be constants, and some cancel each other.
        score = (logits[0] * torch.linspace(1.0, 2.0, logits.numel()).view(logits.shape[1:]).to(logits)).sum()
        slopes = torch.autograd.grad(score, list(seen.values()), allow_unused=True)
    once = [name for name in seen if runs[name] == 1]
    return {name: seen[name].detach() for name in once}, {
        name: slope for name, slope in zip(seen, slopes, strict=True) if name in once
    }


def _outline(model: nn.Module, layers: Sequence[Layer]) -> set[str]:
    """The names of the modules of the network's outline."""
    modules = dict(model.named_modules())
    sequences = {name for name, module in modules.items() if isinstance(module, nn.Sequential | nn.ModuleList)}
    members = {name for name in modules if name.rpartition(".")[0] in sequences}
    # A block that gives several tensors, or a class token alone, can only be named by its own parts.
    unnamed = members - {layer.name for layer in layers}
    parts = {name for name in modules if name.rpartition(".")[0] in unnamed}
    # The map that a transformer's block reads is the normalised one: nothing behind it takes its scale away.
    norms = {layer.name for layer in layers if layer.layout.kind == "tokens" and _normalises(modules[layer.name])}
    # What a block holds before it narrows to its own map is the block's business.
    sides = {layer.name: layer.height for layer in layers if layer.name not in sequences}
    inside = {
        layer.name
        for layer in layers
        for block, side in sides.items()
        if layer.name.startswith(f"{block}.") and side < layer.height
    }
    return (members | parts | norms | {name for name, _ in model.named_children()}) - inside


def _normalises(module: nn.Module) -> bool:
    # Libraries have normalisations of their own, with no class in common.
    return "Norm" in type(module).__name__


def _awake(model: nn.Module) -> nn.Module:
    """A copy with random numbers for weights that are all zero, as some heads start: they would hide what lies before
    them. The network itself where there are none."""
    asleep = [name for name, weight in model.named_parameters() if weight.ndim > 1 and not weight.any()]
    if not asleep:
        return model
    # Not the network with other weights for a moment: some modules remember what they made of theirs.
    model = private_copy(model).train().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in asleep:
            weight = model.get_parameter(name)
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return model


def layout_at(output: object, classifier: FedNetwork, name: str) -> Layout:
    """How the output of the layer of this name holds its map, at any size of inputs.

    Found out where the shape leaves it open, which takes dry runs of the network once. Raises LayerError when it holds
    none, or one that does not lie as the image does.
    """
    layout = plain_layout(output, classifier.model)
    if layout is None and possible_layouts(output, classifier.model):
        check_layer(classifier, name)
        layout = next((layer.layout for layer in _listing(classifier).layers if layer.name == name), None)
    if layout is None or not isinstance(output, Tensor) or not layout.fits(output):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise LayerError(f"layer {name} gives {shape}, not a map (N, C, h, w); choose one that `camseg layers` lists")
    return layout


def check_layer(classifier: FedNetwork, name: str) -> None:
    """LayerError, with what is wrong, for a layer whose map was found not to lie as the image does, and for the one of
    a segmenter that classifies."""
    if _classifies(classifier.model, name):
        raise LayerError(
            f"layer {name} classifies the pixels: its map is the answer itself, not what it was made of; choose "
            "last-decoder, bottleneck or one that `camseg layers` lists"
        )
    if reason := _listing(classifier).refused.get(name):
        raise LayerError(f"the map of layer {name} {reason}; choose one that `camseg layers` lists")


def _classifies(model: nn.Module, name: str) -> bool:
    """Whether a layer of a segmentation network is the one that classifies, or within it."""
    return isinstance(model, SegmentationNetwork) and f"{name}.".startswith(f"{model.classifying}.")
