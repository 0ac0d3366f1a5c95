"""NIfTI volumes to slices: orientation, window, masks and labels, against arrays written by nibabel."""

import gzip
import struct
import sys

import numpy as np
import pytest

from camseg.base.errors import InputError
from camseg.data.datasets import load_images, load_training_data
from camseg.data.images import read_image, read_levels, read_mask
from camseg.prepare.settings import LabelClass, SliceSettings
from camseg.prepare.slices import prepare_slices
from camseg.runs.manifest import read_manifest
from camseg.runs.settings import FolderOptions

nibabel = pytest.importorskip("nibabel")
RAS = np.eye(4)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def save(path, values, affine=RAS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def numbered(shape=(4, 5, 6)):
    """A canonical volume whose values tell their place: 50 x + 10 y + z."""
    x, y, z = np.indices(shape)
    return (50 * x + 10 * y + z).astype(np.int16)


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "volumes", tmp_path / "labels", tmp_path / "out"


@pytest.mark.parametrize(
    ("axis", "count", "corners"),
    [  # (top left, top right, bottom left) of slice 1, as (x, y, z): right, anterior and superior are the far ends
        ("axial", 6, ((3, 4, 1), (0, 4, 1), (3, 0, 1))),
        ("coronal", 5, ((3, 1, 5), (0, 1, 5), (3, 1, 0))),
        ("sagittal", 4, ((1, 4, 5), (1, 0, 5), (1, 4, 0))),
    ],
)
@pytest.mark.parametrize("affine", [RAS, LPS, np.array([[0, 0, 2, 0], [-3, 0, 0, 9], [0, 1, 0, 0], [0, 0, 0, 1.0]])])
def test_slices_lie_as_radiologists_see_them_however_the_volume_is_stored(folders, axis, count, corners, affine):
    volumes, _, out = folders
    # What the canonical volume looks like when it is stored along the affine's axes.
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(RAS), nibabel.io_orientation(affine))
    stored = nibabel.orientations.apply_orientation(numbered(), turn)
    save(volumes / "a.nii.gz", np.ascontiguousarray(stored), affine)
    report = prepare_slices(volumes, out, SliceSettings(axis=axis, window="0,255"))
    assert (report.images, report.failed) == (count, [])
    pixels = read_levels(out / "a/001.png")
    for (row, column), (x, y, z) in zip(((0, 0), (0, -1), (-1, 0)), corners, strict=True):
        assert pixels[row, column] == 50 * x + 10 * y + z


def test_the_table_of_unlabelled_slices_groups_by_volume(folders):
    volumes, _, out = folders
    for name in ("p1/t1.nii", "p2/t1.nii.gz"):
        save(volumes / name, numbered())
    prepare_slices(volumes, out)
    samples = load_images(out / "labels.csv").samples
    assert {sample.group for sample in samples} == {"p1/t1", "p2/t1"}
    assert [sample.name for sample in samples][:2] == ["p1/t1/000", "p1/t1/001"]
    assert all(sample.labels is None for sample in samples)


@pytest.mark.parametrize(
    ("window", "expected"),
    [("full", lambda v: (v + 1000) / 3000), ("-160,240", lambda v: (v + 160) / 400), ("percentile", None)],
)
def test_the_window_is_the_whole_volumes(folders, window, expected):
    volumes, _, out = folders
    values = np.random.default_rng(0).integers(-1000, 2001, (4, 5, 6)).astype(np.float32)
    values[0, 0, 0], values[1, 1, 1] = -1000, 2000
    if expected is None:
        low, high = np.percentile(values, (0.5, 99.5))
        expected = lambda v: (v - low) / (high - low)  # noqa: E731
    save(volumes / "a.nii", values)
    prepare_slices(volumes, out, SliceSettings(window=window))
    for z in range(6):
        wanted = np.rint(255 * np.clip(expected(values[::-1, ::-1, z].T.astype(np.float64)), 0, 1))
        assert np.abs(read_levels(out / f"a/{z:03}.png") - wanted).max() <= 1
        assert read_image(out / f"a/{z:03}.png").shape == (5, 4, 3)


