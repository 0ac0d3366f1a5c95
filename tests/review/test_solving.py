"""Strokes and superpixels."""

import numpy as np
import pytest

from camseg.review.solving import LARGEST, solve_strokes, superpixels


@pytest.fixture
def scene():
    """A bright disc on a dark ground, and its mask."""
    y, x = np.mgrid[:120, :160]
    disc = (y - 60) ** 2 + (x - 80) ** 2 < 30**2
    noise = np.random.default_rng(0).integers(0, 20, (120, 160, 3))
    return (np.where(disc[..., None], 200, 40) + noise).astype(np.uint8), disc


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("solver", ["closed-form", "grabcut"])
def test_the_outline_goes_to_the_object(scene, solver):
    image, disc = scene
    y, x = np.mgrid[:120, :160]
    rough = (y - 60) ** 2 + (x - 80) ** 2 < 34**2
    none = np.zeros_like(disc)
    found = solve_strokes(image, rough, none, none, solver)
    assert dice(found, disc) > max(0.97, dice(rough, disc) + 0.02)


def test_what_was_painted_holds(scene):
    image, disc = scene
    sure, surely_not = np.zeros_like(disc), np.zeros_like(disc)
    sure[10:16, 10:16] = True
    surely_not[58:64, 78:84] = True
    found = solve_strokes(image, disc, sure, surely_not)
    assert found[sure].all()
    assert not found[surely_not].any()
    none = np.zeros_like(disc)
    assert not solve_strokes(image, none, none, none).any()
    assert solve_strokes(image, ~none, none, none).any()


def test_large_crops_are_shrunk_and_fit_again():
    image = np.zeros((3 * LARGEST, 4 * LARGEST, 3), np.uint8)
    mask = np.zeros(image.shape[:2], bool)
    mask[LARGEST : 2 * LARGEST, LARGEST : 3 * LARGEST] = True
    image[mask] = 220
    found = solve_strokes(image, mask, np.zeros_like(mask), np.zeros_like(mask))
    assert found.shape == mask.shape
    assert dice(found, mask) > 0.98


def test_superpixels_follow_colours(scene):
    image, disc = scene
    labels = superpixels(image)
    assert labels.shape == disc.shape
    inside = np.bincount(labels[disc], minlength=labels.max() + 1)
    whole = np.bincount(labels.ravel())
    mixed = np.minimum(inside, whole - inside).sum()
    assert len(np.unique(labels)) > 50
    assert mixed / disc.size < 0.02
