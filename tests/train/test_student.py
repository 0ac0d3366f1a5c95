import json
import math
from dataclasses import replace

import numpy as np
import pytest

from camseg.base.errors import DatasetError, ImageError, InputError
from camseg.data.datasets import Sample
from camseg.data.images import write_cam, write_mask
from camseg.data.truth import IGNORED, masks_by_label
from camseg.runs.record import Record, to_line
from camseg.train.settings import StudentSettings
from camseg.train.student import better_part, find_pseudo_masks, is_labelled_folder, pixel_lessons, ramp

CAM = np.array([[0.8, 0.6, 0.4, 0.2]], np.float32)
HOW = StudentSettings(teach="levels", tight=0.7, loose=0.3, weigh_by="agreement")


def test_levels_are_shares_of_the_maximum():
    # 0.7 * 0.8 = 0.56 and 0.3 * 0.8 = 0.24.
    target, weights = pixel_lessons(CAM, HOW, trust=0.5)
    assert target.tolist() == [[True, True, False, False]]
    assert weights.tolist() == [[0.5, 0.5, 0, 0.5]]
    target, weights = pixel_lessons(CAM, StudentSettings(teach="levels", tight=0.75, loose=0.5))
    assert target.tolist() == [[True, False, False, False]]  # a level itself is neither above nor below
    assert weights.tolist() == [[1, 0, 0, 1]]


def test_what_is_known_comes_before_the_map():
    target, weights = pixel_lessons(CAM, HOW, empty=True, trust=0.5)
    assert not target.any()
    assert weights.tolist() == [[1, 1, 1, 1]]
    drawn = np.array([[False, False, True, True]])
    target, weights = pixel_lessons(CAM, HOW, corrected=drawn, empty=True, trust=0.5)
    assert np.array_equal(target, drawn)
    assert weights.tolist() == [[1, 1, 1, 1]]


def test_a_map_of_zeros_says_nothing():
    _, weights = pixel_lessons(np.zeros((2, 2), np.float32), HOW)
    assert not weights.any()


def test_masks_as_if_they_were_true():
    mask = np.array([[True, False, False, True]])
    target, weights = pixel_lessons(None, StudentSettings(teach="masks"), mask=mask, trust=0.25)
    assert np.array_equal(target, mask)
    assert weights.tolist() == [[0.25] * 4]


def test_levels_out_of_order():
    with pytest.raises(InputError, match=r"a loose level below the tight one; got 0\.7 and 0\.3"):
        StudentSettings(tight=0.3, loose=0.7)


def test_the_consistency_rises():
    assert ramp(0, 10) == pytest.approx(math.exp(-5))
    assert ramp(5, 10) == pytest.approx(math.exp(-1.25))
    assert ramp(10, 10) == ramp(99, 10) == 1


def test_the_better_part_keeps_all_that_is_certain():
    trust, certain = [0.2, 1.0, 0.9, 0.9, 0.5], [False, True, False, False, False]
    assert better_part(trust, certain, 0.5).tolist() == [1, 2, 3]
    assert better_part(trust, certain, 0.25).tolist() == [1, 2]
    assert better_part(trust, certain, 0.01).tolist() == [1, 2]
    assert better_part(trust, certain, 1.0).tolist() == [0, 1, 2, 3, 4]


@pytest.fixture
def folder(tmp_path):
    """What ``label`` leaves: one image with an object, one without, one by prediction, one that failed."""
    root = tmp_path / "out"
    records = [
        Record(input="a.png", name="a", labels=("spot",), class_name="spot", agreement=0.75, score=0.9),
        Record(input="b.png", name="b", labels=("clean",), class_name="clean"),
        Record(input="c.png", name="c", class_name="spot", score=0.6),
        Record(input="d.png", name="d", status="failed", error="d.png: broken"),
    ]
    for record in records[:3]:
        write_cam(root / f"cams/{record.name}.png", CAM if record.name != "b" else 0 * CAM)
        write_mask(root / f"masks/{record.name}.png", CAM > 0.5)
    files = [{"mask": f"masks/{one.name}.png", "cam": f"cams/{one.name}.png"} for one in records[:3]]
    records = [*(replace(one, files=made) for one, made in zip(records, files, strict=False)), records[3]]
    (root / "manifest.jsonl").write_text("".join(map(to_line, records)))
    settings = {"negative": ["clean"], "targets": []}
    (root / "run.json").write_text(json.dumps({"schema_version": 2, "command": "label", "settings": settings}))
    return root


