"""The training recipes of the papers, by name: everything but the data and the architecture."""

import math
from dataclasses import dataclass, field, replace
from typing import Final

from camseg.classify.settings import Resize
from camseg.data.augmentation import NONE, Augmentation
from camseg.train.trainer import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a paper trained, whatever the architecture."""

    paper: str
    """Where it was published."""
    gaps: str = ""
    """What the paper leaves open, and what stands there."""
    settings: TrainSettings = field(default_factory=TrainSettings)
    """How the network learns."""
    image_size: int | None = None
    """Side of the input, pixels; None: what the architecture was described for."""
    resize: Resize = "stretch"
    """How images become squares."""
    val_fraction: float = 0.2
    """Share of the images for validation, after those for the test are split off."""
    test_fraction: float = 0.0
    """Share of the images that take no part in training and are scored at its end."""


PLAIN: Final = TrainSettings(
    optimizer="adam",
    learning_rate=1e-4,
    weight_decay=0.0,
    warmup_epochs=0,
    averaging=0.0,
    plateau_patience=0,
    patience=0,
    balance="none",
    augmentation=NONE,
)
"""Adam and nothing else: what stands where a paper says nothing. The epoch that validates best is kept in any case."""

RECIPES: Final[dict[str, Recipe]] = {
    "default": Recipe(
        paper="none: chosen by measurement on small sets, docs/results.md",
    ),
    "guan-loew": Recipe(
        paper='Guan, Loew: "A sneak attack on segmentation of medical images using deep neural network classifiers", '
        "AIPR 2021, arXiv 2201.02771",
        gaps="The learning rate is not stated: Adam's 1e-4; nor how long early stopping waits: 20 epochs; nor "
        "the batch: 16 images.",
        settings=replace(PLAIN, epochs=200, patience=20),
    ),
    "laptev": Recipe(
        paper="Laptev, Gerget: a pipeline that annotates medical images with classifiers, class activation maps and "
        "matting (known here by its description only)",
        gaps='The learning rate is printed as "12^-4" and taken as 1e-4.',
        settings=replace(PLAIN, epochs=75, batch_size=32, learning_rate=1e-4),
        image_size=512,
    ),
    "med-ic": Recipe(
        paper="Islam et al.: Med-IC: Fusing a Single Layer Involution with Convolutions, arXiv 2409.18506",
        settings=replace(PLAIN, epochs=30, batch_size=16, learning_rate=1e-4),
        image_size=28,
        val_fraction=0.1,
        test_fraction=0.2,
    ),
    "brain-mri": Recipe(
        paper="the study of brain MRI whose heads are Mixed Attention, Residual Path and Spatial Boundary Refinement "
        "(known here by its description only)",
        gaps="Not stated: Adam's rate of 1e-4, batches of 16 images, 50 epochs of which 5 warm up, and what patience "
        "has: 3 epochs for the rate, 10 for stopping.",
        settings=replace(
            PLAIN,
            epochs=50,
            warmup_epochs=5,
            trainable="last-stages",
            plateau_patience=3,
            patience=10,
            augmentation=Augmentation(
                rotation=math.degrees(0.05), zoom=0.1, shift=0.05, mirror=False, brightness=0.0, contrast=0.1
            ),
        ),
        image_size=224,
        resize="pad",
    ),
}
"""By the name that ``--recipe`` takes."""
