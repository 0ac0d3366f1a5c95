import numpy as np
import pytest
import torch

from camseg.errors import InputError
from camseg.propagation import METHODS, ParSettings, par, propagate


def naive_par(image, cam, settings):
    """The docstring's formula, pixel by pixel: image (h, w, 3) in [0, 1] and cam (h, w), float64."""
    height, width = cam.shape
    steps = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)]
    offsets = [(r * d, c * d) for d in settings.dilations for r, c in steps]
    distances = np.array([np.sqrt(r * r + c * c) for r, c in offsets])
    near = np.exp(-((distances / distances.std(ddof=1) / settings.color_width) ** 2))
    near /= near.sum()

    def neighbours(values, row, column):
        rows = [min(max(row + r, 0), height - 1) for r, _ in offsets]
        columns = [min(max(column + c, 0), width - 1) for _, c in offsets]
        return values[rows, columns]

    for _ in range(settings.rounds):
        spread = np.zeros_like(cam)
        for row in range(height):
            for column in range(width):
                around = neighbours(image, row, column)  # (P, 3)
                scale = around.std(axis=0, ddof=1) + 1e-8
                unlike = (((around - image[row, column]) / scale / settings.color_width) ** 2).mean(axis=1)
                alike = np.exp(-(unlike - unlike.min()))
                weights = (alike / alike.sum() + settings.position_weight * near) / (1 + settings.position_weight)
                spread[row, column] = weights @ neighbours(cam, row, column)
        cam = spread
    return cam


@pytest.mark.parametrize(
    "settings",
    [
        ParSettings(rounds=1),
        ParSettings(rounds=3, dilations=(1, 3)),
        ParSettings(rounds=2, dilations=(2,), color_width=1.0, position_weight=0.5),
    ],
)
def test_par_is_the_formula(settings, make_images):
    (image,) = make_images((7, 9))
    cam = np.random.default_rng(0).random((7, 9))
    want = naive_par(image / 255.0, cam, settings)
    pixels = torch.from_numpy(image / 255.0).permute(2, 0, 1)[None].float()
    got = par(pixels, torch.from_numpy(cam).float()[None, None], settings)[0, 0].numpy()
    assert np.abs(got - want).max() < 1e-4
    # Images no larger than the working size are worked as they are.
    got = propagate(image, cam, settings=settings)
    assert np.abs(got - want / want.max()).max() < 1e-4


def test_maps_and_images_of_a_batch_do_not_meet(make_images):
    images = torch.from_numpy(np.stack(make_images((8, 8), (8, 8))) / 255.0).permute(0, 3, 1, 2).float()
    torch.manual_seed(0)
    maps = torch.rand(2, 3, 8, 8)
    together = par(images, maps, ParSettings())
    for n in range(2):
        for k in range(3):
            alone = par(images[n : n + 1], maps[n : n + 1, k : k + 1], ParSettings())
            assert torch.allclose(together[n, k], alone[0, 0], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_maps_stop_at_the_edges_of_the_image(method):
    image = np.zeros((60, 80, 3), np.uint8)
    image[:, :40] = (200, 60, 30)
    image[:, 40:] = (40, 90, 160)
    cam = np.broadcast_to(np.clip(np.linspace(1.5, -0.5, 80, dtype=np.float32), 0, 1), (60, 80)).copy()
    spread = propagate(image, cam, method)
    assert spread[30, 39] - spread[30, 40] > 5 * (cam[30, 39] - cam[30, 40])
    assert np.abs(np.diff(spread[30, 20:39])).max() < 0.1
    inside = np.zeros_like(cam)
    inside[20:40, 10:30] = 1.0
    grown = propagate(image, inside, method)
    assert grown[30, 36] > 0.2  # on its own side it spreads
    assert grown[:, 40:].max() < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_image_spreads_evenly(method):
    image = np.full((31, 31, 3), 77, np.uint8)
    cam = np.zeros((31, 31), np.float32)
    cam[15, 15] = 1.0
    spread = propagate(image, cam, method)
    assert np.allclose(spread, spread.T, atol=1e-5)
    assert np.allclose(spread, spread[::-1, ::-1], atol=1e-5)
    assert spread[0, 0] > 0
    flat = propagate(image, np.full((31, 31), 0.3, np.float32), method)
    assert np.allclose(flat, 1.0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (40, 30), (200, 300), (129, 128)])
@pytest.mark.parametrize("method", METHODS)
def test_maps_keep_their_size_and_fill_up_to_1(method, size, make_images):
    (image,) = make_images(size)
    cam = np.random.default_rng(0).random(size, dtype=np.float32) * 0.2
    for given in (cam, cam.astype(np.float64), cam.astype(np.float16)):
        spread = propagate(image, given, method)
        assert spread.shape == size
        assert spread.dtype == np.float32
        assert spread.max() == pytest.approx(1.0)
        assert spread.min() >= 0
    assert np.array_equal(propagate(image, cam, method), propagate(image.copy(), cam.copy(), method))
    zero = propagate(image, np.zeros(size, np.float32), method)
    assert zero.shape == size
    assert not zero.any()


def test_no_rounds_change_nothing(make_images):
    (image,) = make_images((20, 30))
    cam = np.random.default_rng(0).random((20, 30), dtype=np.float32)
    assert np.allclose(propagate(image, cam, settings=ParSettings(rounds=0)), cam / cam.max())


def test_the_working_size_bounds_the_grid(make_images, monkeypatch):
    seen = []
    monkeypatch.setattr("camseg.propagation.functional.pad", lambda *args, **_: seen.append(args[0].shape) or 1 / 0)
    (image,) = make_images((100, 200))
    with pytest.raises(ZeroDivisionError):
        propagate(image, np.ones((100, 200), np.float32), settings=ParSettings(working_size=50))
    assert seen == [(1, 3, 25, 50)]


def test_calls_that_cannot_be_answered(make_images):
    (image,) = make_images((8, 9))
    cam = np.ones((8, 9), np.float32)
    for arguments, message in (
        ((image, cam, "crf"), "unknown propagation 'crf'; choose among par"),
        ((image, cam[:, :8]), r"\(8, 9\) and \(8, 8\)"),
        ((image, 2 * cam), "values from 2 to 2"),
        ((image, cam > 0), "expected a map"),
        ((image[..., 0], cam), "RGB image"),
    ):
        with pytest.raises(InputError, match=message):
            propagate(*arguments)
    for settings in ({"working_size": 7}, {"rounds": -1}, {"dilations": ()}, {"dilations": (0, 1)}):
        with pytest.raises(InputError, match="expected"):
            ParSettings(**settings)