def sample(tmp_path, name, labels=None):
    return Sample(path=tmp_path / f"{name}.png", name=name, labels=labels)


def test_a_folder_that_label_wrote(folder, tmp_path):
    assert is_labelled_folder(folder)
    assert not is_labelled_folder(folder / "masks")
    found = find_pseudo_masks(folder, HOW)
    assert (found.classes, found.multi_label, found.negative) == (("spot",), True, ("clean",))
    a, b, c, d, e = (sample(tmp_path, name) for name in "abcde")
    assert [found.knows(one) for one in (a, b, c, d, e)] == [True, True, True, False, False]
    assert found.files(a) == (folder / "cams/a.png",)
    truth = found.read(a, 1, 4)
    assert truth.target[0, :, 0].tolist() == [1, 1, IGNORED, 0]
    assert truth.weights.tolist() == [0.75]
    for one, weight in ((b, 1), (sample(tmp_path, "a", ("clean",)), 1)):  # labels that are known now come first
        assert not found.read(one, 1, 4).target.any()
        assert found.read(one, 1, 4).weights.tolist() == [weight]
    assert found.read(c, 1, 4).weights.tolist() == [1]
    assert [found.trust(one) for one in (a, b, c)] == [0.75, 1.0, 0.6]
    assert [found.certain(one) for one in (a, b, c)] == [False, True, False]
    rated = (folder / "manifest.jsonl").read_text().replace('"quality": null', '"quality": 0.5', 1)
    (folder / "manifest.jsonl").write_text(rated)
    by_quality = find_pseudo_masks(folder, replace(HOW, weigh_by="quality"))
    assert by_quality.read(a, 1, 4).weights.tolist() == [0.5]
    assert by_quality.trust(a) == 0.5
    flat = find_pseudo_masks(folder, replace(HOW, weigh_by="none"))
    assert flat.read(a, 1, 4).weights.tolist() == [1]
    with pytest.raises(ImageError, match="expected a mask of its image's size, 5x4; it has 4x1"):
        found.read(a, 4, 5)


def test_records_are_looked_through_once_however_many_images(folder):
    class Counted(dict):
        looked = 0

        def values(self):
            Counted.looked += 1
            return super().values()

    found = find_pseudo_masks(folder, HOW)
    found = replace(found, records=Counted(found.records))
    known = [found.knows(Sample(path=folder / f"{name}.png", name=name)) for name in "abcd"]
    assert known == [True, True, True, False]
    assert Counted.looked == 1


def test_corrections_replace_what_the_machine_made(folder, tmp_path):
    drawn = np.array([[False, True, True, False]])
    for name in "ae":
        write_mask(folder / f"corrected/{name}.png", drawn)
    found = find_pseudo_masks(folder, HOW)
    for name in "ae":  # the second was never labelled by the command
        one = sample(tmp_path, name)
        assert found.knows(one)
        assert np.array_equal(found.read(one, 1, 4).target[..., 0], drawn)
        assert found.read(one, 1, 4).weights.tolist() == [1]
        assert found.certain(one)
        assert found.trust(one) == 1
        assert folder / f"corrected/{name}.png" in found.files(one)


def test_masks_of_the_folder_as_they_are(folder, tmp_path):
    found = find_pseudo_masks(folder, StudentSettings(teach="masks"))
    assert found.read(sample(tmp_path, "a"), 1, 4).target[0, :, 0].tolist() == [1, 1, 0, 0]
    assert found.facts() != find_pseudo_masks(folder, HOW).facts()


def test_a_folder_without_maps(folder):
    lines = (folder / "manifest.jsonl").read_text().replace(', "cam": "cams/a.png"', "")
    (folder / "manifest.jsonl").write_text(lines)
    with pytest.raises(DatasetError, match=r"holds no map of a\.png.*repeat the command with --save cams"):
        find_pseudo_masks(folder, HOW)
    assert find_pseudo_masks(folder, StudentSettings(teach="masks")).classes == ("spot",)
    (folder / "manifest.jsonl").write_text("")
    with pytest.raises(DatasetError, match="lists no image that was finished"):
        find_pseudo_masks(folder, HOW)


