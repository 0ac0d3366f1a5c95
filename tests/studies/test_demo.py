"""The sample data in the repository, and the demo's own small parts."""

import csv
from pathlib import Path

import numpy as np
import pytest

from camseg.data.datasets import load_images, load_training_data
from camseg.data.images import read_image, read_mask
from camseg.data.splits import split
from camseg.studies.demo import write_samples
from camseg.studies.samples import NEGATIVE_CLASS, OBJECT_CLASS

COMMITTED = Path(__file__).parents[2] / "sample_data"


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder)
    return folder


def test_the_committed_sample_data_are_what_the_generator_writes(generated):
    assert names(COMMITTED) == names(generated)
    assert (COMMITTED / "labels.csv").read_bytes() == (generated / "labels.csv").read_bytes()
    for name in names(COMMITTED):
        here, there = COMMITTED / name, generated / name
        if name.startswith("masks/"):
            np.testing.assert_array_equal(read_mask(here), read_mask(there), err_msg=name)
        elif name.endswith(".jpg"):  # encoders may differ in rounding
            difference = np.abs(read_image(here).astype(int) - read_image(there))
            assert difference.max() <= 2, name


def test_the_sample_data_are_small():
    assert sum((COMMITTED / name).stat().st_size for name in names(COMMITTED)) <= 6_000_000


def test_every_sample_has_a_mask_a_label_and_a_group():
    with (COMMITTED / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = [name for name in names(COMMITTED) if name.startswith("images/")]
    assert sorted(row["image"] for row in rows) == images
    for row in rows:
        mask = read_mask(COMMITTED / row["image"].replace("images/", "masks/").replace(".jpg", ".png"))
        assert mask.any() == (row["label"] == OBJECT_CLASS)
        assert row["image"].split("/")[2] == row["label"]


def test_folders_and_table_say_the_same():
    table, folder = load_images(COMMITTED / "labels.csv"), load_training_data(COMMITTED / "images/train")
    assert table.classes == folder.classes == (NEGATIVE_CLASS, OBJECT_CLASS)
    labelled = {sample.path.resolve(): sample.labels for sample in table.samples}
    assert all(labelled[sample.path.resolve()] == sample.labels for sample in folder.samples)
    train, val = split(table, 0.2, 0)
    assert not {sample.group for sample in train.samples} & {sample.group for sample in val.samples}
