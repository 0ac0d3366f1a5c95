"""Folders of maps of segmentation networks: ``camseg cams IMAGES --segmenter RUN``."""

import json

import numpy as np
import pytest

from camseg.data.images import read_cam, write_image, write_mask
from camseg.runs.manifest import read_manifest

METHODS = ("gradcam", "layercam")


@pytest.fixture
def photos(tmp_path, make_images):
    for n, image in enumerate(make_images((64, 64), (48, 64), (64, 64), seed=3)):
        name = f"{('clean', 'spot', 'spot')[n]}/{n}.png"
        write_image(tmp_path / "photos" / name, image)
        if n:
            mask = np.zeros(image.shape[:2], bool)
            mask[20:40, 10:30] = n == 1
            write_mask(tmp_path / "masks" / name, mask)
    return tmp_path / "photos"


@pytest.fixture
def run(tmp_path, make_segmenter):
    make_segmenter(image_size=64, negative=["clean"]).save(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def cams(photos, run, tmp_path, call):
    def make(*options, out="out", code=0):
        named = [word for method in METHODS for word in ("--method", method)]
        found, _, err = call("cams", photos, "--segmenter", run, *named, "--out", tmp_path / out, *options)
        assert found == code, err
        return tmp_path / out

    return make


def reasons(folder):
    return {record.name: record.empty for record in read_manifest(folder)}


def test_maps_of_the_mean_at_the_bottleneck(cams):
    out = cams()
    records = {record.name: record for record in read_manifest(out)}
    assert {record.layer for record in records.values()} == {"deepest"}
    assert [record.class_name for record in records.values()] == [None, "object", "object"]
    assert reasons(out)["clean/0"] == "labelled clean, a negative class"
    assert not read_cam(out / "gradcam/clean/0.png").any()
    assert read_cam(out / "layercam/spot/1.png").shape == (48, 64)
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert settings["segmenter"]
    assert "classifier" not in settings


def test_a_mask_says_which_pixels_count(cams, tmp_path):
    out = cams("--score", "mask", "--masks", tmp_path / "masks", "--layer", "last-decoder")
    assert reasons(out)["spot/2"] == "the given mask of object is empty"
    assert not read_cam(out / "layercam/spot/2.png").any()
    cam = read_cam(out / "layercam/spot/1.png")
    inside = np.zeros(cam.shape, bool)
    inside[18:42, 8:32] = True
    assert cam[inside].sum() > 0.95 * cam.sum() > 0  # the head looks at one pixel each
    # The masks decide the bytes: with others the folder is not continued.
    write_mask(tmp_path / "others/spot/1.png", inside)
    write_mask(tmp_path / "others/spot/2.png", np.ones((64, 64), bool))
    cams("--score", "mask", "--masks", tmp_path / "others", "--layer", "last-decoder", code=2)
    # An image without a mask fails, and the others are finished.
    (tmp_path / "masks/spot/2.png").unlink()
    cams("--score", "mask", "--masks", tmp_path / "masks", out="third", code=1)
    failed = [record for record in read_manifest(tmp_path / "third") if record.failed]
    assert [record.name for record in failed] == ["spot/2"]
    assert "no mask of it" in failed[0].error


def test_where_nothing_is_predicted_the_map_is_zero(cams, run, make_segmenter):
    segmenter = make_segmenter(image_size=64)
    segmenter.model.network.segmentation_head[0].bias.data -= 1000.0
    segmenter.save(run)
    out = cams("--score", "predicted", "--target", "object", "--scales", "1,1.5", "--flip")
    assert {*reasons(out).values()} == {"no pixel is predicted as object"}
    assert not any(read_cam(path).any() for path in out.rglob("*.png"))


def test_several_classes_have_their_folders(cams, run, make_segmenter):
    make_segmenter(image_size=64, classes=["spot", "stain"], multi_label=False, negative=["clean"]).save(run)
    out = cams("--layer", "stages")
    assert sorted(path.parent.name for path in (out / "gradcam/spot").rglob("*.png")) == ["spot", "spot"]
    assert reasons(out)["clean/0"] == "labelled clean, a negative class"
    free = reasons(cams("--target", "predicted", out="free"))  # which labels do not decide
    assert not [reason for reason in free.values() if reason and "labelled" in reason]


def test_calls_that_cannot_be(call, photos, run, tmp_path, tiny_classifier):
    tiny_classifier.save(tmp_path / "cls")
    both = ["--segmenter", run, "--classifier", tmp_path / "cls"]
    for options, words in [
        ([], "got none"),
        (both, "got both"),
        (["--segmenter", run, "--score", "margin"], "a segmenter has no score margin"),
        (["--classifier", tmp_path / "cls", "--score", "predicted"], "a classifier has no score predicted"),
        (["--segmenter", run, "--score", "mask"], "go together"),
        (["--segmenter", run, "--masks", tmp_path / "masks"], "go together"),
        (["--segmenter", run, "--layer", "network.segmentation_head"], "classifies the pixels"),
        (["--segmenter", run, "--layer", "nothing"], "no layer 'nothing'"),
        (["--segmenter", run, "--output-stride", "16"], "leave the output stride out"),
        (["--segmenter", tmp_path / "cls"], "segmenter.json"),
    ]:
        code, out, err = call("cams", photos, *options, "--out", tmp_path / "out")
        assert (code, out) == (2, ""), (options, err)
        assert words in " ".join(err.split()), err


def test_layers_of_a_segmentation_network_are_listed(call, run):
    found = json.loads(call("layers", run, "--json")[1])
    assert (found["auto"], found["stages"]) == ("deepest", ["decoded", "deepest"])
    text = call("layers", run)[1]
    assert "auto, stages, bottleneck" in text
    assert "stages, last-decoder" in text
    assert call("layers", run, "--output-stride", "16")[0] == 2
