import numpy as np
import pytest
import torch
from skimage.segmentation import slic

from camseg.base.errors import InputError
from camseg.propagation.crf import crf
from camseg.propagation.guided import guided
from camseg.propagation.par import par
from camseg.propagation.parameters import CrfSettings, GuidedSettings, ParSettings, SuperpixelSettings, WalkSettings
from camseg.propagation.propagate import propagate
from camseg.propagation.registry import METHODS
from camseg.propagation.settings import PropagateSettings, make_settings
from camseg.propagation.superpixels import superpixels
from camseg.propagation.walk import random_walk


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


def naive_crf(image, cam, settings):
    """Mean field over all pairs, label by label, with two labels' probabilities."""
    height, width = cam.shape
    places = np.stack(np.mgrid[:height, :width], axis=-1).reshape(-1, 2) / max(height, width)
    colors = image.reshape(-1, 3)

    def kernel(points):
        k = np.exp(-((points[:, None] - points[None]) ** 2).sum(axis=-1) / 2)
        np.fill_diagonal(k, 0)
        return k / k.sum(axis=1, keepdims=True)

    alike = kernel(np.hstack([places / settings.appearance_width, colors / settings.color_width]))
    near = kernel(places / settings.smoothness_width)
    p = cam.ravel().clip(1 - settings.certainty, settings.certainty)
    labels = q = np.stack([1 - p, p])
    for _ in range(settings.rounds):
        support = settings.appearance_weight * q @ alike.T + settings.smoothness_weight * q @ near.T
        q = labels * np.exp(support)
        q /= q.sum(axis=0)
    return q[1].reshape(cam.shape)


def naive_guided(image, cam, settings):
    """The paper's equations, window by window, with NumPy's solver."""
    height, width = cam.shape
    radius = max(1, round(settings.radius * max(height, width)))
    windows = [
        (slice(max(0, r - radius), r + radius + 1), slice(max(0, c - radius), c + radius + 1))
        for r in range(height)
        for c in range(width)
    ]
    slopes, offsets = np.empty((height, width, 3)), np.empty((height, width))
    for place, window in enumerate(windows):
        colors, values = image[window].reshape(-1, 3), cam[window].ravel()
        covariance = np.cov(colors.T, bias=True) + settings.smoothness * np.eye(3)
        a = np.linalg.solve(covariance, (colors * values[:, None]).mean(axis=0) - colors.mean(axis=0) * values.mean())
        slopes[divmod(place, width)], offsets[divmod(place, width)] = a, values.mean() - a @ colors.mean(axis=0)
    result = np.empty_like(cam)
    for place, window in enumerate(windows):
        at = divmod(place, width)
        result[at] = slopes[window].reshape(-1, 3).mean(axis=0) @ image[at] + offsets[window].mean()
    return result.clip(0)


def naive_superpixels(image, cam, settings):
    labels = slic(image.astype(np.float32), n_segments=settings.count, compactness=settings.compactness, start_label=0)
    result = np.zeros_like(cam)
    for label in np.unique(labels):
        result[labels == label] = cam[labels == label].mean()
    return result


def naive_walk(features, cam, settings):
    places = features.reshape(-1, features.shape[-1])
    places = places - places.mean(axis=0)
    result = cam.ravel()
    for _ in range(settings.rounds):
        walked = np.zeros_like(result)
        for i, own in enumerate(places):
            cosines = places @ own / np.linalg.norm(places, axis=1) / np.linalg.norm(own)
            weights = np.maximum(cosines, 0) ** settings.power
            walked[i] = weights @ result / weights.sum()
        result = walked
    return result.reshape(cam.shape)


