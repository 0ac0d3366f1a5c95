from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from camseg.base.errors import InputError

SIZES = [(30, 50), (50, 30), (41, 41), (7, 200), (200, 7), (1, 1), (1, 500), (500, 1), (33, 64), (64, 63)]


def test_stretching(make_classifier, make_images):
    classifier = make_classifier(image_size=40)
    assert classifier.content_box(31, 77) == (0.0, 0.0, 1.0, 1.0)
    large, small, same = make_images((80, 160), (20, 10), (40, 40))
    blocks = large.reshape(40, 2, 40, 4, 3).mean(axis=(1, 3))
    assert np.abs(classifier.to_input(large) - blocks).max() <= 0.51
    assert np.array_equal(classifier.to_input(small), cv2.resize(small, (40, 40), interpolation=cv2.INTER_LINEAR))
    assert np.array_equal(classifier.to_input(same), same)


@pytest.mark.parametrize("shape", [(30, 160, 3), (160, 30, 3)])
def test_stretching_does_not_alias_where_one_side_grows(make_classifier, shape):
    classifier = make_classifier(image_size=40)
    stripes = np.zeros(shape, np.uint8)
    stripes.swapaxes(0, int(np.argmax(shape)))[::2] = 255
    assert (classifier.to_input(stripes) == 128).all()
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(classifier.to_input(image[:, ::-1]), classifier.to_input(image)[:, ::-1])


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("side", [32, 41])
def test_padding_puts_the_image_into_its_content_box(make_classifier, side, scale):
    classifier = make_classifier(image_size=side, resize="pad", mean=[0.0, 1.0, 0.0])
    for height, width in SIZES:
        square = classifier.to_input(np.full((height, width, 3), (255, 0, 255), np.uint8), scale)
        assert square.shape == (round(scale * side),) * 2 + (3,)
        top, left, tall, wide = classifier.content_box(height, width)
        assert max(tall, wide) == 1.0
        assert tall / wide == pytest.approx(height / width, rel=0.1) or min(tall, wide) * side <= 5
        # Centred, to the pixel.
        assert abs(top - (1 - top - tall)) * side < 1.01
        assert abs(left - (1 - left - wide)) * side < 1.01
        rows, columns = np.nonzero(square[..., 0])
        edges = np.array([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1])
        box = np.array([top, top + tall, left, left + wide])
        assert np.abs(edges - box * len(square)).max() <= 1.0
        inside = np.zeros(square.shape[:2], bool)
        inside[edges[0] : edges[1], edges[2] : edges[3]] = True
        assert (square[inside] == (255, 0, 255)).all()
        assert (square[~inside] == (0, 255, 0)).all()


def test_preprocessing_normalises(make_classifier, make_images):
    classifier = make_classifier(image_size=32, mean=[0.2, 0.4, 0.6], std=[0.1, 0.2, 0.3])
    images = make_images((20, 30), (64, 64))
    x = classifier.preprocess(images, scale=1.5)
    squares = np.stack([classifier.to_input(image, 1.5) for image in images])
    want = (squares / 255.0 - np.array([0.2, 0.4, 0.6])) / np.array([0.1, 0.2, 0.3])
    assert x.shape == (2, 3, 48, 48)
    assert x.dtype == torch.float32
    assert np.allclose(x.permute(0, 2, 3, 1).numpy(), want, atol=1e-5)
    # The colour that pads is the one that is zero for the network.
    padded = replace(classifier, resize="pad").preprocess([np.zeros((1, 32, 3), np.uint8)])
    assert padded[0, :, 0].abs().max() < 0.03
    with pytest.raises(InputError, match="at least one image"):
        classifier.preprocess([])
    with pytest.raises(InputError, match="RGB image"):
        classifier.preprocess([images[0][..., 0]])
