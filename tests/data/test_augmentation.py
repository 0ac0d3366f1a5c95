from dataclasses import fields, replace

import numpy as np
import pytest

from camseg.base.errors import InputError
from camseg.data.augmentation import augment, augment_both, recolor
from camseg.data.settings import NONE, Augmentation

STRONG = Augmentation(rotation=40.0, zoom=0.3, shift=0.2, brightness=0.2, contrast=0.5)


def test_nothing_changes_nothing(make_images):
    (image,) = make_images((20, 30))
    assert np.array_equal(augment(image, NONE, (1, 2, 3)), image)


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (64, 64)])
def test_shape_type_and_seed(make_images, size):
    (image,) = make_images(size)
    kept = image.copy()
    for seed in [(0, 0, 0), (7, 1, 2)]:
        changed = augment(image, STRONG, seed)
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
        assert np.array_equal(changed, augment(image, STRONG, seed))
    assert np.array_equal(image, kept)


def test_every_part_of_a_seed_counts(make_images):
    (image,) = make_images((20, 30))
    seeds = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert len({augment(image, STRONG, seed).tobytes() for seed in seeds}) == 4


@pytest.mark.parametrize("name", [field.name for field in fields(Augmentation)])
def test_every_setting_does_something(make_images, name):
    (image,) = make_images((20, 30))
    only = replace(NONE, **{name: getattr(STRONG, name)})
    assert any(not np.array_equal(augment(image, only, (seed,)), image) for seed in range(4))


def test_mirroring_half_of_the_time(make_images):
    (image,) = make_images((20, 30))
    only = replace(NONE, mirror=True)
    results = [augment(image, only, (seed,)) for seed in range(100)]
    mirrored = [np.array_equal(result, image[:, ::-1]) for result in results]
    assert 30 < sum(mirrored) < 70
    assert all(flag or np.array_equal(result, image) for flag, result in zip(mirrored, results, strict=True))


def test_shifts_stay_in_range_and_the_mean_colour_comes_in():
    image = np.full((40, 40, 3), (30, 60, 90), np.uint8)
    image[16:24, 16:24] = (230, 160, 190)
    only = replace(NONE, shift=0.25)
    for seed in range(20):
        moved = augment(image, only, (seed,))
        rows, columns = np.nonzero(moved[..., 0] > 130)
        assert abs(rows.mean() - 19.5) <= 10.5
        assert abs(columns.mean() - 19.5) <= 10.5
        assert len(rows) in range(49, 82)
    halves = np.zeros((40, 40, 3), np.uint8)
    halves[:, :20] = 200
    moved = [augment(halves, only, (seed,))[20] for seed in range(20)]
    # Left or right, what comes in is neither half.
    assert sum(abs(int(row[0, 0]) - 100) <= 1 or abs(int(row[-1, 0]) - 100) <= 1 for row in moved) > 12


def test_colour_changes_stay_in_range(make_images):
    (image,) = make_images((20, 30))
    middle = np.clip(image, 80, 160)
    for seed in range(20):
        brighter = augment(middle, replace(NONE, brightness=0.1), (seed,)).astype(float) - middle
        assert np.abs(brighter - brighter[0, 0, 0]).max() <= 1
        assert np.abs(brighter).max() <= 26
        contrasted = augment(middle, replace(NONE, contrast=0.2), (seed,)).astype(float)
        factor = contrasted.std() / middle.std()
        assert 0.79 < factor < 1.21
        assert contrasted.mean() == pytest.approx(middle.mean(), abs=0.5)


def test_extreme_colours_do_not_wrap():
    white, black = np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)
    for seed in range(10):
        assert augment(white, replace(NONE, brightness=0.5), (seed,)).min() >= 127
        assert augment(black, replace(NONE, brightness=0.5), (seed,)).max() <= 128


@pytest.mark.parametrize(
    "setting",
    [
        {"zoom": -0.1},
        {"rotation": float("nan")},
        {"shift": "far"},
        {"mirror": "far"},
        {"contrast": True},
        {"zoom": 1.0},
        {"rotation": 360},
    ],
)
def test_ranges_that_cannot_be(setting):
    with pytest.raises(InputError, match="expected"):
        Augmentation(**setting)


def test_a_target_moves_with_its_image(make_images):
    (image,) = make_images((40, 48))
    target = np.zeros((40, 48, 5), np.uint8)
    target[10:30, 12:30, 0] = 1
    target[..., 4] = 7
    image[...] = 90
    image[target[..., 0] == 1] = 250
    moved = 0
    for seed in range(20):
        changed, along = augment_both(image, target, Augmentation(), (seed,), 255)
        assert np.array_equal(changed, augment(image, Augmentation(), (seed,)))
        assert along.shape == target.shape
        assert set(np.unique(along[..., 0])) <= {0, 1, 255}
        inside = along[..., 4] == 7
        assert np.array_equal(inside, along[..., 4] != 255)  # beyond the border nothing is known
        bright = changed[..., 0] > (int(changed.max()) + int(changed[inside].min())) / 2
        assert (bright[inside] == (along[..., 0] == 1)[inside]).mean() > 0.97
        moved += not np.array_equal(along, target)
    assert moved == 20
    assert all(a is b for a, b in zip(augment_both(image, target, NONE, (0,), 255), (image, target), strict=True))


def test_recolouring_moves_nothing(make_images):
    (image,) = make_images((24, 32))
    image[...] = 60
    image[8:16, 8:24] = 180
    for seed in range(10):
        changed = recolor(image, (seed,))
        assert changed.dtype == np.uint8
        assert np.array_equal(changed, recolor(image, (seed,)))
        assert changed[12, 16, 0] > changed[2, 2, 0]
    assert not np.array_equal(recolor(image, (0,)), recolor(image, (1,)))
    assert np.abs(recolor(image, (0,), strength=0.0).astype(int) - image).max() <= 60  # blur at the edges at most
