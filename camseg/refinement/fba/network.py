"""The FBA network: image, trimap and distances -> alpha, foreground and background.

Module names follow the published file of weights, so that its tensors fit as they are.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCKS = {"layer1": 3, "layer2": 4, "layer3": 6, "layer4": 3}
"""Residual blocks of ResNet-50, by stage."""
POOLINGS = 1, 2, 3, 6
"""Sides of the grids of the pyramid pooling."""
BAND_ROWS = 32
"""Rows that the decoder's widest layers take at a time, before their resizing."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, per RGB channel."""
WIDTHS = 0.02 * 320, 0.08 * 320, 0.16 * 320
"""Standard deviations, in pixels, of the Gaussians that turn a distance into channels."""


class FbaNetwork(nn.Module):
    """A ResNet-50 encoder at output stride 8, pyramid pooling and a decoder with skips; group norm throughout.

    Forte and Pitie, F, B, Alpha Matting, 2020 (arXiv:2003.07711), section 3.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Encoder()
        self.decoder = _Decoder()

    def forward(self, image: Tensor, regions: Tensor, squares: Tensor) -> Tensor:
        """Image (1, 3, h, w) in [0, 1], known background and foreground (1, 2, h, w), and the squared distance to each
        in pixels (1, 2, h, w) -> alpha, foreground and background (1, 7, h, w) in [0, 1].

        h and w are multiples of 8.
        """
        mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        normalised = (image - mean) / std
        nearness = [(square / (-2 * width**2)).exp() for square in squares.split(1, dim=1) for width in WIDTHS]
        features = self.encoder(torch.cat([normalised, *nearness, regions], dim=1))
        del nearness
        output = self.decoder(features, torch.cat([normalised, image, regions], dim=1))  # (1, 7, h, w)
        alpha, foreground, background = output.split((1, 3, 3), dim=1)
        return torch.cat(fuse(image, alpha.clamp(0, 1), foreground.sigmoid(), background.sigmoid()), dim=1)


def fuse(image: Tensor, alpha: Tensor, foreground: Tensor, background: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Alpha (N, 1, h, w), F and B (N, 3, h, w), brought closer to composing the image I; all in [0, 1].

        F' =      a I + (1 - a^2)   F - a (1 - a) B
        B' = (1 - a) I + (2 a - a^2) B - a (1 - a) F'
        a' = (l a + (I - B')(F' - B')) / (l + |F' - B'|^2),    l = 0.1

    Forte and Pitie 2020, section 3.3.
    """
    a = alpha
    foreground = a * image + (1 - a**2) * foreground - a * (1 - a) * background
    background = (1 - a) * image + (2 * a - a**2) * background - a * (1 - a) * foreground
    foreground, background = foreground.clamp(0, 1), background.clamp(0, 1)
    contrast = foreground - background
    along = ((image - background) * contrast).sum(dim=1, keepdim=True)
    a = (0.1 * a + along) / (0.1 + contrast.square().sum(dim=1, keepdim=True))
    return a.clamp(0, 1), foreground, background


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(11, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = _norm(64)
        self.layer1 = _stage(BLOCKS["layer1"], 64, 64)
        self.layer2 = _stage(BLOCKS["layer2"], 256, 128, stride=2)
        self.layer3 = _stage(BLOCKS["layer3"], 512, 256, dilation=2)
        self.layer4 = _stage(BLOCKS["layer4"], 1024, 512, dilation=4)

    def forward(self, x: Tensor) -> list[Tensor]:
        stem = self.bn1(self.conv1(x)).relu_()  # (1, 64, h/2, w/2)
        x = shallow = self.layer1(functional.max_pool2d(stem, 3, stride=2, padding=1))  # (1, 256, h/4, w/4)
        for block in (*self.layer2, *self.layer3, *self.layer4):
            x = block(x)
        return [stem, shallow, x]  # x: (1, 2048, h/8, w/8)


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = _norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = _norm(4 * width)
        self.downsample = None
        if inputs != 4 * width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), _norm(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()
        y = self.bn3(self.conv3(y))
        return y.add_(x if self.downsample is None else self.downsample(x)).relu_()


class _Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ppm = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Conv2d(2048, 256, 1), _norm(256), nn.LeakyReLU(inplace=True))
            for side in POOLINGS
        )
        self.conv_up1 = nn.Sequential(*_layer(2048 + 256 * len(POOLINGS), 256), *_layer(256, 256))
        self.conv_up2 = nn.Sequential(*_layer(256 + 256, 256))
        self.conv_up3 = nn.Sequential(*_layer(256 + 64, 64))
        self.conv_up4 = nn.Sequential(
            nn.Conv2d(64 + 3 + 3 + 2, 32, 3, padding=1),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(32, 16, 3, padding=1),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(16, 7, 1),
        )

    def forward(self, features: list[Tensor], image: Tensor) -> Tensor:
        # Taken off the list and deleted as soon as they are used: at a tile's full size each is 100 MB or more.
        deep, shallow, stem = features.pop(), features.pop(), features.pop()
        x = torch.cat([deep, *(_resized(pool(deep), deep.shape) for pool in self.ppm)], dim=1)  # (1, 3072, h/8, w/8)
        del deep
        x = self.conv_up1(x)
        x = torch.cat([_resized(x, shallow.shape), shallow], dim=1)
        del shallow
        x = self.conv_up2(x)  # (1, 256, h/4, w/4)
        x = self.conv_up3[1:](_in_bands(self.conv_up3[0], x, stem))  # (1, 64, h/2, w/2)
        return _in_bands(self.conv_up4, x, image)  # (1, 7, h, w)


def _in_bands(layers: nn.Module, x: Tensor, skip: Tensor) -> Tensor:
    """``layers`` on ``x`` (1, C, h, w), resized to the size of ``skip`` (1, D, 2h, 2w), and ``skip`` concatenated.

    The widest tensors of the network would take most of its memory. Layers that look no farther than two rows (with
    one more for the resizing: two rows of ``x``) give the same sums in bands of rows.
    """
    bands = []
    for start in range(0, x.shape[2], BAND_ROWS):
        low, high = max(0, start - 2), min(x.shape[2], start + BAND_ROWS + 2)
        rows = skip[:, :, 2 * low : 2 * high]
        band = layers(torch.cat([_resized(x[:, :, low:high], rows.shape), rows], dim=1))
        bands.append(band[:, :, 2 * (start - low) :][:, :, : 2 * BAND_ROWS])
    return torch.cat(bands, dim=2)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


def _stage(blocks: int, inputs: int, width: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    # The first block had a stride in the network that these weights were first trained in: half the dilation.
    first = _Bottleneck(inputs, width, stride, max(1, dilation // 2))
    return nn.Sequential(first, *(_Bottleneck(4 * width, width, dilation=dilation) for _ in range(blocks - 1)))


def _layer(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), _norm(outputs), nn.LeakyReLU(inplace=True)


def _resized(x: Tensor, shape: torch.Size) -> Tensor:
    return functional.interpolate(x, shape[2:], mode="bilinear", align_corners=False)
