"""Segmenter: image -> class probabilities per pixel. A checkpoint is weights, classes and preprocessing together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camseg.base.arrays import Image, check_image
from camseg.base.errors import InputError
from camseg.classify.network import FedNetwork, channels_last, check_class_names
from camseg.classify.preprocessing import check_form, per_channel
from camseg.classify.settings import Resize
from camseg.data.images import Window
from camseg.models.names import ModelArgs
from camseg.models.segmenters.building import build_segmenter, default_segmenter_size
from camseg.models.segmenters.registry import canonical_segmenter
from camseg.segment.settings import ViewSettings
from camseg.segment.tiles import Tiling, over_image, tiling

BACKGROUND = "background"
"""What a softmax's first channel stands for; no class may be called so."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmenter(FedNetwork):
    """A network that says what each pixel is: logits (N, channels, S, S), with everything needed to feed and read it.

    With ``multi_label`` there is one channel per class, and a sigmoid; else a softmax over the background, which is
    channel 0, and the classes behind it. ``negative`` are labels of images that contain no object; they need not be
    among the classes. Checked when made: InputError.
    """

    FILE: ClassVar[str] = "segmenter.json"
    """The file in a run folder that holds all fields but the network."""
    KIND: ClassVar[str] = "segmenter"
    """What it is called in messages."""

    def _check_classes(self) -> None:
        check_class_names(self.classes)
        if BACKGROUND in self.classes:
            raise InputError(f"{BACKGROUND} is what belongs to none of the classes; leave it out of them")

    @staticmethod
    def build_network(settings: Mapping[str, Any]) -> nn.Module:
        """The network that fields of these values are of, with new weights, on the CPU."""
        outputs = _channels(len(settings["classes"]), settings["multi_label"])
        return build_segmenter(settings["arch"], outputs=outputs, arguments=settings["model_args"])

    @staticmethod
    def create(
        arch: str,
        *,
        classes: Sequence[str],
        image_size: int | None = None,
        weights: str | Path | None = None,
        multi_label: bool = True,
        negative: Sequence[str] = (),
        resize: Resize = "stretch",
        window: Window = "full",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        model_args: ModelArgs | None = None,
    ) -> "Segmenter":
        """Build an untrained segmenter on the CPU; ``arch`` is a name that ``build_segmenter`` takes.

        ``weights``: of the encoder, None or ``"none"`` for random ones, ``"imagenet"`` for timm's, or a file, whose own
        statement of arguments, mean and std is used where the caller makes none. ``image_size`` None is what
        ``default_segmenter_size`` says.

        Raises InputError, CheckpointError or WeightsUnavailableError.
        """
        check_class_names(classes)
        check_form(8 if image_size is None else image_size, resize, window, least=8)
        outputs = _channels(len(classes), multi_label)
        model = build_segmenter(arch, outputs=outputs, arguments=model_args, weights=weights)
        return Segmenter(
            model=channels_last(model.eval()),
            arch=canonical_segmenter(arch),
            model_args=dict(model.arguments),
            classes=tuple(classes),
            multi_label=multi_label,
            negative=tuple(negative),
            image_size=default_segmenter_size(arch) if image_size is None else image_size,
            resize=resize,
            window=window,
            mean=per_channel(mean or model.mean, "mean"),
            std=per_channel(std or model.std, "std"),
        )

    def channel(self, name: str) -> int:
        """The channel of a class in the logits; InputError for an unknown one."""
        return self.class_index(name) + (not self.multi_label)

    @property
    def several(self) -> bool:
        """Whether an image may show several of the classes: pixels may exclude each other, images do not."""
        return len(self.classes) > 1

    def channels(self, classes: Tensor) -> Tensor:
        """Indices of classes -> of their channels in the logits."""
        return classes if self.multi_label else classes + 1

    def decided(self, logits: Tensor) -> Tensor:
        """Logits (N, channels, h, w) -> bool (N, classes, h, w): which pixels are predicted as which class, those of
        a probability above one half, or of exclusive classes those whose likeliest it is."""
        if self.multi_label:
            return logits > 0
        numbers = torch.arange(1, logits.shape[1], device=logits.device).view(1, -1, 1, 1)
        return logits.argmax(dim=1, keepdim=True) == numbers

    def vote(self, logits: Sequence[Tensor], _features: Sequence[Tensor | None]) -> Tensor:
        """Logits (N, channels, h, w) of the only member -> how far a class is in the image at all, (N, classes): the
        highest of its pixels' probabilities; of exclusive classes of those predicted as it, 0 where there are none."""
        found = self.probabilities(logits[0])
        if not self.multi_label:
            found = found[:, 1:] * self.decided(logits[0])
        return found.flatten(2).amax(dim=2)

    def predicted(self, probabilities: NDArray[np.float32]) -> list[list[int]]:
        """The classes that some pixel of each image is predicted as, by what ``vote`` gives (N, classes); the only
        class in any case."""
        least = 0.5 if self.multi_label else 0.0
        return [np.flatnonzero(row > least).tolist() if self.several else [0] for row in probabilities]

    def with_negative(self, negative: Sequence[str]) -> "Segmenter":
        """The same network with other labels of images without an object."""
        return replace(self, negative=tuple(negative))

    def grids(self, squares: Tensor, flip: bool = ViewSettings.flip) -> Tensor:
        """uint8 (N, s, s, 3) -> float32 (N, channels, s, s): probabilities, calibrated, the background's included.

        ``flip``: the mean with those of the mirrored squares.
        """
        return mean_of_views(self.views(squares, flip))

    def views(self, squares: Tensor, flip: bool = ViewSettings.flip) -> tuple[Tensor, ...]:
        """As ``grids``, each view by itself: the squares, with ``flip`` also what their mirror images give, mirrored
        back."""
        was = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                inputs = self.normalise(squares)
                plain = self.probabilities(self.model(inputs).float())
                if not flip:
                    return (plain,)
                return plain, self.probabilities(self.model(inputs.flip(3)).float()).flip(3)
        finally:
            self.model.train(was)

    def tiling(self, height: int, width: int, tile: int | None = None) -> Tiling:
        """Into which parts an image is cut: none of it, but for one with a side above ``tile`` pixels."""
        return tiling(height, width, tile)

    def squares(self, image: Image, tile: int | None = None) -> Iterator[Image]:
        """The network's inputs, uint8 (S, S, 3), of an image: one, or that of each tile."""
        height, width = check_image(image).shape[:2]
        for top, left, bottom, right in self.tiling(height, width, tile).boxes:
            yield self.to_input(image[top:bottom, left:right])

    def place(
        self, grids: NDArray[np.float32], height: int, width: int, tile: int | None = None
    ) -> NDArray[np.float32]:
        """What ``grids`` gave for ``squares`` (tiles, channels, s, s) -> float32 (channels, H, W) over the image."""
        return over_image(grids, self.tiling(height, width, tile), self.preprocessing)

    def predict(
        self, image: Image, settings: ViewSettings | None = None, *, batch_size: int = 16
    ) -> NDArray[np.float32]:
        """Calibrated probabilities of the classes, float32 (C, H, W) in [0, 1], at the size of an image (H, W, 3).

        The background's, of exclusive classes, is what is left to 1. Raises InputError for other arrays.
        """
        settings = settings or ViewSettings()
        squares = torch.from_numpy(np.stack(list(self.squares(image, settings.tile))))
        parts = [self.grids(batch, settings.flip).cpu().numpy() for batch in squares.split(batch_size)]
        height, width = image.shape[:2]
        found = self.place(np.concatenate(parts), height, width, settings.tile)
        return found if self.multi_label else found[1:]


def mean_of_views(views: Sequence[Tensor]) -> Tensor:
    """The mean of what views gave, all of one shape."""
    first, *others = views
    return sum(others, first) / len(views)


def _channels(classes: int, multi_label: bool) -> int:
    return classes if multi_label else classes + 1