def test_scaled_values_and_what_is_no_number(folders):
    volumes, _, out = folders
    values = np.full((2, 2, 2), 100.0, np.float32)
    values[0, 0, 0], values[1, 0, 0], values[0, 1, 0] = np.nan, np.inf, -np.inf
    save(volumes / "nan.nii", values)
    image = nibabel.Nifti1Image(np.full((2, 2, 2), 7, np.int16), RAS)
    image.header.set_slope_inter(10, 30)
    nibabel.save(image, volumes / "scaled.nii")
    prepare_slices(volumes, out, SliceSettings(window="0,200"))
    assert read_levels(out / "nan/000.png").tolist() == [[128, 0], [255, 0]]
    assert set(read_levels(out / "scaled/000.png").ravel()) == {128}


def labelled(folders, settings=None, **more):
    volumes, labels, out = folders
    return prepare_slices(volumes, out, settings, labels=labels, **more)


def test_labels_and_masks_say_which_slices_show_the_object(folders):
    volumes, labels, out = folders
    truth = np.zeros((4, 5, 6), np.uint8)
    truth[1, 2, 3], truth[0:2, 0:2, 4] = 1, 2
    save(volumes / "a.nii.gz", numbered())
    save(labels / "a.nii", truth)
    report = labelled(folders)
    assert (report.images, report.failed) == (6, [])
    dataset = load_training_data(out / "labels.csv")
    assert [sample.labels for sample in dataset.samples] == [("negative",)] * 3 + [("positive",)] * 2 + [("negative",)]
    for z, sample in enumerate(dataset.samples):
        mask = read_mask(out / "masks" / f"{sample.name}.png")
        assert np.array_equal(mask, truth[::-1, ::-1, z].T > 0)


def test_small_objects_are_neither_positive_nor_negative(folders):
    volumes, labels, _ = folders
    truth = np.zeros((4, 5, 6), np.uint8)
    truth[1, 2, 3], truth[0:2, 0:2, 4] = 1, 2
    save(volumes / "a.nii", numbered())
    save(labels / "a.nii", truth)
    report = labelled(folders, SliceSettings(min_area=2))
    assert report.images == 5
    assert dict(report.skipped) == {"slices with an object smaller than the least area": 1}


def test_label_values_make_one_class_or_several(folders, tmp_path):
    volumes, labels, out = folders
    truth = np.zeros((4, 5, 6), np.uint8)
    truth[0, 0, 1], truth[1, 0, 1], truth[0, 0, 2], truth[0, 0, 3] = 1, 2, 4, 3
    save(volumes / "a.nii", numbered())
    save(labels / "a.nii", truth)
    labelled(folders, SliceSettings(classes=(LabelClass(name="tumour", values=(1, 4)),), negative="clean"))
    assert [sample.labels for sample in load_images(out / "labels.csv").samples] == [
        (name,) for name in ("clean", "tumour", "tumour", "clean", "clean", "clean")
    ]
    several = tmp_path / "several"
    classes = (LabelClass(name="core", values=(1, 4)), LabelClass(name="edema", values=(2,)))
    prepare_slices(volumes, several, SliceSettings(classes=classes), labels=labels)
    dataset = load_training_data(several / "labels.csv")
    assert dataset.multi_label
    assert [sample.labels for sample in dataset.samples][:4] == [(), ("core", "edema"), ("core",), ()]
    assert read_mask(several / "masks/core/a/001.png").sum() == 1
    assert np.array_equal(read_mask(several / "masks/edema/a/001.png"), truth[::-1, ::-1, 1].T == 2)


def test_empty_slices_can_be_left_out(folders):
    volumes, _, out = folders
    values = numbered()
    values[..., (0, 5)] = -1
    save(volumes / "a.nii", values)
    report = prepare_slices(volumes, out, SliceSettings(skip_empty=True))
    assert dict(report.skipped) == {"empty slices": 2}
    assert [path.stem for path in sorted((out / "a").iterdir())] == ["001", "002", "003", "004"]


def test_a_channel_of_4d_files_is_chosen(folders):
    volumes, _, out = folders
    save(volumes / "a.nii", np.stack([numbered(), numbered() + 5], axis=-1))
    save(volumes / "single.nii", numbered()[..., None])
    report = prepare_slices(volumes, out, SliceSettings(window="0,255"))
    assert report.failed == [
        f"{volumes / 'a.nii'}: expected a 3D volume; its shape is (4, 5, 6, 2); choose a channel from 0 to 1"
    ]
    other = out.with_name("other")
    prepare_slices(volumes / "a.nii", other, SliceSettings(window="0,255", channel=1))
    assert read_levels(other / "a/000.png").min() == 5


