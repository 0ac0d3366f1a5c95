import numpy as np
import pytest
import torch

from camseg.data.truth import IGNORED
from camseg.train.early_learning import FitTally, bent, corrected


def curve(a, b, c, epochs):
    t = np.arange(1, epochs + 1)
    return (a * (1 - np.exp(-b * t**c))).tolist()


def slope(a, b, c, t):
    return a * b * c * t ** (c - 1) * np.exp(-b * t**c)


@pytest.mark.parametrize(("a", "b", "c"), [(0.8, 0.3, 1.0), (0.6, 0.8, 0.7), (0.9, 0.1, 1.2)])
def test_the_bend_is_where_the_slope_has_fallen(a, b, c):
    fits = curve(a, b, c, 40)
    falls = [1 - slope(a, b, c, t) / slope(a, b, c, 1) for t in range(1, 41)]
    wanted = next(t for t, fall in enumerate(falls, start=1) if fall > 0.9 and t >= 4)
    assert bent(fits, 0.9) == wanted
    assert bent(fits[: wanted - 1], 0.9) is None
    assert bent(fits[: wanted + 3], 0.9) == wanted  # what comes later changes nothing


def test_what_does_not_rise_does_not_bend():
    assert bent([0.5, 0.6, 0.7], 0.9) is None  # too few for a curve
    assert bent([0.0] * 12, 0.9) is None
    assert bent(np.linspace(0.05, 0.9, 18).tolist(), 0.9) is None  # as steep as at first


def test_fit_counts_what_is_taught_and_not_certain():
    tally = FitTally(1, True)
    targets = torch.tensor([[[1, 1], [0, IGNORED]], [[1, 0], [0, 0]]], dtype=torch.uint8)[..., None]
    found = torch.tensor([[[1, 0], [1, 1]], [[0, 1], [0, 0]]], dtype=torch.bool)[:, None]
    tally.add(found, targets, torch.tensor([[False], [True]]))
    assert (tally.both.tolist(), tally.either.tolist()) == ([1], [3])
    exclusive = FitTally(2, False)
    numbers = torch.tensor([[[1, 2], [0, IGNORED]]], dtype=torch.uint8)[..., None]
    found = torch.tensor([[[[1, 0], [0, 0]], [[0, 1], [1, 1]]]], dtype=torch.bool)
    exclusive.add(found, numbers, torch.tensor([[False]]))
    assert (exclusive.both.tolist(), exclusive.either.tolist()) == ([1, 1], [1, 2])


def logits_of(probabilities):
    p = torch.tensor(probabilities)
    return torch.log(p / (1 - p))


def test_sure_answers_replace_what_is_taught():
    taught = torch.tensor([[1, 1, 0, 0, IGNORED]], dtype=torch.uint8)[None, ..., None]  # (1, 1, 5, 1)
    logits = logits_of([[[[0.1, 0.3, 0.9, 0.7, 0.99]]]])
    no, yes = torch.tensor([[False]]), torch.tensor([[True]])

    def after(certain=no, classes=(True,)):
        return corrected(taught, logits, certain, classes, 0.8, True).flatten().tolist()

    assert after() == [0, 1, 1, 0, IGNORED]
    assert after(certain=yes) == taught.flatten().tolist()
    assert after(classes=(False,)) == taught.flatten().tolist()


def test_of_exclusive_classes_only_those_that_have_bent_change():
    taught = torch.tensor([[0, 1, 2, 2, 0]], dtype=torch.uint8)[None, ..., None]
    answers = [1, 0, 1, 0, 2]  # each with a probability near 1
    logits = torch.full((1, 3, 1, 5), -5.0)
    for place, answer in enumerate(answers):
        logits[0, answer, 0, place] = 5.0
    no = torch.tensor([[False]])
    assert corrected(taught, logits, no, (True, True), 0.8, False).flatten().tolist() == answers
    assert corrected(taught, logits, no, (True, False), 0.8, False).flatten().tolist() == [1, 0, 2, 2, 0]
    assert corrected(taught, logits, no, (False, True), 0.8, False).flatten().tolist() == [0, 1, 2, 0, 2]
    assert corrected(taught, 0 * logits, no, (True, True), 0.8, False).equal(taught)
