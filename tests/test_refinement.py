import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pymatting
import pytest
import scipy.sparse

from camseg.arrays import BACKGROUND, FOREGROUND, UNKNOWN
from camseg.errors import AllKnownError, EmptyBackgroundError, EmptyForegroundError, InputError, SolverError
from camseg.refinement import METHODS, colors, nearest, refine, refine_with_report

# The package's names closed_form and grabcut are the functions.
closed_form = importlib.import_module("camseg.refinement.closed_form")
grabcut = importlib.import_module("camseg.refinement.grabcut")


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


@pytest.mark.parametrize("method", METHODS)
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
    assert (alpha > 0.5)[truth > 0.5].mean() > 0.9
    assert (alpha > 0.5)[truth <= 0.5].mean() < 0.01
    assert np.array_equal(image, before[0])
    assert np.array_equal(trimap, before[1])


@pytest.mark.parametrize("method", METHODS)
def test_objects_at_the_border(method):
    image, trimap, truth, *_ = composite(center=(2, 60))
    alpha = refine(image, trimap, method)
    assert np.abs(alpha - truth).mean() < 0.25 * np.abs(trimap / 255 - truth).mean()


@pytest.mark.parametrize("method", METHODS)
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
@pytest.mark.parametrize("method", METHODS)
def test_tiny_images(method, flat, turned, picture):
    trimap = draw(picture).T if turned else draw(picture)
    image = np.full((*trimap.shape, 3), 90, np.uint8) if flat else noise(trimap.shape)
    refined = refine_with_report(image, trimap, method)
    assert refined.fallback is None
    assert np.isfinite(refined.alpha).all()
    assert (refined.alpha[trimap == FOREGROUND] == 1).all()
    assert (refined.alpha[trimap == BACKGROUND] == 0).all()


@pytest.mark.parametrize("kind", ["flat", "two values", "noise"])
@pytest.mark.parametrize("method", METHODS)
def test_images_that_say_little(method, kind):
    _, trimap, truth, *_ = composite()
    hard = np.repeat(np.where(truth > 0.5, 255, 0).astype(np.uint8)[..., None], 3, 2)
    image = {"flat": np.zeros_like(hard), "two values": hard, "noise": noise(trimap.shape)}[kind]
    alpha = refine(image, trimap, method)
    assert np.isfinite(alpha).all()
    if kind == "two values":
        assert np.array_equal(alpha > 0.5, truth > 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_a_reduced_working_size_keeps_known_pixels_exact(method, monkeypatch):
    image, trimap, truth, *_ = composite(96)
    full = refine(image, trimap, method)
    monkeypatch.setattr(closed_form, "MAX_PIXELS", 2000)
    monkeypatch.setattr(grabcut, "MAX_SIDE", 41)
    alpha = refine(image, trimap, method)
    assert not np.array_equal(alpha, full)
    assert (alpha[trimap == FOREGROUND] == 1).all()
    assert (alpha[trimap == BACKGROUND] == 0).all()
    assert np.abs(alpha - truth).mean() < np.abs(full - truth).mean() + 0.01
    assert 0 <= alpha.min() <= alpha.max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_a_region_that_vanishes_at_the_working_size_is_named(method, monkeypatch):
    trimap = np.full((40, 40), UNKNOWN, np.uint8)
    trimap[:, :10] = BACKGROUND
    trimap[21, 21] = FOREGROUND
    monkeypatch.setattr(closed_form, "MAX_PIXELS", 30)
    monkeypatch.setattr(grabcut, "MAX_SIDE", 5)
    with pytest.raises(SolverError, match="foreground vanishes"):
        refine(noise(trimap.shape), trimap, method)


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
@pytest.mark.parametrize("method", METHODS)
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


@pytest.mark.parametrize(
    ("method", "function", "problem"),
    [
        ("closed-form", "pymatting.estimate_alpha_cf", ValueError("did not converge")),
        ("closed-form", "pymatting.estimate_alpha_cf", FloatingPointError("invalid value")),
        ("grabcut", "cv2.grabCut", cv2.error("assertion failed")),
    ],
)
def test_a_solver_that_fails(method, function, problem, monkeypatch):
    def fail(*_args, **_kwargs):
        raise problem

    monkeypatch.setattr(function, fail)
    image, trimap, *_ = composite()
    with pytest.raises(SolverError, match=str(problem)):
        refine(image, trimap, method)
    refined = refine_with_report(image, trimap, method)
    assert refined.fallback == SolverError.reason
    assert np.array_equal(refined.alpha, nearest.nearest_known(trimap))


def test_bad_calls_are_refused_by_both():
    image, trimap, *_ = composite()
    for call in (refine, refine_with_report):
        with pytest.raises(InputError, match="closed-form, grabcut"):
            call(image, trimap, "magic")
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
    assert (refined.fallback, refined.foreground, refined.background) == (None, None, None)
    assert np.array_equal(refined.alpha, refine(image, trimap))


def test_importing_the_refiners_does_not_load_numba():
    check = "import sys, camseg.refinement; sys.exit(not {'numba', 'pymatting'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


# --- closed form


@pytest.mark.parametrize("center", [(30, 34), (0, 0), (20, 63), (63, 20)])
def test_the_box_around_the_band_has_the_solution_of_the_whole_image(center):
    image, trimap, *_ = composite(center=center)
    image, trimap = np.pad(image, ((0, 30), (25, 0), (0, 0)), mode="reflect"), np.pad(trimap, ((0, 30), (25, 0)))
    assert np.array_equal(closed_form.closed_form(image, trimap), closed_form._solve(image, trimap))


def test_closed_form_is_that_of_pymatting():
    image, trimap, *_ = composite()
    expected = pymatting.estimate_alpha_cf(image / 255, trimap / 255, cg_kwargs={"rtol": 1e-9})
    assert refine(image, trimap) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("boxed_with", [None, "the other kind"])
@pytest.mark.parametrize("kind", [BACKGROUND, FOREGROUND])
def test_unknown_pixels_among_one_kind_only(kind, boxed_with):
    trimap = np.full((30, 60), kind, np.uint8)
    trimap[:, 40:] = FOREGROUND - kind
    trimap[4:8, 10:14] = trimap[20:24, 10:14] = UNKNOWN
    if boxed_with:
        trimap[11:17, 9:15] = FOREGROUND - kind  # within the bounding box, yet in no window with an unknown pixel
    expected = np.where(trimap == UNKNOWN, kind, trimap) / 255
    assert refine(noise(trimap.shape), trimap) == pytest.approx(expected, abs=1e-5)


def test_the_preconditioner_prints_nothing(capsys):
    indefinite = scipy.sparse.csr_matrix(np.array([[1.0, 3.0], [3.0, 1.0]]))  # a shift above 2 makes it definite
    vector = np.array([1.0, 2.0])
    precondition = closed_form._incomplete_cholesky(indefinite)
    assert precondition(vector) == pytest.approx(np.linalg.solve(indefinite.toarray() + 10 * np.eye(2), vector))
    assert capsys.readouterr() == ("", "")


# --- GrabCut


def test_grabcut_is_that_of_opencv():
    image, trimap, *_ = composite()
    labels = np.where(nearest.nearest_known(trimap), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[trimap == 255], labels[trimap == 0] = cv2.GC_FGD, cv2.GC_BGD
    cv2.setRNGSeed(0)
    cv2.grabCut(image, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    assert np.array_equal(refine(image, trimap, "grabcut"), (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))


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
