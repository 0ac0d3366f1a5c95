import numpy as np
import pytest
from scipy import ndimage

from camseg.base.arrays import FOREGROUND, UNKNOWN
from camseg.base.errors import AllKnownError, InputError
from camseg.measure.matting_errors import (
    connectivity_error,
    gradient_error,
    mean_squared_error,
    sum_of_absolute_differences,
)

ERRORS = [sum_of_absolute_differences, mean_squared_error, gradient_error, connectivity_error]


def row(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


def unknown(shape: tuple[int, int]) -> np.ndarray:
    return np.full(shape, UNKNOWN, dtype=np.uint8)


def test_the_first_two_by_hand():
    alpha, truth = row(1, 0.5, 0.25, 0), row(1, 1, 0, 0.5)
    trimap = np.array([[UNKNOWN, UNKNOWN, UNKNOWN, FOREGROUND]], dtype=np.uint8)
    assert sum_of_absolute_differences(alpha, truth, trimap) == pytest.approx((0.5 + 0.25) / 1000)
    assert mean_squared_error(alpha, truth, trimap) == pytest.approx((0.25 + 0.0625) / 3)


@pytest.mark.parametrize("error", ERRORS)
def test_equal_mattes_have_no_error_and_the_order_does_not_matter(error):
    rng = np.random.default_rng(0)
    alpha, truth = rng.random((2, 20, 30), dtype=np.float32)
    assert error(truth, truth.copy(), unknown(truth.shape)) == 0
    assert error(alpha, truth, unknown(truth.shape)) == pytest.approx(error(truth, alpha, unknown(truth.shape)))
    assert error(alpha, truth, unknown(truth.shape)) > 0


@pytest.mark.parametrize("error", ERRORS)
def test_only_unknown_pixels_count(error):
    rng = np.random.default_rng(0)
    alpha, truth = rng.random((2, 30, 40), dtype=np.float32)
    trimap = unknown(truth.shape)
    trimap[:, 20:] = FOREGROUND
    here = error(alpha, truth, trimap)
    assert 0 < here < error(alpha, truth, unknown(truth.shape)) or error is mean_squared_error
    alpha[:, 25:] = truth[:, 25:]  # further than the gradient's kernel reaches
    if error is not connectivity_error:
        assert error(alpha, truth, trimap) == here


def test_the_gradient_of_a_ramp_by_hand():
    ramp = np.tile(np.arange(40, dtype=np.float32) / 50, (40, 1))
    flat = np.zeros_like(ramp)
    trimap = np.full(ramp.shape, FOREGROUND, dtype=np.uint8)
    trimap[20, 20] = UNKNOWN
    # A slope of s gives s * sum(u^2 g(u)) / |u g(u)| across and sum(g) / |g| down, with g(u) = exp(-u^2 / 3.92).
    u = np.arange(-4, 5)
    g = np.exp(-(u**2) / (2 * 1.4**2))
    magnitude = 0.02 * (u**2 * g).sum() / np.sqrt(((u * g) ** 2).sum()) * g.sum() / np.sqrt((g**2).sum())
    assert gradient_error(ramp, flat, trimap) == pytest.approx(magnitude**2 / 1000, rel=1e-5)
    assert gradient_error(ramp.T.copy(), flat, trimap) == pytest.approx(magnitude**2 / 1000, rel=1e-5)
    assert gradient_error(ramp, ramp.T.copy(), trimap) == pytest.approx(0, abs=1e-12)  # magnitudes alone count


def test_the_gradient_is_that_of_the_fields_evaluation_code():
    rng = np.random.default_rng(0)
    alpha, truth = rng.random((2, 16, 19), dtype=np.float32)
    u = np.arange(-4, 5)
    pdf = np.exp(-(u**2) / (2 * 1.4**2)) / (1.4 * np.sqrt(2 * np.pi))
    kernel = np.outer(pdf, -u * pdf / 1.4**2)
    kernel /= np.sqrt((kernel**2).sum())
    magnitudes = [
        np.hypot(*(ndimage.convolve(matte.astype(float), each, mode="nearest") for each in (kernel, kernel.T)))
        for matte in (alpha, truth)
    ]
    expected = ((magnitudes[0] - magnitudes[1]) ** 2).sum() / 1000
    assert gradient_error(alpha, truth, unknown(alpha.shape)) == pytest.approx(expected, rel=1e-6)


def test_connectivity_by_hand():
    # The largest region where both reach 0.1 is the first three pixels; the island has level 0, hence d = alpha.
    truth = row(1, 1, 1, 0, 0, 0)
    alpha = row(1, 1, 1, 0, 0.6, 0)
    assert connectivity_error(alpha, truth, unknown(truth.shape)) == pytest.approx(0.6 / 1000)
    # Below theta = 0.15 it is no part of its own.
    alpha[0, 4] = 0.14
    assert connectivity_error(alpha, truth, unknown(truth.shape)) == 0
    # The last pixel is connected up to 0.5, the lower of the two: the truth is 0.5 above that, and alpha 0.
    alpha, truth = row(1, 1, 1, 0.5), row(1, 1, 1, 1)
    assert connectivity_error(alpha, truth, unknown(truth.shape)) == pytest.approx(0.5 / 1000)


def test_a_pixel_that_loses_its_way_at_one_level_stays_at_the_level_below():
    # The bridge holds up to 0.3, so the right end, 1 in both mattes, has level 0.3 and differs in neither.
    truth = row(1, 1, 1, 0.3, 1)
    alpha = row(1, 1, 1, 0.3, 0.5)
    assert connectivity_error(alpha, truth, unknown(truth.shape)) == pytest.approx((0.7 - 0.2) / 1000)


def test_corners_do_not_connect():
    truth = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=np.float32)
    alpha = truth.copy()
    alpha[2, 2] = 0.5
    # Level 0 for the lower right pixel: 1 - 1 against 1 - 0.5.
    assert connectivity_error(alpha, truth, unknown(truth.shape)) == pytest.approx(0.5 / 1000)


def test_mattes_without_anything_in_common():
    truth, alpha = row(1, 0), row(0, 1)
    assert connectivity_error(alpha, truth, unknown(truth.shape)) == pytest.approx(2 / 1000)


@pytest.mark.parametrize("error", ERRORS)
def test_what_cannot_be_compared(error):
    alpha = row(0.5, 1)
    with pytest.raises(AllKnownError, match="no unknown pixel"):
        error(alpha, alpha, np.zeros((1, 2), np.uint8))
    with pytest.raises(InputError, match="estimated and true matte differ in size"):
        error(alpha, alpha.T.copy(), unknown((1, 2)))
    with pytest.raises(InputError, match="matte and trimap differ in size"):
        error(alpha, alpha, unknown((2, 1)))
    with pytest.raises(InputError, match=r"expected a map in \[0, 1\]"):
        error(255 * alpha, alpha, unknown((1, 2)))
