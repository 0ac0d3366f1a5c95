"""Golden numbers: each method of our own on one fixed input, so that no change goes unnoticed.

What other libraries calculate (grad-cam's methods, scikit-image's superpixels, pymatting's Laplacians of knn and lkm)
may change with their versions; the tests of the methods compare it with what the library itself gives.
"""

import numpy as np
import pytest
import torch
from torch import nn

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN
from camseg.cams.capture import Capture, Network
from camseg.cams.methods.registry import METHODS as CAM_METHODS
from camseg.cams.methods.registry import NATIVE
from camseg.classify.classifier import Classifier
from camseg.propagation.propagate import propagate
from camseg.propagation.registry import METHODS as PROPAGATORS
from camseg.refinement.refine import refine
from camseg.refinement.registry import METHODS as REFINERS

CAMS: dict[str, tuple[float, float, float]] = {
    "gradcam": (-0.084985, 0.409028, -0.047986),
    "hirescam": (0.509516, 1.764753, 0.274839),
    "gradcam-elementwise": (1.864833, 1.316535, 0.943562),
    "gradcam++": (3.916413, 36.797634, 0.503428),
    "xgradcam": (0.509516, 27.176977, -0.421573),
    "layercam": (0.075088, 1.361835, 0.029995),
    "eigencam": (0.000000, 1.290586, -0.004561),
    "eigengradcam": (0.000000, 1.228281, -0.005063),
    "smoothgradcam++": (-0.081846, 0.287230, -0.038884),
    "scorecam": (-0.113358, 0.413807, -0.058341),
    "ablationcam": (0.153034, 3.097502, 0.007206),
    "saliency": (0.128236, 0.086549, 0.051647),
    "integrated-gradients": (0.009101, 0.204481, 0.006240),
    "occlusion": (0.048708, 0.403601, 0.037999),
}
PROPAGATED: dict[str, tuple[float, float, float]] = {
    "par": (0.374996, 0.279199, 0.183233),
    "crf": (0.190906, 0.354238, 0.089972),
    "guided": (0.310797, 0.215210, 0.151541),
    "random-walk": (0.414684, 0.248389, 0.207119),
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


class MadeUp(nn.Module):
    """A network whose logits are the channels of its input; whatever its layer gives adds to them, curved."""

    def __init__(self):
        super().__init__()
        random = np.random.default_rng(2)
        self.layer = nn.Conv2d(3, 6, 4, stride=4)
        self.head = nn.Parameter(torch.from_numpy(random.normal(size=(3, 6)).astype(np.float32)))
        with torch.no_grad():
            self.layer.weight.copy_(torch.from_numpy(random.normal(size=(6, 3, 4, 4)).astype(np.float32)))
            self.layer.bias.copy_(torch.from_numpy(random.normal(size=6).astype(np.float32)))

    def forward(self, x):
        return 10 * x.mean(dim=(2, 3)) + self.layer(x).square().mean(dim=(2, 3)).sqrt() @ self.head.T


@pytest.mark.parametrize("name", NATIVE)
def test_cam_methods(name):
    random = np.random.default_rng(1)
    activations, gradients = (torch.from_numpy(random.normal(size=(2, 6, 5, 5)).astype(np.float32)) for _ in range(2))
    inputs = torch.from_numpy(random.normal(size=(2, 3, 20, 20)).astype(np.float32))
    classifier = Classifier(
        model=MadeUp(),
        arch="made up",
        model_args={},
        classes=("a", "b", "c"),
        multi_label=False,
        negative=(),
        image_size=20,
        resize="stretch",
        window="full",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    capture = Capture(
        inputs=inputs,
        targets=torch.tensor([0, 1]),
        layer="layer",
        activations=activations,
        gradients=gradients,
        network=Network(classifier=classifier, layers=("layer",)),
    )

    found = summary(CAM_METHODS[name].load()(capture).numpy())

    assert found == pytest.approx(CAMS[name], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", [name for name in PROPAGATORS if name != "superpixels"])
def test_propagators(name):
    image, disc = scene()
    cam = np.float32(0.2) + np.float32(0.8) * np.roll(disc, 5, axis=1)

    features = np.ascontiguousarray(image[::4, ::4].transpose(2, 0, 1), np.float32)  # stand for a layer's

    found = summary(propagate(image, cam, name, features=features))

    assert found == pytest.approx(PROPAGATED[name], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in REFINERS if name not in ("knn", "lkm", "fba", "sam")])
def test_refiners(name):
    image, disc = scene()
    rows, columns = np.nonzero(disc)
    trimap = np.full(disc.shape, BACKGROUND, np.uint8)
    trimap[rows.min() - 3 : rows.max() + 4, columns.min() - 3 : columns.max() + 4] = UNKNOWN
    trimap[18:26, 26:34] = FOREGROUND

    found = summary(refine(image, trimap, name))

    assert found == pytest.approx(ALPHAS[name], rel=2e-3, abs=1e-3)
