import numpy as np
import pytest

from camseg.classify.preprocessing import Preprocessing
from camseg.data.truth import IGNORED
from camseg.train.batches import Batches, EpochSampler
from camseg.train.mask_batches import TrustedSampler, square_target
from camseg.train.processes import Processes


def squared(target, side, resize="stretch", multi_label=True):
    target = np.asarray(target, np.uint8)
    how = Preprocessing(image_size=side, resize=resize, window="full", mean=(0.5,) * 3, std=(0.5,) * 3)
    return square_target(target[..., None] if target.ndim == 2 else target, how, multi_label)[..., 0].tolist()


BATCHES = Batches(size=4, seed=0, workers=0)


def test_a_shrunk_pixel_is_what_most_of_it_was():
    assert squared([[1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1], [1, 1, 1, 0]], 2) == [[1, 0], [1, 1]]


def test_what_is_known_decides_where_no_more_than_half_is_ignored():
    nothing = IGNORED
    rows = [[nothing, 1, nothing, nothing], [nothing, 1, nothing, 0], [0, 0, 1, 0], [0, nothing, nothing, 1]]
    assert squared(rows, 2) == [[1, nothing], [0, 1]]


def test_exclusive_classes_by_the_largest_share():
    assert squared([[2, 2, 0, 1], [2, 1, 1, 1]] * 2, 2, multi_label=False) == [[2, 1]] * 2
    assert squared([[IGNORED, IGNORED, 0, 1], [IGNORED, 1, 1, 1]] * 2, 2, multi_label=False) == [[IGNORED, 1]] * 2


def test_what_lies_beside_the_image_is_ignored():
    assert squared([[1, 0, 1, 0]] * 2, 4, "pad") == [[IGNORED] * 4, [1, 0, 1, 0], [1, 0, 1, 0], [IGNORED] * 4]


@pytest.mark.parametrize("channels", [1, 5])
def test_channels_are_squared_by_themselves(channels):
    target = np.zeros((6, 6, channels), np.uint8)
    target[..., -1] = 1
    how = Preprocessing(image_size=3, resize="stretch", window="full", mean=(0.5,) * 3, std=(0.5,) * 3)
    found = square_target(target, how, True)
    assert found.shape == (3, 3, channels)
    assert found[..., -1].all()
    assert not found[..., :-1].any()


def test_the_first_epochs_are_of_the_trusted_images():
    sampler = TrustedSampler(6, BATCHES, Processes(), None, np.array([1, 4, 5]), 2)
    orders = []
    for epoch in range(3):
        sampler.epoch = epoch
        keys = list(sampler)
        assert len(keys) == len(sampler)
        assert {key[0] for key in keys} == {epoch}
        orders.append([key[1] for key in keys])
    assert sorted(orders[0]) == sorted(orders[1]) == [1, 4, 5]
    assert sorted(orders[2]) == [0, 1, 2, 3, 4, 5]
    halves = []
    for rank in range(2):
        half = TrustedSampler(6, BATCHES, Processes(rank=rank, count=2), None, np.array([1, 4, 5]), 2)
        halves.append(list(half))
        assert len(halves[-1]) == len(half) == 2
    assert sorted({key[1] for half in halves for key in half}) == [1, 4, 5]
    # Few of them come often, each time augmented in another way.
    few = [
        key
        for rank in range(5)
        for key in TrustedSampler(6, BATCHES, Processes(rank=rank, count=5), None, np.array([3, 4]), 2)
    ]
    assert len({*few}) == 5


def test_no_epoch_ends_with_an_image_alone():
    # 5 images in batches of 4, and 9 trusted ones of 10.
    assert len([*EpochSampler(5, BATCHES, Processes())]) == 4
    assert len([*EpochSampler(1, BATCHES, Processes())]) == 1  # there is no other
    sampler = TrustedSampler(10, BATCHES, Processes(), None, np.arange(9), 1)
    lengths = []
    for sampler.epoch in range(2):
        keys = [*sampler]
        assert len(keys) == len(sampler)
        lengths.append(len(keys))
    assert lengths == [8, 10]
    # What a process has counts, not what all have.
    assert [len([*EpochSampler(10, BATCHES, Processes(rank=rank, count=2))]) for rank in range(2)] == [4, 4]
