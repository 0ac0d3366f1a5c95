from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pymatting
import pytest

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN
from camseg.base.errors import SolverError
from camseg.refinement import colors
from camseg.refinement.closed_form import closed_form
from camseg.refinement.solvers import laplacian


def ring(height: int, width: int, inner: float = 0.2, outer: float = 0.36) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    angle = np.arctan2(y - height / 2, x - width / 2)
    radius = np.hypot(y / height - 0.5, x / width - 0.5) + 0.03 * np.sin(4 * angle)
    trimap = np.full((height, width), UNKNOWN, np.uint8)
    trimap[radius < inner] = FOREGROUND
    trimap[radius > outer] = BACKGROUND
    return trimap


def picture(kind: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.random((height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    image = {
        "noise": noise,
        "smooth": smooth,
        "texture": 0.8 * smooth + 0.2 * noise,
        "grey": np.repeat((0.9 * smooth + 0.1 * noise)[..., :1], 3, axis=2),
        "flat": np.full_like(noise, 0.4),
        "two halves": np.where(np.arange(width)[:, None] < width / 2, 0.2, 0.9) * np.ones_like(noise),
    }[kind]
    return np.rint(255 * image).astype(np.uint8)


def assert_known_exact(alpha, trimap):
    assert (alpha.dtype, alpha.shape) == (np.float32, trimap.shape)
    assert np.isfinite(alpha).all()
    assert 0 <= alpha.min() <= alpha.max() <= 1
    assert (alpha[trimap == FOREGROUND] == 1).all()
    assert (alpha[trimap == BACKGROUND] == 0).all()


# --- the same as pymatting on the whole image


@pytest.mark.parametrize("size", [(64, 64), (90, 61)])
@pytest.mark.parametrize("kind", ["noise", "smooth", "texture", "grey", "flat"])
def test_it_is_the_solution_of_pymatting(kind, size):
    image, trimap = picture(kind, *size), ring(*size)
    expected = pymatting.estimate_alpha_cf(image / 255, trimap / 255, cg_kwargs={"rtol": 1e-10})
    alpha = closed_form(image, trimap)
    assert_known_exact(alpha, trimap)
    error = np.abs(alpha - expected)[trimap == UNKNOWN]
    assert error.max() < 1e-2
    assert error.mean() < 1e-3


@pytest.mark.parametrize("shift", [(-32, -32), (20, -30), (0, 40)])
def test_bands_that_leave_the_image(shift):
    image = picture("texture", 64, 64)
    trimap = cv2.warpAffine(ring(64, 64), np.float64([[1, 0, shift[1]], [0, 1, shift[0]]]), (64, 64))
    trimap = np.select([trimap > 200, trimap > 60], [FOREGROUND, UNKNOWN], BACKGROUND).astype(np.uint8)
    expected = pymatting.estimate_alpha_cf(image / 255, trimap / 255, cg_kwargs={"rtol": 1e-10})
    assert closed_form(image, trimap) == pytest.approx(expected, abs=5e-3)


def test_scattered_unknown_pixels():
    rng = np.random.default_rng(3)
    trimap = rng.choice(np.array([BACKGROUND, UNKNOWN, FOREGROUND], np.uint8), (50, 70), p=[0.4, 0.2, 0.4])
    image = picture("texture", 50, 70)
    expected = pymatting.estimate_alpha_cf(image / 255, trimap / 255, cg_kwargs={"rtol": 1e-10})
    assert closed_form(image, trimap) == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("side", [4, 8, 12])
def test_the_squares_of_the_coarse_equations_do_not_move_the_solution(side, monkeypatch):
    image, trimap = picture("texture", 80, 80), ring(80, 80)
    expected = closed_form(image, trimap)
    monkeypatch.setattr(laplacian, "_side", lambda _unknown: side)
    assert closed_form(image, trimap) == pytest.approx(expected, abs=5e-3)


# --- what is hardly an image


@pytest.mark.parametrize("picture_of", [".?#", ".??????#", "?", "?#", ".???.. ##????", ".? ?#", ".???#. ...... ##?..."])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ["flat", "noise"])
def test_tiny_images(picture_of, turned, kind):
    values = {".": BACKGROUND, "?": UNKNOWN, "#": FOREGROUND}
    trimap = np.array([[values[pixel] for pixel in row] for row in picture_of.split()], np.uint8)
    trimap = trimap.T if turned else trimap
    assert_known_exact(closed_form(picture(kind, *trimap.shape), trimap), trimap)


@pytest.mark.parametrize("kind", ["flat", "noise", "grey", "two halves"])
def test_a_band_of_one_pixel(kind):
    trimap = np.zeros((20, 30), np.uint8)
    trimap[5:15, 5:25], trimap[6:14, 6:24] = UNKNOWN, FOREGROUND
    assert_known_exact(closed_form(picture(kind, 20, 30), trimap), trimap)


@pytest.mark.parametrize("kind", ["flat", "noise", "grey", "two halves"])
@pytest.mark.parametrize("known", [BACKGROUND, FOREGROUND])
def test_unknown_pixels_among_one_kind_take_its_value(known, kind):
    trimap = np.full((40, 40), known, np.uint8)
    trimap[4:20, 6:30] = UNKNOWN
    trimap[36:, :] = FOREGROUND - known
    expected = np.where(trimap == UNKNOWN, known, trimap) / 255
    assert closed_form(picture(kind, 40, 40), trimap) == pytest.approx(expected, abs=1e-3)


def test_an_object_within_an_unknown_frame_and_nothing_known_at_all():
    trimap = np.full((30, 30), UNKNOWN, np.uint8)
    trimap[12:18, 12:18], trimap[2:4, 2:4] = FOREGROUND, BACKGROUND
    for kind in ("flat", "noise", "two halves"):
        assert_known_exact(closed_form(picture(kind, 30, 30), trimap), trimap)
    assert not closed_form(picture("noise", 9, 9), np.full((9, 9), UNKNOWN, np.uint8)).any()
    assert closed_form(picture("noise", 9, 9), np.full((9, 9), FOREGROUND, np.uint8)).all()


def test_a_solver_that_does_not_converge_says_so(monkeypatch):
    monkeypatch.setattr(laplacian, "MAX_STEPS", 2)
    with pytest.raises(SolverError, match="2 steps"):
        closed_form(picture("texture", 64, 64), ring(64, 64))


# --- bytes and cost


def test_the_same_bytes_in_any_thread():
    image, trimap = picture("texture", 64, 64), ring(64, 64)
    expected = closed_form(image, trimap).tobytes()
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: closed_form(image, trimap).tobytes(), range(8))) == {expected}


