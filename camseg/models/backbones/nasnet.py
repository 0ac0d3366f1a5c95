"""NASNet-A Mobile: cells that a search over networks found, four times three of them in a row."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class NASNetMobile(nn.Module):
    """NASNet-A (4 @ 1056): images (N, 3, H, W) -> logits (N, num_classes).

    With 1000 classes 5,326,716 parameters, and 4,269,716 without the classifier, as Keras counts: batch norm's
    running statistics, 36,738, are among them. Unlike there strides are padded alike on both sides, and batch norm's
    running statistics follow faster, for trainings of hundreds of steps and not of hundreds of thousands.

    Zoph, Vasudevan, Shlens, Le, Learning Transferable Architectures for Scalable Image Recognition, CVPR 2018,
    section 3 and figure 4.
    """

    num_features = 1056

    def __init__(self, num_classes: int, *, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, bias=False), _norm(32))
        self.cells = nn.ModuleList()
        kinds: list[tuple[type[_Normal | _Reduction], int]] = [(_Reduction, 11), (_Reduction, 22), *[(_Normal, 44)] * 4]
        kinds += [(_Reduction, 88), *[(_Normal, 88)] * 4, (_Reduction, 176), *[(_Normal, 176)] * 4]
        before = now = 32
        fit: nn.Module = nn.Identity()
        for index, (kind, filters) in enumerate(kinds):
            if index:
                # What comes from before a reduction is twice as large as what comes from it.
                reduced = kinds[index - 1][0] is _Reduction
                fit, before = _Halving(before, filters) if reduced else _fit(before, filters), filters
            self.cells.append(kind(fit, before, now, filters))
            before, now = now, filters * kind.outputs
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(drop_rate)
        self.fc = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        before = now = self.stem(x)
        for cell in self.cells:
            before, now = now, cell(before, now)
        maps: Tensor = self.relu(now)
        return maps

    def forward_head(self, maps: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dropout(maps.mean(dim=(2, 3))))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class _Normal(nn.Module):
    """The normal cell: the two maps before it -> 6 ``filters`` channels of the same size."""

    outputs = 6

    def __init__(self, fit: nn.Module, before: int, now: int, filters: int) -> None:
        super().__init__()
        self.before, self.now = fit, _squeeze(now, filters)
        self.now5, self.before3 = _separable(filters, filters, 5), _separable(before, filters, 3)
        self.before5, self.before3_too = _separable(before, filters, 5), _separable(before, filters, 3)
        self.now3 = _separable(filters, filters, 3)
        self.average = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)

    def forward(self, before: Tensor, now: Tensor) -> Tensor:
        p, h = self.before(before), self.now(now)
        parts = (
            p,
            self.now5(h) + self.before3(p),
            self.before5(p) + self.before3_too(p),
            self.average(h) + p,
            2 * self.average(p),
            self.now3(h) + h,
        )
        return torch.cat(parts, dim=1)


class _Reduction(nn.Module):
    """The reduction cell: the two maps before it -> 4 ``filters`` channels of half the size."""

    outputs = 4

    def __init__(self, fit: nn.Module, before: int, now: int, filters: int) -> None:
        super().__init__()
        self.before, self.now = fit, _squeeze(now, filters)
        self.now5, self.before7 = _separable(filters, filters, 5, stride=2), _separable(before, filters, 7, stride=2)
        self.before7_too = _separable(before, filters, 7, stride=2)
        self.before5 = _separable(before, filters, 5, stride=2)
        self.sum3 = _separable(filters, filters, 3)
        self.maximum = nn.MaxPool2d(3, stride=2, padding=1)
        self.average = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
        self.sum_average = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)

    def forward(self, before: Tensor, now: Tensor) -> Tensor:
        p, h = self.before(before), self.now(now)
        first = self.now5(h) + self.before7(p)
        largest = self.maximum(h)
        second = largest + self.before7_too(p)
        third = self.average(h) + self.before5(p)
        return torch.cat((second, third, self.sum_average(first) + second, self.sum3(first) + largest), dim=1)


class _Halving(nn.Module):
    """ReLU, then every second pixel, from the first and from the second on, each squeezed to half the channels."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(channels, filters // 2, 1, bias=False)
        self.odd = nn.Conv2d(channels, filters // 2, 1, bias=False)
        self.norm = _norm(filters)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        shifted = functional.pad(x, (0, 1, 0, 1))[..., 1::2, 1::2]
        halves: Tensor = self.norm(torch.cat((self.even(x[..., ::2, ::2]), self.odd(shifted)), dim=1))
        return halves


def _fit(channels: int, filters: int) -> nn.Module:
    return nn.Identity() if channels == filters else _squeeze(channels, filters)


def _squeeze(channels: int, filters: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, filters, 1, bias=False), _norm(filters))


def _separable(channels: int, filters: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """ReLU, separable convolution and batch norm, twice; the first has the stride."""
    layers: list[nn.Module] = []
    for inputs, step in ((channels, stride), (filters, 1)):
        layers += [
            nn.ReLU(),
            nn.Conv2d(inputs, inputs, kernel_size, step, kernel_size // 2, groups=inputs, bias=False),
            nn.Conv2d(inputs, filters, 1, bias=False),
            _norm(filters),
        ]
    return nn.Sequential(*layers)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)
