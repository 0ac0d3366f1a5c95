"""A person's masks count wherever an output folder is used: each command is asked in turn."""

import json

import numpy as np
import pytest

from camseg.base.errors import EvaluationError
from camseg.base.files import write_json, write_text
from camseg.data.datasets import load_images
from camseg.data.images import read_mask, read_trimap, write_cam, write_image, write_mask
from camseg.data.truth import IGNORED
from camseg.exchange.corrections import Corrector
from camseg.exchange.export import export_folder
from camseg.exchange.settings import ExportSettings
from camseg.label.steps import refine_folder, trimap_folder
from camseg.measure.evaluate import evaluate_folder
from camseg.refinement.settings import RefineSettings, TrimapSettings
from camseg.runs.record import Record, to_line
from camseg.runs.settings import FolderOptions
from camseg.train.segmenter_plan import plan_segmenter_training, prepare_segmenter_training
from camseg.train.settings import StudentSettings
from camseg.train.student import find_pseudo_masks

SIZE = (24, 32)
Y, X = np.mgrid[: SIZE[0], : SIZE[1]]
MADE = (Y > 4) & (Y < 12) & (X > 6) & (X < 20)
DRAWN = (Y > 8) & (Y < 20) & (X > 10) & (X < 28)
NONE = np.zeros(SIZE, bool)
NAMES = ("accepted", "edited", "empty", "rejected", "stale", "unseen")
COUNTED = dict.fromkeys(NAMES, MADE) | {"edited": DRAWN, "empty": NONE}


@pytest.fixture(params=["label", "refine", "masks"])
def out(tmp_path, request):
    """The folder of a command, one mask per image; a person said of each what it is called."""
    place = "" if request.param == "masks" else "masks/"
    lines = []
    for number, name in enumerate(NAMES):
        write_image(tmp_path / f"images/{name}.png", np.full((*SIZE, 3), 40 * number, np.uint8))
        write_mask(tmp_path / f"out/{place}{name}.png", MADE)
        files = {"mask": f"{place}{name}.png"}
        if request.param == "label":
            files["cam"] = f"cams/{name}.png"
            write_cam(tmp_path / f"out/cams/{name}.png", MADE.astype(np.float32))
        lines.append(to_line(Record(input=f"{name}.png", name=name, class_name="spot", files=files)))
    write_text(tmp_path / "out/manifest.jsonl", "".join(lines))
    identity = {"inputs": str(tmp_path / "images"), "files read.images": str(tmp_path / "images")}
    run = {"schema_version": 2, "command": request.param, "settings": {}, "identity": identity}
    write_json(tmp_path / "out/run.json", run)
    corrector = Corrector(tmp_path / "out")
    for number, name in enumerate(NAMES[:-1], start=1):
        drawn = DRAWN if name in ("edited", "stale") else None
        corrector.correct(name, None if drawn is not None else name, drawn, seconds=2.0 * number)
    write_mask(tmp_path / f"out/{place}stale.png", MADE[::-1])
    write_mask(tmp_path / f"out/{place}stale.png", MADE)  # the same again counts
    corrector.correct("stale", mask=DRAWN[:, ::-1])
    write_mask(tmp_path / f"out/{place}stale.png", MADE & (X > 7))  # another one does not
    return tmp_path / "out"


def counted(out):
    return {**COUNTED, "stale": MADE & (X > 7)}


def test_evaluate_says_how_many_were_corrected_and_what_time_it_took(out, tmp_path, call):
    for name, mask in counted(out).items():
        write_mask(tmp_path / f"truth/{name}.png", mask)
    code, stdout, err = call("evaluate", out, "--masks", tmp_path / "truth", "--json")
    assert code == 0
    found = json.loads(stdout)
    assert (found["overall"]["thresholds"][0]["dice"], found["overall"]["thresholds"][0]["empty_kept"]) == (1.0, 1.0)
    said = found["corrections"]
    assert said["decisions"] == {"accepted": 1, "edited": 1, "empty": 1, "rejected": 1}
    assert (said["timed"], said["median_seconds"], said["mean_seconds"], said["published_seconds"]) == (4, 5, 5, 54.5)
    assert "a person looked at 4 of these masks" in err
    assert "1 corrections in" in err
    assert "are of other masks than those that lie there now" in err
    code, stdout, _ = call("evaluate", out, "--masks", tmp_path / "truth", "--no-corrected", "--json")
    found = json.loads(stdout)
    assert found["corrections"] is None
    assert found["overall"]["thresholds"][0]["empty_kept"] == 0.0


