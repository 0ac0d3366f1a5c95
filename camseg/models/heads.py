"""Plug-in heads: modules between a backbone's last maps and its classifier, free to combine.

Each adds what it found to the maps, at first nothing at all, so that a pretrained backbone is not disturbed, and none
has batch norm; those that pool stand in the classifier's place instead.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from camseg.base.errors import InputError


class MixedAttention(nn.Module):
    """Mixed Attention Block: every place of the maps gathers from all others what resembles it.

    Queries, keys and values are 1x1 convolutions of the maps (N, C, h, w), the first two to C / 8 channels; what
    attention gathers is added to the maps, scaled by a learned number that starts at 0.

    The attention is that of Vaswani et al., NeurIPS 2017, equation 1, over places as in Wang et al., Non-local Neural
    Networks, CVPR 2018; the scale is that of Zhang et al., Self-Attention GANs, ICML 2019.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = max(1, channels // 8)
        self.query = nn.Conv2d(channels, reduced, 1)
        self.key = nn.Conv2d(channels, reduced, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor, _images: Tensor) -> Tensor:
        query, key, value = (layer(maps).flatten(2).mT for layer in (self.query, self.key, self.value))  # (N, h w, C)
        gathered = functional.scaled_dot_product_attention(query, key, value)
        added: Tensor = self.scale * gathered.mT.unflatten(2, maps.shape[2:])
        return maps + added


class ResidualPath(nn.Module):
    """Residual Path Head: a bottleneck of convolutions beside the way from the last maps to the classifier.

    1x1 to C / 4 channels, 3x3, and 1x1 back to C, with group norm and ReLU between; the result is added to the maps
    (N, C, h, w), scaled by a learned number that starts at 0.

    The bottleneck is that of He et al., CVPR 2016, figure 5.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = max(1, channels // 4)
        self.path = nn.Sequential(
            nn.Conv2d(channels, reduced, 1, bias=False),
            nn.GroupNorm(1, reduced),
            nn.ReLU(),
            nn.Conv2d(reduced, reduced, 3, padding=1, bias=False),
            nn.GroupNorm(1, reduced),
            nn.ReLU(),
            nn.Conv2d(reduced, channels, 1),
        )
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor, _images: Tensor) -> Tensor:
        added: Tensor = self.scale * self.path(maps)
        return maps + added


class SpatialBoundary(nn.Module):
    """Spatial Boundary Refinement: every channel may be raised or lowered where the image has edges.

    Edges are the magnitude of the Sobel gradient of the images' mean channel, averaged to the size of the maps
    (N, C, h, w) and scaled to at most 1 in each image: A <- A (1 + w E), with one learned number w for each channel
    that starts at 0.
    """

    sobel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        self.register_buffer("sobel", torch.stack((across, across.T))[:, None], persistent=False)  # (2, 1, 3, 3)
        self.weight = nn.Parameter(torch.zeros(channels, 1, 1))

    def edges(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Images (N, 3, H, W) -> their edges (N, 1, h, w), in [0, 1]."""
        # In float32 whatever surrounds it: in half precision what is added below would be 0.
        with torch.autocast(images.device.type, enabled=False):
            grey = functional.pad(images.float().mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
            # The root has no slope at 0, which matters to gradients with respect to the image.
            strength = (functional.conv2d(grey, self.sobel).square().sum(dim=1, keepdim=True) + 1e-12).sqrt()
            averaged = functional.adaptive_avg_pool2d(strength, size)
        return averaged / averaged.amax(dim=(2, 3), keepdim=True).clamp_min(1e-3)

    def forward(self, maps: Tensor, images: Tensor) -> Tensor:
        _, _, height, width = maps.shape
        return maps * (1 + self.weight * self.edges(images, (height, width)))


class LogSumExp(nn.Module):
    """Scores for every place and class, pooled to one logit per class by a smooth maximum.

    Maps (N, C, h, w) -> logits (N, classes): (1 / r) log mean exp(r s) over the places of the scores s, which a 1x1
    convolution gives: near their mean for a small sharpness r, near their maximum for a large one. A class that is
    ``absent`` where others are (a negative class) has no places: its logit is a learned number, so that what tells the
    others from it are their own places alone.

    Pinheiro and Collobert, From Image-level to Pixel-level Labeling with Convolutional Networks, CVPR 2015, equation 4,
    whose r is 5.
    """

    def __init__(self, channels: int, classes: int, absent: Sequence[int] = (), sharpness: float = 5.0) -> None:
        super().__init__()
        # Tokens have a few channels that are far louder than all others.
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scores = nn.Conv2d(channels, classes, 1)
        self.lifted = nn.Identity()  # a name for what CAM methods look at
        self.rest = nn.Parameter(torch.zeros(classes))
        self.absent, self.sharpness = tuple(absent), sharpness

    def forward(self, maps: Tensor) -> Tensor:
        scores = self.scores(self.norm(maps)).float()
        # Lifted to 0 or more, since maps are what is positive; the pool is lifted by as much.
        lowest = scores.amin(dim=(2, 3), keepdim=True)
        lifted = self.lifted(scores - lowest).flatten(2)  # (N, classes, h w)
        pooled = (self.sharpness * lifted).logsumexp(dim=2) - math.log(lifted.shape[2])
        logits: Tensor = pooled / self.sharpness + lowest[..., 0, 0]
        chosen = torch.tensor([index in self.absent for index in range(logits.shape[1])], device=logits.device)
        return torch.where(chosen, self.rest.expand_as(logits), logits)


POOLINGS: Final = {"lse": LogSumExp}
"""By name: what takes a backbone's place behind its last maps, in place of its pooling and classifier."""
HEADS: Final = {"mab": MixedAttention, "rph": ResidualPath, "sbr": SpatialBoundary}
"""By the name that is joined to a backbone's: ``mobilenetv2_100+mab+sbr``."""


class WithHeads(nn.Module):
    """A backbone with heads, in the order of their names: images (N, 3, H, W) -> logits (N, classes).

    Maps are passed on as the backbone gives them, channels first or last. The last name may be of ``POOLINGS``, which
    then classifies in the backbone's place, and takes the patch tokens of transformers too; ``absent``: the indices of
    classes that it gives no places. Raises InputError for a backbone whose features are no maps; the heads are children
    under their own names, and layers that ``--layer`` can name.
    """

    def __init__(self, backbone: nn.Module, heads: Sequence[str], absent: Sequence[int] = ()) -> None:
        super().__init__()
        if not all(hasattr(backbone, name) for name in ("forward_features", "forward_head", "num_features")):
            raise InputError(f"{type(backbone).__name__} keeps no maps apart from its classifier; it takes no heads")
        if early := [name for name in heads[:-1] if name in POOLINGS]:
            raise InputError(f"the head {early[0]} pools maps, so it comes last; got {'+'.join(heads)}")
        channels: Any = backbone.num_features
        classes: Any = backbone.num_classes
        self.backbone = backbone  # first, as the images' way goes
        self.pooling = heads[-1] if heads[-1] in POOLINGS else None
        self.heads = tuple(heads)
        self.num_classes = classes
        for name in heads:
            module = POOLINGS[name](channels, classes, absent) if name in POOLINGS else HEADS[name](channels)
            self.add_module(name, module)
        # What timm states of the backbone holds for the whole.
        self.output_fmt = getattr(backbone, "output_fmt", "NCHW")
        config: Mapping[str, Any] = backbone.pretrained_cfg  # type: ignore[assignment]
        classifier = config.get("classifier") or ()
        names = (classifier,) if isinstance(classifier, str) else classifier
        own = tuple(f"backbone.{name}" for name in names)
        self.replaced = tuple(f"{name}." for name in own) if self.pooling is not None else ()
        """How the names of the backbone's parameters begin that a pooling head stands in the place of."""
        if self.pooling is not None:
            own = (f"{self.pooling}.scores",)
            backbone.reset_classifier(0)  # type: ignore[operator]  # it would never run
        self.pretrained_cfg = {**config, "classifier": own}

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x), x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> what the backbone gives, by itself."""
        features: Tensor = self.backbone.forward_features(x)  # type: ignore[operator]
        return features

    def forward_head(self, features: Any, x: Tensor | None = None) -> Tensor:
        """The backbone's features -> logits; without the images for heads that do not read them, so not for ``sbr``."""
        last = getattr(self.output_fmt, "value", self.output_fmt) == "NHWC"
        if isinstance(features, Tensor) and features.ndim == 3 and self.pooling is not None:
            maps = self._grid(features)
        elif isinstance(features, Tensor) and features.ndim == 4:
            maps = features.permute(0, 3, 1, 2) if last else features
        else:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise InputError(
                f"{type(self.backbone).__name__} gives features {shape}, not maps (N, C, h, w); heads can be joined to "
                "convolutional networks and to transformers with maps, such as swin"
            )
        for name in self.heads:
            if name != self.pooling:
                maps = self.get_submodule(name)(maps, x)
        if self.pooling is not None:
            pooled: Tensor = self.get_submodule(self.pooling)(maps)
            return pooled
        logits: Tensor = self.backbone.forward_head(maps.permute(0, 2, 3, 1) if last else maps)  # type: ignore[operator]
        return logits

    def _grid(self, tokens: Tensor) -> Tensor:
        """Tokens (N, prefix + h w, C) of square images -> (N, C, h, w)."""
        prefix: Any = getattr(self.backbone, "num_prefix_tokens", 0)
        patches = tokens[:, prefix:]
        side = round(patches.shape[1] ** 0.5)
        if side * side != patches.shape[1]:
            raise InputError(f"{type(self.backbone).__name__} gives {patches.shape[1]} tokens, which are no square map")
        return patches.transpose(1, 2).unflatten(2, (side, side))
