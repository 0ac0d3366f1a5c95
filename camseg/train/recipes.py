"""The training recipes of the papers, by name: everything but the data and the architecture."""

import math
from dataclasses import replace
from typing import Final

from camseg.base.settings import settings
from camseg.data.settings import NONE, Augmentation
from camseg.train.settings import SegmenterSettings, SegmenterTraining, Training, TrainSettings


@settings
class Recipe:
    """How a paper trained, whatever the architecture."""

    paper: str
    """Where it was published."""
    gaps: str = ""
    """What the paper leaves open, and what stands there."""
    training: Training = Training()
    """Everything else, but the data and the architecture."""


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
    "patch-scores": Recipe(
        paper="none: for a frozen transformer whose head scores patches, such as vit_small_patch14_dinov2+lse",
        gaps="Tried on one set, by its test masks, docs/results.md: a start, not a recommendation.",
        training=Training(
            recipe="patch-scores",
            settings=TrainSettings(
                epochs=100,
                batch_size=64,
                learning_rate=1e-2,
                weight_decay=1.0,
                trainable="head",
                warmup_epochs=0,
                plateau_patience=0,
                patience=0,
                keep="last",
                feature_views=1,
            ),
        ),
    ),
    "guan-loew": Recipe(
        paper='Guan, Loew: "A sneak attack on segmentation of medical images using deep neural network classifiers", '
        "AIPR 2021, arXiv 2201.02771",
        gaps="The learning rate is not stated: Adam's 1e-4; nor how long early stopping waits: 20 epochs; nor "
        "the batch: 16 images.",
        training=Training(recipe="guan-loew", settings=replace(PLAIN, epochs=200, patience=20)),
    ),
    "laptev": Recipe(
        paper="Laptev, Gerget: a pipeline that annotates medical images with classifiers, class activation maps and "
        "matting (known here by its description only)",
        gaps='The learning rate is printed as "12^-4" and taken as 1e-4.',
        training=Training(
            recipe="laptev", image_size=512, settings=replace(PLAIN, epochs=75, batch_size=32, learning_rate=1e-4)
        ),
    ),
    "med-ic": Recipe(
        paper="Islam et al.: Med-IC: Fusing a Single Layer Involution with Convolutions, arXiv 2409.18506",
        training=Training(
            recipe="med-ic",
            image_size=28,
            val_fraction=0.1,
            test_fraction=0.2,
            settings=replace(PLAIN, epochs=30, batch_size=16, learning_rate=1e-4),
        ),
    ),
    "brain-mri": Recipe(
        paper="the study of brain MRI whose heads are Mixed Attention, Residual Path and Spatial Boundary Refinement "
        "(known here by its description only)",
        gaps="Not stated: Adam's rate of 1e-4, batches of 16 images, 50 epochs of which 5 warm up, and what patience "
        "has: 3 epochs for the rate, 10 for stopping.",
        training=Training(
            recipe="brain-mri",
            image_size=224,
            resize="pad",
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
        ),
    ),
}
"""By the name that ``--recipe`` takes."""

_PLAIN_SEGMENTER: Final = SegmenterSettings(
    optimizer="adam",
    weight_decay=0.0,
    warmup_epochs=0,
    averaging=0.0,
    plateau_patience=0,
    patience=0,
    augmentation=NONE,
    loss="cross-entropy",
)
"""As ``PLAIN``, of segmentation networks."""


@settings
class SegmenterRecipe(Recipe):
    """How a paper trained segmentation networks, whatever the architecture."""

    training: SegmenterTraining = SegmenterTraining()
    """Everything else, but the data and the architecture."""


SEGMENTER_RECIPES: Final[dict[str, SegmenterRecipe]] = {
    "default": SegmenterRecipe(paper="none: chosen for small sets"),
    "sarmah": SegmenterRecipe(
        paper="Sarmah et al.: what U-Nets, MultiResUNet and DC-UNet looked at, by Grad-CAM of segmentation networks "
        "(known here by its description only)",
        gaps="Not stated: the loss, taken as the cross-entropy that it reports; the most epochs, 150; and how long "
        "early stopping waits, 10 epochs.",
        training=SegmenterTraining(
            recipe="sarmah",
            image_size=128,
            val_fraction=0.2,
            test_fraction=0.1,
            settings=replace(_PLAIN_SEGMENTER, epochs=150, batch_size=16, learning_rate=1e-3, patience=10),
        ),
    ),
    "med-ic-seg": SegmenterRecipe(
        paper="Islam et al.: Med-IC: Fusing a Single Layer Involution with Convolutions, arXiv 2409.18506, its "
        "segmentation network",
        gaps="Not stated: the loss, taken as the cross-entropy that it reports; and the shares of the split, 20 % for "
        "validation.",
        training=SegmenterTraining(
            recipe="med-ic-seg",
            image_size=128,
            settings=replace(_PLAIN_SEGMENTER, epochs=100, batch_size=8, learning_rate=1e-5),
        ),
    ),
}
"""By the name that ``--recipe`` of segmentation networks takes."""
