"""What every segmentation network gives: logits at the input's size, and the names of the layers worth looking at."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from camseg.models.names import ModelArgs


class SegmentationNetwork(nn.Module, ABC):
    """Images (N, inputs, H, W), normalised -> logits (N, outputs, H, W), for any H and W.

    What does not divide by ``divisor`` is continued with its last row and column, and what comes out is cut back.
    """

    divisor: int
    """What the sides of the maps that ``segment`` takes are multiples of."""
    bottleneck: ClassVar[str]
    """The layer, by its name in the network, that gives the deepest map."""
    last_decoder: ClassVar[str]
    """The layer that gives the last map before the one that classifies."""
    classifying: ClassVar[str]
    """The layer that classifies: its maps are the logits."""
    arguments: ModelArgs
    """With which the network can be built again, without weights."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Per-channel mean of the inputs that its weights expect, in [0, 1]; new ones expect no other."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Per-channel standard deviation of them."""

    @abstractmethod
    def segment(self, images: Tensor) -> Tensor:
        """Images (N, inputs, H, W) with sides that are multiples of ``divisor`` -> logits (N, outputs, H, W)."""

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The sides of the maps that an image of these sides is padded to, at the bottom and at the right."""
        tall, wide = (-(-side // self.divisor) * self.divisor for side in (height, width))
        return tall, wide

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        tall, wide = self.padded(height, width)
        if (tall, wide) == (height, width):
            return self.segment(images)
        return self.segment(functional.pad(images, (0, wide - width, 0, tall - height), mode="replicate"))[
            ..., :height, :width
        ]


class EncoderDecoder(SegmentationNetwork):
    """Four stages, each followed by 2x2 max-pooling, a bridge, and four stages back up that take the skips.

    A network sets ``enc1`` to ``enc4``, ``bridge``, ``dec6`` to ``dec9`` and ``head``; a stage on the way up takes
    what lies below it and the skip. Skips go through ``path1`` to ``path4`` where there are such.
    """

    divisor = 16
    bottleneck = "bridge"
    last_decoder = "dec9"
    classifying = "head"

    def segment(self, images: Tensor) -> Tensor:
        """Images (N, inputs, H, W) with sides that are multiples of ``divisor`` -> logits (N, outputs, H, W)."""
        x, skips = images, []
        for level in range(1, 5):
            x = self.get_submodule(f"enc{level}")(x)
            path = self._modules.get(f"path{level}")
            skips.append(x if path is None else path(x))
            x = functional.max_pool2d(x, 2)
        x = self.get_submodule("bridge")(x)
        for level, skip in zip(range(6, 10), reversed(skips), strict=True):
            x = self.get_submodule(f"dec{level}")(x, skip)
        logits: Tensor = self.get_submodule("head")(x)
        return logits