@pytest.mark.parametrize(
    ("function", "naive", "settings"),
    [
        (par, naive_par, ParSettings(rounds=1)),
        (par, naive_par, ParSettings(rounds=3, dilations=(1, 3))),
        (par, naive_par, ParSettings(rounds=2, dilations=(2,), color_width=1.0, position_weight=0.5)),
        (crf, naive_crf, CrfSettings(color_width=0.2, smoothness_width=0.1)),
        (crf, naive_crf, CrfSettings(rounds=3, appearance_width=0.5, color_width=0.4, smoothness_weight=3.0)),
        (crf, naive_crf, CrfSettings(rounds=0, certainty=0.8)),
        (guided, naive_guided, GuidedSettings()),
        (guided, naive_guided, GuidedSettings(radius=0.4, smoothness=0.01)),
        (superpixels, naive_superpixels, SuperpixelSettings(count=6, compactness=1.0)),
        (random_walk, naive_walk, WalkSettings()),
        (random_walk, naive_walk, WalkSettings(power=1.5, rounds=3)),
    ],
)
def test_a_propagator_is_its_formula(function, naive, settings, make_images):
    (image,) = make_images((7, 9))
    cam = np.random.default_rng(0).random((7, 9))
    want = naive(image / 255.0, cam, settings)
    pixels = torch.from_numpy(image / 255.0).permute(2, 0, 1)[None].float()
    got = function(pixels, torch.from_numpy(cam).float()[None, None], settings)[0, 0].numpy()
    assert np.abs(got - want).max() < 1e-4
    # An image or features no larger than the working size are worked as they are.
    features = np.ascontiguousarray((image / 255.0).transpose(2, 0, 1), dtype=np.float32)
    method = next(name for name, found in METHODS.items() if found.load() is function)
    got = propagate(image, cam, method, settings=settings, features=features)
    assert np.abs(got - want / want.max()).max() < 2e-4


@pytest.mark.parametrize("name", METHODS)
def test_maps_and_guides_of_a_batch_do_not_meet(name, make_images):
    function, settings = METHODS[name].load(), METHODS[name].settings()
    guides = torch.from_numpy(np.stack(make_images((8, 10), (8, 10))) / 255.0).permute(0, 3, 1, 2).float()
    maps = torch.rand(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    kept = guides.clone(), maps.clone()
    together = function(guides, maps, settings)
    for n in range(2):
        for k in range(3):
            alone = function(guides[n : n + 1], maps[n : n + 1, k : k + 1], settings)
            assert torch.allclose(together[n, k], alone[0, 0], atol=1e-5)
    assert torch.equal(guides, kept[0])
    assert torch.equal(maps, kept[1])


def two_halves():
    """A red and a blue half, uint8 (60, 80, 3), and as features, float32 (3, 15, 20)."""
    image = np.zeros((60, 80, 3), np.uint8)
    image[:, :40] = (200, 60, 30)
    image[:, 40:] = (40, 90, 160)
    features = np.ascontiguousarray(image[::4, ::4].transpose(2, 0, 1), dtype=np.float32)
    return image, features


@pytest.mark.parametrize("method", [name for name in METHODS if name != "superpixels"])
def test_a_slope_becomes_steeper_at_an_edge_of_the_image(method):
    image, features = two_halves()
    cam = np.broadcast_to(np.clip(np.linspace(1.5, -0.5, 80, dtype=np.float32), 0, 1), (60, 80)).copy()
    spread = propagate(image, cam, method, features=features)
    # Features are coarser than pixels: between two cells a map grows as a ramp.
    assert spread[30, 36] - spread[30, 43] > 1.2 * (cam[30, 36] - cam[30, 43])


@pytest.mark.parametrize("method", METHODS)
def test_maps_stop_at_the_edges_of_the_image(method):
    image, features = two_halves()
    inside = np.zeros((60, 80), np.float32)
    inside[20:40, 10:39] = 1.0
    grown = propagate(image, inside, method, features=features)
    assert grown[30, 20] > 0.5
    assert grown[:, 44:].max() < 0.1


@pytest.mark.parametrize("method", ["par", "random-walk"])
def test_maps_spread_on_their_own_side(method):
    image, features = two_halves()
    inside = np.zeros((60, 80), np.float32)
    inside[20:40, 10:30] = 1.0
    grown = propagate(image, inside, method, features=features)
    assert grown[30, 34] > 0.2
    assert grown[30, 46] < 0.01


@pytest.mark.parametrize("method", ["par", "crf", "guided"])
def test_a_constant_image_spreads_evenly(method):
    image = np.full((31, 31, 3), 77, np.uint8)
    cam = np.zeros((31, 31), np.float32)
    cam[15, 15] = 1.0
    spread = propagate(image, cam, method)
    assert np.allclose(spread, spread.T, atol=1e-5)
    assert np.allclose(spread, spread[::-1, ::-1], atol=1e-5)
    assert spread[15, 17] > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_map_stays_constant(method, make_images):
    (image,) = make_images((31, 40))
    features = np.random.default_rng(0).random((5, 8, 10), dtype=np.float32)
    flat = propagate(image, np.full((31, 40), 0.3, np.float32), method, features=features)
    assert np.allclose(flat, 1.0, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (40, 30), (270, 129)])
