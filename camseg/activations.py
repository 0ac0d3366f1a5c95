"""Scores -> Capture: what a network's layer did for a batch, and how the scores depend on it.

The only module that hooks into a network. Gradients run from the score back to the chosen layer and
no further: the layer's output is replaced by a leaf of the graph, and no parameter takes part in it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from camseg.classifier import Classifier
from camseg.errors import InputError, LayerError

Score = Literal["class", "margin"]
"""``class``: the target's logit. ``margin``: the target's logit minus the best negative class's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Capture:
    """One layer's view of a batch, for one target class per image."""

    inputs: Tensor
    """Normalised images (N, 3, H, W)."""
    targets: Tensor
    """Class indices int64 (N,)."""
    layer: str
    """The layer's name in the model."""
    activations: Tensor
    """The layer's output (N, C, h, w), float32."""
    gradients: Tensor | None
    """d score / d activations (N, C, h, w), float32; None where no method needs them."""
    rescore: Callable[[Tensor, int], Tensor]
    """``rescore(images (M, 3, H, W), n)``: the score (M,) of other images for input n's target."""

    def only(self, chosen: Sequence[int]) -> "Capture":
        """The capture of some of the images, in the order of their indices ``chosen``."""
        rows = list(chosen)
        return Capture(
            inputs=self.inputs[rows],
            targets=self.targets[rows],
            layer=self.layer,
            activations=self.activations[rows],
            gradients=None if self.gradients is None else self.gradients[rows],
            rescore=lambda images, n: self.rescore(images, rows[n]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Forward:
    """One pass of a batch, from which captures toward any targets can be had. Drop it to free the graph."""

    classifier: Classifier
    """The classifier that ran."""
    inputs: Tensor
    """Normalised images (N, 3, H, W)."""
    layer: str
    """The layer's name in the model."""
    leaf: Tensor
    """The layer's output as the network gives it, a leaf of the graph if gradients were asked for."""
    outputs: Tensor
    """Logits (N, classes), at the end of the graph."""

    @property
    def logits(self) -> Tensor:
        """The network's outputs (N, classes), float32, without graph."""
        return self.outputs.detach().float()

    def toward(self, targets: Sequence[int], score: Score = "class") -> Capture:
        """The capture for one target class per image; each call costs one backward pass down to the layer.

        Raises InputError when the number of targets is not N, or no negative class exists for ``margin``;
        LayerError when the scores do not depend on the layer.
        """
        if len(targets) != len(self.inputs):
            raise InputError(f"expected one target per image: {len(self.inputs)} images, {len(targets)} targets")
        classifier = self.classifier
        if score == "margin" and not classifier.negative:
            raise InputError("score margin needs a negative class; train with --negative CLASS, or use --score class")
        rivals = [classifier.class_index(name) for name in classifier.negative] if score == "margin" else []
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has set
            chosen = torch.as_tensor(targets, dtype=torch.int64, device=self.inputs.device)  # (N,)
            total = target_scores(self.outputs, chosen, rivals).sum()
        slope = None
        if self.leaf.requires_grad:
            if total.requires_grad:
                (slope,) = torch.autograd.grad(total, self.leaf, retain_graph=True, allow_unused=True)
            if slope is None:
                raise LayerError(f"the scores do not depend on layer {self.layer}; choose one on the way to them")

        def rescore(images: Tensor, n: int) -> Tensor:
            with _inference(classifier.model), torch.inference_mode():
                return target_scores(classifier.model(images).float(), chosen[n].expand(len(images)), rivals)

        return Capture(
            inputs=self.inputs,
            targets=chosen,
            layer=self.layer,
            activations=_as_maps(self.leaf, classifier.model),
            gradients=None if slope is None else _as_maps(slope, classifier.model),
            rescore=rescore,
        )


def forward(classifier: Classifier, inputs: Tensor, *, layer: str = "auto", gradients: bool = True) -> Forward:
    """Run a batch (N, 3, H, W), as ``Classifier.preprocess`` gives, through the network once.

    Without ``gradients`` no graph is kept. Mode, ``requires_grad`` flags and hooks of the model are as
    before afterwards. Raises LayerError when the layer is unknown, runs more than once or gives no map.
    """
    name = find_layer(classifier) if layer == "auto" else layer
    model = classifier.model
    with (
        _inference(model),
        torch.inference_mode(False),
        torch.set_grad_enabled(gradients),
        _tapped(model, name) as leaves,
    ):
        outputs = model(inputs)
    return Forward(classifier=classifier, inputs=inputs, layer=name, leaf=_spatial(leaves, name), outputs=outputs)


def capture(
    classifier: Classifier, inputs: Tensor, targets: Sequence[int], *, layer: str = "auto", score: Score = "class"
) -> Capture:
    """``forward`` and ``Forward.toward`` in one call: what CAM methods take."""
    return forward(classifier, inputs, layer=layer).toward(targets, score)


def target_scores(logits: Tensor, targets: Tensor, negatives: Sequence[int] = ()) -> Tensor:
    """The score (N,) of each image's target: its logit, minus the best other class of ``negatives`` if any.

    ``logits`` (N, classes), ``targets`` int64 (N,).
    """
    chosen = logits.gather(1, targets[:, None])[:, 0]  # (N,)
    if not negatives:
        return chosen
    rivals = logits[:, list(negatives)]  # (N, negatives)
    own = torch.tensor(list(negatives), device=logits.device)[None] == targets[:, None]
    best = rivals.masked_fill(own, -torch.inf).amax(dim=1)
    return chosen - torch.where(best.isinf(), torch.zeros_like(best), best)


def find_layer(classifier: Classifier) -> str:
    """The last layer that still has a spatial map: the outermost module of it, found by a dry run.

    Raises LayerError when no module's output is a map larger than 1x1, or the network goes on from its last
    map with tokens, as vision transformers do.
    """
    model = classifier.model
    seen: list[tuple[str, torch.Size]] = []

    def note(name: str) -> Callable[[nn.Module, tuple, object], None]:
        def hook(_module: nn.Module, _inputs: tuple, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim in (3, 4) and len(output) == 1:
                seen.append((name, output.shape))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules() if name]
    try:
        with _inference(model), torch.inference_mode():
            side = classifier.image_size
            model(torch.zeros(1, 3, side, side, device=classifier.device))
    finally:
        for handle in handles:
            handle.remove()
    rows, columns = (1, 2) if _channels_last(model) else (2, 3)
    # A square image has square maps, which most attention weights and heads are not.
    spatial = [i for i, (_, shape) in enumerate(seen) if len(shape) == 4 and shape[rows] == shape[columns] > 1]
    if not spatial:
        raise LayerError(
            f"no layer of {classifier.arch} gives a map (N, C, h, w) larger than 1x1; name one with --layer"
        )
    last = seen[spatial[-1]][0]
    if any(len(shape) == 3 and shape[1] > 1 for _, shape in seen[spatial[-1] :]):
        raise LayerError(
            f"{classifier.arch} works on tokens after its last map, that of {last}; train a convolutional network, "
            "or name a layer with --layer"
        )
    return last


def _as_maps(values: Tensor, model: nn.Module) -> Tensor:
    """A layer's output without graph, as float32 (N, C, h, w)."""
    maps = values.detach().float()
    return maps.permute(0, 3, 1, 2) if _channels_last(model) else maps


def _channels_last(model: nn.Module) -> bool:
    # timm's own statement; models without it keep channels first.
    return getattr(getattr(model, "output_fmt", None), "value", getattr(model, "output_fmt", "NCHW")) == "NHWC"


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients; every module's mode and flag come back afterwards."""
    training = [module for module in model.modules() if module.training]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def _tapped(model: nn.Module, name: str) -> Iterator[list[object]]:
    """Replace the layer's output by a leaf, and list the leaves of the calls made meanwhile."""
    modules = dict(model.named_modules())
    if name not in modules or not name:
        near = [other for other in modules if name and name in other][:5]
        raise LayerError(f"the model has no layer {name!r}{'; near it are ' + ', '.join(near) if near else ''}")
    outputs: list[object] = []

    def replace(_module: nn.Module, _inputs: tuple, output: object) -> object:
        if not isinstance(output, Tensor):
            outputs.append(output)
            return output
        leaf = output.detach().requires_grad_(torch.is_grad_enabled())
        outputs.append(leaf)
        # A clone goes on, so that an in-place activation behind the layer changes the copy, not the leaf.
        return leaf.clone()

    handle = modules[name].register_forward_hook(replace)
    try:
        yield outputs
    finally:
        handle.remove()


def _spatial(outputs: list[object], name: str) -> Tensor:
    if len(outputs) != 1:
        raise LayerError(f"layer {name} ran {len(outputs)} times in one pass; choose a layer that runs once")
    output = outputs[0]
    if not isinstance(output, Tensor) or output.ndim != 4:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise LayerError(f"layer {name} gives {shape}, not a map (N, C, h, w); choose a convolutional layer")
    return output
