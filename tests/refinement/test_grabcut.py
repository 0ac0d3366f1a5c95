"""GrabCut: its mixtures, its cut, and what it decides."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN
from camseg.base.errors import SolverError
from camseg.refinement import cuts, mixtures
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


# --- the cut


def random_graph(seed: int):
    """Terminal, neighbours and capacities of whole numbers for a random set of a 6x7 image's pixels."""
    rng = np.random.default_rng(seed)
    nodes = rng.random((6, 7)) < 0.8
    terminal, neighbours, capacities = cuts.contrast_graph(noise(nodes.shape), nodes, ~nodes, 1.0, 0.0)
    capacities[neighbours >= 0] = rng.integers(0, 9, (neighbours >= 0).sum())
    return rng.integers(-20, 21, len(terminal)).astype(float), neighbours, capacities


def cost(side, terminal, neighbours, capacities):
    """What a cut pays: the terminal edges of the other side, and the edges from the source's side to the sink's."""
    node, k = np.nonzero(neighbours >= 0)
    across = side[node] & ~side[neighbours[node, k]]
    return (
        terminal[~side & (terminal > 0)].sum()
        - terminal[side & (terminal < 0)].sum()
        + capacities[node, k][across].sum()
    )


def greatest_flow(terminal, neighbours, capacities):
    count = len(terminal)
    dense = np.zeros((count + 2, count + 2), np.int32)
    node, k = np.nonzero(neighbours >= 0)
    dense[node, neighbours[node, k]] = capacities[node, k]
    dense[count, :count], dense[:count, count + 1] = np.maximum(terminal, 0), np.maximum(-terminal, 0)
    return maximum_flow(csr_matrix(dense), count, count + 1).flow_value


@pytest.mark.parametrize("seed", range(20))
def test_the_cut_costs_as_much_as_the_greatest_flow(seed):
    terminal, neighbours, capacities = random_graph(seed)
    rest = terminal.copy(), neighbours, capacities.copy()
    side = cuts.minimum_cut(*rest)
    assert cost(side, terminal, neighbours, capacities) == greatest_flow(terminal, neighbours, capacities)
    assert (rest[2] >= 0).all()
    change = np.random.default_rng(seed + 100).integers(-15, 16, len(terminal))
    rest[0][:] += change
    again = cuts.minimum_cut(*rest)  # with the first flow still in the graph
    changed = terminal + change, neighbours, capacities
    assert cost(again, *changed) == greatest_flow(*changed)


def test_the_edges_by_hand():
    image = np.array([[[0, 0, 0], [3, 4, 0], [3, 4, 0]], [[0, 0, 0], [3, 4, 0], [0, 0, 0]]], np.uint8)
    nodes = np.array([[False, True, True], [False, False, False]])
    inside = np.array([[True, False, False], [False, False, False]])
    terminal, neighbours, capacities = cuts.contrast_graph(image, nodes, inside, 50.0, 0.1)
    far, diagonal = 50 * np.exp(-2.5), 50 / np.sqrt(2)
    assert neighbours.tolist() == [[-1, -1, -1, -1, 1, -1, -1, -1], [-1, -1, -1, 0, -1, -1, -1, -1]]
    assert (capacities[0, 4], capacities[1, 3], capacities.sum()) == (50, 50, 100)
    # The middle: the object at its left, below it three of the background; the right: two below it.
    assert terminal == pytest.approx([far - 50 - 2 * far / np.sqrt(2), -far - diagonal])


def test_the_contrast_is_that_of_all_neighbours():
    image = noise((5, 4)).astype(int)
    steps = image[1:] - image[:-1], image[:, 1:] - image[:, :-1], image[1:, 1:] - image[:-1, :-1]
    expected = sum((step**2).sum() for step in (*steps, image[1:, :-1] - image[:-1, 1:]))
    assert cuts.squared_contrast(image.astype(np.uint8)) == expected


# --- the mixtures


def test_a_mixture_is_that_of_its_moments():
    colors, component = noise((1, 400))[0], np.arange(400) % 3 * 2  # components 1 and 3 are empty
    mixture = mixtures.fit_mixture(colors, component, 5)
    groups = [colors[component == each] for each in (0, 2, 4)]
    normals = [multivariate_normal(each.mean(0), np.cov(each.T, bias=True)) for each in groups]
    parts = np.stack([each.logpdf(colors) for each in normals], 1) + 1.5 * np.log(2 * np.pi)
    assert mixtures.log_likelihood(colors, mixture) == pytest.approx(
        logsumexp(parts, 1, b=np.array([134, 133, 133]) / 400)
    )
    assert np.array_equal(mixtures.likeliest_component(colors, mixture), parts.argmax(1))


def test_one_colour_is_no_singular_mixture():
    colors = np.full((7, 3), 80, np.uint8)
    mixture = mixtures.fit_mixture(colors, np.zeros(7, int), 5)
    assert mixture.precisions == pytest.approx(100 * np.eye(3)[None])
    assert np.isfinite(mixtures.log_likelihood(noise((1, 50))[0], mixture)).all()


# --- the whole


@pytest.mark.parametrize("seed", range(3))
def test_it_decides_as_opencv_does(seed):
    image, trimap, truth = disc(seed=seed)
    alpha = grabcut(image, trimap)
    assert (alpha.dtype, set(np.unique(alpha))) == (np.float32, {0, 1})
    assert iou(alpha > 0, opencv(image, trimap)) > 0.995
    assert iou(alpha > 0, truth) > 0.95


def test_the_same_bytes_in_any_thread_beside_any_other_work():
    image, trimap, _ = disc()
    expected = grabcut(image, trimap).tobytes()
    cv2.setRNGSeed(7)
    cv2.randu(np.empty((5, 5), np.float32), 0, 1)
    others = [disc(seed=seed)[:2] for seed in (1, 2)]
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(grabcut, *each) for each in ((image, trimap), *others, (image, trimap))]
        assert work[0].result().tobytes() == work[3].result().tobytes() == expected


def test_from_half_the_size(monkeypatch):
    image, trimap, truth = disc(128)
    trimap[70:72, 100:128] = UNKNOWN  # thin, far from any outline
    trimap[100, :] = UNKNOWN
    whole = grabcut(image, trimap)
    monkeypatch.setitem(grabcut.__globals__, "MAX_UNKNOWN", 200)
    monkeypatch.setitem(grabcut.__globals__, "MAX_SAMPLES", 900)
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
        shapes.append(image.shape)
        return contrast_graph(image, *rest)

    contrast_graph = cuts.contrast_graph
    monkeypatch.setattr(cuts, "contrast_graph", spy)
    image, trimap, truth = disc()
    wide = [(20, 30), (40, 10)]
    alpha = grabcut(np.pad(image, (*wide, (0, 0)), mode="reflect"), np.pad(trimap, wide))
    rows, columns = (np.flatnonzero((trimap == UNKNOWN).any(axis)) for axis in (1, 0))
    assert shapes == [(np.ptp(rows) + 3, np.ptp(columns) + 3, 3)]
    assert iou(alpha[20:-30, 40:-10] > 0, truth) > 0.95


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


@pytest.mark.parametrize("values", [(UNKNOWN,), (UNKNOWN, FOREGROUND), (UNKNOWN, BACKGROUND)])
def test_a_kind_that_is_missing(values):
    trimap = np.random.default_rng(0).choice(np.array(values, np.uint8), (5, 6))
    with pytest.raises(SolverError, match="lacks one"):
        grabcut(noise(trimap.shape), trimap)


def test_nothing_unknown():
    assert grabcut(noise((1, 2)), np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
