"""Labelled images -> what networks that are trained say to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from camseg.base.progress import Progress
from camseg.cams.capture import Network
from camseg.classify.classifier import Classifier
from camseg.data.datasets import Dataset
from camseg.data.settings import NONE
from camseg.train.batches import Batches, LoadedSet, load_pixels, loader


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What members say to a set of images."""

    data: Dataset
    """The images that all of them can read."""
    truth: NDArray[Any]
    """As ``Dataset.targets`` gives it, in the order of the first member's classes."""
    logits: list[Tensor]
    """Each member's, (N, classes) in that member's order."""
    features: list[Tensor | None]
    """Each member's, (N, F); None where they are not asked for."""
    failed: dict[Path, str]
    """Images that could not be read, with the reason."""


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How images go through the members."""

    features: bool = False
    """Whether what the classifying layer reads is wanted too."""
    batch_size: int
    """Images per pass."""
    progress: Progress
    """Shows how far they are."""

    def over(self, members: Sequence[Classifier], data: Dataset, title: str, first: int = 0) -> Seen:
        """Every member's outputs for the images that all of them can read, each in its own window.

        ``first``: the number by which the first of them is called on the screen.
        """
        outputs: list[tuple[Dataset, Tensor, Tensor | None]] = []
        failed: dict[Path, str] = {}
        for number, member in enumerate(members, start=first):
            data, pixels, problems = load_pixels(member, data, self.progress, f"reading {title}")
            failed |= problems
            order = [(0, index) for index in range(len(data.samples))]
            batches = loader(
                member, LoadedSet(data, pixels), Batches(size=self.batch_size, seed=0, workers=0), order, NONE
            )
            network = Network(classifier=member, layers=())
            passes = [
                network.forward(member.normalise(squares), gradients=False, features=self.features)
                for squares, _ in self.progress(batches, len(batches), f"member {number}, {title}")
            ]
            read = [one.features.cpu() for one in passes if one.features is not None]
            outputs.append((data, torch.cat([one.logits.cpu() for one in passes]), torch.cat(read) if read else None))
        # What a later member could not read, the earlier ones have seen.
        kept = [torch.tensor([one.path not in failed for one in own.samples]) for own, _, _ in outputs]
        return Seen(
            data=data,
            truth=data.targets(members[0].classes),
            logits=[logits[rows] for rows, (_, logits, _) in zip(kept, outputs, strict=True)],
            features=[
                None if features is None else features[rows]
                for rows, (_, _, features) in zip(kept, outputs, strict=True)
            ],
            failed=failed,
        )
