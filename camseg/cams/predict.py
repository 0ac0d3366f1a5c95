"""Images -> probabilities, in one batch, without maps."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from camseg.base.arrays import Image
from camseg.base.errors import InputError
from camseg.cams.capture import Network
from camseg.cams.scores import Decider

Views: TypeAlias = Image | Mapping[str, Image]
"""An image, uint8 (H, W, 3); or the same by window, for an ensemble whose members read 16-bit pixels in several."""


def predict(classifier: Decider, images: Sequence[Views]) -> NDArray[np.float32]:
    """Probabilities float32 (N, classes) of images of any sizes, which go through in one batch.

    Raises InputError for no images, or one that lacks a member's window.
    """
    passes = [
        Network(classifier=member, layers=()).forward(
            member.preprocess([view(image, member.window) for image in images]),
            gradients=False,
            features=classifier.reads_features,
        )
        for member in classifier.members
    ]
    return classifier.vote([one.logits for one in passes], [one.features for one in passes]).cpu().numpy()


def view(image: Views, window: str) -> Image:
    """What a network with this window sees of an image; InputError where the image is not there in it."""
    if not isinstance(image, Mapping):
        return image
    if window not in image:
        raise InputError(f"expected the image in the window {window}; got it in {', '.join(image) or 'none'}")
    return image[window]
