import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pymatting
import pytest
import scipy.sparse.linalg

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN
from camseg.base.errors import SolverError
from camseg.refinement import laplacians

REFINERS = [laplacians.large_kernel, laplacians.knn]
each_refiner = pytest.mark.parametrize("refiner", REFINERS, ids=lambda refiner: refiner.__name__)


def composite(size: int = 64, center: tuple[float, float] = (30, 34), radius: float = 9, seed: int = 0):
    """A soft disc over a textured background with a band of unknown pixels: image, trimap and the true alpha."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    distance = np.hypot(y - center[0], x - center[1])
    alpha = np.clip((radius - distance) / 4 + 0.5, 0, 1).astype(np.float32)
    foreground, background = (
        np.clip(cv2.GaussianBlur(rng.random((size, size, 3)), (0, 0), 5) * 0.6 + tint, 0, 1)
        for tint in ((0.4, 0.1, 0.0), (0.0, 0.1, 0.4))
    )
    image = np.rint(255 * (alpha[..., None] * foreground + (1 - alpha[..., None]) * background)).astype(np.uint8)
    trimap = np.full((size, size), UNKNOWN, np.uint8)
    trimap[distance < radius - 5] = FOREGROUND
    trimap[distance > radius + 5] = BACKGROUND
    return image, trimap, alpha


def draw(picture: str) -> np.ndarray:
    return np.array([[{".": 0, "?": 128, "#": 255}[pixel] for pixel in row] for row in picture.split()], np.uint8)


def noise(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


# --- what is solved


def test_knn_minimises_the_energy_of_pymatting():
    image, trimap, _ = composite(32, center=(15, 16), radius=8)  # a crop of 32 pixels: the whole image
    unknown, expected = np.flatnonzero(trimap == UNKNOWN), (trimap.ravel() == FOREGROUND).astype(float)
    rows = pymatting.knn_laplacian(image / 255).tocsr()[unknown]
    expected[unknown] = scipy.sparse.linalg.spsolve(rows[:, unknown].tocsc(), -(rows @ expected))
    np.testing.assert_allclose(laplacians.knn(image, trimap).ravel(), expected.clip(0, 1), atol=1e-3)


def test_large_kernel_minimises_the_energy_of_pymatting_on_the_whole_image(monkeypatch):
    monkeypatch.setattr(laplacians, "KERNEL_RADIUS", 3)
    image, trimap, _ = composite(size=40, center=(20, 22), radius=8)
    product = pymatting.lkm_laplacian(image / 255, radius=3, return_diagonal=False)
    dense = np.stack([product(column) for column in np.eye(trimap.size)], axis=1)
    unknown, expected = np.flatnonzero(trimap == UNKNOWN), (trimap.ravel() == FOREGROUND).astype(float)
    expected[unknown] = np.linalg.solve(dense[np.ix_(unknown, unknown)], -(dense[unknown] @ expected))
    np.testing.assert_allclose(laplacians.large_kernel(image, trimap).ravel(), expected.clip(0, 1), atol=1e-3)


@each_refiner
def test_what_lies_beyond_the_crop_does_not_count(refiner):
    image, trimap, _ = composite(size=96, center=(44, 50))
    distance = np.hypot(*(np.mgrid[:96, :96] - np.array([44, 50])[:, None, None]))
    other = image.copy()
    # Twice the radius of the large windows, or the margin of the nearest neighbours, beyond the unknown pixels.
    other[distance > 14 * np.sqrt(2) + 2 * laplacians.KERNEL_RADIUS * np.sqrt(2) + 1] = 0
    assert np.array_equal(refiner(other, trimap), refiner(image, trimap))


# --- every refiner


@each_refiner
def test_alpha_is_nearer_to_the_truth_than_the_trimap_is(refiner):
    image, trimap, truth = composite()
    before = image.copy(), trimap.copy()
    alpha = refiner(image, trimap)
    assert (alpha.dtype, alpha.shape) == (np.float32, trimap.shape)
    assert 0 <= alpha.min() <= alpha.max() <= 1
    assert (alpha[trimap == FOREGROUND] == 1).all()
    assert (alpha[trimap == BACKGROUND] == 0).all()
    assert np.abs(alpha - truth).mean() < 0.6 * np.abs(trimap / 255 - truth).mean()
    assert np.array_equal(image, before[0])
    assert np.array_equal(trimap, before[1])


@each_refiner
def test_the_same_bytes_in_any_thread(refiner):
    image, trimap, _ = composite()
    expected = refiner(image, trimap).tobytes()
    other = composite(seed=1)[:2]
    threads = cv2.getNumThreads()
    try:
        for count in (1, 3):
            cv2.setNumThreads(count)
            with ThreadPoolExecutor(3) as pool:
                work = [pool.submit(refiner, *pair) for pair in ((image, trimap), other, (image, trimap))]
                assert work[0].result().tobytes() == work[2].result().tobytes() == expected
    finally:
        cv2.setNumThreads(threads)


PICTURES = [".?#", ".??????#", "..? .?? ??#", ".? ?#", ".???.. ##????", "?.?#?", "??? ?#? ??.", ".#? ..? ???"]


@each_refiner
@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_tiny_images(refiner, flat, turned, picture):
    trimap = draw(picture).T if turned else draw(picture)
    image = np.full((*trimap.shape, 3), 90, np.uint8) if flat else noise(trimap.shape)
    alpha = refiner(image, trimap)
    assert np.isfinite(alpha).all()
    assert alpha.shape == trimap.shape
    assert (alpha[trimap == FOREGROUND] == 1).all()
    assert (alpha[trimap == BACKGROUND] == 0).all()


@each_refiner
@pytest.mark.parametrize("kind", ["flat", "two values", "noise"])
def test_images_that_say_little(refiner, kind):
    _, trimap, truth = composite()
    hard = np.repeat(np.where(truth > 0.5, 255, 0).astype(np.uint8)[..., None], 3, 2)
    image = {"flat": np.zeros_like(hard), "two values": hard, "noise": noise(trimap.shape)}[kind]
    alpha = refiner(image, trimap)
    assert np.isfinite(alpha).all()
    if kind == "two values":
        assert np.array_equal(alpha > 0.5, truth > 0.5)


@each_refiner
@pytest.mark.parametrize(("known", "expected"), [(BACKGROUND, 0), (FOREGROUND, 1)])
@pytest.mark.parametrize("width", [30, 100])  # with or without the other kind in the crop
def test_unknown_pixels_within_one_kind_are_of_that_kind(refiner, width, known, expected):
    trimap = np.full((20, width + 10), FOREGROUND + BACKGROUND - known, np.uint8)
    trimap[:, :width] = known
    trimap[8:12, 6:10] = UNKNOWN
    image = np.full((*trimap.shape, 3), 60, np.uint8)
    image[:, width:] = 200
    np.testing.assert_allclose(refiner(image, trimap)[8:12, 6:10], expected, atol=1e-3)


def test_knn_joins_like_colours_that_lie_apart():
    trimap = np.full((40, 60), BACKGROUND, np.uint8)
    image = np.full((40, 60, 3), 40, np.uint8)
    image[10:30, 10:20] = image[16:18, 41:44] = (200, 60, 60)  # a small piece, which touches only background
    trimap[12:28, 12:20] = FOREGROUND
    trimap[8:32, 8:12] = trimap[13:22, 38:47] = UNKNOWN
    assert (laplacians.knn(image, trimap)[16:18, 41:44] > 0.2).all()
    assert (laplacians.large_kernel(image, trimap)[16:18, 41:44] < 0.01).all()


# --- bounds


@each_refiner
def test_a_reduced_working_size_keeps_known_pixels_exact(refiner, monkeypatch):
    image, trimap, truth = composite()
    for name in ("MAX_KERNEL_CROP", "MAX_KNN_CROP"):
        monkeypatch.setattr(laplacians, name, 250)
    alpha = refiner(image, trimap)
    assert (alpha[trimap == FOREGROUND] == 1).all()
    assert (alpha[trimap == BACKGROUND] == 0).all()
    assert np.abs(alpha - truth).mean() < 0.8 * np.abs(trimap / 255 - truth).mean()


@each_refiner
def test_a_foreground_too_thin_for_the_working_size_is_named(refiner, monkeypatch):
    trimap = np.full((64, 64), UNKNOWN, np.uint8)
    trimap[:, :9] = BACKGROUND
    trimap[40, 41] = FOREGROUND
    for name in ("MAX_KERNEL_CROP", "MAX_KNN_CROP"):
        monkeypatch.setattr(laplacians, name, 250)
    with pytest.raises(SolverError, match="foreground vanishes"):
        refiner(noise(trimap.shape), trimap)


@each_refiner
def test_a_solver_that_gets_nowhere_is_named(refiner, monkeypatch):
    monkeypatch.setattr(laplacians, "MAX_STEPS", 2)
    image, trimap, _ = composite()
    with pytest.raises(SolverError, match=r"2 iterations.*try another refiner"):
        refiner(image, trimap)


def test_memory_grows_with_the_band_and_not_with_the_photo():
    code = """if True:
        import resource
        import numpy as np
        import pymatting
        from camseg.refinement import laplacians
        image = np.full((3000, 4000, 3), 50, np.uint8)
        image[:1020] = 90
        trimap = np.zeros((3000, 4000), np.uint8)
        trimap[1000:1040, 500:800] = 128
        trimap[1018:1022, 500:800] = 255
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        laplacians.large_kernel(image, trimap)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert int(run.stdout) < 200_000  # KB
