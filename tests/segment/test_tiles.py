import numpy as np
import pytest

from camseg.classify.preprocessing import Preprocessing
from camseg.segment.tiles import over_image, tiling


def preprocessing(side, resize="stretch"):
    return Preprocessing(image_size=side, resize=resize, window="full", mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize("tile", [None, 100, 400])
def test_an_image_of_no_longer_side_is_one_tile(tile):
    assert tiling(60, 100, tile).boxes == ((0, 0, 60, 100),)


def test_tiles_lie_evenly_and_overlap():
    # 60 pixels beyond the first tile, in steps of at most 30; 20 beyond it, in one step.
    assert tiling(100, 60, 40).boxes == tuple(
        (top, left, top + 40, left + 40) for top in (0, 30, 60) for left in (0, 20)
    )
    assert tiling(30, 90, 50).boxes == ((0, 0, 30, 50), (0, 20, 30, 70), (0, 40, 30, 90))


@pytest.mark.parametrize("size", [(41, 200), (333, 57), (64, 65)])
def test_tiles_cover_the_image(size):
    seen = np.zeros(size, int)
    for top, left, bottom, right in tiling(*size, 40).boxes:
        seen[top:bottom, left:right] += 1
        assert bottom - top <= 40
        assert right - left <= 40
    assert seen.min() >= 1


def test_where_tiles_overlap_their_weighted_mean_is_taken():
    # Tiles of 4 pixels at 0 and 3; of each the outer pixels count half, so that both count the same at pixel 3.
    grids = np.stack([np.zeros((1, 1, 4)), np.ones((1, 1, 4))]).astype(np.float32)
    grids = np.repeat(grids, 4, axis=2)
    found = over_image(grids, tiling(1, 7, 4), preprocessing(4))
    assert found.tolist() == [[[0, 0, 0, 0.5, 1, 1, 1]]]


def test_a_tile_counts_less_towards_its_edge():
    grids = np.stack([np.zeros((1, 8, 8)), np.ones((1, 8, 8))]).astype(np.float32)
    found = over_image(grids, tiling(8, 12, 8), preprocessing(8))
    # They share pixels 4 to 7, of which each counts at its edge 1/4, then 3/4, and fully from its third pixel on.
    assert found[0, 4] == pytest.approx([0, 0, 0, 0, 0.2, 3 / 7, 4 / 7, 0.8, 1, 1, 1, 1])


def test_padding_is_left_out():
    grid = np.full((1, 1, 4, 4), 9, np.float32)
    grid[0, 0, 1:3] = [[1, 2, 3, 4], [5, 6, 7, 8]]
    found = over_image(grid, tiling(2, 4, None), preprocessing(4, "pad"))
    assert found.tolist() == [[[1, 2, 3, 4], [5, 6, 7, 8]]]


def test_one_tile_is_spread_as_it_is():
    grid = np.random.default_rng(0).random((1, 2, 4, 4)).astype(np.float32)
    assert np.array_equal(over_image(grid, tiling(4, 4, 4), preprocessing(4)), grid[0])
    assert over_image(grid, tiling(9, 7, None), preprocessing(4)).shape == (2, 9, 7)
