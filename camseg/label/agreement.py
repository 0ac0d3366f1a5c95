"""Images without masks -> how far the masks of an ensemble's members agree, which tells the lucky from the unlucky."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from camseg.base.errors import DatasetError, ImageError
from camseg.base.progress import Progress
from camseg.cams.plan import plan
from camseg.classify.ensemble import Ensemble
from camseg.classify.targets import target_rule
from camseg.data.datasets import Sample
from camseg.label.chain import map_stages
from camseg.label.settings import LabelSettings
from camseg.label.stages import PropagateStage
from camseg.masks.consensus import central_weights, centrality, pairwise_dice
from camseg.masks.threshold import cam_to_mask
from camseg.runs.stage import new_item, run_stages

WIDTH: Final = 0.03
"""A member whose mean agreement is so much less than the most central one's counts 1/e of it."""
ENOUGH: Final = 64
"""Images with an object that are looked at, of more a random choice."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SetAgreement:
    """How far members agree over a set of images."""

    centralities: NDArray[np.float64]
    """Of each member: the mean Dice of its masks with the others', over all maps (K,)."""
    maps: int
    """How many maps each member made that were not known to be empty."""

    @property
    def shares(self) -> tuple[float, ...]:
        """How much each member counts: ``central_weights`` of width ``WIDTH``."""
        count = len(self.centralities)
        return tuple(central_weights(self.centralities, [1 / count] * count, WIDTH).tolist())

    def line(self) -> str:
        """What is said of it."""
        listed = ", ".join(f"{one:.3f}" for one in self.centralities)
        return f"mean Dice of each member's masks with the others', over {self.maps} maps: {listed}"


def set_agreement(
    ensemble: Ensemble, samples: Sequence[Sample], progress: Progress, settings: LabelSettings | None = None
) -> SetAgreement:
    """Compare members' masks, as ``label`` makes them before refinement, over ``ENOUGH`` images with an object.

    True masks are not needed. Every image goes through by itself: memory does not grow with them. Images that cannot be
    read are left out. Raises DatasetError where no image is left for which a map is made.
    """
    settings = settings or LabelSettings()
    rule = target_rule((), ensemble, samples)
    stages = [
        *map_stages(plan(ensemble, settings.cams, guided=settings.propagation.needs_features), rule, 1, apart=True),
        PropagateStage(settings=settings.propagation),
    ]
    for stage in stages:
        stage.setup(str(ensemble.device))
    shown = [sample for sample in samples if not rule.is_empty(ensemble, sample)]
    if len(shown) > ENOUGH:
        chosen = np.random.default_rng(0).choice(len(shown), ENOUGH, replace=False)
        shown = [shown[place] for place in sorted(chosen)]
    found = []
    for sample in progress(shown, len(shown), "comparing members"):
        try:
            items = run_stages(stages, [new_item(sample, ensemble.window)])
        except ImageError:
            continue
        for item in items:
            if item.members:
                masks = [cam_to_mask(cam, settings.masks.threshold) for cam in item.members]
                found.append(centrality(pairwise_dice(masks)))
    if not found:
        raise DatasetError(f"none of {len(samples)} images has an object by its label or score; members make no masks")
    return SetAgreement(centralities=np.mean(found, axis=0), maps=len(found))
