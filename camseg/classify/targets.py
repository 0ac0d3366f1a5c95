"""Labels and probabilities -> for which classes an image gets maps, and which of them are all zero."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from camseg.base.errors import InputError
from camseg.data.datasets import Sample

WORDS = ("auto", "label", "predicted", "all")


class Decides(Protocol):
    """What says which classes an image shows: a classifier or ensemble, or a segmenter by its pixels."""

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the probabilities."""

    @property
    def negative(self) -> tuple[str, ...]:
        """Labels of images without an object."""

    @property
    def several(self) -> bool:
        """Whether an image may show several of the classes."""

    def class_index(self, name: str) -> int:
        """The index of a class; InputError for an unknown one."""

    def predicted(self, probabilities: NDArray[np.float32]) -> list[list[int]]:
        """The classes that each row (N, classes) speaks for, as indices."""


def why_empty(labels: Sequence[str]) -> str:
    """In words, why an image with these labels, none or negative ones, holds no object."""
    return f"labelled {', '.join(labels)}, a negative class" if labels else "labelled with none of the classes"


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

    def targets(self, classifier: Decides, sample: Sample, probabilities: NDArray[np.float32]) -> list[int]:
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
            # A segmenter's negative labels need not be among its classes.
            absent = {*classifier.negative} - {*classifier.classes}
            names = [label for label in sample.labels if label not in absent]
        return [classifier.class_index(name) for name in names]

    def is_empty(self, classifier: Decides, sample: Sample) -> bool:
        """Whether an image is known to hold no object, so that all its maps are zero.

        It is when its label is none of the classes, or only negative ones; with ``predicted`` labels do not count.
        """
        return self.word != "predicted" and sample.labels is not None and set(sample.labels) <= set(classifier.negative)


def target_rule(targets: Sequence[str], classifier: Decides, samples: Sequence[Sample]) -> TargetRule:
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
    if words in (["auto"], ["label"]) and not classifier.several:
        for sample in samples:
            if len(sample.labels or ()) > 1:
                raise InputError(
                    f"{sample.path} has {len(sample.labels or ())} labels, but the classifier's classes exclude each "
                    "other; train a multi-label one, or name its --target"
                )
    per_class = words == ["all"] or len(named) > 1 or classifier.several
    return TargetRule(word=words[0] if words else None, named=named, per_class=per_class)
