"""What only a GPU can show; ``make bench-gpu`` measures more there."""

import numpy as np
import pytest
import torch

from camseg.base.device import find_device
from camseg.base.errors import InputError
from camseg.cams.compute import compute_cams
from camseg.classify.checkpoint import load_classifier
from camseg.data.images import read_mask, write_image
from camseg.label.folder import label_folder
from camseg.runs.settings import FolderOptions, Placement

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.fixture
def run(tmp_path, tiny_classifier, make_images):
    """A stored classifier, and a folder of 24 images, one of which cannot be read."""
    tiny_classifier.save(tmp_path / "run")
    for n, image in enumerate(make_images(*[(60, 80)] * 24)):
        write_image(tmp_path / f"images/{n:02}.png", image)
    (tmp_path / "images/05.png").write_text("rubbish")
    return tmp_path


def label(run, out, device, **placed):
    classifier = load_classifier(run / "run", device)
    options = FolderOptions(workers=2)
    return label_folder(
        run / "images", classifier, run / out, batch_size=8, options=options, placement=Placement(**placed)
    )


def masks(run, out):
    return {path.name: path.read_bytes() for path in (run / out / "masks").glob("*.png")}


def test_maps_are_those_of_the_cpu_but_for_rounding(run, make_images):
    images, methods = make_images(*[(60, 80)] * 4), ["layercam", "gradcam", "eigencam", "xgradcam"]
    cpu, gpu = (
        compute_cams(load_classifier(run / "run", device), images, ["cat"] * 4, methods, scales=(1.0, 1.5), flip=True)
        for device in ("cpu", "cuda")
    )
    for name in methods:
        for mine, theirs in zip(gpu[name], cpu[name], strict=True):
            assert np.abs(mine - theirs).mean() < 0.01


@pytest.mark.processes
def test_two_processes_on_a_gpu_write_the_bytes_of_one(run):
    assert label(run, "one", "cuda").done == 23
    assert label(run, "two", "cpu", devices="cuda:0,cuda:0").done == 23
    assert masks(run, "two") == masks(run, "one")
    assert label(run, "cpu", "cpu").done == 23
    pairs = [[read_mask(run / out / "masks" / name) for out in ("one", "cpu")] for name in masks(run, "one")]
    assert np.mean([np.mean(mine == theirs) for mine, theirs in pairs]) > 0.97


def test_a_gpu_that_is_not_there_is_said():
    with pytest.raises(InputError, match="cannot be used here"):
        find_device(f"cuda:{torch.cuda.device_count()}")
