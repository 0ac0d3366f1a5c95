"""Classifier -> its layers with a map: how each one holds it, and which of them ``auto`` and ``stages`` stand for."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from camseg.base.errors import LayerError
from camseg.cams.hooks import hooked, inference
from camseg.classify.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a layer's output holds a map: (N, C, h, w), (N, h, w, C), or tokens (N, prefix + h w, C)."""

    kind: Literal["channels first", "channels last", "tokens"]
    prefix: int = 0
    """Tokens before those of the map, such as the class token."""

    def maps(self, output: Tensor) -> Tensor:
        """A layer's output -> (N, C, h, w)."""
        if self.kind == "channels last":
            return output.permute(0, 3, 1, 2)
        if self.kind == "tokens":
            grid = output[:, self.prefix :]  # (N, h w, C)
            side = round(grid.shape[1] ** 0.5)
            square: Tensor = grid.unflatten(1, (side, side)).permute(0, 3, 1, 2)
            return square
        return output

    def output(self, maps: Tensor, like: Tensor) -> Tensor:
        """(M, C, h, w) -> what the layer would give; tokens before the map are those of ``like``'s only image."""
        if self.kind == "channels last":
            return maps.permute(0, 2, 3, 1)
        if self.kind == "tokens":
            prefix = like[:, : self.prefix].expand(len(maps), -1, -1)
            return torch.cat([prefix, maps.flatten(2).transpose(1, 2)], dim=1)
        return maps


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
    """How its output holds the map."""
    stage: bool
    """Whether it is a part of the network's outline: a child of the model, a member of a sequence of blocks, a
    child of such a block that has no map of its own, or a normalisation of tokens."""
    speaks: bool
    """Whether a score depends on its map, and not on a few places only. That of a transformer's last block says
    nothing where only its class token is read."""


_FOUND: WeakKeyDictionary[nn.Module, dict[int, tuple[str, ...]]] = WeakKeyDictionary()


def find_layer(classifier: Classifier) -> str:
    """The layer that ``auto`` stands for, found by a dry run once: the last one whose map the scores depend on.

    Raises LayerError when there is none.
    """
    return find_stages(classifier)[-1]


def find_stages(classifier: Classifier) -> tuple[str, ...]:
    """The layers that ``stages`` stands for, found by a dry run once: those of ``stage_layers``.

    Raises LayerError when there is none.
    """
    found = _FOUND.setdefault(classifier.model, {})
    if classifier.image_size not in found:
        names = stage_layers(list_layers(classifier))
        if not names:
            raise LayerError(
                f"no layer of {classifier.arch} gives a map (N, C, h, w) larger than 1x1 that the scores depend on; "
                "choose one that `camseg layers` lists with --layer, or larger images"
            )
        found[classifier.image_size] = names
    return found[classifier.image_size]


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


def list_layers(classifier: Classifier) -> list[Layer]:
    """Every layer that runs once and gives a map larger than 1x1, in the order in which the network runs them."""
    model = classifier.model
    seen: dict[str, Tensor] = {}
    runs: Counter[str] = Counter()

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...], object], None]:
        def hook(_module: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
            runs[name] += 1
            if isinstance(output, Tensor) and len(output) == 1 and output.requires_grad:
                seen[name] = output

        return hook

    side = classifier.image_size
    hooks = {name: note(name) for name, _ in model.named_modules() if name}
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with inference(model), torch.inference_mode(False), torch.enable_grad(), hooked(model, hooks):
        x = noise.to(next(model.parameters())).requires_grad_()
        logits = functional_call(model, dict(_awake(model)), (x.clone(),))
        slopes = torch.autograd.grad(logits[0, 0], list(seen.values()), allow_unused=True)
    found = []
    for (name, output), slope in zip(seen.items(), slopes, strict=True):
        layout = layout_of(output, model)
        if layout is None or runs[name] > 1:
            continue
        _, channels, height, width = layout.maps(output).shape
        if height == width > 1:
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
    return [replace(layer, stage=layer.name in outline) for layer in found]


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


def _awake(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Random numbers for weights that are all zero, as some heads start: they would hide what lies before them."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and not weight.any():
            yield name, torch.randn(weight.shape, generator=generator).to(weight)


def layout_of(output: object, model: nn.Module) -> Layout | None:
    """How a layer's output holds a map; None when it holds none.

    Inputs are square, so maps are too: that tells (N, C, h, w) from (N, h, w, C), and tokens before the map.
    """
    if not isinstance(output, Tensor):
        return None
    if output.ndim == 4:
        _, a, b, c = output.shape
        # timm's own statement, where the shape leaves it open.
        stated = getattr(getattr(model, "output_fmt", None), "value", getattr(model, "output_fmt", "NCHW"))
        last = stated == "NHWC" if (a == b) == (b == c) else a == b
        return Layout(kind="channels last" if last else "channels first")
    if output.ndim == 3:
        own: tuple[int, ...] = (int(getattr(model, "num_prefix_tokens", 0) or 0),)
        for prefix in (*own, 0, 1, 2):
            count = output.shape[1] - prefix
            if count > 1 and round(count**0.5) ** 2 == count:
                return Layout(kind="tokens", prefix=prefix)
    return None


def checked_layout(output: object, model: nn.Module, name: str) -> Layout:
    """``layout_of`` the output of the layer of this name; LayerError when it holds no map."""
    layout = layout_of(output, model)
    if layout is None:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise LayerError(f"layer {name} gives {shape}, not a map (N, C, h, w); choose one that `camseg layers` lists")
    return layout