def test_a_folder_per_class(tmp_path):
    root, records = tmp_path / "out", []
    for name, class_name, labels in (("a", "dust", None), ("b", "dust", ("dust",)), ("c", "hair", ("dust", "hair"))):
        files = {kind: f"{kind}s/{class_name}/{name}.png" for kind in ("mask", "cam")}
        write_cam(root / files["cam"], CAM)
        write_mask(root / files["mask"], CAM > 0.5)
        records.append(Record(input=f"{name}.png", name=name, labels=labels, class_name=class_name, files=files))
    (root / "manifest.jsonl").write_text("".join(map(to_line, records)))
    (root / "run.json").write_text(json.dumps({"schema_version": 2, "command": "label", "settings": {}}))
    found = find_pseudo_masks(root, HOW)
    assert found.classes == ("dust", "hair")
    a, b, c = (found.read(sample(tmp_path, name), 1, 4) for name in "abc")
    taught = [1, 1, IGNORED, 0]
    assert a.target[0, :, 0].tolist() == b.target[0, :, 0].tolist() == c.target[0, :, 1].tolist() == taught
    assert not a.target[..., 1].any()  # not predicted
    assert not b.target[..., 1].any()  # not labelled
    assert (c.target[..., 0] == IGNORED).all()  # labelled so, and no map of it
    assert c.weights.tolist() == [0, 1]


def test_one_mask_per_image_is_of_its_label_or_of_what_was_predicted(folder, tmp_path):
    source = find_pseudo_masks(folder, HOW)
    a, b, c = (sample(tmp_path, name) for name in "abc")
    other = sample(tmp_path, "a", ("dust",))
    found = masks_by_label(source, [a, b, c, other])
    assert found.classes == ("dust", "spot")
    taught = [1, 1, IGNORED, 0]
    truth = found.read(a, 1, 4)
    assert truth.target[0, :, 1].tolist() == taught
    assert not truth.target[..., 0].any()
    assert truth.weights.tolist() == [1, 0.75]  # that it is no dust is certain
    assert found.read(other, 1, 4).target[0, :, 0].tolist() == taught  # labels that are known now come first
    truth = found.read(c, 1, 4)  # a prediction: no label excludes the other class
    assert truth.target[0, :, 1].tolist() == taught
    assert truth.target[0, :, 0].tolist() == [0, 0, IGNORED, 0]
    assert not found.read(b, 1, 4).target.any()
    assert [found.certain(one) for one in (a, b, c)] == [False, True, False]


@pytest.fixture
def two_classes(tmp_path):
    """What a command leaves that looked for two classes in an image; a person has accepted one of the masks."""
    root, records = tmp_path / "out", []
    for class_name in ("dust", "hair"):
        files = {"mask": f"masks/{class_name}/p1/a.png"}
        write_mask(root / files["mask"], CAM > 0.5)
        record = Record(input="p1/a.png", name="p1/a", class_name=class_name, quality=0.5, files=files)
        records.append(record)
    (root / "manifest.jsonl").write_text("".join(map(to_line, records)))
    (root / "run.json").write_text(json.dumps({"schema_version": 2, "command": "segment", "settings": {}}))
    return root


def test_folders_that_are_no_classes_say_nothing(two_classes, tmp_path):
    found = find_pseudo_masks(two_classes, StudentSettings(teach="masks"))
    patient, known = sample(tmp_path, "p1/a", ("p1",)), sample(tmp_path, "p1/a", ("Dust",))
    assert (found.labels(patient), found.labels(known)) == (None, ("dust",))
    assert found.read(patient, 1, 4).target[0].T.tolist() == [[1, 1, 0, 0]] * 2
    assert found.read(known, 1, 4).target[0].T.tolist() == [[1, 1, 0, 0], [0] * 4]


def test_an_image_is_certain_only_where_all_of_its_classes_are(two_classes, tmp_path):
    write_mask(two_classes / "corrected/dust/p1/a.png", CAM > 0.7)
    found = find_pseudo_masks(two_classes, StudentSettings(teach="masks"))
    one = sample(tmp_path, "p1/a")
    assert found.read(one, 1, 4).certain.tolist() == [True, False]
    assert not found.certain(one)
    assert found.trust(one) == 0.5
    write_mask(two_classes / "corrected/hair/p1/a.png", CAM > 0.7)
    found = find_pseudo_masks(two_classes, StudentSettings(teach="masks"))
    assert found.certain(one)
    assert found.trust(one) == 1