@pytest.mark.parametrize("method", METHODS)
def test_maps_keep_their_size_and_fill_up_to_1(method, size, make_images):
    (image,) = make_images(size)
    features = np.random.default_rng(1).random((4, 6, 7), dtype=np.float32)
    cam = np.random.default_rng(0).random(size, dtype=np.float32) * 0.2
    for given in (cam, cam.astype(np.float64), cam.astype(np.float16)):
        spread = propagate(image, given, method, features=features)
        assert spread.shape == size
        assert spread.dtype == np.float32
        assert spread.max() == pytest.approx(1.0)
        assert spread.min() >= 0
    again = propagate(image.copy(), given.copy(), method, features=features.copy())
    assert np.array_equal(spread, again)
    zero = propagate(image, np.zeros(size, np.float32), method, features=features)
    assert zero.shape == size
    assert not zero.any()


def test_no_rounds_of_par_or_of_the_walk_change_nothing(make_images):
    (image,) = make_images((20, 30))
    features = np.random.default_rng(0).random((4, 20, 30), dtype=np.float32)
    cam = np.random.default_rng(0).random((20, 30), dtype=np.float32)
    assert np.allclose(propagate(image, cam, settings=ParSettings(rounds=0)), cam / cam.max())
    walked = propagate(image, cam, "random-walk", settings=WalkSettings(rounds=0), features=features)
    assert np.allclose(walked, cam / cam.max())


def test_features_that_are_all_alike_leave_the_map_as_it_is(make_images):
    (image,) = make_images((5, 6))
    cam = np.random.default_rng(0).random((5, 6), dtype=np.float32)
    walked = propagate(image, cam, "random-walk", features=np.full((3, 5, 6), 2.0, np.float32))
    assert np.allclose(walked, cam / cam.max())
    assert (propagate(image, cam, "random-walk", features=np.ones((3, 1, 1), np.float32)) == 1.0).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_working_size_bounds_the_grid(method, make_images, monkeypatch):
    seen = []

    def function(guide, maps, settings):
        seen.append((guide.shape, maps.shape, float(guide.min()), float(guide.max())))
        return maps

    known = METHODS[method]
    monkeypatch.setattr(type(known), "load", lambda _: function)
    (image,) = make_images((100, 200))
    features = np.full((7, 40, 80), 3.0, np.float32)
    settings = known.settings(working_size=50)
    propagate(image, np.ones((100, 200), np.float32), method, settings=settings, features=features)
    ((guide, maps, low, high),) = seen
    assert guide == (1, 3 if known.guide == "image" else 7, 25, 50)
    assert maps == (1, 1, 25, 50)
    assert (low, high) == (3, 3) if known.guide == "features" else 0 <= low < high <= 1


