"""Golden numbers: each method of each registry on one fixed input, so that no change goes unnoticed."""

import numpy as np
import pytest
import torch

from camseg import cams, propagation, refinement
from camseg.activations import Capture
from camseg.arrays import BACKGROUND, FOREGROUND, UNKNOWN

CAMS: dict[str, tuple[float, float, float]] = {
    "gradcam": (0.053060, 0.462397, 0.043216),
    "hirescam": (-0.130813, 2.682193, -0.024131),
    "gradcam-elementwise": (1.821202, 1.593635, 0.946736),
    "gradcam++": (3.963424, 58.847450, 1.303938),
    "xgradcam": (-0.130813, 108.412239, -0.486248),
    "layercam": (-0.346843, 1.782414, -0.130047),
    "eigencam": (0.000000, 1.180405, -0.008108),
    "eigengradcam": (0.000000, 1.416638, 0.054207),
    "scorecam": (-0.079851, 0.384802, -0.042595),
}
PROPAGATED: dict[str, tuple[float, float, float]] = {
    "par": (0.365282, 0.266544, 0.178831),
}
ALPHAS: dict[str, tuple[float, float, float]] = {
    "closed-form": (0.167491, 0.368328, 0.078450),
    "grabcut": (0.168294, 0.374127, 0.078804),
}


def summary(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, deviation, and a sum weighted by position, which a shift or flip would change."""
    weights = np.linspace(0.0, 1.0, values.size).reshape(values.shape)
    return float(values.mean()), float(values.std()), float((values * weights).mean())


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A bright noisy disc on a dark gradient, uint8 (48, 64, 3), and its mask."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :64]
    disc = (rows - 22) ** 2 + (columns - 30) ** 2 < 13**2
    image = 40 + columns[..., None] * [0.5, 0.8, 0.2] + disc[..., None] * [120, 60, 30]
    return np.clip(image + random.normal(0, 6, image.shape), 0, 255).astype(np.uint8), disc


class MadeUp:
    """A network whose score is a channel of its input, target by target."""

    def scores(self, images, targets):
        return images.mean(dim=(2, 3)).gather(1, targets[:, None])[:, 0] * 10


@pytest.mark.parametrize("name", cams.METHODS)
def test_cam_methods(name):
    random = np.random.default_rng(1)
    activations, gradients = (torch.from_numpy(random.normal(size=(2, 6, 5, 7)).astype(np.float32)) for _ in range(2))
    inputs = torch.from_numpy(random.normal(size=(2, 3, 20, 28)).astype(np.float32))
    capture = Capture(
        inputs=inputs,
        targets=torch.tensor([0, 1]),
        layer="made up",
        activations=activations,
        gradients=gradients,
        network=MadeUp(),
    )

    found = summary(cams.METHODS[name].function(capture).numpy())

    assert found == pytest.approx(CAMS[name], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", propagation.METHODS)
def test_propagators(name):
    image, disc = scene()
    cam = np.float32(0.2) + np.float32(0.8) * np.roll(disc, 5, axis=1)

    found = summary(propagation.propagate(image, cam, name))

    assert found == pytest.approx(PROPAGATED[name], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", refinement.METHODS)
def test_refiners(name):
    image, disc = scene()
    rows, columns = np.nonzero(disc)
    trimap = np.full(disc.shape, BACKGROUND, np.uint8)
    trimap[rows.min() - 3 : rows.max() + 4, columns.min() - 3 : columns.max() + 4] = UNKNOWN
    trimap[18:26, 26:34] = FOREGROUND

    found = summary(refinement.refine(image, trimap, name))

    assert found == pytest.approx(ALPHAS[name], rel=2e-3, abs=1e-3)
