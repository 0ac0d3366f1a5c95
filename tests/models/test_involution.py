"""Involution against a loop over pixels, and its kernels as heat maps."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from camseg.base.errors import InputError
from camseg.classify.classifier import Classifier
from camseg.cli import main
from camseg.data.images import read_image, write_image
from camseg.measure.figures import plot_kernels
from camseg.models.backbones.involution import Involution
from camseg.models.building import create_model, involution_kernels


def seeded(channels, kernel_size, **settings):
    """A layer whose batch norm is no identity."""
    torch.manual_seed(0)
    layer = Involution(channels, kernel_size, **settings).eval()
    layer.reduce[1].running_mean.normal_()
    layer.reduce[1].running_var.uniform_(0.5, 2)
    return layer.requires_grad_(False)


def by_hand(layer, x):
    """Pixel by pixel: the kernel from the (averaged) pixel, then the weighted sum of the surroundings."""
    (first, norm, _), stride, size = layer.reduce, layer.stride, layer.kernel_size
    _, channels, height, width = x.shape
    out = torch.zeros(1, channels, -(-height // stride), -(-width // stride))
    for row in range(out.shape[2]):
        for column in range(out.shape[3]):
            top, left = row * stride, column * stride
            pixel = x[0, :, top : top + stride, left : left + stride].mean(dim=(1, 2))
            hidden = first.weight[:, :, 0, 0] @ pixel + first.bias
            hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
            kernel = layer.span.weight[:, :, 0, 0] @ hidden.clamp_min(0) + layer.span.bias
            kernel = kernel.view(layer.groups, size, size)
            for channel in range(channels):
                group = channel // (channels // layer.groups)
                for i in range(size):
                    for j in range(size):
                        y, z = top + i - size // 2, left + j - size // 2
                        if 0 <= y < height and 0 <= z < width:
                            out[0, channel, row, column] += kernel[group, i, j] * x[0, channel, y, z]
    return out


@pytest.mark.parametrize(
    ("channels", "kernel_size", "settings", "shape"),
    [
        (3, 3, {"reduction": 2}, (5, 5)),
        (4, 3, {"groups": 2, "reduction": 2}, (4, 6)),
        (4, 5, {"groups": 4, "stride": 2}, (6, 6)),
        (2, 3, {"stride": 2, "reduction": 1}, (5, 7)),
        (4, 1, {"stride": 3, "groups": 2}, (7, 5)),
    ],
)
def test_involution_equals_a_loop_over_pixels(channels, kernel_size, settings, shape):
    layer = seeded(channels, kernel_size, **settings)
    x = torch.randn(1, channels, *shape)
    want = by_hand(layer, x)
    assert want.std() > 0.1
    assert torch.allclose(layer(x), want, atol=1e-5)
    both = layer(torch.cat([x, torch.zeros_like(x)]))
    assert torch.allclose(both[:1], want, atol=1e-5)
    assert not both[1].any()


def test_one_kernel_for_all_pixels_is_a_convolution():
    layer = seeded(3, 3)
    layer.span.weight.zero_()
    x = torch.randn(2, 3, 6, 6)
    kernel = layer.span.bias.view(1, 1, 3, 3).expand(3, 1, 3, 3)
    assert torch.allclose(layer(x), functional.conv2d(x, kernel, padding=1, groups=3), atol=1e-5)
    assert layer.kernels(x).shape == (2, 1, 9, 6, 6)


def test_all_parameters_learn():
    layer = Involution(4, 3, groups=2, stride=2)
    layer(torch.randn(3, 4, 8, 8)).square().sum().backward()
    # A bias before batch norm is taken off again there.
    learning = {name for name, parameter in layer.named_parameters() if parameter.grad.abs().max() > 1e-4}
    assert learning >= {name for name, _ in layer.named_parameters()} - {"reduce.0.bias"}


def test_layers_that_cannot_be():
    with pytest.raises(InputError, match="odd size"):
        Involution(4, 2)
    with pytest.raises(InputError, match="divide into the groups; got size 3, 4 channels and 3 groups"):
        Involution(4, 3, groups=3)


def test_kernels_of_each_layer():
    model = create_model("med_ic_3", 2).eval()
    x = torch.randn(2, 3, 28, 28)
    layers = involution_kernels(model, x)
    assert [kernels.shape for kernels in layers] == [(2, 1, 9, 28, 28)] * 3
    first, second, _ = model.involutions
    assert torch.equal(layers[1], second.kernels(first(x).relu()))
    joined = create_model("med_ic+mab", 2).eval()
    assert len(involution_kernels(joined, x)) == 1
    for other in (create_model("med_ic_cnn", 2), nn.Conv2d(3, 3, 1)):
        with pytest.raises(InputError, match="involution layers"):
            involution_kernels(other, x)


def test_the_figure_shows_the_sign_of_the_kernels():
    image = np.full((8, 8, 3), 90, np.uint8)
    maps = np.zeros((2, 8, 8), np.float32)
    maps[0, :, :4], maps[1, :4] = 1, -1
    figure = plot_kernels(image, [maps, maps[:1]])
    red, blue = (figure[..., first].astype(int) - figure[..., last] for first, last in ((0, 2), (2, 0)))
    half = len(figure) // 2
    # Without what the colour bars add, which is alike in both rows: two panels against one.
    assert (red[:half] > 80).sum() < 1.3 * (red[half:] > 80).sum()
    assert (blue[:half] > 60).sum() > 1.5 * (blue[half:] > 60).sum()
    assert plot_kernels(image, [np.zeros((1, 4, 4), np.float32)]).shape[2] == 3
    for wrong in ([], [maps[0]], [maps[:0]]):
        with pytest.raises(InputError, match="kernels"):
            plot_kernels(image, wrong)


def test_kernels_on_the_command_line(tmp_path, monkeypatch, capsys):
    classifier = Classifier.create("MedIC2", classes=["a", "b"])
    classifier.save(tmp_path / "run")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    write_image(tmp_path / "image.png", image)
    out = tmp_path / "figures/kernels.png"

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["camseg", "kernels", *map(str, arguments)])
        main()

    with pytest.raises(SystemExit) as stop:
        call(tmp_path / "run", tmp_path / "image.png", "--out", out, "--device", "cpu", "--json")
    assert not stop.value.code
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "layers": [[1, 28, 28]] * 2}
    kernels = involution_kernels(classifier.model, classifier.preprocess([image]))
    want = plot_kernels(classifier.to_input(image), [layer[0].sum(dim=1).numpy() for layer in kernels])
    assert np.array_equal(read_image(out), want)
    Classifier.create("test_resnet", classes=["a"], image_size=32).save(tmp_path / "other")
    with pytest.raises(SystemExit) as stop:
        call(tmp_path / "other", tmp_path / "image.png", "--out", out)
    assert stop.value.code == 2
    assert "med_ic" in capsys.readouterr().err
