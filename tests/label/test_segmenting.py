import json

import numpy as np
import pytest

import camseg
from camseg.base.errors import InputError, OutputError
from camseg.data.images import read_cam, read_mask, write_image
from camseg.label.settings import SegmentSettings
from camseg.masks.settings import CleaningSettings, parse_threshold
from camseg.propagation.settings import PropagateSettings
from camseg.refinement.settings import RefineSettings
from camseg.runs.manifest import read_manifest
from camseg.runs.output import map_root, prediction_root
from camseg.runs.settings import FolderOptions
from camseg.segment.settings import ViewSettings

ONE = FolderOptions(workers=1)
ALONE = PropagateSettings(method="none")


@pytest.fixture
def photos(tmp_path, make_images):
    for n, image in enumerate(make_images((30, 40), (48, 32), (33, 33), seed=3)):
        write_image(tmp_path / f"photos/{('clean', 'spot', 'spot')[n]}/{n}.png", image)
    return tmp_path / "photos"


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_masks_are_where_the_probability_is_above_a_half(photos, make_segmenter, tmp_path):
    segmenter, out = make_segmenter(), tmp_path / "out"
    settings = SegmentSettings(propagation=ALONE, save=("cams", "overlays"))
    report = camseg.segment_folder(photos, segmenter, out, settings, options=ONE)
    assert (report.done, report.failed) == (3, [])
    for record in read_manifest(out):
        image = camseg.read_image(photos / record.input)
        found = segmenter.predict(image)[0]
        cam, mask = read_cam(out / record.files["cam"]), read_mask(out / record.files["mask"])
        assert cam == pytest.approx(found, abs=0.51 / 255)
        assert np.array_equal(mask, cam > 0.5)
        assert (record.class_name, record.method, record.threshold) == ("object", "probability", "0.5")
        assert record.score == pytest.approx(found.max(), abs=1e-6)
        assert 0 < record.area == mask.sum()
        assert record.files["mask"] == f"masks/{record.name}.png"
    run = json.loads((out / "run.json").read_text())
    assert (run["command"], run["settings"]["threshold"], run["settings"]["segmenter"]) == ("segment", "0.5", None)
    assert prediction_root(out) == out / "masks"
    assert map_root(out) == out / "cams"


@pytest.mark.parametrize("method", ["par", "guided"])
def test_probabilities_are_spread_and_keep_their_maximum(photos, make_segmenter, tmp_path, method):
    segmenter, out = make_segmenter(classes=["spot", "stain"]), tmp_path / "out"
    settings = SegmentSettings(propagation=PropagateSettings(method=method), gate=False, save=("cams",))
    camseg.segment_folder(photos, segmenter, out, settings, options=ONE)
    for record in read_manifest(out):
        image = camseg.read_image(photos / record.input)
        found = segmenter.predict(image)[segmenter.channel(record.class_name)]
        wanted = camseg.propagate(image, found, method) * found.max()
        cam = read_cam(out / record.files["cam"])
        assert cam == pytest.approx(wanted, abs=0.51 / 255)
        assert np.abs(cam - found).max() > 0.02  # it does something
        assert np.array_equal(read_mask(out / record.files["mask"]), cam > 0.4)
        assert (record.propagation, record.threshold, record.score) == (method, "0.4", round(float(found.max()), 6))


def test_no_classifier_has_features_to_walk_on():
    with pytest.raises(InputError, match="walks over a classifier's features; choose another propagation"):
        SegmentSettings(propagation=PropagateSettings(method="random-walk"))


def test_masks_without_maps_are_no_maps(photos, make_segmenter, tmp_path):
    camseg.segment_folder(photos, make_segmenter(), tmp_path / "out", options=ONE)
    with pytest.raises(InputError, match="holds masks without their maps; repeat the command with --save cams"):
        map_root(tmp_path / "out")


@pytest.mark.parametrize("multi_label", [True, False])
def test_a_mask_that_its_mirror_image_confirms_is_trusted(photos, make_segmenter, tmp_path, multi_label):
    classes = ["spot", "scratch"]
    segmenter, out = make_segmenter(classes=classes, multi_label=multi_label), tmp_path / "out"
    camseg.segment_folder(photos, segmenter, out, SegmentSettings(views=ViewSettings(flip=True)), options=ONE)
    camseg.segment_folder(photos, segmenter, tmp_path / "once", options=ONE)
    told = 0
    for record, once in zip(read_manifest(out), read_manifest(tmp_path / "once"), strict=True):
        assert 0 <= record.quality <= 1
        assert "flips" not in once.agreements
        if record.area:
            told += 0 < record.agreements["flips"] <= 1 and record.agreements["levels"] < 1
        elif not record.empty.startswith("labelled"):
            assert record.quality == pytest.approx(1 - record.score, abs=1e-3)
    assert told