def test_calls_that_cannot_be_answered(make_images):
    (image,) = make_images((8, 9))
    cam = np.ones((8, 9), np.float32)
    for arguments, message in (
        ((image, cam, "nearest"), "unknown propagation 'nearest'; choose among par, crf, guided"),
        ((image, cam[:, :8]), r"\(8, 9\) and \(8, 8\)"),
        ((image, 2 * cam), "values from 2 to 2"),
        ((image, cam > 0), "expected a map"),
        ((image[..., 0], cam), "RGB image"),
        ((image, cam, "random-walk"), "random-walk walks over the classifier's features; pass --classifier"),
    ):
        with pytest.raises(InputError, match=message):
            propagate(*arguments)
    for features in (cam, cam[None].astype(np.float64), np.zeros((0, 2, 2), np.float32), "layer"):
        with pytest.raises(InputError, match=r"expected the features of one image, float32 \(C, h, w\)"):
            propagate(image, cam, "random-walk", features=features)
    with pytest.raises(InputError, match="finite"):
        propagate(image, cam, "random-walk", features=np.full((2, 3, 3), np.nan, np.float32))
    with pytest.raises(InputError, match="expected CrfSettings for crf, got ParSettings"):
        propagate(image, cam, "crf", settings=ParSettings())


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (ParSettings, {"working_size": 7}),
        (ParSettings, {"rounds": -1}),
        (ParSettings, {"dilations": ()}),
        (ParSettings, {"dilations": (0, 1)}),
        (ParSettings, {"color_width": 0.0}),
        (ParSettings, {"position_weight": -0.1}),
        (CrfSettings, {"rounds": -1}),
        (CrfSettings, {"certainty": 0.5}),
        (CrfSettings, {"smoothness_weight": -1.0}),
        (CrfSettings, {"color_width": 0.0}),
        (GuidedSettings, {"radius": 0.0}),
        (GuidedSettings, {"smoothness": 0.0}),
        (SuperpixelSettings, {"count": 0}),
        (SuperpixelSettings, {"compactness": 0.0}),
        (WalkSettings, {"power": 0.0}),
        (WalkSettings, {"rounds": -1}),
    ],
)
def test_settings_are_checked_when_made(settings, wrong):
    with pytest.raises(InputError, match="expected"):
        settings(**wrong)


def test_settings_are_made_of_names_and_values():
    assert make_settings("crf", {}) == CrfSettings()
    made = make_settings("par", {"rounds": 3, "dilations": [1, 5], "color_width": 1})
    assert made == ParSettings(rounds=3, dilations=(1, 5), color_width=1.0)
    assert isinstance(made.color_width, float)
    for method, values, message in (
        ("guided", {"rounds": 3}, "unknown setting 'rounds'; choose among working_size, radius, smoothness"),
        ("par", {"rounds": 2.5}, "expected rounds: a whole number; got 2.5"),
        ("crf", {"color_width": "wide"}, "expected color width: a number; got 'wide'"),
        ("par", {"dilations": 4}, "expected dilations: several values; got 4"),
        ("par", {"dilations": [1.5]}, "expected dilations: a whole number"),
        ("nearest", {}, "unknown propagation"),
    ):
        with pytest.raises(InputError, match=message):
            make_settings(method, values)
        with pytest.raises(InputError, match=message):
            PropagateSettings(method=method, args=values)
    assert PropagateSettings(method="random-walk").needs_features
    assert not PropagateSettings(method="none").needs_features


@pytest.mark.parametrize(
    ("method", "extreme"),
    [
        ("par", {"color_width": 1e-30}),
        ("crf", {"smoothness_width": 1e-30}),
        ("par", {"position_weight": float("inf")}),
        ("par", {"position_weight": 10**400}),
        ("par", {"dilations": [1_000_000]}),
        ("guided", {"smoothness": float("inf")}),
    ],
)
def test_extreme_settings_are_refused_and_never_give_an_empty_map(method, extreme, make_images):
    (image,) = make_images((20, 24))
    with pytest.raises(InputError, match=r"expected|less extreme"):
        propagate(image, np.random.default_rng(0).random((20, 24)), method, settings=make_settings(method, extreme))