def test_masks_that_people_vouch_for_are_a_truth_for_others(out, tmp_path):
    for name in NAMES:
        write_mask(tmp_path / f"student/{name}.png", DRAWN)
    found = evaluate_folder(tmp_path / "student", out)
    assert [(row["name"], row["true_pixels"]) for row in found.images] == [
        ("accepted", MADE.sum()), ("edited", DRAWN.sum()), ("empty", 0)
    ]  # fmt: skip
    lines = (out / "corrections.jsonl").read_text().splitlines(keepends=True)
    write_text(out / "corrections.jsonl", "".join(line for line in lines if '"rejected"' in line))
    for path in (out / "corrected").iterdir():
        path.unlink()
    with pytest.raises(EvaluationError, match="nobody vouches for a mask"):
        evaluate_folder(tmp_path / "student", out)


def test_trimaps_and_refined_masks_start_from_what_a_person_drew(out, tmp_path):
    masks = out if (out / "edited.png").exists() else out / "masks"
    said = []
    settings = TrimapSettings(dilate="1", erode="1")
    report = trimap_folder(masks, tmp_path / "trimaps", settings, options=FolderOptions(say=said.append))
    assert (report.done, report.failed) == (len(NAMES), [])
    assert any("1 corrections in" in line for line in said)
    for name, mask in counted(out).items():
        trimap = read_trimap(tmp_path / f"trimaps/{name}.png")
        assert not (trimap[mask] == 0).any()
        assert not (trimap[~mask] == 255).any()
    write_image(tmp_path / "none/edited.png", np.zeros(SIZE, np.uint8))  # from which no refiner learns
    refine_folder(
        tmp_path / "images", tmp_path / "none", tmp_path / "refined", RefineSettings(method="grabcut"), masks=masks
    )
    assert np.array_equal(read_mask(tmp_path / "refined/masks/edited.png"), DRAWN)


def test_exports_hold_what_a_person_drew_and_no_rejected_mask(out, tmp_path):
    export_folder(out, tmp_path / "index", "index-png", ExportSettings(images="none"))
    found = {path.stem: read_mask(path) for path in (tmp_path / "index/masks").iterdir()}
    assert found.keys() == set(NAMES) - {"rejected"}
    for name, mask in found.items():
        assert np.array_equal(mask, counted(out)[name]), name


def test_a_training_learns_from_what_a_person_drew_and_not_from_what_was_rejected(out, tmp_path):
    images = tmp_path / "images"
    changes = {"masks": str(out), "model": "linknet+test_resnet", "weights": "none", "image_size": 32}
    prepared = prepare_segmenter_training(
        plan_segmenter_training(images, changes={**changes, "batch_size": 2}), tmp_path / "run"
    )
    samples = [*prepared.train.data.samples, *prepared.val.data.samples]
    assert {sample.name for sample in samples} == set(NAMES) - {"rejected"}
    assert any("1 corrections in" in line for line in prepared.remarks)
    for sample in samples:
        truth = prepared.train.masks.read(sample, *SIZE)
        expected = counted(out)[sample.name]
        if sample.name != "stale":  # whose map, of a folder that label wrote, decides
            assert np.array_equal(truth.target[..., 0] == 1, expected), sample.name
            assert truth.weights.tolist() == [1.0]


def test_a_student_knows_what_people_said_of_each_class(tmp_path):
    out, records = tmp_path / "out", []
    write_image(tmp_path / "images/a.png", np.zeros((*SIZE, 3), np.uint8))
    for kind in ("dust", "hair"):
        files = {"mask": f"masks/{kind}/a.png", "cam": f"cams/{kind}/a.png"}
        write_mask(out / files["mask"], MADE)
        write_cam(out / files["cam"], MADE.astype(np.float32))
        labels = ("dust", "hair")
        records.append(to_line(Record(input="a.png", name="a", labels=labels, class_name=kind, files=files)))
    write_text(out / "manifest.jsonl", "".join(records))
    run = {"schema_version": 2, "command": "label", "settings": {}, "identity": {"inputs": str(tmp_path / "images")}}
    write_json(out / "run.json", run)
    corrector = Corrector(out)
    corrector.correct("a", "rejected", class_name="dust")
    corrector.correct("a", mask=DRAWN, class_name="hair")
    (sample,) = load_images(tmp_path / "images").samples
    found = find_pseudo_masks(out, StudentSettings())
    truth = found.read(sample, *SIZE)
    assert found.knows(sample)
    assert truth.weights.tolist() == [0.0, 1.0]
    assert (truth.target[..., 0] == IGNORED).all()
    assert np.array_equal(truth.target[..., 1], DRAWN)
    assert out / "corrected/hair/a.png" in found.files(sample)
    corrector.correct("a", "rejected", class_name="hair")
    assert not find_pseudo_masks(out, StudentSettings()).knows(sample)
