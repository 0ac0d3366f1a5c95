"""Med-IC: a single involution layer in front of two convolutions, for images of 28x28 pixels."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from camseg.models.backbones.involution import Involution


class MedIC(nn.Module):
    """Med-IC and its variants: images (N, 3, H, W) -> logits (N, num_classes).

    ``involutions`` layers of 3x3 kernels with two hidden units, each with ReLU, then max-pooling and batch norm; for
    each of ``widths`` a 3x3 convolution without padding, ReLU, max-pooling and batch norm; dropout; the ``dense``
    layers with ReLU. The published variants have 1, 2 or 3 involutions, an involution and no convolution, and three
    convolutions (64, 128, 256) and no involution. The names Hybrid-2, Hybrid-3, INN and CNN-3 are taken for the others
    in this order: that hybrids count involutions, and CNN-3 convolutions, is read from the names and from the counts
    below, and not known otherwise. Inputs of other sizes than 28 are averaged to the grid that 28 pixels end in, before
    the dense layers.

    The paper counts, as Keras does with batch norm's running statistics, 301,983, 302,026 and 302,069 parameters for
    the three, 245,279 for involution only and 532,584 for the convolutions. Two hidden units give its 43 for each
    involution, 3x3 convolutions without padding its differences between the variants. Yet from the description and
    7 classes follow 19,649 less, and in involution only 19,905 less. With 7 classes no such layers can have the
    paper's counts: all terms of 532,584 but the last layer's, 65 for each class, are even, so the number of classes
    must be. 8 classes and a further dense layer of 128 between those of 192 and 96 are 18,625 more; a batch norm of
    256 channels, 1,024 more, then makes up the rest exactly, but for 256 in involution only. As none of that is
    described, none of it is built.

    Islam et al., Med-IC: Fusing a Single Layer Involution with Convolutions for Enhanced Medical Image Classification
    and Segmentation, arXiv 2409.18506.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        involutions: int = 1,
        widths: Sequence[int] = (64, 128),
        dense: Sequence[int] = (256, 192, 96, 64),
        drop_rate: float = 0.1,
    ) -> None:
        super().__init__()
        if involutions < 0:
            raise ValueError(f"expected at least 0 involutions, got {involutions}")
        self.involutions = nn.ModuleList(Involution(3, 3, reduction=2) for _ in range(involutions))
        self.pool = nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(3)) if involutions else nn.Identity()
        self.grid = 14 if involutions else 28
        self.blocks = nn.Sequential()
        channels = 3
        for width in widths:
            self.blocks.append(
                nn.Sequential(nn.Conv2d(channels, width, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(width))
            )
            channels, self.grid = width, (self.grid - 2) // 2
        self.num_features, self.num_classes = channels, num_classes
        self.dropout = nn.Dropout(drop_rate)
        sizes = (channels * self.grid**2, *dense)
        self.dense = nn.Sequential()
        for size, following in pairwise(sizes):
            self.dense.extend((nn.Linear(size, following), nn.ReLU()))
        self.fc = nn.Linear(sizes[-1], num_classes)

    def kernels(self, x: Tensor) -> list[Tensor]:
        """The kernels (N, 1, 9, H, W) of each involution layer for normalised images (N, 3, H, W)."""
        found = []
        for involution in self.involutions:
            assert isinstance(involution, Involution)
            found.append(involution.kernels(x))
            x = involution(x).relu()
        return found

    def forward_features(self, x: Tensor) -> Tensor:
        for involution in self.involutions:
            x = involution(x).relu()
        maps: Tensor = self.blocks(self.pool(x))
        return maps

    def forward_head(self, maps: Tensor) -> Tensor:
        # No module, so that what is made of maps for the dense layers is not taken for the network's last map.
        grid = functional.adaptive_avg_pool2d(maps, self.grid)
        logits: Tensor = self.fc(self.dense(self.dropout(torch.flatten(grid, 1))))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
