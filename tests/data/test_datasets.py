import os
import shutil
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from camseg.base.errors import DatasetError, InputError
from camseg.data.datasets import Dataset, Sample, load_images, load_training_data, samples_sha256
from camseg.data.splits import check_disjoint, split


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_csv(root, text, encoding="utf-8"):
    (root / "data.csv").write_bytes(text.encode(encoding))
    return root / "data.csv"


def labels(dataset):
    return {sample.name: sample.labels for sample in dataset.samples}


def make_dataset(*rows):
    """One sample per (labels, group)."""
    samples = tuple(
        Sample(path=Path(f"{i:03}.png"), name=f"{i:03}", labels=tuple(names), group=group)
        for i, (names, group) in enumerate(rows)
    )
    return Dataset(
        root=Path("data"),
        samples=samples,
        classes=tuple(sorted({label for names, _ in rows for label in names})),
        multi_label=any(len(names) != 1 for names, _ in rows),
    )


def test_class_folders(tmp_path):
    touch(tmp_path, "cat/1.png", "cat/deep/2.jpg", "dog.v2/3.png", ".git/4.png", "cat/notes.txt")
    dataset = load_training_data(tmp_path)
    assert labels(dataset) == {"cat/1": ("cat",), "cat/deep/2": ("cat",), "dog.v2/3": ("dog.v2",)}
    assert dataset.classes == ("cat", "dog.v2")
    assert not dataset.multi_label
    assert dataset.samples[0].path == tmp_path / "cat/1.png"
    assert dataset.samples[0].input == "cat/1.png"
    assert dataset.root == tmp_path


def test_only_a_classifier_s_classes_are_labels(tmp_path):
    touch(tmp_path, "cat/1.png", "monday/2.png", "3.png")
    dataset = load_images(tmp_path, classes=["cat", "dog"])
    assert labels(dataset) == {"3": None, "cat/1": ("cat",), "monday/2": None}
    assert load_images(tmp_path / "cat/1.png", classes=["cat"]).samples[0].labels is None


def test_training_needs_labels_and_two_classes(tmp_path):
    touch(tmp_path, "cat/1.png")
    with pytest.raises(DatasetError, match="at least 2 classes"):
        load_training_data(tmp_path)
    touch(tmp_path, "dog/2.png", "3.png")
    with pytest.raises(DatasetError, match=r"1 images have no label, the first is .*3\.png"):
        load_training_data(tmp_path)
    with pytest.raises(DatasetError, match="have no label"):
        load_training_data(write_csv(tmp_path, "image\ncat/1.png\n"))
    with pytest.raises(InputError, match="does not exist"):
        load_training_data(tmp_path / "missing.csv")


def test_folders_that_cannot_be_listed_are_kept(tmp_path, monkeypatch):
    touch(tmp_path, "cat/1.png", "dog/2.png", "closed/3.png")
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert load_training_data(tmp_path).failures == ((tmp_path / "closed", "Permission denied"),)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_csv_with_spaces_groups_and_blank_lines(tmp_path, encoding, newline):
    rows = ["image, label ,group", "b.png, cat ,p1", "", '"a, b.png",Großer Hund,', "sub dir/ö.tif,cat,p1", ""]
    path = write_csv(tmp_path, newline.join(rows), encoding)
    dataset = load_training_data(path)
    assert labels(dataset) == {"a, b": ("Großer Hund",), "b": ("cat",), "sub dir/ö": ("cat",)}
    assert [sample.group for sample in dataset.samples] == [None, "p1", "p1"]
    assert dataset.samples[2].path == tmp_path / "sub dir/ö.tif"
    assert dataset.root == path
    assert not dataset.multi_label


def test_csv_with_several_labels_and_none(tmp_path):
    dataset = load_training_data(write_csv(tmp_path, "image,label\na.png, dog ; cat;dog;\nb.png,\nc.png,cat\n"))
    assert labels(dataset) == {"a": ("dog", "cat"), "b": (), "c": ("cat",)}
    assert dataset.multi_label
    assert dataset.classes == ("cat", "dog")
    assert dataset.targets(["dog", "bird", "cat"]).tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert dataset.targets(["dog", "cat"]).dtype == np.float32
    alone = load_training_data(write_csv(tmp_path, "image,label\na.png,cat\nb.png,\n"))
    assert alone.multi_label
    assert alone.classes == ("cat",)


