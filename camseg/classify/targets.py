"""Labels and probabilities -> for which classes an image gets maps, and which of them are all zero."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camseg.base.errors import InputError
from camseg.classify.checkpoint import AnyClassifier
from camseg.data.datasets import Sample

WORDS = ("auto", "label", "predicted", "all")


@dataclass(frozen=True, kw_only=True)
class TargetRule:
    """How targets are chosen; ``target_rule`` makes one from what a user says."""

    word: str | None
    """``auto`` (the label where known, else predicted), ``label``, ``predicted``, ``all``, ``likeliest`` (one class,
    also of several labels); None: ``named``."""
    named: tuple[str, ...] = ()
    """Classes that every image gets maps for."""
    per_class: bool = False
    """Whether outputs go to a folder per class."""

    @property
    def given(self) -> tuple[str, ...]:
        """What a user would say for it."""
        return self.named if self.word is None else () if self.word == "auto" else (self.word,)

    def targets(self, classifier: AnyClassifier, sample: Sample, probabilities: NDArray[np.float32]) -> list[int]:
        """The target classes of one image, as indices; none for an image of a multi-label set without a class."""
        if self.named:
            names: Sequence[str] = self.named
        elif self.word == "all":
            names = classifier.classes
        elif self.word == "likeliest":
            return [int(probabilities.argmax())]
        elif self.word == "predicted" or sample.labels is None:
            return classifier.predicted(probabilities[None])[0]
        else:
            names = sample.labels
        return [classifier.class_index(name) for name in names]

    def is_empty(self, classifier: AnyClassifier, sample: Sample) -> bool:
        """Whether an image is known to hold no object, so that all its maps are zero.

        It is when its label is none of the classes, or only negative ones; with ``predicted`` labels do not count.
        """
        return self.word != "predicted" and sample.labels is not None and set(sample.labels) <= set(classifier.negative)


def target_rule(targets: Sequence[str], classifier: AnyClassifier, samples: Sequence[Sample]) -> TargetRule:
    """Make the rule for ``--target`` words: one of ``WORDS``, or class names of the classifier.

    Raises InputError for an unknown class, a word beside other targets, or ``label`` without labels.
    """
    words = [target for target in targets if target in WORDS and target not in classifier.classes]
    if words and len(targets) > 1:
        raise InputError(f"expected {words[0]!r} alone or class names; got {', '.join(targets)}")
    if not targets:
        words = ["auto"]
    named = () if words else tuple(dict.fromkeys(targets))
    for name in named:
        classifier.class_index(name)
    if words == ["label"] and (unknown := [sample for sample in samples if sample.labels is None]):
        raise InputError(
            f"--target label needs a label for every image; {len(unknown)} have none, the first is {unknown[0].path}; "
            f"use class folders ({', '.join(classifier.classes)}) or a CSV with a column label, or --target predicted"
        )
    if words in (["auto"], ["label"]) and not classifier.multi_label:
        for sample in samples:
            if len(sample.labels or ()) > 1:
                raise InputError(
                    f"{sample.path} has {len(sample.labels or ())} labels, but the classifier's classes exclude each "
                    "other; train a multi-label one, or name its --target"
                )
    per_class = words == ["all"] or len(named) > 1 or classifier.multi_label
    return TargetRule(word=words[0] if words else None, named=named, per_class=per_class)
