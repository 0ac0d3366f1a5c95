"""Scores -> Capture: what a network's layers did for a batch, and how the scores depend on it.

Gradients run from the score back to the chosen layers and no further: the first layer's output is replaced by
a leaf of the graph, and no parameter takes part in it.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from camseg.base.errors import InputError, LayerError
from camseg.cams.hooks import hooked, inference
from camseg.cams.layers import find_layers, layout_at
from camseg.cams.layout import Layout
from camseg.cams.scores import AnyNetwork, pixel_regions, pixel_scores, score_of, target_scores
from camseg.cams.settings import PixelScore, Precision, Score
from camseg.cams.taps import Taps, keep
from camseg.classify.classifier import Classifier
from camseg.models.segmenters.network import SegmentationNetwork
from camseg.segment.segmenter import Segmenter

PRECISIONS: Final[dict[str, torch.dtype]] = {
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A classifier or segmenter toward one score, as a function of its input or of a layer's output.

    For what runs the network again: mode, ``requires_grad`` flags and hooks of the model are always put back.
    """

    classifier: AnyNetwork
    """The network that runs."""
    layers: tuple[str, ...]
    """The chosen layers' names in the model."""
    score: Score | PixelScore = "class"
    """What gradients are taken of, and what scores are."""
    precision: Precision = "float32"
    """As in Precision."""

    @property
    def rivals(self) -> list[int]:
        """The indices of the classes whose best logit is taken off the target's; none for ``class``.

        Raises InputError where there is no negative class for ``margin``.
        """
        if self.score != "margin":
            return []
        if not self.classifier.negative:
            raise InputError("score margin needs a negative class; train with --negative CLASS, or use --score class")
        return [self.classifier.class_index(name) for name in self.classifier.negative]

    def measured(self, outputs: Tensor, targets: Tensor, regions: Tensor | None = None) -> Tensor:
        """The score (M,) that the network's outputs give class indices int64 (M,); ``regions``: of a segmenter's pixels
        those that count, bool (M, h, w), None for all."""
        if isinstance(self.classifier, Segmenter):
            channels = self.classifier.channels(targets)
            return pixel_scores(outputs, channels, regions, mean=self.score == "mean")
        return target_scores(outputs, targets, self.rivals)

    def regions(self, outputs: Tensor, targets: Tensor, given: Tensor | None = None) -> Tensor | None:
        """Which pixels count for class indices int64 (N,), where these outputs decide on it; None for all, and of a
        classifier. ``given``: bool (N, h, w, classes), the pixels that may count."""
        if not isinstance(self.classifier, Segmenter):
            return None
        return pixel_regions(self.classifier, outputs, targets, given, predicted=self.score == "predicted")

    def scores(self, images: Tensor, targets: Tensor, regions: Tensor | None = None) -> Tensor:
        """The score (M,) of normalised images (M, 3, H, W), as ``measured``."""
        model = self.classifier.model
        with inference(model), torch.inference_mode(), self._autocast():
            return self.measured(model(images).float(), targets, regions)

    def scores_after(
        self,
        layer: str,
        layout: Layout,
        activations: Tensor,
        image: Tensor,
        target: Tensor,
        region: Tensor | None = None,
    ) -> Tensor:
        """The score (M,) of one image (3, H, W) if ``layer``, whose layout is given, gave these activations
        (M, C, h, w) instead.

        What lies before the layer runs once, not M times. ``target`` is a class index, int64 (); ``region``: (h, w).
        """
        model = self.classifier.model

        def swap(_module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            new = layout.output(activations, output)
            return new.to(output.dtype).clone(memory_format=torch.contiguous_format)

        many = target.expand(len(activations))
        with inference(model), torch.inference_mode(), hooked(model, {layer: swap}):
            try:
                # One image up to the layer, and M from there on.
                logits = model(image[None])
                if len(logits) != len(activations):
                    raise RuntimeError("the batch did not grow")
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                # Something beside the layer carries the batch of one along in a way that does not broadcast.
                logits = model(image.expand(len(activations), -1, -1, -1))
        return self.measured(logits.float(), many, None if region is None else region.expand(len(many), -1, -1))

    def input_gradients(self, images: Tensor, targets: Tensor, regions: Tensor | None = None) -> Tensor:
        """d score / d images (M, 3, H, W), float32, by a backward pass through the whole network."""
        model = self.classifier.model
        with inference(model), torch.inference_mode(False), torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()
            with self._autocast():
                logits = model(leaf.clone())  # the network may begin in place
            total = self.measured(logits.float(), targets.clone(), regions).sum()
            (slope,) = torch.autograd.grad(total, leaf)
        return slope.float()

    def forward(
        self,
        inputs: Tensor,
        *,
        gradients: bool = True,
        features: bool = False,
        guide: str | None = None,
        regions: Tensor | None = None,
    ) -> "Forward":
        """Run a batch (N, 3, H, W), as ``Classifier.preprocess`` gives, through the network once.

        Without ``gradients`` no graph is kept; with ``features`` what the classifying layer reads is, and of a layer
        ``guide`` its map. ``regions``: of a segmenter's pixels those that may count, bool (N, H, W, classes).

        Raises LayerError when a layer is unknown, runs more than once or gives no map, or no one layer classifies.
        """
        model = self.classifier.model
        taps = Taps(self.classifier, self.layers)
        hooks = {name: taps.hook(name) for name in self.layers}
        read: list[Tensor] = []
        guides: list[Tensor] = []
        if guide is not None and guide not in hooks:
            hooks[guide] = keep(guides)
        if features:
            assert isinstance(self.classifier, Classifier)  # segmenters have no features to vote by
            hooks[_classifying_layer(self.classifier)] = lambda _module, given, _output: read.append(given[0])
        with (
            inference(model),
            torch.inference_mode(False),
            torch.set_grad_enabled(gradients),
            hooked(model, hooks),
            self._autocast(),
            taps.behind() if self.precision != "float32" else nullcontext(),
        ):
            outputs = model(inputs)
        leaves, layouts = taps.once()
        if guide is not None and guide in self.layers:
            guides.append(leaves[self.layers.index(guide)])
        return Forward(
            network=self,
            inputs=inputs,
            leaves=leaves,
            layouts=layouts,
            outputs=outputs,
            features=read[0].detach().float().flatten(1) if features else None,
            guide=None
            if guide is None
            else layout_at(guides[0], self.classifier, guide).maps(guides[0].detach().float()),
            regions=regions,
        )

    def over_input(self, maps: Tensor, side: int) -> Tensor:
        """The part of a layer's maps (N, h, w) that lies over inputs of ``side`` pixels: all of it, or where the
        network pads them at the bottom and right that without the padding, at their size."""
        model = self.classifier.model
        wide = model.padded(side, side)[0] if isinstance(model, SegmentationNetwork) else side
        if wide == side:
            return maps
        grid = functional.interpolate(maps[:, None], size=(wide, wide), mode="bilinear", align_corners=False)
        return grid[:, 0, :side, :side]

    def _autocast(self) -> torch.autocast:
        reduced = self.precision != "float32"
        return torch.autocast(
            self.classifier.device.type, dtype=PRECISIONS[self.precision] if reduced else None, enabled=reduced
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Capture:
    """One layer's view of a batch, for one target class per image: what a CAM method is a function of."""

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
    network: Network
    """The network that gave it."""
    layout: Layout = field(default_factory=Layout)
    """How the layer's output holds the activations."""
    score_channels: int | None = None
    """How many channels of an image a method of one pass per channel may try; None for all."""
    regions: Tensor | None = None
    """Of a segmenter's pixels those that the score is of, bool (N, H, W); None for all. They stay those of the images
    themselves, whatever the network is shown instead."""

    def rescore(self, images: Tensor, rows: Tensor) -> Tensor:
        """The score (M,) of other images (M, 3, H, W), each for the target of the input at its row, int64 (M,)."""
        return self.network.scores(images, self.targets[rows], None if self.regions is None else self.regions[rows])

    def rescore_activations(self, activations: Tensor, n: int) -> Tensor:
        """The score (M,) of input n for its target, if the layer gave these activations (M, C, h, w) instead."""
        region = None if self.regions is None else self.regions[n]
        return self.network.scores_after(self.layer, self.layout, activations, self.inputs[n], self.targets[n], region)

    def recapture(self, images: Tensor) -> "Capture":
        """The same layer's capture of other images (N, 3, H, W) toward the same targets."""
        network = replace(self.network, layers=(self.layer,))
        return network.forward(images).toward(self.targets.tolist(), self.regions)[0]

    def input_gradients(self, images: Tensor) -> Tensor:
        """d score / d images (N, 3, H, W) toward the same targets."""
        return self.network.input_gradients(images, self.targets, self.regions)

    def only(self, chosen: Sequence[int]) -> "Capture":
        """The capture of some of the images, in the order of their indices ``chosen``."""
        rows = list(chosen)
        return replace(
            self,
            inputs=self.inputs[rows],
            targets=self.targets[rows],
            activations=self.activations[rows],
            gradients=None if self.gradients is None else self.gradients[rows],
            regions=None if self.regions is None else self.regions[rows],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Forward:
    """One pass of a batch, from which captures toward any targets can be had. Drop it to free the graph."""

    network: Network
    """The network that ran, its layers named."""
    inputs: Tensor
    """Normalised images (N, 3, H, W)."""
    leaves: tuple[Tensor, ...]
    """Each layer's output as the network gives it, in the graph if gradients were asked for."""
    layouts: tuple[Layout, ...]
    """How each of them holds a map."""
    outputs: Tensor
    """Logits (N, classes), of a segmenter (N, channels, H, W), at the end of the graph."""
    features: Tensor | None
    """What the classifying layer read (N, F), float32, without graph; None where it was not asked for."""
    guide: Tensor | None = None
    """The map of the layer that was asked for beside the others (N, C, h, w), float32, without graph."""
    regions: Tensor | None = None
    """Of a segmenter's pixels those that may count, bool (N, H, W, classes); None for all."""

    @property
    def logits(self) -> Tensor:
        """The network's outputs, float32, without graph."""
        return self.outputs.detach().float()

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """Each layer's activations (N, C, h, w), float32, without graph."""
        return tuple(layout.maps(leaf.detach().float()) for leaf, layout in zip(self.leaves, self.layouts, strict=True))

    def without_pixels(self, targets: Sequence[Sequence[int]]) -> list[set[int]]:
        """Of each image's targets those that no pixel counts for, so that its maps of them are all zero."""
        found: list[set[int]] = [set() for _ in targets]
        pairs = [(row, target) for row, own in enumerate(targets) for target in own]
        if isinstance(self.network.classifier, Segmenter) and pairs:
            rows, classes = torch.tensor(pairs, device=self.inputs.device).T
            given = None if self.regions is None else self.regions[rows]
            regions = self.network.regions(self.logits[rows], classes, given)
            counted = [True] * len(pairs) if regions is None else regions.flatten(1).any(dim=1).tolist()
            for (row, target), some in zip(pairs, counted, strict=True):
                if not some:
                    found[row].add(target)
        return found

    def toward(self, targets: Sequence[int], regions: Tensor | None = None) -> tuple[Capture, ...]:
        """Each layer's capture for one target class per image; a call costs one backward pass down to the layers.

        ``regions``: of a segmenter's pixels those that the scores are of, bool (N, H, W); None: the network's score
        says which. Raises InputError when the number of targets is not N, or no negative class exists for the score
        ``margin``; LayerError when the scores do not depend on a layer.
        """
        if len(targets) != len(self.inputs):
            raise InputError(f"expected one target per image: {len(self.inputs)} images, {len(targets)} targets")
        network = self.network
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has set
            chosen = torch.as_tensor(targets, dtype=torch.int64)  # (N,)
            chosen = chosen.to(self.inputs.device, non_blocking=True)  # a GPU need not be done with the pass
            if regions is None:
                regions = network.regions(self.outputs, chosen, self.regions)
            total = network.measured(self.outputs, chosen, regions).sum()
        slopes: Sequence[Tensor | None] = [None] * len(self.leaves)
        if self.leaves[0].requires_grad:
            if total.requires_grad:
                slopes = torch.autograd.grad(total, self.leaves, retain_graph=True, allow_unused=True)
            for name, slope in zip(network.layers, slopes, strict=True):
                if slope is None:
                    raise LayerError(f"the scores do not depend on layer {name}; choose one on the way to them")
        return tuple(
            Capture(
                inputs=self.inputs,
                targets=chosen,
                layer=name,
                activations=maps,
                gradients=None if slope is None else layout.maps(slope.float()),
                network=network,
                layout=layout,
                regions=regions,
            )
            for name, maps, layout, slope in zip(network.layers, self.maps, self.layouts, slopes, strict=True)
        )


def network(
    classifier: AnyNetwork,
    *,
    layers: str | Sequence[str] = "auto",
    score: str = "class",
    precision: Precision = "float32",
) -> Network:
    """The network with its layers found, as ``find_layers`` has it, toward what ``score_of`` says of the score.

    Raises InputError or LayerError for layers that cannot be.
    """
    given = [layers] if isinstance(layers, str) else list(layers)
    if not given:
        raise InputError("expected at least one layer, auto or stages")
    names = [found for name in given for found in find_layers(classifier, name)]
    if len(set(names)) < len(names):
        raise InputError(f"expected different layers, got {', '.join(names)}")
    return Network(classifier=classifier, layers=tuple(names), score=score_of(classifier, score), precision=precision)


def capture(
    classifier: AnyNetwork, inputs: Tensor, targets: Sequence[int], *, layer: str = "auto", score: str = "class"
) -> Capture:
    """One pass and one layer's capture: what CAM methods take."""
    return network(classifier, layers=layer, score=score).forward(inputs).toward(targets)[0]


def _classifying_layer(classifier: Classifier) -> str:
    names = classifier.head_layers
    if len(names) != 1:
        raise LayerError(
            f"{classifier.arch} classifies with {len(names)} layers ({', '.join(names)}), where one was expected; "
            "choose other members, or soft voting"
        )
    return names[0]