def test_what_is_wrong_with_one_volume_leaves_the_others(folders):
    volumes, labels, _ = folders
    for name in ("good", "shifted", "size", "missing", "shares", "turned"):
        save(volumes / f"{name}.nii.gz", numbered(), LPS if name == "turned" else RAS)
    empty = np.zeros((4, 5, 6), np.float32)
    save(labels / "good.nii.gz", empty)
    save(labels / "shifted.nii.gz", empty, np.array([[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    save(labels / "size.nii.gz", empty[:3])
    save(labels / "shares.nii.gz", empty + 0.5)
    save(labels / "turned.nii.gz", empty)
    whole = gzip.compress((volumes / "good.nii.gz").read_bytes())
    (volumes / "cut.nii.gz").write_bytes((volumes / "good.nii.gz").read_bytes()[:80])
    (volumes / "junk.nii").write_bytes(whole)
    (volumes / "void.nii").touch()
    save(volumes / "nothing.nii", np.full((2, 2, 2), np.nan, np.float32))
    report = labelled(folders)
    assert (report.done, report.images) == (1, 6)
    words = {line.split("volumes")[-1].split(".nii")[0].strip("/\\"): line for line in report.failed}
    assert set(words) == {"cut", "junk", "void", "nothing", "missing", "shares", "shifted", "size", "turned"}
    assert "no label volume" in words["missing"]
    assert "whole numbers" in words["shares"]
    assert "elsewhere in space" in words["shifted"]
    assert "elsewhere in space" in words["turned"]
    assert "differ in size" in words["size"]
    assert all("\n" not in line for line in report.failed)


def test_unusable_inputs_are_refused(folders, tmp_path):
    volumes, labels, out = folders
    save(volumes / "a.nii", numbered())
    save(labels / "b.nii", numbered())
    with pytest.raises(InputError, match="no label volume of any volume"):
        labelled(folders)
    with pytest.raises(InputError, match="does not exist"):
        prepare_slices(tmp_path / "nowhere", out)
    (volumes / "a.nii.gz").touch()
    with pytest.raises(InputError, match="same output"):
        prepare_slices(volumes, out)
    assert not out.exists()
    prepare_slices(volumes / "a.nii", out, labels=labels / "b.nii")
    assert (out / "masks/a/000.png").is_file()


def label_volume(path, *values):
    truth = np.zeros((4, 5, 6), np.uint8)
    truth[0, 0, : len(values)] = values
    return save(path, truth)


def test_label_values_that_are_nowhere_are_refused(folders, call):
    volumes, labels, out = folders
    for name, values in (("a", (1,)), ("b", (3,))):
        save(volumes / f"{name}.nii", numbered())
        label_volume(labels / f"{name}.nii", *values)
    arguments = ("prepare", "slices", volumes, "--labels", labels, "--out", out)
    code, _, err = call(*arguments, "--class", "et=4,5")
    assert code == 2
    assert "no label volume holds the values 4, 5 of class 'et'; they hold 1, 3" in err
    assert call(*arguments, "--class", "et=4", "--dry-run")[0] == 2
    # What was refused does not stand in the way of the corrected call, which says what it does not find.
    code, _, err = call(*arguments, "--class", "et=3,4")
    assert code == 0
    assert "note: no label volume holds the value 4 of class 'et'; they hold 1, 3" in err
    assert [sample.labels for sample in load_images(out / "labels.csv").samples].count(("et",)) == 1
    code, _, err = call(*arguments, "--overwrite", "--class", "core=1", "--class", "et=4")
    assert (code, "value 4 of class 'et'" in err) == (0, True)
    assert "note" not in call(*arguments, "--overwrite", "--class", "core=1", "--class", "rest=3")[2]


def test_options_about_labels_need_label_volumes(folders):
    volumes, labels, out = folders
    save(volumes / "a.nii", numbered())
    given = {"class": {"classes": ("et=4",)}, "negative": {"negative": "no"}, "min-area": {"min_area": 9}}
    for word, settings in given.items():
        with pytest.raises(InputError, match=f"--{word} is about label volumes"):
            prepare_slices(volumes, out, SliceSettings(**settings))
    with pytest.raises(InputError, match="leave the negative one out"):
        SliceSettings(classes=("a=1", "b=2"), negative="clean")
    assert not out.exists()
    label_volume(labels / "a.nii", 1)
    label_volume(labels / "lost.nii", 1)
    heard = []
    labelled(folders, options=FolderOptions(say=heard.append))
    assert heard == [f"note: 1 label volumes are of no volume, such as {labels / 'lost.nii'}"]


def test_what_is_no_volume_is_refused_in_words(folders):
    volumes, _, out = folders
    save(volumes / "flat.nii", np.zeros((8, 9), np.int16))
    save(volumes / "colours.nii", np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    (volumes / "photo.nii").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(400))
    colours, flat, photo = prepare_slices(volumes, out).failed
    assert flat == (
        f"{volumes / 'flat.nii'}: expected a volume (X, Y, Z) of 3 dimensions; it has 2 dimensions, 8 x 9; save a flat "
        "picture as PNG, which needs no preparation"
    )
    assert "expected one number per voxel" in colours
    assert "expected a NIfTI volume" in photo
    assert not any("Error" in line for line in (colours, flat, photo))
    save(volumes / "deep.nii", numbered())
    (failed,) = prepare_slices(volumes / "deep.nii", out.with_name("o"), SliceSettings(channel=2)).failed
    assert "expected a 4D file, to take channel 2 of; it is 3D, 4 x 5 x 6" in failed


def test_the_manifest_says_which_slice_an_image_is(folders):
    volumes, labels, out = folders
    save(volumes / "p/a.nii.gz", numbered())
    label_volume(labels / "p/a.nii.gz", 2)
    labelled(folders, SliceSettings(axis="coronal", window="0,100"))
    records = read_manifest(out)
    assert [record.source.frame for record in records] == [*range(5)]
    first = records[0]
    assert (first.input, first.name, first.labels, first.area) == ("p/a.nii.gz", "p/a", ("positive",), 1)
    assert first.files == {"image": "p/a/000.png", "mask": "masks/p/a/000.png"}
    assert (first.source.name, first.source.axis, first.source.window) == ("p/a", "coronal", (0.0, 100.0))


@pytest.mark.parametrize(
    "settings",
    [
        {"axis": "x"},
        {"window": "9,1"},
        {"classes": ()},
        {"classes": ("negative",)},
        {"classes": ("a=1", "a=2")},
        {"classes": ("a=x",)},
        {"classes": ("a/b",)},
        {"min_area": 0},
        {"negative": "/"},
    ],
)
def test_settings_are_checked(settings):
    with pytest.raises(InputError):
        SliceSettings(**settings)


def test_without_nibabel_the_extra_is_named(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(InputError, match=r"camseg\[nifti\]"):
        prepare_slices(folders[0], folders[2])


def test_the_command(folders, call):
    volumes, labels, out = folders
    save(volumes / "a.nii", numbered())
    save(labels / "a.nii", numbered())
    arguments = (volumes, "--labels", labels, "--out", out, "--window", "-100,300", "--axis", "coronal")
    code, _, err = call("prepare", "slices", *arguments, "--class", "one=1,2", "--class", "other=3")
    assert (code, "5 images of 1 inputs, 0 failed" in err) == (0, True)
    assert load_images(out / "labels.csv").classes == ("one", "other")
    assert call("prepare", "slices", *arguments, "--overwrite", "--class", "one=x")[0] == 2
    assert call("prepare", "slices", *arguments, "--overwrite", "--class", "one", "--class", "one=2")[0] == 2


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_headers_that_speak_of_more_voxels_than_the_file_holds(tmp_path, suffix):
    save(tmp_path / f"v/a{suffix}", np.zeros((4, 4, 4), np.int16))
    opened = gzip.open if suffix.endswith("gz") else open
    with opened(tmp_path / f"v/a{suffix}", "rb") as file:
        data = bytearray(file.read())
    struct.pack_into("<2h", data, 44, 30000, 30000)
    with opened(tmp_path / f"v/a{suffix}", "wb") as file:
        file.write(data)
    report = prepare_slices(tmp_path / "v", tmp_path / "out")
    assert "4 x 30000 x 30000 of them" in report.failed[0]
