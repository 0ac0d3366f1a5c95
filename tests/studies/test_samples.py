from collections import Counter, defaultdict
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from camseg.base.errors import InputError
from camseg.studies.samples import DISTRACTORS, NEGATIVE_CLASS, OBJECT_CLASS, Shot, generate_samples


@pytest.fixture(scope="module")
def samples() -> list[Shot]:
    return list(generate_samples())


@pytest.fixture(scope="module")
def rusty(samples: list[Shot]) -> list[Shot]:
    return [sample for sample in samples if sample.label == OBJECT_CLASS]


def test_counts_sizes_and_balance(samples: list[Shot]) -> None:
    assert Counter((sample.split, sample.label) for sample in samples) == {
        ("train", NEGATIVE_CLASS): 80,
        ("train", OBJECT_CLASS): 80,
        ("test", NEGATIVE_CLASS): 30,
        ("test", OBJECT_CLASS): 30,
    }
    assert {(s.image.shape, s.image.dtype, s.mask.shape, s.mask.dtype) for s in samples} == {
        ((128, 128, 3), np.dtype(np.uint8), (128, 128), np.dtype(bool))
    }


def test_names_are_unique_and_groups_stay_in_one_split(samples: list[Shot]) -> None:
    assert len({sample.name for sample in samples}) == len(samples)
    splits, labels = defaultdict(set), defaultdict(list)
    for sample in samples:
        splits[sample.group].add(sample.split)
        labels[sample.group].append(sample.label)
    assert all(len(found) == 1 for found in splits.values())
    assert all(found.count(OBJECT_CLASS) == found.count(NEGATIVE_CLASS) == 2 for found in labels.values())


def test_the_same_seed_gives_the_same_arrays_and_another_seed_others(samples: list[Shot]) -> None:
    again, other = list(generate_samples(train=4, test=4)), list(generate_samples(train=4, test=0, seed=1))
    for first, second in zip([*samples[:4], *samples[160:164]], again, strict=True):
        assert (first.name, first.label, first.distractors) == (second.name, second.label, second.distractors)
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.mask, second.mask)
    assert all(not np.array_equal(a.image, b.image) for a, b in zip(samples, other, strict=False))


def test_no_two_images_are_alike(samples: list[Shot]) -> None:
    assert len({sample.image.tobytes() for sample in samples}) == len(samples)


def test_masks_are_empty_for_clean_and_4_to_20_per_cent_for_rust(samples: list[Shot], rusty: list[Shot]) -> None:
    assert not any(sample.mask.any() for sample in samples if sample.label == NEGATIVE_CLASS)
    areas = np.array([sample.mask.mean() for sample in rusty])
    assert areas.min() >= 0.0399
    assert areas.max() <= 0.2001
    assert areas.max() > 3 * areas.min()  # small ones and large ones


def test_rust_may_be_anywhere(rusty: list[Shot]) -> None:
    frequency = np.mean([sample.mask for sample in rusty], axis=0)
    quarters = [frequency[y : y + 64, x : x + 64].mean() for y in (0, 64) for x in (0, 64)]
    assert max(quarters) < 1.6 * min(quarters)
    assert frequency.max() < 0.35


def test_rust_is_lighter_than_its_panel_as_well_as_darker(rusty: list[Shot]) -> None:
    grey = [(_grey(sample.image), sample.mask) for sample in rusty]
    lighter = np.mean([image[mask].mean() > image[~mask].mean() for image, mask in grey])
    assert 0.25 < lighter < 0.75


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("distractor", DISTRACTORS)
def test_distractors_are_equally_frequent_in_both_classes(samples: list[Shot], distractor: str, split: str) -> None:
    counts = Counter(sample.label for sample in samples if sample.split == split and distractor in sample.distractors)
    assert counts[NEGATIVE_CLASS] == counts[OBJECT_CLASS]
    total = sum(sample.split == split for sample in samples)
    assert 0.25 * total < counts.total() < 0.75 * total


def _grey(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    return image @ np.array([0.299, 0.587, 0.114])


def _otsu(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return values > threshold_otsu(values)


def _brightness_saliency(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    grey = _grey(image)
    return _otsu(np.abs(cv2.GaussianBlur(grey, (0, 0), 2) - grey.mean()))


def _color_saliency(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Achanta et al., Frequency-tuned salient region detection, CVPR 2009."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(float)
    return _otsu(np.linalg.norm(cv2.GaussianBlur(lab, (0, 0), 1) - lab.mean(axis=(0, 1)), axis=2))


def _centre(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] / len(image) - 0.5
    return np.hypot(y, x) < 0.25


NAIVE: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.bool_]]] = {
    "Otsu, bright": lambda image: _otsu(_grey(image)),
    "Otsu, dark": lambda image: ~_otsu(_grey(image)),
    "brightness saliency": _brightness_saliency,
    "colour saliency": _color_saliency,
    "centre": _centre,
    "everything": lambda image: np.ones(image.shape[:2], bool),
}


@pytest.mark.parametrize("name", NAIVE)
def test_naive_masks_score_badly(rusty: list[Shot], name: str) -> None:
    scores = []
    for sample in (sample for sample in rusty if sample.split == "test"):
        predicted = NAIVE[name](sample.image)
        scores.append(2 * np.sum(predicted & sample.mask) / (predicted.sum() + sample.mask.sum()))
    assert np.mean(scores) < 0.35


def test_other_sizes_show_the_same_scene() -> None:
    small, large = (list(generate_samples(train=4, test=0, size=size)) for size in (64, 96))
    for first, second in zip(small, large, strict=True):
        assert (first.image.shape, second.image.shape) == ((64, 64, 3), (96, 96, 3))
        shrunk = cv2.resize(second.mask.astype(np.uint8), (64, 64), interpolation=cv2.INTER_AREA) > 0
        assert np.mean(shrunk != first.mask) < 0.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 6}, "multiples of 4"),
        ({"test": -4}, "multiples of 4"),
        ({"size": 16}, "size of 32"),
        ({"seed": -1}, "seed of 0"),
    ],
)
def test_refuses_what_cannot_be_generated(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate_samples(**options)