def test_csv_without_labels_lists_images(tmp_path):
    dataset = load_images(write_csv(tmp_path, "image,comment\nb.png,x\na.png,y\n"), classes=["cat"])
    assert labels(dataset) == {"a": None, "b": None}
    with pytest.raises(DatasetError, match=r"a\.png has no label"):
        dataset.targets(["cat"])


def test_paths_that_lead_out_of_the_folder(tmp_path):
    path = write_csv(tmp_path, f"image\n../up/a.png\n{tmp_path}/b.png\n./c.png\n")
    found = {sample.name: sample.path for sample in load_images(path).samples}
    inside = "/".join([*tmp_path.parts[1:], "b"])
    assert found == {"up/a": tmp_path / "../up/a.png", inside: tmp_path / "b.png", "c": tmp_path / "c.png"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the columns image,label.*got nothing"),
        ("name,label\na.png,cat\n", "got name,label"),
        ("image;label\na.png;cat\n", "got image;label"),
        ("image,label\n", "no image listed"),
        ("image,label\n\na.png,cat\n,dog\n", "line 4 names no image"),
        ("image,label\n..,dog\n", "line 2 names no image"),
        ("image,label\na.png,cat\na.png,dog\n", "line 3 lists a.png again, after line 2; join several labels by ';'"),
        ("image,label\na,b.png,cat\n", "line 2 has more cells"),
    ],
)
def test_csv_files_that_say_too_little(tmp_path, text, message):
    with pytest.raises(DatasetError, match=message):
        load_images(write_csv(tmp_path, text))


def test_csv_of_another_encoding(tmp_path):
    with pytest.raises(DatasetError, match=r"data\.csv: not a readable UTF-8 CSV"):
        load_images(write_csv(tmp_path, "image,label\nü.png,cat\n", "latin-1"))


def test_labels_that_a_classifier_does_not_know(tmp_path):
    path = write_csv(tmp_path, "image,label\na.png,cat\nb.png,cow\n")
    with pytest.raises(DatasetError, match="no class 'cow'; it has cat, dog"):
        load_images(path, classes=["cat", "dog"])
    with pytest.raises(DatasetError, match=r"b\.png: class 'cow' is not one of cat, dog"):
        load_images(path).targets(["cat", "dog"])


def test_targets_of_exclusive_classes():
    dataset = make_dataset((["dog"], None), (["cat"], None))
    targets = dataset.targets(["cat", "dog"])
    assert targets.dtype == np.int64
    assert targets.tolist() == [1, 0]
    assert replace(dataset, multi_label=True).targets(["cat", "dog"]).tolist() == [[0, 1], [1, 0]]
    several = make_dataset((["dog", "cat"], None), ([], None))
    for samples, got in ((several.samples[:1], "dog;cat"), (several.samples[1:], "none")):
        with pytest.raises(DatasetError, match=f"expected one label.*got {got}"):
            replace(several, samples=samples, multi_label=False).targets(["cat", "dog"])


