"""Run lengths against the tools' own libraries, against bits read one by one, and against damage."""

import numpy as np
import pytest

from camseg.base.errors import ExchangeError
from camseg.exchange.rle import (
    BoxedRuns,
    decode_coco,
    decode_cvat,
    decode_label_studio,
    draw_runs,
    encode_coco,
    encode_cvat,
    encode_label_studio,
    find_runs,
)


def masks():
    """Noise of every density, full and single pixels, one row, one column, and a run beyond 65536 words."""
    random = np.random.default_rng(0)
    for density in (0.02, 0.3, 0.5, 0.98):
        yield random.random(tuple(random.integers(1, 40, 2))) < density
    for shape in ((1, 1), (1, 50), (50, 1), (150, 200)):
        yield np.ones(shape, bool)
        yield np.arange(shape[0] * shape[1]).reshape(shape) == shape[0] * shape[1] - 1


def test_runs_alternate_and_begin_with_background():
    assert find_runs(np.array([True, True, False, True])).tolist() == [0, 2, 1, 1]
    assert find_runs(np.array([False, True])).tolist() == [1, 1]
    assert draw_runs(np.array([0, 2, 1, 1]), 4).tolist() == [True, True, False, True]


@pytest.mark.filterwarnings("ignore:__array__")  # pycocotools', of NumPy 2
def test_cocos_counts_are_those_of_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    for mask in masks():
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert encode_coco(mask) == theirs
        assert np.array_equal(decode_coco(theirs, *mask.shape), mask)
        plain = find_runs(mask.ravel(order="F")).tolist()
        assert np.array_equal(decode_coco(plain, *mask.shape), mask)


def test_cvats_runs_are_those_of_its_own_library():
    theirs = pytest.importorskip("cvat_sdk.masks")
    for mask in masks():
        if mask.any():
            boxed = encode_cvat(mask)
            corners = [boxed.left, boxed.top, boxed.left + boxed.width - 1, boxed.top + boxed.height - 1]
            assert [*boxed.runs, *corners] == theirs.encode_mask(mask)
            assert np.array_equal(decode_cvat(boxed, *mask.shape), mask)


def read_bits(data):
    """The words that rle-pack's bytes stand for, read bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def take(count):
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    words = []
    while len(words) < total:
        repeated, size = take(1), sizes[take(2)]
        count = take(size) + 1
        words += [take(word)] * count if repeated else [take(word) for _ in range(count)]
    return words[:total]


def test_label_studios_bytes_are_four_words_for_each_pixel():
    # 4 words, 8 bits each; lengths of 3, 4, 8 and 16 bits; then 1 00 011 11111111: four times 255.
    bits = f"{4:032b}" + "00111" + "0010" + "0011" + "0111" + "1111" + "1" + "00" + "011" + "11111111" + "00000"
    assert encode_label_studio(np.array([[True]])) == [int(bits[place : place + 8], 2) for place in range(0, 72, 8)]
    for mask in masks():
        data = encode_label_studio(mask)
        assert np.array_equal(np.array(read_bits(data)).reshape(*mask.shape, 4), mask[..., None] * np.full(4, 255))
        assert np.array_equal(decode_label_studio(data, *mask.shape), mask)


def test_brushes_of_a_browser_have_colours_and_words_that_differ():
    """Six pixels, the opacities 0, 255, 127, 128, 255, 255: the first four as words that differ, the rest as runs."""
    pixels = [(9, 9, 9, 0), (1, 2, 3, 255), (1, 2, 3, 127), (1, 2, 3, 128)]
    words = [word for pixel in pixels for word in pixel]
    text = f"{24:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}"
    text += "0" + "01" + f"{15:04b}" + "".join(f"{word:08b}" for word in words)
    text += "1" + "10" + f"{7:08b}" + f"{255:08b}"
    text += "0" * (-len(text) % 8)
    data = [int(text[place : place + 8], 2) for place in range(0, len(text), 8)]
    assert decode_label_studio(data, 2, 3).tolist() == [[False, True, False], [True, True, True]]


@pytest.mark.parametrize(
    "counts",
    [
        "",
        "~",
        "0",
        "P",
        "1111111111111",
        [],
        [3],
        [4, -1, 1],
        [1.5, 2.5],
        ["a"],
        [[4]],
        [4, 1],
        [2**70],
        [2**62, 2**62],
    ],
)
def test_damaged_counts_of_coco_are_refused(counts):
    with pytest.raises(ExchangeError):
        decode_coco(counts, 2, 2)


@pytest.mark.parametrize(
    ("runs", "box"),
    [
        ((0, 4), (1, 1, 2, 2)),
        ((0, 4), (-1, 0, 2, 2)),
        ((0, 4), (0, 0, 0, 4)),
        ((0, 3), (0, 0, 2, 2)),
        ((), (0, 0, 2, 2)),
        ((2**70,), (0, 0, 2, 2)),
    ],
)
def test_damaged_masks_of_cvat_are_refused(runs, box):
    left, top, width, height = box
    with pytest.raises(ExchangeError):
        decode_cvat(BoxedRuns(runs=runs, left=left, top=top, width=width, height=height), 2, 2)


def test_damaged_bytes_of_label_studio_are_refused():
    good = encode_label_studio(np.eye(4, dtype=bool))
    for data in (
        [],
        good[:4],
        good[:-2],
        [*good[:3], 9, *good[4:]],
        [-1, *good[1:]],
        [300, *good[1:]],
        ["a"],
        None,
        [[1]],
    ):
        with pytest.raises(ExchangeError):
            decode_label_studio(data, 4, 4)
    with pytest.raises(ExchangeError, match="4 x 5 pixels"):
        decode_label_studio(good, 5, 4)
    random = np.random.default_rng(0)
    for _ in range(300):  # whatever is behind the header: a mask of the size, or an error
        data = good[:7] + random.integers(0, 256, random.integers(0, 40)).tolist()
        try:
            assert decode_label_studio(data, 4, 4).shape == (4, 4)
        except ExchangeError:
            continue
