"""What commands say of their images before work begins, and how dry runs end."""

import json

import numpy as np
import pytest

from camseg.data.images import write_image

TRAIN = ("--weights", "none", "--model", "test_resnet", "--image-size", "32", "--epochs", "1", "--device", "cpu")


@pytest.fixture
def run(make_classifier, tmp_path):
    make_classifier(classes=["blue", "red"], image_size=32).save(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def images(tmp_path):
    """Two images, a mask of one, a video and twelve-bit values, in class folders."""
    random = np.random.default_rng(0)
    for name in ("blue/a", "RED/b"):
        write_image(tmp_path / "in" / f"{name}.png", random.integers(0, 256, (32, 32, 3)).astype(np.uint8))
    write_image(tmp_path / "in/blue/a_mask.png", np.zeros((32, 32), np.uint8))
    (tmp_path / "in/clip.mov").touch()
    return tmp_path / "in"


@pytest.mark.parametrize("command", ["label", "cams"])
def test_what_is_left_out_is_said(call, run, images, tmp_path, command):
    refiner = ["--refiner", "none"] if command == "label" else []
    options = ("-c", run, "--scales", "1", "--no-flip", "--device", "cpu", *refiner, "--json")
    code, out, err = call(command, images, "-o", tmp_path / "out", *options)
    assert code == 0
    assert json.loads(out)["done"] == 2
    for line in (
        "note: 1 file looks like the mask of an image beside it and is left out: blue/a_mask.png",
        "note: 1 image labelled 'RED' counted as 'red'",
        "note: 1 other file passed over (.mov 1)",
    ):
        assert line in err
    records = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert {record["name"]: record["labels"] for record in records} == {"RED/b": ["red"], "blue/a": ["blue"]}


@pytest.mark.parametrize("command", ["label", "cams"])
def test_a_dry_run_tells_of_images_that_are_not_there(call, run, images, tmp_path, command):
    (tmp_path / "list.csv").write_text("image\nin/blue/a.png\nin/missing.png\n")
    options = ("-c", run, "--scales", "1", "--device", "cpu")
    code, out, err = call(command, tmp_path / "list.csv", "-o", tmp_path / "out", *options, "--dry-run", "--json")
    assert code == 1
    assert json.loads(out)["planned"] == 1
    assert "would fail: " in err
    assert "missing.png: no such file" in err
    assert not (tmp_path / "out").exists()
    code, _, err = call(command, images, "-o", tmp_path / "run/model.safetensors/out", *options, "--dry-run")
    assert code == 2
    assert "model.safetensors is a file, no folder; choose another --out" in err


def test_dry_trainings_fail_where_trainings_do(call, make_folder, tmp_path):
    data = make_folder()
    rows = [f"{label}/{i:02}.png,{label}" for label in ("blue", "red") for i in range(12)]
    (data / "d.csv").write_text("\n".join(["image,label", *rows, "gone.png,red"]))
    code, _, err = call("train-cls", data / "d.csv", "-o", tmp_path / "out", *TRAIN, "--dry-run")
    assert code == 1
    assert "would fail: " in err
    assert "gone.png: no such file" in err
    (tmp_path / "file").touch()
    (data / "none.csv").write_text("\n".join(["image,label", *(f"no/{row}" for row in rows)]))
    code, _, err = call("train-cls", data / "none.csv", "-o", tmp_path / "out", *TRAIN, "--dry-run")
    assert code == 2
    assert "none of 19 images can be read" in err
    code, _, err = call("train-cls", data, "-o", tmp_path / "file/out", *TRAIN, "--dry-run")
    assert code == 2
    assert "is a file, no folder" in err
    assert not (tmp_path / "out").exists()


def test_test_scores_are_shown(call, make_folder, tmp_path):
    code, out, err = call("train-cls", make_folder(), "-o", tmp_path / "out", *TRAIN, "--test-fraction", "0.25")
    assert code == 0
    assert "validation accuracy" in out
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert f"test accuracy {metrics['test']['accuracy']:.3f}" in out
    assert "note:" not in err