def test_what_is_assembled_grows_with_the_band_not_with_the_image(monkeypatch):
    nodes = []

    def assemble(position, *rest, function=laplacian._assemble):
        nodes.append(len(position))
        return function(position, *rest)

    monkeypatch.setattr(laplacian, "_assemble", assemble)
    image, trimap = picture("texture", 60, 60), ring(60, 60)
    small = closed_form(image, trimap)
    wide = [(0, 200), (300, 0)]
    large = closed_form(np.pad(image, [*wide, (0, 0)], mode="reflect"), np.pad(trimap, wide))
    assert np.array_equal(large[:60, 300:], small)
    dilated = cv2.dilate((trimap == UNKNOWN).astype(np.uint8), np.ones((5, 5), np.uint8))
    assert nodes == [dilated.sum()] * 2


# --- colours


def test_colours_beyond_the_mixed_pixels_are_the_image():
    alpha = np.zeros((120, 120), np.float32)
    alpha[50:60, 50:60], alpha[51:59, 51:59] = 0.5, 1
    image = picture("texture", 120, 120)
    observed = image.astype(np.float32) / np.float32(255)
    foreground, background = colors.estimate_colors(image, alpha)
    assert np.array_equal(foreground[alpha == 1], observed[alpha == 1])
    assert np.array_equal(background[alpha == 0], observed[alpha == 0])
    assert np.array_equal(foreground[:30], observed[:30])
    blend = alpha[..., None] * foreground + (1 - alpha[..., None]) * background
    assert np.abs(blend - observed).max() < 0.1
