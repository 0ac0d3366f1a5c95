"""GrabCut: what it decides, beside OpenCV on the whole image."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import skimage.data

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN
from camseg.base.errors import SolverError
from camseg.refinement.grabcut import grabcut
from camseg.refinement.nearest import nearest_known


def disc(size: int = 64, seed: int = 0):
    """A wavy disc in noise: image, trimap and true mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size * 0.45
    distance = np.hypot(y, x) + size * 0.02 * np.sin(5 * np.arctan2(y, x))
    truth = distance < size * 0.28
    image = np.where(truth[..., None], (150, 90, 80), (90, 110, 120)) + rng.normal(0, 15, (size, size, 3))
    trimap = np.full((size, size), UNKNOWN, np.uint8)
    trimap[distance < size * 0.2] = FOREGROUND
    trimap[distance > size * 0.36] = BACKGROUND
    return np.clip(image, 0, 255).astype(np.uint8), trimap, truth


def opencv(image, trimap):
    labels = np.where(nearest_known(trimap), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[trimap == FOREGROUND], labels[trimap == BACKGROUND] = cv2.GC_FGD, cv2.GC_BGD
    cv2.setRNGSeed(0)
    cv2.grabCut(image, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_it_decides_as_opencv_does(seed):
    image, trimap, truth = disc(seed=seed)
    alpha = grabcut(image, trimap)
    assert (alpha.dtype, set(np.unique(alpha))) == (np.float32, {0, 1})
    assert iou(alpha > 0, opencv(image, trimap)) > 0.995
    assert iou(alpha > 0, truth) > 0.95


def test_photos_are_cut_as_opencv_cuts_them():
    image = cv2.resize(skimage.data.chelsea(), (600, 400), interpolation=cv2.INTER_AREA)
    trimap = np.full(image.shape[:2], BACKGROUND, np.uint8)
    cv2.ellipse(trimap, (300, 170), (215, 150), 0, 0, 360, UNKNOWN, -1)
    cv2.ellipse(trimap, (300, 170), (185, 120), 0, 0, 360, FOREGROUND, -1)
    assert iou(grabcut(image, trimap) > 0, opencv(image, trimap)) > 0.97


def test_wide_bands_are_fitted_again(monkeypatch):
    image = cv2.resize(skimage.data.coffee(), (1024, 683), interpolation=cv2.INTER_CUBIC)
    trimap = np.full(image.shape[:2], BACKGROUND, np.uint8)
    cv2.ellipse(trimap, (512, 341), (341 + 12, 228 + 12), 0, 0, 360, UNKNOWN, -1)
    cv2.ellipse(trimap, (512, 341), (341 - 12, 228 - 12), 0, 0, 360, FOREGROUND, -1)
    expected = opencv(image, trimap)
    again = iou(grabcut(image, trimap) > 0, expected)
    monkeypatch.setattr("camseg.refinement.grabcut.FITTED_ONCE", 2**30)
    assert again > max(0.98, iou(grabcut(image, trimap) > 0, expected))


def test_the_same_bytes_in_any_thread_beside_any_other_work(monkeypatch):
    monkeypatch.setitem(grabcut.__globals__, "MAX_SAMPLES", 500)
    monkeypatch.setitem(grabcut.__globals__, "MAX_UNKNOWN", 300)
    monkeypatch.setitem(grabcut.__globals__, "TILE", 30)
    image, trimap, _ = disc()
    expected = grabcut(image, trimap).tobytes()
    cv2.setRNGSeed(7)
    cv2.randu(np.empty((5, 5), np.float32), 0, 1)
    others = [disc(seed=seed)[:2] for seed in (1, 2)]
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(grabcut, *each) for each in ((image, trimap), *others, (image, trimap))]
        assert work[0].result().tobytes() == work[3].result().tobytes() == expected
    threads = cv2.getNumThreads()
    try:
        for count in (1, 4):
            cv2.setNumThreads(count)
            assert grabcut(image, trimap).tobytes() == expected
    finally:
        cv2.setNumThreads(threads)


@pytest.mark.parametrize("limits", [{"MAX_UNKNOWN": 200}, {"MAX_SAMPLES": 900}, {"TILE": 40}])
def test_limits_hardly_move_the_outline(limits, monkeypatch):
    image, trimap, truth = disc(128)
    trimap[70:72, 100:128] = UNKNOWN  # thin, far from any outline
    trimap[100, :] = trimap[:, 101] = UNKNOWN
    whole = grabcut(image, trimap)
    for name, value in limits.items():
        monkeypatch.setitem(grabcut.__globals__, name, value)
    alpha = grabcut(image, trimap)
    assert iou(alpha > 0, whole > 0) > 0.97
    assert iou(alpha > 0, truth) > 0.95
    assert (alpha[trimap == FOREGROUND] == 1).all()
    assert (alpha[trimap == BACKGROUND] == 0).all()
    trimap[trimap == FOREGROUND] = UNKNOWN
    trimap[61, 61] = FOREGROUND  # no pixel of half the size
    assert grabcut(image, trimap)[61, 61] == 1


def test_only_the_surroundings_of_the_band_are_cut(monkeypatch):
    shapes = []

    def spy(image, *rest):
        shapes.append(image.shape[:2])
        return cut(image, *rest)

    cut = cv2.grabCut
    image, trimap, truth = disc()
    wide = [(20, 30), (40, 10)]
    trimap = np.pad(trimap, wide)
    monkeypatch.setattr(cv2, "grabCut", spy)
    alpha = grabcut(np.pad(image, (*wide, (0, 0)), mode="reflect"), trimap)
    rows, columns = (np.flatnonzero((trimap == UNKNOWN).any(axis)) for axis in (1, 0))
    assert shapes[1:] == [(np.ptp(rows) + 3, np.ptp(columns) + 3)]  # the first call fits the mixtures
    assert iou(alpha[20:-30, 40:-10] > 0, truth) > 0.95


def test_what_opencv_refuses_is_named(monkeypatch):
    def fail(*_arguments):
        raise cv2.error("OpenCV: (-4:Insufficient memory)")

    monkeypatch.setattr(cv2, "grabCut", fail)
    with pytest.raises(SolverError, match=r"Insufficient memory.*use another refiner"):
        grabcut(*disc()[:2])


@pytest.mark.parametrize(
    "picture", [".?#", ".??????#", "..? .?? ??#", ".? ?#", ".???.. ##????", "?.?#?", "??? ?#? ??."]
)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_tiny_images(picture, turned, flat):
    trimap = np.array([[{".": 0, "?": 128, "#": 255}[each] for each in row] for row in picture.split()], np.uint8)
    trimap = np.ascontiguousarray(trimap.T) if turned else trimap
    alpha = grabcut(np.full((*trimap.shape, 3), 90, np.uint8) if flat else noise(trimap.shape), trimap)
    assert set(np.unique(alpha)) <= {0, 1}
    assert (alpha[trimap == FOREGROUND] == 1).all()
    assert (alpha[trimap == BACKGROUND] == 0).all()


@pytest.mark.parametrize("fill", ["flat", "grey", "noise"])
def test_images_that_say_little_and_bands_at_every_border(fill):
    trimap = np.full((40, 50), UNKNOWN, np.uint8)
    trimap[20, 10], trimap[20, 40] = FOREGROUND, BACKGROUND
    image = noise(trimap.shape)
    image = {"flat": np.full_like(image, 9), "grey": image[..., :1].repeat(3, 2), "noise": image}[fill]
    alpha = grabcut(image, trimap)
    assert (alpha[20, 10], alpha[20, 40]) == (1, 0)


def test_unknown_pixels_within_one_kind():
    image, trimap, _ = disc()
    trimap[28, 28] = trimap[1:4, 1:4] = UNKNOWN
    alpha = grabcut(image, trimap)
    assert alpha[28, 28] == 1
    assert (alpha[1:4, 1:4] == 0).all()


@pytest.mark.parametrize("limit", [2**15, 10])
def test_a_band_that_half_the_size_does_not_see_or_settles(limit, monkeypatch):
    monkeypatch.setitem(grabcut.__globals__, "MAX_UNKNOWN", limit)
    image, trimap, _ = disc()
    trimap[trimap == UNKNOWN] = FOREGROUND
    lines = np.zeros(trimap.shape, bool)
    lines[29, 22:36] = lines[1:13:2, 1:13:2] = True
    alpha = grabcut(image, np.where(lines, UNKNOWN, trimap))
    assert np.array_equal(alpha > 0, trimap == FOREGROUND)
    block = trimap.copy()
    block[:20, 40:] = UNKNOWN
    block[:20, 38:40] = block[20:22, 38:] = BACKGROUND
    assert not grabcut(image, block)[:20, 40:].any()


@pytest.mark.parametrize("values", [(UNKNOWN,), (UNKNOWN, FOREGROUND), (UNKNOWN, BACKGROUND)])
def test_a_kind_that_is_missing(values):
    trimap = np.random.default_rng(0).choice(np.array(values, np.uint8), (5, 6))
    with pytest.raises(SolverError, match="lacks one"):
        grabcut(noise(trimap.shape), trimap)


def test_nothing_unknown():
    assert grabcut(noise((1, 2)), np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
