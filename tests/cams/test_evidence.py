"""Layouts that shapes leave open are settled by where maps answer, and refused where nothing settles them."""

import pytest
import torch
from torch import nn

from camseg.base.errors import LayerError
from camseg.cams.capture import capture, network
from camseg.cams.layers import find_layer, list_layers
from camseg.cams.layout import Layout, possible_layouts
from camseg.classify.classifier import Classifier

PLACES = [(0.1, 0.15), (0.12, 0.88), (0.9, 0.2), (0.7, 0.4)]


class Tokens(nn.Module):
    """8 x 8 tokens of 32 pixels: one block in the tokens' own order, one after they were carried elsewhere."""

    def __init__(self, order):
        super().__init__()
        self.embed, self.order = nn.Conv2d(3, 12, 4, stride=4), order
        self.rows, self.carried, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x):
        tokens = self.rows(self.embed(x).flatten(2).transpose(1, 2)).relu()
        return self.head(self.carried(tokens[:, self.order]).relu().mean(dim=1))


class Mixed(Tokens):
    """Every token of the second block is made of all of the first one."""

    def forward(self, x):
        tokens = self.rows(self.embed(x).flatten(2).transpose(1, 2)).relu()
        mixing = torch.randn(64, 64, generator=torch.Generator().manual_seed(3))
        return self.head(self.carried(mixing @ tokens).mean(dim=1))


class Cube(nn.Module):
    """A map of 8 x 8 places with 8 channels, which come last."""

    def __init__(self):
        super().__init__()
        self.embed, self.body, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(self.embed(x).permute(0, 2, 3, 1)).relu().mean(dim=(1, 2)))


@pytest.fixture
def classifier_of(make_classifier):
    def make(model):
        torch.manual_seed(0)
        classifier = make_classifier(image_size=32)
        object.__setattr__(classifier, "model", model.eval())
        return classifier

    return make


def distances(classifier, layers):
    """How far from a disturbed place each layer's map changes most, in shares of the side."""
    side, generator = classifier.image_size, torch.Generator().manual_seed(5)
    images = torch.randn(1, 3, side, side, generator=generator).mul(0.3).repeat(1 + len(PLACES), 1, 1, 1)
    half = side // 28
    for n, (y, x) in enumerate(PLACES):
        top, left = int(y * side), int(x * side)
        images[n + 1, :, top - half : top + half, left - half : left + half] = 3.0
    found = []
    for maps in network(classifier, layers=layers).forward(images, gradients=False).maps:
        change = (maps[1:] - maps[:1]).abs().sum(dim=1)
        peaks, (height, width) = change.flatten(1).argmax(dim=1).tolist(), change.shape[1:]
        found.append(
            max(
                max(abs((peak // width + 0.5) / height - y), abs((peak % width + 0.5) / width - x))
                for peak, (y, x) in zip(peaks, PLACES, strict=True)
            )
        )
    return found


def farthest(classifier, layer):
    return distances(classifier, [layer])[0]


def test_tokens_that_lie_as_the_image_does(classifier_of):
    classifier = classifier_of(Tokens(torch.arange(64)))
    assert {layer.name for layer in list_layers(classifier)} == {"embed", "rows", "carried"}
    assert find_layer(classifier) == "carried"
    assert farthest(classifier, "carried") < 1 / 8


def test_tokens_that_lie_elsewhere_are_neither_offered_nor_taken(classifier_of):
    units = torch.arange(64).view(2, 4, 2, 4).permute(1, 3, 0, 2).flatten()  # as units of 2 x 2 keep them
    classifier = classifier_of(Tokens(units))
    assert "carried" not in {layer.name for layer in list_layers(classifier)}
    assert find_layer(classifier) == "rows"
    for layers in ("carried", ["rows", "carried"]):
        with pytest.raises(LayerError, match=r"map of layer carried does not lie as the image does: .* other places"):
            network(classifier, layers=layers)


def test_tokens_that_all_places_mix_into_are_refused(classifier_of):
    classifier = classifier_of(Mixed(torch.arange(64)))
    assert find_layer(classifier) == "rows"
    with pytest.raises(LayerError, match=r"map of layer carried .* choose one that `camseg layers` lists"):
        capture(classifier, torch.zeros(1, 3, 32, 32), [0], layer="carried")


def test_a_cube_is_settled_by_where_it_answers(classifier_of):
    classifier = classifier_of(Cube())
    layouts = {layer.name: layer.layout.kind for layer in list_layers(classifier)}
    assert layouts == {"embed": "channels first", "body": "channels last"}
    assert farthest(classifier, "body") < 1 / 8


def test_every_layer_that_is_offered_of_a_network_of_mask_units():
    classifier = Classifier.create("hiera_tiny_224", classes=["a", "b"], image_size=224)
    offered = [layer for layer in list_layers(classifier) if layer.stage]
    assert {layer.height for layer in offered} >= {7, 14, 28}
    found = distances(classifier, [layer.name for layer in offered])
    assert all(far < max(1 / layer.height, 0.06) for far, layer in zip(found, offered, strict=True)), found


@pytest.mark.parametrize(
    "layout",
    [
        Layout(),
        Layout(kind="channels last"),
        Layout(kind="tokens"),
        Layout(kind="tokens", prefix=1),
        Layout(kind="tokens", prefix=1, order=(3, 0, 2, 1)),
    ],
)
def test_a_layout_gives_back_what_it_took(layout):
    maps = torch.arange(24.0).view(2, 3, 2, 2)
    if layout.kind == "tokens":
        output = layout.output(maps, torch.full((1, layout.prefix + 4, 3), -1.0))
        assert (output[:, : layout.prefix] == -1).all()
    else:
        output = layout.output(maps, torch.zeros(()))
    assert layout.fits(output)
    assert torch.equal(layout.maps(output), maps)


def test_an_order_says_which_token_lies_at_each_place():
    tokens = torch.tensor([10.0, 20.0, 30.0, 40.0])[None, :, None]
    layout = Layout(kind="tokens", order=(2, 0, 3, 1))
    assert layout.maps(tokens)[0, 0].tolist() == [[30.0, 10.0], [40.0, 20.0]]


def test_shapes_that_hold_no_map():
    model = nn.Identity()
    for output in (None, (torch.zeros(1, 4, 3),), torch.zeros(1, 1, 3), torch.zeros(1, 8, 3), torch.zeros(1, 4)):
        assert possible_layouts(output, model) == ()