def test_a_killed_run_goes_on_with_the_same_bytes(photos, make_segmenter, tmp_path):
    segmenter = make_segmenter()
    settings = SegmentSettings(views=ViewSettings(flip=True, tile=32), save=("cams",))

    def segment(out):
        return camseg.segment_folder(photos, segmenter, out, settings, batch_size=2, options=ONE)

    segment(tmp_path / "whole")
    segment(tmp_path / "out")
    lines = (tmp_path / "out/manifest.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out/manifest.jsonl").write_text("".join(lines[:2]) + lines[2][:20])
    (tmp_path / "out/masks/spot/1.png").unlink()
    assert segment(tmp_path / "out").done == 2
    found, wanted = files(tmp_path / "out"), files(tmp_path / "whole")
    assert {name for name in wanted if found[name] != wanted[name]} <= {"run.json"}
    with pytest.raises(OutputError, match="other settings"):
        camseg.segment_folder(photos, make_segmenter(seed=1), tmp_path / "out", settings, batch_size=2, options=ONE)


def test_labels_that_are_known_gate_the_masks(photos, make_segmenter, tmp_path):
    segmenter, lines = make_segmenter(negative=["Clean"]), []
    report = camseg.segment_folder(
        photos, segmenter, tmp_path / "out", options=FolderOptions(workers=1, say=lines.append)
    )
    assert any("1 of 3 images have labels that the segmenter knows" in line for line in lines)
    assert not read_mask(tmp_path / "out/masks/clean/0.png").any()
    assert report.empty["labelled Clean, a negative class"] == 1
    free = SegmentSettings(gate=False, threshold=parse_threshold(0.1))
    camseg.segment_folder(photos, segmenter, tmp_path / "free", free, options=ONE)
    assert read_mask(tmp_path / "free/masks/clean/0.png").any()
    assert [record.labels for record in read_manifest(tmp_path / "free")] == [("Clean",), None, None]


def test_several_classes_lie_in_their_folders(photos, make_segmenter, tmp_path):
    segmenter = make_segmenter(classes=["spot", "stain"], negative=["clean"])
    camseg.segment_folder(photos, segmenter, tmp_path / "out", SegmentSettings(save=("cams",)), options=ONE)
    assert {path.name for path in (tmp_path / "out/masks").iterdir()} == {"spot", "stain"}
    by_class = {(record.name, record.class_name): record for record in read_manifest(tmp_path / "out")}
    assert len(by_class) == 6
    assert by_class["spot/1", "stain"].empty == "labelled spot"
    assert by_class["spot/1", "stain"].area == 0
    assert by_class["spot/1", "spot"].files["cam"] == "cams/spot/spot/1.png"


@pytest.mark.parametrize("method", ["none", "par"])
def test_exclusive_classes_share_the_image(photos, make_segmenter, tmp_path, method):
    segmenter = make_segmenter(classes=["a", "b"], multi_label=False)
    settings = SegmentSettings(propagation=PropagateSettings(method=method))
    camseg.segment_folder(photos, segmenter, tmp_path / "out", settings, options=ONE)
    for name in ("clean/0", "spot/1"):
        a, b = (read_mask(tmp_path / f"out/masks/{kind}/{name}.png") for kind in "ab")
        image = camseg.read_image(photos / f"{name}.png")
        found = segmenter.predict(image)
        every = np.concatenate([1 - found.sum(axis=0, keepdims=True), found])
        if method != "none":
            every = np.stack([camseg.propagate(image, one, method) * one.max() for one in every])
        winners, sure = every.argmax(axis=0), np.sort(every, axis=0)
        clear = sure[-1] - sure[-2] > 1e-5
        assert np.array_equal(a[clear], (winners == 1)[clear])
        assert np.array_equal(b[clear], (winners == 2)[clear])
        assert not (a & b).any()
    assert {record.threshold for record in read_manifest(tmp_path / "out")} == {"likeliest"}
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["settings"]["threshold"] is None
    strict = SegmentSettings(threshold=parse_threshold(0.9))
    camseg.segment_folder(photos, segmenter, tmp_path / "strict", strict, options=ONE)
    assert {record.threshold for record in read_manifest(tmp_path / "strict")} == {"0.9"}


