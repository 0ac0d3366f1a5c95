import json
import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as peer

from camseg.base.arrays import quantise
from camseg.base.errors import InputError
from camseg.measure import metrics

CLASSES = ["a", "b", "c"]


def example(seed: int, shape: tuple[int, int] = (23, 17), share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Levels with many ties at both ends, and a mask that agrees with them only in part."""
    generator = np.random.default_rng(seed)
    mask = generator.random(shape) < share
    levels = np.clip(generator.normal(90 + 80 * mask, 90), 0, 255).astype(np.uint8)
    return levels, mask


def naive_dice(predicted: np.ndarray, mask: np.ndarray) -> float:
    total = int(predicted.sum()) + int(mask.sum())
    return 2 * int((predicted & mask).sum()) / total if total else 1.0


def naive_mean_dice(levels: np.ndarray, mask: np.ndarray) -> float:
    return float(np.mean([naive_dice(levels > t, mask) for t in range(256)]))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_mean_dice_equals_the_naive_loop(seed, share):
    levels, mask = example(seed, share=share)
    assert metrics.mean_dice(levels, mask) == naive_mean_dice(levels, mask)
    cam = np.random.default_rng(seed).random(mask.shape, dtype=np.float32)
    assert metrics.mean_dice(cam, mask) == naive_mean_dice(quantise(cam), mask)


def test_mean_dice_of_known_maps():
    mask = np.zeros((4, 4), dtype=bool)
    mask[1:3, 1:3] = True
    assert metrics.mean_dice(mask.astype(np.float32), mask) == 255 / 256
    assert metrics.mean_dice(np.zeros((4, 4), np.float32), mask) == 0.0
    assert metrics.mean_dice(np.zeros((4, 4), np.float32), np.zeros((4, 4), dtype=bool)) == 1.0
    # Level 51 everywhere: 51 thresholds with Dice 2 * 4 / (16 + 4), the others 0.
    assert metrics.mean_dice(np.full((4, 4), 0.2, np.float32), mask) == pytest.approx(51 * 0.4 / 256)


def test_counts_of_a_two_by_two_map():
    counts = metrics.threshold_counts(
        np.array([[0, 10], [200, 255]], dtype=np.uint8), np.array([[False, True], [False, True]])
    )
    assert counts.true_positives.dtype == counts.predicted.dtype == np.int64
    assert (counts.actual, counts.pixels) == (2, 4)
    at = [0, 9, 10, 199, 200, 254, 255]
    assert counts.true_positives[at].tolist() == [2, 2, 1, 1, 1, 1, 0]
    assert counts.predicted[at].tolist() == [3, 3, 2, 2, 1, 1, 0]


def test_counts_do_not_depend_on_the_block(monkeypatch):
    levels, mask = example(1)
    whole = metrics.threshold_counts(levels, mask)
    monkeypatch.setattr(metrics, "_BLOCK", 7)
    blocks = metrics.threshold_counts(levels[:, ::-1], mask[:, ::-1])  # no contiguous arrays either
    assert np.array_equal(whole.true_positives, blocks.true_positives)
    assert np.array_equal(whole.predicted, blocks.predicted)


@pytest.mark.parametrize(
    ("formula", "oracle"),
    [
        (metrics.dice, peer.f1_score),
        (metrics.iou, peer.jaccard_score),
        (metrics.precision, peer.precision_score),
        (metrics.recall, peer.recall_score),
        (metrics.pixel_accuracy, lambda truth, predicted, zero_division: peer.accuracy_score(truth, predicted)),
    ],
)
def test_formulas_equal_scikit_learn(formula, oracle):
    levels, mask = example(2)
    values = formula(metrics.threshold_counts(levels, mask))
    assert values.shape == (256,)
    for t in (0, 1, 77, 128, 254, 255):
        prediction = levels > t
        expected = oracle(mask.ravel(), prediction.ravel(), zero_division=0)
        assert values[t] == pytest.approx(expected, abs=1e-15)
        assert float(formula(metrics.mask_counts(prediction, mask))) == values[t]


def test_formulas_of_empty_masks():
    empty, full = np.zeros((2, 3), dtype=bool), np.ones((2, 3), dtype=bool)
    for formula in (metrics.dice, metrics.iou, metrics.precision, metrics.recall):
        assert formula(metrics.mask_counts(empty, empty)) == 1.0
        assert formula(metrics.mask_counts(empty, full)) == 0.0
        assert formula(metrics.mask_counts(full, empty)) == 0.0
    assert metrics.pixel_accuracy(metrics.mask_counts(full, empty)) == 0.0


def test_cross_entropy_equals_scikit_learn():
    levels, mask = example(3)
    p = np.clip(levels.ravel() / 255.0, metrics.CLIP, 1 - metrics.CLIP)
    ours = metrics.binary_cross_entropy(metrics.threshold_counts(levels, mask))
    assert ours == pytest.approx(peer.log_loss(mask.ravel(), p), rel=1e-12)
    sure_and_wrong = metrics.threshold_counts(np.zeros((2, 2), np.uint8), np.ones((2, 2), dtype=bool))
    assert metrics.binary_cross_entropy(sure_and_wrong) == pytest.approx(-math.log(metrics.CLIP))


def test_unusable_arrays_are_refused():
    levels, mask = example(4)
    with pytest.raises(InputError, match="differ in size"):
        metrics.mean_dice(levels, mask[1:])
    with pytest.raises(InputError, match="differ in size"):
        metrics.mask_counts(mask, mask[1:])
    with pytest.raises(InputError, match="expected a mask"):
        metrics.mean_dice(levels, levels)
    with pytest.raises(InputError, match="uint8"):
        metrics.mean_dice(levels[..., None], mask)
    with pytest.raises(InputError, match=r"expected a map in \[0, 1\]"):
        metrics.mean_dice(levels.astype(np.float32), mask)
    with pytest.raises(InputError, match="all 256 thresholds"):
        metrics.binary_cross_entropy(metrics.mask_counts(mask, mask))


def test_bootstrap_interval_agrees_with_theory():
    values = np.random.default_rng(0).normal(0.4, 0.1, 400)
    low, high = metrics.bootstrap_interval(values, resamples=4000)
    error = values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)
    assert metrics.bootstrap_interval(values, resamples=4000) == (low, high)
    narrow = metrics.bootstrap_interval(values, confidence=0.5, resamples=4000)
    assert low < narrow[0] < narrow[1] < high
    assert metrics.bootstrap_interval([0.25]) == (0.25, 0.25)


def test_bootstrap_interval_draws_whole_groups():
    generator = np.random.default_rng(1)
    levels = generator.normal(0.5, 0.1, 20)  # 20 patients with 30 equal images each hold 20 values, not 600
    values, patients = np.repeat(levels, 30), [f"p{i}" for i in range(20) for _ in range(30)]
    by_patient = metrics.bootstrap_interval(values, groups=patients, resamples=4000)
    assert by_patient == pytest.approx(metrics.bootstrap_interval(levels, resamples=4000))
    low, high = metrics.bootstrap_interval(values, resamples=4000)
    assert high - low < 0.3 * (by_patient[1] - by_patient[0])
    # Groups of unequal size weigh as many values as they hold.
    assert metrics.bootstrap_interval([0.0, 1.0, 1.0, 1.0], groups=["x", "y", "y", "y"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "wrong"),
    [([], {}), ([[0.1]], {}), ([0.1], {"confidence": 1.0}), ([0.1], {"resamples": 0}), ([0.1], {"groups": ["a", "b"]})],
)
def test_bootstrap_interval_refuses(values, wrong):
    with pytest.raises(InputError, match="expected"):
        metrics.bootstrap_interval(values, **wrong)


def test_single_label_classification_by_hand():
    truth = np.array([0, 0, 1, 1])
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.1, 0.9, 0.0], [0.3, 0.7, 0.0]])
    report = metrics.classification_metrics(truth, scores, CLASSES, multi_label=False)
    assert report["confusion"] == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert report["accuracy"] == 0.75
    assert report["classes"]["a"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
    assert report["classes"]["b"] == {"precision": pytest.approx(2 / 3), "recall": 1.0, "f1": 0.8, "support": 2}
    assert report["classes"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert report["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)  # class c occurs nowhere


def test_multi_label_classification_by_hand():
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=bool)
    scores = np.array([[0.5, 0.2, 0.1], [0.9, 0.4, 0.1], [0.6, 0.0, 0.0]])
    report = metrics.classification_metrics(truth, scores, CLASSES, multi_label=True)
    assert report["accuracy"] == pytest.approx(1 / 3)  # only the first image's whole set is right
    assert report["confusion"] == [[[0, 1], [0, 2]], [[2, 0], [1, 0]], [[3, 0], [0, 0]]]
    assert report["classes"]["a"]["precision"] == pytest.approx(2 / 3)
    assert report["macro_f1"] == pytest.approx((0.8 + 0.0) / 2)


@pytest.mark.parametrize("multi_label", [False, True])
def test_classification_equals_scikit_learn(multi_label):
    generator = np.random.default_rng(5)
    scores = generator.random((50, 3))
    if multi_label:
        truth, predicted = generator.random((50, 3)) < 0.4, scores >= 0.5
        confusion = peer.multilabel_confusion_matrix(truth, predicted)
    else:
        truth, predicted = generator.integers(3, size=50), scores.argmax(axis=1)
        confusion = peer.confusion_matrix(truth, predicted)
    report = metrics.classification_metrics(truth, scores, CLASSES, multi_label)
    columns = peer.precision_recall_fscore_support(truth, predicted)
    assert report["images"] == 50
    assert report["accuracy"] == pytest.approx(peer.accuracy_score(truth, predicted))
    assert report["macro_f1"] == pytest.approx(peer.f1_score(truth, predicted, average="macro"))
    assert report["confusion"] == confusion.tolist()
    for i, label in enumerate(CLASSES):
        expected = dict(zip(("precision", "recall", "f1", "support"), (column[i] for column in columns), strict=True))
        assert report["classes"][label] == pytest.approx(expected)
    json.dumps(report)


def test_one_class_can_be_present_or_absent():
    truth = np.array([[True], [False], [True]])
    report = metrics.classification_metrics(truth, np.array([[0.9], [0.6], [0.2]]), ["a"], multi_label=True)
    assert report["confusion"] == [[[0, 1], [1, 1]]]
    assert report["macro_f1"] == 0.5


@pytest.mark.parametrize("multi_label", [False, True])
def test_classification_refuses_shapes_that_do_not_fit(multi_label):
    with pytest.raises(InputError, match="expected scores"):
        metrics.classification_metrics(np.zeros((4, 2), dtype=int), np.zeros((4, 3)), CLASSES, multi_label)
    with pytest.raises(InputError, match="expected scores"):
        metrics.classification_metrics(np.zeros(0, dtype=int), np.zeros((0, 3)), CLASSES, multi_label)


def test_classification_refuses_unknown_indices():
    with pytest.raises(InputError, match="below 3; got -1 to 3"):
        metrics.classification_metrics(np.array([-1, 3]), np.zeros((2, 3)), CLASSES, multi_label=False)


def test_reliability_of_a_case_worked_by_hand():
    # Three bins: (0, 1/3], (1/3, 2/3], (2/3, 1].
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0], [0.6, 0.4, 0.0]])
    table = metrics.reliability(np.array([0, 1, 0, 1]), probabilities, False, bins=3)
    assert table == pytest.approx(np.array([[0, 0, 0], [2, 1.1, 1], [2, 1.8, 1]]))
    assert metrics.expected_calibration_error(table) == pytest.approx((0.1 + 0.8) / 4)
    # Yes at 0.9 and 0.5, no at 0.2 and 0.
    several = metrics.reliability(np.array([[1, 0], [0, 1]]), np.array([[0.9, 0.5], [0.2, 0.0]]), True, bins=2)
    assert several == pytest.approx(np.array([[1, 0.5, 0], [3, 2.7, 2]]))
    assert metrics.expected_calibration_error(several) == pytest.approx((0.5 + 0.7) / 4)


def test_who_is_as_sure_as_right_has_no_calibration_error():
    probabilities = np.tile([0.75, 0.25], (8, 1))
    truth = np.array([0, 0, 0, 1] * 2)
    assert metrics.expected_calibration_error(metrics.reliability(truth, probabilities, False)) == 0
    assert metrics.reliability(truth, probabilities, False).shape == (15, 3)
    with pytest.raises(InputError, match="expected probabilities"):
        metrics.reliability(truth[1:], probabilities, False)


def test_measuring_loads_no_library_that_takes_seconds():
    """``camseg evaluate`` starts at once: scikit-learn, SciPy and matplotlib wait for who asks for them."""
    modules = ["metrics", "faithfulness", "calibration", "matting_errors", "overlays", "figures", "evaluate"]
    code = "import sys; " + "; ".join(f"import camseg.measure.{name}" for name in modules)
    code += "; print(*{'torch', 'sklearn', 'scipy', 'skimage', 'matplotlib'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