def test_labels_that_differ_in_spelling_alone(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Prüfling") for form in ("NFC", "NFD"))
    touch(tmp_path, f"{composed}/1.png", f"{decomposed}/2.png", "ok/3.png")
    dataset = load_training_data(tmp_path)
    assert dataset.classes == (composed, "ok")
    if len(list(tmp_path.iterdir())) == 3:
        assert dataset.remarks == (
            "2 folders are named 'Prüfling' but for Unicode form or spaces, and count as one class",
        )
    table = load_training_data(write_csv(tmp_path, f"image,label\na.png,{decomposed}\nb.png,ok  go\nc.png,ok go\n"))
    assert table.classes == (composed, "ok go")
    with pytest.raises(DatasetError, match="the classes 'OK' and 'ok' differ only in case"):
        load_training_data(write_csv(tmp_path, "image,label\na.png,OK\nb.png,ok\nc.png,bad\n"))


def test_labels_are_taken_for_the_classes_that_they_nearly_are(tmp_path):
    touch(tmp_path, "OK/1.png", "No Tumour/2.png", "else/3.png")
    classes = ["no_tumour", "ok"]
    found = load_images(tmp_path, classes)
    assert labels(found) == {"OK/1": ("ok",), "No Tumour/2": ("no_tumour",), "else/3": None}
    assert found.classes == ("no_tumour", "ok")
    assert "1 image labelled 'OK' counted as 'ok'" in found.remarks
    table = write_csv(tmp_path, "image,label\na.png,OK\n")
    assert labels(load_images(table, classes)) == {"a": ("ok",)}
    with pytest.raises(DatasetError, match=r"3\.png: class 'else' is not one of no_tumour, ok"):
        load_training_data(tmp_path, classes)
    shutil.rmtree(tmp_path / "else")
    assert load_training_data(tmp_path, classes).classes == ("no_tumour", "ok")
    assert "holds no image of third" in load_training_data(tmp_path, [*classes, "third"]).remarks[-1]


def test_labels_that_may_not_be_meant_are_said(tmp_path):
    rows = [f"{i}.png,{'' if i == 5 else 'ab'[i % 2]}" for i in range(16)]
    (line,) = load_training_data(write_csv(tmp_path, "\n".join(["image,label", *rows]))).remarks
    assert line.startswith("the set counts as multi-label: 1 of 16 images has no label, such as ")
    (line,) = load_training_data(write_csv(tmp_path, "image,label\na.png,a\nb.png,a;b\n")).remarks
    assert "1 of 2 images has several labels" in line
    lines = load_training_data(write_csv(tmp_path, "image,label,group\na.png,nan,\nb.png,a,p\n")).remarks
    assert "'nan' counts as a class" in lines[0]
    assert lines[1].startswith("1 of 2 images have no group")


def copies(root, count=8):
    """Images of two classes, each there a second time as a link."""
    for label in "ab":
        for i in range(count):
            touch(root, f"{label}/{i}.png")
            (root / label / f"{i}.png").write_text(f"{label}{i:03}")
            (root / label / f"x{i}.png").symlink_to(f"{i}.png")
    return root


@pytest.mark.parametrize("seed", range(4))
def test_the_same_image_stays_on_one_side(tmp_path, seed):
    dataset = load_training_data(copies(tmp_path))
    assert dataset.remarks[0].startswith("32 images are the same as others, as copies or links")
    parts = split(dataset, 0.25, seed)
    check_split(dataset, parts)
    held = [{sample.path.resolve() for sample in part.samples} for part in parts]
    assert not held[0] & held[1]
    assert len(parts[1].samples) == 8


def test_copies_join_groups(tmp_path):
    rows = [f"{i}.png,{'ab'[i % 2]},p{i // 2}" for i in range(40)]
    for i in range(40):
        (tmp_path / f"{i}.png").write_text(f"{i:02}")
    for first, second in ((0, 39), (38, 20), (21, 10)):  # p0, p19, p10 and p5 are one group by their copies
        shutil.copyfile(tmp_path / f"{first}.png", tmp_path / f"{second}.png")
    dataset = load_training_data(write_csv(tmp_path, "\n".join(["image,label,group", *rows])))
    assert dataset.remarks[1].startswith("2 images are there under different labels, such as ")  # 0 and 39, 21 and 10
    for seed in range(5):
        train, val = split(dataset, 0.25, seed)
        sides = {side: {sample.group for sample in part.samples} for side, part in (("train", train), ("val", val))}
        assert not sides["train"] & sides["val"]
        assert any({"p0", "p19", "p10", "p5"} <= groups for groups in sides.values())


def test_sets_that_share_a_copy(tmp_path):
    first, second = copies(tmp_path / "one"), touch(tmp_path / "two", "a/1.png", "b/2.png")
    check_disjoint(load_training_data(first), load_training_data(second))
    (second / "a/1.png").write_text("b003")
    with pytest.raises(
        DatasetError, match=r"1 images of .*two are copies of images in .*one, such as .*1\.png of .*3\.png"
    ):
        check_disjoint(load_training_data(first), load_training_data(second))


def check_split(dataset, parts):
    names = [sample.name for part in parts for sample in part.samples]
    assert sorted(names) == [sample.name for sample in dataset.samples]
    for part in parts:
        assert [sample.name for sample in part.samples] == sorted(sample.name for sample in part.samples)
        assert part.classes == dataset.classes
        assert part.multi_label == dataset.multi_label


@pytest.mark.parametrize("seed", range(4))
def test_splits_keep_the_shares_of_the_classes(seed):
    dataset = make_dataset(*[(["a"], None)] * 60, *[(["b"], None)] * 30, *[(["c"], None)] * 10)
    train, val = split(dataset, 0.2, seed)
    check_split(dataset, (train, val))
    assert Counter(sample.labels[0] for sample in val.samples) == {"a": 12, "b": 6, "c": 2}
    assert split(dataset, 0.2, seed) == (train, val)
    assert split(dataset, 0.2, seed + 1) != (train, val)


@pytest.mark.parametrize("fraction", [0.15, 0.25, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(6))
def test_groups_are_never_split(seed, fraction):
    random = np.random.default_rng(seed)
    rows = [(["ab"[i % 2]], f"g{random.integers(12)}" if random.random() < 0.9 else None) for i in range(80)]
    dataset = make_dataset(*rows)
    train, val = split(dataset, fraction, seed)
    check_split(dataset, (train, val))
    groups = [{sample.group for sample in part.samples} - {None} for part in (train, val)]
    assert not groups[0] & groups[1]
    assert abs(len(val.samples) / 80 - fraction) < 0.25


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.3, 0.4, 0.6])
def test_the_fraction_is_met_where_groups_are_small(fraction):
    dataset = make_dataset(*[(["ab"[i // 100]], f"g{i // 2}") for i in range(200)])
    train, val = split(dataset, fraction, 3)
    check_split(dataset, (train, val))
    assert len(val.samples) / 200 == pytest.approx(fraction, abs=0.015)
    assert sum(sample.labels == ("a",) for sample in val.samples) == pytest.approx(len(val.samples) / 2, abs=2)


def test_sets_that_share_an_image_or_a_group():
    left, right = make_dataset((["a"], "p1"), (["b"], None)), make_dataset((["a"], "p2"), (["b"], None))
    moved = replace(right, samples=tuple(replace(one, path=Path("other", one.name)) for one in right.samples))
    check_disjoint(left, moved)
    with pytest.raises(DatasetError, match=r"2 images of .* are in .* too, such as 000.png"):
        check_disjoint(left, right)
    same = replace(moved, samples=(*moved.samples, Sample(path=Path("x.png"), name="x", labels=("a",), group="p1")))
    with pytest.raises(DatasetError, match=r"1 groups of .* are in .* too, such as p1"):
        check_disjoint(left, same)


def test_the_hash_of_samples_knows_names_labels_and_groups_and_no_order():
    whole = make_dataset((["a"], "p1"), (["b"], "p2"), (["b"], None))
    parts = [replace(whole, samples=whole.samples[part]) for part in (slice(1, 3), slice(0, 1))]
    assert samples_sha256(*parts) == samples_sha256(whole)
    for change in ({"name": "x"}, {"labels": ("b",)}, {"group": "p3"}):
        changed = replace(whole, samples=(replace(whole.samples[0], **change), *whole.samples[1:]))
        assert samples_sha256(changed) != samples_sha256(whole)


def test_multi_label_sets_are_split_by_their_combinations():
    dataset = make_dataset(*[(["a"], None)] * 20, *[(["a", "b"], None)] * 20, *[([], None)] * 20)
    train, val = split(dataset, 0.25, 0)
    check_split(dataset, (train, val))
    assert Counter(sample.labels for sample in val.samples) == {("a",): 5, ("a", "b"): 5, (): 5}


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_fractions_outside_0_and_1(fraction):
    with pytest.raises(InputError, match="between 0 and 1"):
        split(make_dataset((["a"], None), (["b"], None)), fraction, 0)


def test_splits_that_cannot_be():
    with pytest.raises(DatasetError, match=r"(training|validation) part of the split holds no image of '[ab]'"):
        split(make_dataset(*[(["a"], None)] * 9, (["b"], None)), 0.3, 0)
    with pytest.raises(DatasetError, match="cannot split 4 images"):
        split(make_dataset(*[(["a"], "p"), (["b"], "p")] * 2), 0.5, 0)
    with pytest.raises(DatasetError, match="cannot split 1 images"):
        split(make_dataset((["a"], None)), 0.5, 0)
    with pytest.raises(DatasetError, match="cannot split 0 images"):
        split(make_dataset(), 0.5, 0)
