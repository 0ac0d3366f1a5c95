import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN
from camseg.base.errors import (
    AllKnownError,
    CheckpointError,
    EmptyBackgroundError,
    EmptyForegroundError,
    InputError,
    SolverError,
)
from camseg.refinement import choosing, colors, nearest
from camseg.refinement.refine import refine, refine_with_report
from camseg.refinement.registry import METHODS, Refiner

UNTRAINED = ["auto", *(name for name, method in METHODS.items() if not method.needs_weights)]
"""What refines without a file of weights."""


@dataclass(frozen=True, kw_only=True)
class Scripted(Refiner):
    """A refiner that is given as a function."""

    script: Callable

    def load(self):
        return self.script


def script(monkeypatch, name: str, function: Callable) -> None:
    monkeypatch.setitem(METHODS, name, Scripted(function="", paper="", script=function))


def composite(size: int = 64, center: tuple[float, float] = (30, 34), seed: int = 0):
    """A soft disc over a textured background: image, trimap and the true alpha, F and B."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    distance = np.hypot(y - center[0], x - center[1]) + 3 * np.sin(3 * np.arctan2(y - center[0], x - center[1]))
    alpha = np.clip((size * 0.28 - distance) / 4 + 0.5, 0, 1).astype(np.float32)
    foreground, background = (
        np.clip(cv2.GaussianBlur(rng.random((size, size, 3)), (0, 0), 5) * 0.6 + tint, 0, 1)
        for tint in ((0.4, 0.1, 0.0), (0.0, 0.1, 0.4))
    )
    image = np.rint(255 * (alpha[..., None] * foreground + (1 - alpha[..., None]) * background)).astype(np.uint8)
    trimap = np.full((size, size), UNKNOWN, np.uint8)
    trimap[distance < size * 0.16] = FOREGROUND
    trimap[distance > size * 0.38] = BACKGROUND
    return image, trimap, alpha, foreground, background


def draw(picture: str) -> np.ndarray:
    return np.array([[{".": 0, "?": 128, "#": 255}[pixel] for pixel in row] for row in picture.split()], np.uint8)


def noise(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


# --- every method


@pytest.mark.parametrize("method", UNTRAINED)
def test_alpha_is_nearer_to_the_truth_than_the_trimap_is(method):
    image, trimap, truth, *_ = composite()
    before = (image.copy(), trimap.copy())
    alpha = refine(image, trimap, method)
    assert (alpha.dtype, alpha.shape) == (np.float32, trimap.shape)
    assert 0 <= alpha.min() <= alpha.max() <= 1
    assert (alpha[trimap == FOREGROUND] == 1).all()
    assert (alpha[trimap == BACKGROUND] == 0).all()
    guess = np.abs(trimap / 255 - truth).mean()
    assert np.abs(alpha - truth).mean() < 0.25 * guess
    assert (alpha > 0.5)[truth > 0.5].mean() > 0.85
    assert (alpha > 0.5)[truth <= 0.5].mean() < 0.01
    assert np.array_equal(image, before[0])
    assert np.array_equal(trimap, before[1])


@pytest.mark.parametrize("method", UNTRAINED)
def test_objects_at_the_border(method):
    image, trimap, truth, *_ = composite(center=(2, 60))
    alpha = refine(image, trimap, method)
    assert np.abs(alpha - truth).mean() < 0.25 * np.abs(trimap / 255 - truth).mean()


@pytest.mark.parametrize("method", UNTRAINED)
def test_the_same_bytes_each_time_in_any_thread_beside_any_other_work(method):
    image, trimap, *_ = composite()
    expected = refine(image, trimap, method).tobytes()
    others = [composite(seed=seed)[:2] for seed in (1, 2)]
    with ThreadPoolExecutor(4) as pool:
        for seed in range(3):
            cv2.setRNGSeed(seed)
            cv2.randu(np.empty((5, 5), np.float32), 0, 1)
            work = [pool.submit(refine, *each, method) for each in ((image, trimap), *others, (image, trimap))]
            assert work[0].result().tobytes() == work[3].result().tobytes() == expected
    threads = cv2.getNumThreads()
    try:
        for count in (1, 3):
            cv2.setNumThreads(count)
            assert refine(image, trimap, method).tobytes() == expected
    finally:
        cv2.setNumThreads(threads)


@pytest.mark.parametrize("picture", [".?#", ".??????#", "..? .?? ??#", ".? ?#", ".???.. ##????", "?.?#?"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("method", UNTRAINED)
def test_tiny_images(method, flat, turned, picture):
    trimap = draw(picture).T if turned else draw(picture)
    image = np.full((*trimap.shape, 3), 90, np.uint8) if flat else noise(trimap.shape)
    refined = refine_with_report(image, trimap, method)
    assert refined.fallback is None
    assert np.isfinite(refined.alpha).all()
    assert (refined.alpha[trimap == FOREGROUND] == 1).all()
    assert (refined.alpha[trimap == BACKGROUND] == 0).all()


@pytest.mark.parametrize("kind", ["flat", "two values", "noise"])
@pytest.mark.parametrize("method", UNTRAINED)
def test_images_that_say_little(method, kind):
    _, trimap, truth, *_ = composite()
    hard = np.repeat(np.where(truth > 0.5, 255, 0).astype(np.uint8)[..., None], 3, 2)
    image = {"flat": np.zeros_like(hard), "two values": hard, "noise": noise(trimap.shape)}[kind]
    alpha = refine(image, trimap, method)
    assert np.isfinite(alpha).all()
    if kind == "two values":
        assert np.array_equal(alpha > 0.5, truth > 0.5)


# --- unusable input


UNUSABLE = [
    ("...?", EmptyForegroundError, [0, 0, 0, 0]),
    ("....", EmptyForegroundError, [0, 0, 0, 0]),
    ("????", EmptyForegroundError, [0, 0, 0, 0]),
    ("##??", EmptyBackgroundError, [1, 1, 1, 1]),
    ("####", EmptyBackgroundError, [1, 1, 1, 1]),
    ("..##", AllKnownError, [0, 0, 1, 1]),
    ("?", EmptyForegroundError, [0]),
    ("#", EmptyBackgroundError, [1]),
]


@pytest.mark.parametrize(("picture", "error", "nearest_values"), UNUSABLE)
@pytest.mark.parametrize("method", UNTRAINED)
def test_unusable_trimaps(method, picture, error, nearest_values):
    trimap = draw(picture)
    image = noise(trimap.shape)
    with pytest.raises(error):
        refine(image, trimap, method)
    refined = refine_with_report(image, trimap, method)
    assert refined.fallback == error.reason
    assert refined.alpha.dtype == np.float32
    assert refined.alpha.tolist() == [nearest_values]
    mask = np.arange(trimap.size).reshape(trimap.shape) % 2 == 0
    refined = refine_with_report(image, trimap, method, mask, colors=True)
    assert refined.fallback == error.reason
    assert np.array_equal(refined.alpha, mask.astype(np.float32))
    assert refined.foreground.shape == refined.background.shape == image.shape


def test_a_solver_that_fails(monkeypatch):
    def fail(_image, _trimap):
        raise SolverError("no solution")

    image, trimap, *_ = composite()
    script(monkeypatch, "closed-form", fail)
    with pytest.raises(SolverError, match="no solution"):
        refine(image, trimap)
    refined = refine_with_report(image, trimap)
    assert (refined.method, refined.fallback) == (None, SolverError.reason)
    assert np.array_equal(refined.alpha, nearest.nearest_known(trimap))
    assert refine_with_report(image, trimap, "auto").method == "grabcut"
    script(monkeypatch, "grabcut", fail)
    assert refine_with_report(image, trimap, "auto").fallback == SolverError.reason
    assert refine_with_report(image, trimap, "auto", trimap > 0).fallback == SolverError.reason
    with pytest.raises(SolverError, match="no solution"):
        refine(image, trimap, "auto")


def test_bad_calls_are_refused_by_both():
    image, trimap, *_ = composite()
    for call in (refine, refine_with_report):
        with pytest.raises(InputError, match="auto, closed-form, grabcut"):
            call(image, trimap, "magic")
        with pytest.raises(InputError, match=r"pass --weights FILE .* non-commercial use; closed-form needs none"):
            call(image, trimap, "fba")
        with pytest.raises(InputError, match="closed-form takes no weights"):
            call(image, trimap, "closed-form", weights="some.pth")
        with pytest.raises(CheckpointError, match=r"missing\.pth"):
            call(image, trimap, "fba", weights="missing.pth")
        with pytest.raises(InputError, match="differ in size"):
            call(image[1:], trimap)
        with pytest.raises(InputError, match="image"):
            call(image / 255, trimap)
        with pytest.raises(InputError, match="trimap"):
            call(image, trimap + 1)
    with pytest.raises(InputError, match="differ in size"):
        refine_with_report(image, trimap, mask=trimap[1:] > 0)
    with pytest.raises(InputError, match="mask"):
        refine_with_report(image, trimap, mask=trimap)


def test_the_report_of_a_success():
    image, trimap, *_ = composite()
    refined = refine_with_report(image, trimap, mask=trimap > 0)
    assert (refined.method, refined.fallback) == ("closed-form", None)
    assert (refined.foreground, refined.background) == (None, None)
    assert np.array_equal(refined.alpha, refine(image, trimap))


def test_importing_the_refiners_loads_nothing_slow():
    slow = {"numba", "pymatting", "scipy", "skimage", "torch"}
    check = f"import sys, camseg.refinement; sys.exit(not {slow}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


# --- which mask to trust


def test_a_mask_along_the_outline_separates_best():
    image, _, truth, *_ = composite(128)
    right = truth > 0.5
    shifted, grown, shrunk = np.roll(right, 12, axis=1), *(change(right.astype(np.uint8), np.ones((25, 25))) > 0
                                                            for change in (cv2.dilate, cv2.erode))  # fmt: skip
    assert choosing.separation(image, right) > 1.5 * max(
        choosing.separation(image, m) for m in (shifted, grown, shrunk)
    )


def test_separation_by_hand():
    # Two grey halves, 8 pixels wide: the rings are 0.1 * sqrt(4 * 64 / pi) = 0.9, hence at least 2 pixels wide.
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, 8:] = 90
    image[:, 8:10] += np.array([[0], [30]] * 4, np.uint8)[..., None]  # inside 90 and 120: variance 225 per channel
    mask = np.arange(16) >= np.full((8, 1), 8)
    assert choosing.separation(image, mask) == pytest.approx(105 * np.sqrt(3) / np.sqrt(3 * 225 + 1))


@pytest.mark.parametrize("mask", [np.zeros((9, 9), bool), np.ones((9, 9), bool)])
def test_no_outline_separates_nothing(mask):
    assert choosing.separation(noise((9, 9)), mask) == 0


def test_separation_of_a_large_object_is_that_of_a_small_one():
    image, _, truth, *_ = composite(128)
    large = cv2.resize(image, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(truth, (1024, 1024), interpolation=cv2.INTER_LINEAR) > 0.5
    assert choosing.separation(large, mask) == pytest.approx(choosing.separation(image, truth > 0.5), rel=0.1)


def square(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((20, 20), bool)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.mark.parametrize(
    ("after", "flaw"),
    [
        (square(5, 5, 6, 6), None),
        (square(5, 5, 3, 6), None),
        (square(5, 5, 2, 6), "vanished"),
        (square(0, 0, 0, 0), "vanished"),
        (square(5, 5, 6, 12), None),
        (square(5, 5, 6, 13), "filled the image"),
        (square(5, 5, 20, 20), "filled the image"),
        (square(5, 8, 6, 6), "drifted off"),  # 18 of 54 pixels are shared
        (square(5, 7, 6, 6), None),  # 24 of 48
    ],
)
def test_flaws_have_names(after, flaw):
    assert choosing.flaw(square(5, 5, 6, 6), after) == flaw


def test_nothing_grows_out_of_nothing():
    assert choosing.flaw(square(0, 0, 0, 0), square(0, 0, 0, 0)) is None
    assert choosing.flaw(square(0, 0, 0, 0), square(0, 0, 1, 1)) == "filled the image"


def scripted(monkeypatch, **masks: np.ndarray) -> None:
    """Make the candidates of ``auto`` give these masks."""
    for name, mask in masks.items():
        script(monkeypatch, name.replace("_", "-"), lambda _image, _trimap, mask=mask: mask.astype(np.float32))


def test_auto_takes_the_clearest_outline(monkeypatch):
    image, trimap, truth, *_ = composite()
    right, wrong = truth > 0.5, np.roll(truth > 0.5, 6, axis=1)
    scripted(monkeypatch, closed_form=wrong, grabcut=right)
    assert np.array_equal(refine(image, trimap, "auto"), right)
    refined = refine_with_report(image, trimap, "auto", wrong)
    assert (refined.method, refined.fallback) == ("grabcut", None)
    scripted(monkeypatch, closed_form=right, grabcut=wrong)
    assert refine_with_report(image, trimap, "auto", wrong).method == "closed-form"


def test_auto_keeps_a_mask_that_is_clearer_than_all(monkeypatch):
    image, trimap, truth, *_ = composite()
    right, wrong = truth > 0.5, np.roll(truth > 0.5, 6, axis=1)
    scripted(monkeypatch, closed_form=wrong, grabcut=wrong)
    refined = refine_with_report(image, trimap, "auto", right)
    assert (refined.method, refined.fallback) == (None, "no clearer outline")
    assert np.array_equal(refined.alpha, right)


@pytest.mark.parametrize("method", ["closed-form", "auto"])
def test_a_flawed_result_is_dropped_for_the_mask(method, monkeypatch):
    image, trimap, truth, *_ = composite()
    scripted(monkeypatch, closed_form=np.zeros_like(truth) > 0, grabcut=np.zeros_like(truth) > 0)
    refined = refine_with_report(image, trimap, method, truth > 0.5)
    assert (refined.method, refined.fallback) == (None, "vanished")
    assert np.array_equal(refined.alpha, truth > 0.5)
    assert refine_with_report(image, trimap, method).fallback is None  # there is no mask to compare it with


# --- the nearest known region


def test_the_nearest_known_region():
    assert nearest.nearest_known(draw(".???#")).tolist() == [[False, False, False, True, True]]  # a tie is background
    trimap = np.random.default_rng(0).choice(np.array([0, 128, 255], np.uint8), (9, 11), p=[0.05, 0.9, 0.05])
    grid = np.argwhere(np.ones_like(trimap)).reshape(9, 11, 1, 2)
    to = {value: np.hypot(*np.moveaxis(grid - np.argwhere(trimap == value), -1, 0)).min(-1) for value in (0, 255)}
    assert np.array_equal(nearest.nearest_known(trimap), to[255] < to[0])


# --- colours


def test_colours_are_those_of_the_composite():
    image, trimap, truth, true_foreground, true_background = composite()
    refined = refine_with_report(image, trimap, colors=True)
    foreground, background = refined.foreground, refined.background
    for each in (foreground, background):
        assert (each.dtype, each.shape) == (np.float32, image.shape)
        assert 0 <= each.min() <= each.max() <= 1
    observed = image.astype(np.float32) / np.float32(255)
    assert np.array_equal(foreground[refined.alpha == 1], observed[refined.alpha == 1])
    assert np.array_equal(background[refined.alpha == 0], observed[refined.alpha == 0])
    band = (truth > 0.2) & (truth < 0.8)
    assert np.abs(foreground - true_foreground)[band].mean() < 0.5 * np.abs(observed - true_foreground)[band].mean()
    assert np.abs(background - true_background)[band].mean() < 0.5 * np.abs(observed - true_background)[band].mean()


def test_fusion_is_one_descent_step_in_each_colour():
    rng = np.random.default_rng(0)
    alpha = rng.random((6, 7))
    foreground, background = rng.uniform(0.35, 0.65, (2, 6, 7, 3))
    observed = rng.uniform(0.35, 0.65, (6, 7, 3))  # so near to both that nothing is clamped

    def energy(foreground, background):
        return 0.5 * (observed - alpha[..., None] * foreground - (1 - alpha[..., None]) * background) ** 2

    def slope(function, at, step=1e-4):  # exact for a quadratic, up to rounding
        return (function(at + step) - function(at - step)) / (2 * step)

    fused = colors.fuse(observed, foreground, background, alpha)
    expected = foreground - slope(lambda each: energy(each, background), foreground)
    assert fused[0] == pytest.approx(expected)
    assert fused[1] == pytest.approx(background - slope(lambda each: energy(fused[0], each), background))
    left = ((1 - alpha**2) * (2 * alpha - alpha**2))[..., None] ** 2
    assert energy(*fused) == pytest.approx(left * energy(foreground, background))


def test_fusion_by_hand():
    observed, foreground, background = (np.full((1, 3, 3), value, np.float32) for value in (0.5, 0.9, 0.2))
    alpha = np.array([[0.0, 0.5, 1.0]], np.float32)
    fused = colors.fuse(observed, foreground, background, alpha)
    # In the middle the residual is 0.5 - 0.45 - 0.1 = -0.05: F = 0.9 - 0.025, and then B = 0.2 - 0.5 * 0.0375.
    assert fused[0][0, :, 0] == pytest.approx([0.9, 0.875, 0.5])
    assert fused[1][0, :, 0] == pytest.approx([0.5, 0.18125, 0.2])


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (5, 1), (2, 3)])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_colours_of_tiny_images(shape, value):
    image = noise(shape)
    observed = image.astype(np.float32) / np.float32(255)
    foreground, background = colors.estimate_colors(image, np.full(shape, value, np.float32))
    assert np.isfinite(foreground).all()
    assert np.isfinite(background).all()
    if value == 1:
        assert np.array_equal(foreground, observed)
    if value == 0:
        assert np.array_equal(background, observed)


def test_colours_from_several_threads():
    image, _, truth, *_ = composite()
    expected = colors.estimate_colors(image, truth)[0].tobytes()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: colors.estimate_colors(image, truth)[0].tobytes(), range(8)))
    assert set(results) == {expected}