@pytest.mark.parametrize("method", ["none", "par"])
def test_pixels_of_a_class_that_labels_exclude_go_to_the_next(photos, make_segmenter, tmp_path, method):
    segmenter = make_segmenter(classes=["spot", "b"], multi_label=False, seed=3)
    settings = SegmentSettings(propagation=PropagateSettings(method=method))
    camseg.segment_folder(photos, segmenter, tmp_path / "out", settings, options=ONE)
    image = camseg.read_image(photos / "spot/1.png")
    spot, b = segmenter.predict(image)
    background = 1 - spot - b
    assert ((b > spot) & (spot > background)).any()
    if method != "none":
        spot, background = (camseg.propagate(image, one, method) * one.max() for one in (spot, background))
    clear = np.abs(spot - background) > 1e-5
    mask = read_mask(tmp_path / "out/masks/spot/spot/1.png")
    assert np.array_equal(mask[clear], (spot > background)[clear])
    assert not read_mask(tmp_path / "out/masks/b/spot/1.png").any()
    by_class = {(record.name, record.class_name): record for record in read_manifest(tmp_path / "out")}
    assert by_class["spot/1", "b"].empty == "labelled spot"
    assert by_class["spot/1", "b"].score == pytest.approx(b.max(), abs=1e-5)


def test_stages_of_label_follow(photos, make_segmenter, tmp_path):
    settings = SegmentSettings(
        refinement=RefineSettings(method="grabcut"), cleaning=CleaningSettings(keep=1), save=("trimaps", "alphas")
    )
    camseg.segment_folder(photos, make_segmenter(), tmp_path / "out", settings, options=ONE)
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {"masks", "trimaps", "alphas"}
    with pytest.raises(InputError, match="without a refiner there are no trimaps"):
        SegmentSettings(save=("trimaps",))


def test_an_image_that_cannot_be_read_fails_alone(photos, make_segmenter, tmp_path):
    (photos / "spot/1.png").write_bytes(b"no image")
    report = camseg.segment_folder(photos, make_segmenter(), tmp_path / "out", options=ONE)
    assert (report.done, len(report.failed)) == (2, 1)
    assert report.failed[0].input == "spot/1.png"


def test_the_command_and_what_follows_it(masked_folder, make_segmenter, tmp_path, call):
    images, masks = masked_folder
    make_segmenter(negative=["blank"]).save(tmp_path / "run")
    out = tmp_path / "out"
    code, text, err = call("segment", images, "-s", tmp_path / "run", "-o", out, "--save", "cams", "--json")
    assert code == 0, err
    assert json.loads(text)["done"] == 16
    code, text, err = call("evaluate", out, "--masks", masks, "--json")
    assert code == 0
    (scores,) = json.loads(text)["overall"]["thresholds"]
    assert (scores["threshold"], scores["images"]) == ("0.4", 8)
    code, _, err = call("trimap", out, "-o", tmp_path / "trimaps")
    assert code == 0, err
    code, _, err = call(
        "refine", images, "--trimap", tmp_path / "trimaps", "--masks", out / "masks", "--method", "grabcut",
        "-o", tmp_path / "refined",
    )  # fmt: skip
    assert code == 0, err
    assert read_manifest(tmp_path / "refined")[-1].method == "probability"
    code, _, err = call("masks", out / "cams", "--threshold", 0.4, "-o", tmp_path / "masks")
    assert code == 0, err
    name = "shape/00.png"
    assert (tmp_path / "masks" / name).read_bytes() == (out / "masks" / name).read_bytes()
    code, _, err = call("segment", images, "--config", out / "run.json", "-o", out)
    assert code == 0, err
    assert "16 were there already" in err
    blank = tmp_path / "blank"
    for path in sorted((images / "blank").iterdir()):
        camseg.write_mask(blank / "blank" / path.name, np.zeros((32, 32), bool))
    code, text, err = call("evaluate", out, "--masks", blank)
    assert "--no-gate asks the network alone" in err
