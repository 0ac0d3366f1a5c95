from pathlib import Path

import numpy as np
import pytest

from camseg.base.errors import InputError
from camseg.classify.targets import WORDS, TargetRule, target_rule
from camseg.data.datasets import Sample

SCORES = np.array([0.6, 0.1, 0.7], np.float32)  # cat, dog, none


def sample(*labels, known=True):
    return Sample(path=Path("a/x.png"), name="a/x", labels=labels if known else None)


UNKNOWN = sample(known=False)


@pytest.fixture
def single(make_classifier):
    return make_classifier(negative=["none"])


@pytest.fixture
def multi(make_classifier):
    return make_classifier(negative=["none"], multi_label=True)


@pytest.mark.parametrize(
    ("targets", "labelled", "unlabelled", "per_class"),
    [
        ([], [1], [2], False),
        (["auto"], [1], [2], False),
        (["predicted"], [2], [2], False),
        (["all"], [0, 1, 2], [0, 1, 2], True),
        (["cat"], [0], [0], False),
        (["none", "cat"], [2, 0], [2, 0], True),
        (["cat", "cat"], [0], [0], False),
    ],
)
def test_rules_of_a_single_label_classifier(single, targets, labelled, unlabelled, per_class):
    rule = target_rule(targets, single, [sample("dog"), UNKNOWN])
    assert rule.targets(single, sample("dog"), SCORES) == labelled
    assert rule.targets(single, UNKNOWN, SCORES) == unlabelled
    assert rule.per_class is per_class


@pytest.mark.parametrize(
    ("targets", "labelled", "unlabelled"),
    [
        ([], [1, 0], [0, 2]),
        (["predicted"], [0, 2], [0, 2]),
        (["all"], [0, 1, 2], [0, 1, 2]),
        (["cat"], [0], [0]),
    ],
)
def test_rules_of_a_multi_label_classifier(multi, targets, labelled, unlabelled):
    rule = target_rule(targets, multi, [sample("dog", "cat"), UNKNOWN])
    assert rule.targets(multi, sample("dog", "cat"), SCORES) == labelled
    assert rule.targets(multi, UNKNOWN, SCORES) == unlabelled
    assert rule.per_class


def test_labels_alone(single, multi):
    rule = target_rule(["label"], single, [sample("dog"), sample("none")])
    assert rule.targets(single, sample("none"), SCORES) == [2]
    assert not rule.per_class
    rule = target_rule(["label"], multi, [sample(), sample("cat", "dog")])
    assert rule.targets(multi, sample(), SCORES) == []
    for classifier in (single, multi):
        with pytest.raises(InputError, match=r"1 have none, the first is a/x\.png.*class folders \(cat, dog, none\)"):
            target_rule(["label"], classifier, [sample("dog"), UNKNOWN])


@pytest.mark.parametrize(
    ("labels", "empty"),
    [(("none",), True), ((), True), (("cat",), False), (("cat", "none"), False), (None, False)],
)
def test_images_that_are_known_to_hold_no_object(multi, labels, empty):
    one = UNKNOWN if labels is None else sample(*labels)
    for targets in ([], ["all"], ["cat"]):
        assert target_rule(targets, multi, [one]).is_empty(multi, one) is empty
    assert not target_rule(["predicted"], multi, [one]).is_empty(multi, one)


def test_a_class_may_have_the_name_of_a_word(make_classifier):
    classifier = make_classifier(classes=["all", "dog"])
    rule = target_rule(["all"], classifier, [UNKNOWN])
    assert rule.targets(classifier, UNKNOWN, SCORES) == [0]
    assert not rule.per_class
    assert target_rule(["all", "dog"], classifier, [UNKNOWN]).named == ("all", "dog")


def test_the_likeliest_is_one_class_whatever_the_label(single, multi):
    rule = TargetRule(word="likeliest")
    for classifier in (single, multi):
        for one in (sample("dog", "cat"), UNKNOWN):
            assert rule.targets(classifier, one, SCORES) == [2]
    assert not rule.per_class


@pytest.mark.parametrize(
    ("targets", "given"),
    [([], ()), (["auto"], ()), (["all"], ("all",)), (["label"], ("label",)), (["dog", "cat", "dog"], ("dog", "cat"))],
)
def test_a_rule_knows_what_was_said_for_it(single, targets, given):
    rule = target_rule(targets, single, [sample("dog")])
    assert rule.given == given
    assert target_rule(rule.given, single, [sample("dog")]) == rule


@pytest.mark.parametrize("word", WORDS)
def test_words_stand_alone(single, word):
    for targets in ([word, "cat"], ["cat", word], [word, "all"]):
        with pytest.raises(InputError, match="alone or class names"):
            target_rule(targets, single, [sample("dog")])


def test_unknown_classes(single):
    with pytest.raises(InputError, match="no class 'cow'; it has cat, dog, none"):
        target_rule(["cat", "cow"], single, [])


def test_several_labels_beside_exclusive_classes(single):
    several = sample("dog", "cat")
    for targets in ([], ["label"]):
        with pytest.raises(InputError, match=r"a/x\.png has 2 labels"):
            target_rule(targets, single, [sample("dog"), several])
    assert target_rule(["cat"], single, [several]).targets(single, several, SCORES) == [0]
