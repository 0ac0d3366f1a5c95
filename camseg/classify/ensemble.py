"""Ensemble: several classifiers that decide together, by the mean of their probabilities or from their features."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

import camseg
from camseg.base.errors import InputError
from camseg.base.files import write_bytes, write_json
from camseg.classify.classifier import Classifier
from camseg.classify.settings import Voting


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearRule:
    """Scores of classes as linear functions of the members' features, each of mean 0 and deviation 1."""

    mean: Tensor
    """Of the features, float32 (F,)."""
    scale: Tensor
    """Their deviation, float32 (F,)."""
    coefficients: Tensor
    """float32 (classes, F)."""
    intercepts: Tensor
    """float32 (classes,)."""

    def logits(self, features: Tensor) -> Tensor:
        """Features (N, F), in the order of the members -> logits (N, classes)."""
        mean, scale, coefficients, intercepts = (tensor.to(features.device) for tensor in self.tensors().values())
        return (features - mean) / scale @ coefficients.T + intercepts

    def tensors(self) -> dict[str, Tensor]:
        """The arrays by their names."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble:
    """Several classifiers that decide together; what uses a classifier takes an ensemble too.

    Raises InputError for members that do not know the same classes.
    """

    members: tuple[Classifier, ...]
    """The classifiers, each with its own preprocessing. Classes are in the order of the first one's."""
    shares: tuple[float, ...]
    """How much each member counts in means, of maps and, for ``soft``, of probabilities; at least 0, their sum 1."""
    method: Voting = "soft"
    """How it decides."""
    rule: LinearRule | None = None
    """What ``logistic`` and ``svm`` decide by; calibrated."""
    run: str | None = None
    """As in Classifier."""

    def __post_init__(self) -> None:
        if not self.members:
            raise InputError("expected at least one member, got none")
        first = self.members[0]
        for number, other in enumerate(self.members):
            for what in ("classes", "negative"):
                ours, theirs = (tuple(sorted(getattr(member, what))) for member in (first, other))
                if ours != theirs:
                    raise InputError(
                        f"expected members with the same {what}; member 0 has {', '.join(ours) or 'none'}, member "
                        f"{number} has {', '.join(theirs) or 'none'}"
                    )
            if other.multi_label != first.multi_label:
                raise InputError("expected members that are all multi-label or all single-label; train one anew")
        if (
            len(self.shares) != len(self.members)
            or not all(math.isfinite(share) and share >= 0 for share in self.shares)
            or abs(sum(self.shares) - 1.0) > 1e-6
        ):
            raise InputError(
                f"expected {len(self.members)} shares of at least 0 with a sum of 1, got {list(self.shares)}"
            )
        if self.method not in get_args(Voting) or (self.method == "soft") != (self.rule is None):
            raise InputError(f"expected soft without a rule, logistic or svm with one; got {self.method!r}")

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the probabilities."""
        return self.members[0].classes

    @property
    def multi_label(self) -> bool:
        """As in Classifier."""
        return self.members[0].multi_label

    @property
    def several(self) -> bool:
        """As in Classifier."""
        return self.members[0].several

    @property
    def negative(self) -> tuple[str, ...]:
        """As in Classifier."""
        return self.members[0].negative

    @property
    def window(self) -> str:
        """How 16-bit and float images become 8-bit for what follows the classifier: the first member's."""
        return self.members[0].window

    @property
    def device(self) -> torch.device:
        """Where the members are."""
        return self.members[0].device

    @property
    def reads_features(self) -> bool:
        """Whether ``vote`` needs the members' features."""
        return self.rule is not None

    def class_index(self, name: str) -> int:
        """As in Classifier."""
        return self.members[0].class_index(name)

    def predicted(self, probabilities: NDArray[np.float32]) -> list[list[int]]:
        """As in Classifier."""
        return self.members[0].predicted(probabilities)

    def vote(self, logits: Sequence[Tensor], features: Sequence[Tensor | None]) -> Tensor:
        """Each member's logits (N, classes) and features (N, F) -> the ensemble's probabilities (N, classes)."""
        if self.rule is not None:
            # The order of the classes is the first member's, which the rule was fitted with.
            scores = self.rule.logits(torch.cat([one for one in features if one is not None], dim=1))
            return scores.sigmoid() if self.multi_label else scores.softmax(dim=1)
        total = torch.zeros_like(logits[0])
        for member, share, own in zip(self.members, self.shares, logits, strict=True):
            total += share * member.probabilities(own)[:, [member.class_index(name) for name in self.classes]]
        return total

    def with_output_stride(self, stride: int) -> "Ensemble":
        """Every member with another output stride, as in Classifier."""
        return replace(self, members=tuple(member.with_output_stride(stride) for member in self.members))

    def with_negative(self, negative: Sequence[str]) -> "Ensemble":
        """Every member with other negative classes, as in Classifier."""
        return replace(self, members=tuple(member.with_negative(negative) for member in self.members))

    def save(self, run: Path | str) -> None:
        """Write the members into ``run/members/0``, ``1``, ..., ``rule.safetensors`` and ``classifier.json``."""
        for number, member in enumerate(self.members):
            member.save(member_folder(run, number))
        if self.rule is not None:
            tensors = {name: value.cpu().contiguous() for name, value in self.rule.tensors().items()}
            write_bytes(Path(run, "rule.safetensors"), safetensors.torch.save(tensors))
        # Last: where it stands, the run is whole.
        write_json(Path(run, "classifier.json"), {**self._settings(), "version": camseg.__version__})

    def fingerprint(self) -> str:
        """SHA-256 over the members' fingerprints, their shares and the rule."""
        digest = hashlib.sha256()
        facts = {**self._settings(), "members": [member.fingerprint() for member in self.members]}
        digest.update(json.dumps(facts, sort_keys=True).encode())
        for value in self.rule.tensors().values() if self.rule is not None else ():
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _settings(self) -> dict[str, object]:
        return {"method": self.method, "members": len(self.members), "shares": list(self.shares)}


def member_folder(run: Path | str, number: int) -> Path:
    """Where an ensemble's run keeps a member."""
    return Path(run, "members", str(number))
