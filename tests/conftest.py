import sys

import numpy as np
import pytest
import torch

from camseg.classify.classifier import Classifier
from camseg.cli import main
from camseg.data.images import write_image, write_mask
from camseg.segment.segmenter import Segmenter

torch.set_num_threads(1)  # tiny networks gain nothing from more, and equal results need equal sums


@pytest.fixture
def make_classifier():
    """Seeded, untrained tiny classifiers, with spread logits so that the classes differ."""

    def make(arch="test_resnet", seed=0, **settings):
        torch.manual_seed(seed)
        classifier = Classifier.create(arch, **{"classes": ["cat", "dog", "none"], "image_size": 64, **settings})
        for name, buffer in classifier.model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        return classifier

    return make


@pytest.fixture
def tiny_classifier(make_classifier):
    return make_classifier(negative=["none"])


@pytest.fixture
def make_images():
    """Random images with structure at several scales: uint8 (H, W, 3) for each size (H, W)."""

    def make(*sizes, seed=0):
        random = np.random.default_rng(seed)
        images = []
        for height, width in sizes:
            coarse = random.integers(0, 256, (4, 5, 3)).repeat(-(-height // 4), axis=0).repeat(-(-width // 5), axis=1)
            noise = random.integers(-20, 21, (height, width, 3))
            images.append(np.clip(coarse[:height, :width] + noise, 0, 255).astype(np.uint8))
        return images

    return make


def make_data(root, count=12, size=32):
    """A folder of class folders: red and blue squares on grey, ``count`` images of each class."""
    random = np.random.default_rng(0)
    for label, color in {"blue": (30, 30, 220), "red": (220, 30, 30)}.items():
        for i in range(count):
            image = random.integers(90, 130, (size, size, 3)).astype(np.uint8)
            top, left = random.integers(0, size // 2, 2)
            image[top : top + size // 2, left : left + size // 2] = color
            write_image(root / label / f"{i:02}.png", image)
    return root


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory):
    return lambda **settings: make_data(tmp_path_factory.mktemp("data"), **settings)


def make_masked(root, count=8, size=32):
    """Images of bright squares on noise (``shape``) and of noise alone (``blank``), and masks of the squares."""
    random = np.random.default_rng(0)
    for label in ("blank", "shape"):
        for i in range(count):
            image = random.integers(60, 120, (size, size, 3)).astype(np.uint8)
            mask = np.zeros((size, size), bool)
            if label == "shape":
                top, left = random.integers(2, size // 2, 2)
                mask[top : top + size // 2 - 2, left : left + size // 2 - 2] = True
                image[mask] = (230, 200, 40)
            write_image(root / "images" / label / f"{i:02}.png", image)
            if mask.any():
                write_mask(root / "masks" / label / f"{i:02}.png", mask)
    return root / "images", root / "masks"


@pytest.fixture(scope="session")
def masked_folder(tmp_path_factory):
    """(images, masks): eight images of squares with masks, and eight of noise without."""
    return make_masked(tmp_path_factory.mktemp("masked"))


@pytest.fixture
def make_segmenter():
    """Seeded, untrained tiny segmenters with spread logits."""

    def make(arch="linknet+test_resnet", seed=0, **settings):
        torch.manual_seed(seed)
        segmenter = Segmenter.create(arch, **{"classes": ["object"], "image_size": 32, **settings})
        # New heads say next to nothing: spread what they say about 0.
        head = segmenter.model.network.segmentation_head[0]
        with torch.no_grad():
            logits = segmenter.model(torch.rand(4, 3, 32, 32) * 2 - 1).transpose(0, 1).flatten(1)
            scale = 2 / logits.std(dim=1)
            head.weight.mul_(scale[:, None, None, None])
            head.bias.copy_((head.bias - logits.median(dim=1).values) * scale)
        return segmenter

    return make


class _Here:
    """Stands for a worker process without starting one, which takes a second."""

    def __init__(self, single):
        pass

    def call(self, function, arguments):
        try:
            return True, function(*arguments)
        except Exception as error:
            return False, error

    def kill(self):
        pass

    end = kill


@pytest.fixture(autouse=True)
def _few_processes(request, monkeypatch):
    if request.node.get_closest_marker("processes") is None:
        monkeypatch.setattr("camseg.base.workers._Worker", _Here)


@pytest.fixture
def call(capsys, monkeypatch):
    """Run a command in this process: (exit code, stdout, stderr). An unforeseen error is raised, not worded."""
    monkeypatch.setenv("CAMSEG_TRACEBACK", "1")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["camseg", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run
