import numpy as np
import pytest

from camseg.base.geometry import squared_distance


def test_squared_distances_are_exact_whole_numbers():
    target = np.random.default_rng(0).random((30, 41)) < 0.02
    rows, columns = np.mgrid[:30, :41]
    points = np.argwhere(target)
    wanted = ((rows[..., None] - points[:, 0]) ** 2 + (columns[..., None] - points[:, 1]) ** 2).min(axis=-1)
    found = squared_distance(target)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 3)])
def test_nothing_to_be_near_to(shape):
    assert np.isinf(squared_distance(np.zeros(shape, bool))).all()
    assert not squared_distance(np.ones(shape, bool)).any()
