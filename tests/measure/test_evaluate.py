import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from camseg.base.errors import EvaluationError, ImageError, InputError, ThresholdError
from camseg.cams.settings import CamSettings
from camseg.data.images import write_image, write_mask
from camseg.data.mask_settings import MaskReading, parse_mask_classes
from camseg.label.folder import cams_folder
from camseg.label.steps import masks_folder
from camseg.masks.settings import MaskSettings, load_threshold, parse_threshold
from camseg.masks.threshold import cam_to_mask
from camseg.measure.evaluate import NOT_RECORDED, evaluate_folder
from camseg.measure.evaluate_report import evaluation_note, evaluation_table, save_best_threshold
from camseg.measure.metrics import bootstrap_interval, dice, mask_counts, mean_dice
from camseg.measure.tally import MEASURES, THESE_MASKS
from camseg.runs.record import Record, to_line

SHAPE = (12, 16)
TUMOURS, CLEAN = ("tumour/a", "tumour/b", "tumour/deep er/ç"), ("clean/a", "clean/d")


def truth_of(name: str) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    if name in TUMOURS:
        top = 2 + TUMOURS.index(name)
        mask[top : top + 5, 3:10] = True
    return mask


def levels_of(name: str) -> np.ndarray:
    """A noisy map around the truth; the map of clean/d is zero."""
    if name == "clean/d":
        return np.zeros(SHAPE, np.uint8)
    seed = (TUMOURS + CLEAN).index(name)
    noise = np.random.default_rng(seed).integers(0, 120, SHAPE)
    return (noise + 100 * truth_of(name)).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in TUMOURS + CLEAN:
        write_image(tmp_path / "cams" / f"{name}.png", levels_of(name))
        write_mask(tmp_path / "masks" / f"{name}.png", truth_of(name))
    return tmp_path / "cams", tmp_path / "masks"


def test_headline_is_the_mean_per_image_over_filled_truths(folders):
    scores = evaluate_folder(*folders).overall
    expected = [mean_dice(levels_of(name), truth_of(name)) for name in TUMOURS]
    assert (scores.images, scores.empty_images) == (3, 2)
    assert scores.mean_dice == pytest.approx(np.mean(expected))
    assert min(expected) <= scores.mean_dice_interval[0] < scores.mean_dice < scores.mean_dice_interval[1]
    of_empty = [mean_dice(levels_of(name), truth_of(name)) for name in CLEAN]
    assert of_empty[1] == 1.0
    assert scores.mean_dice_of_empty == pytest.approx(np.mean(of_empty))


def test_curves_hold_every_threshold_and_the_best_is_their_maximum(folders):
    scores = evaluate_folder(*folders).overall
    assert len(scores.dice_curve) == len(scores.iou_curve) == 256
    assert np.mean(scores.dice_curve) == pytest.approx(scores.mean_dice)
    for level in (0, 100, 219):
        counts = [mask_counts(levels_of(name) > level, truth_of(name)) for name in TUMOURS]
        assert scores.dice_curve[level] == pytest.approx(np.mean([MEASURES["dice"](each) for each in counts]))
        assert scores.iou_curve[level] == pytest.approx(np.mean([MEASURES["iou"](each) for each in counts]))
    assert scores.best.dice == max(scores.dice_curve) == scores.dice_curve[scores.best_level]
    assert scores.best.chosen_on == THESE_MASKS
    # Whoever repeats the evaluation with the text of the best threshold gets its scores.
    again = evaluate_folder(*folders, thresholds=[scores.best.threshold]).overall.thresholds[0]
    assert again.chosen_on is None
    for field in (*MEASURES, "empty_kept"):
        assert getattr(again, field) == pytest.approx(getattr(scores.best, field))


def test_every_text_of_a_level_gives_that_level(folders):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_image(folders[0] / "tumour/ramp.png", levels)
    for level in (0, 1, 77, 128, 200, 253):
        write_mask(folders[1] / "tumour/ramp.png", levels > level)
        best = evaluate_folder(folders[0] / "tumour/ramp.png", folders[1] / "tumour/ramp.png").overall
        assert (best.best_level, best.best.dice) == (level, 1.0)
        assert np.array_equal(cam_to_mask(levels / np.float32(255), best.best.threshold), levels > level)


def test_thresholds_are_those_of_the_grammar(folders):
    texts = ["max:0.5", "0.4", "otsu", "max:0.50"]
    scores = evaluate_folder(*folders, thresholds=texts).overall
    assert [cut.threshold for cut in scores.thresholds] == ["max:0.5", "0.4", "otsu"]
    for cut in scores.thresholds:
        masks = {name: cam_to_mask(levels_of(name) / np.float32(255), cut.threshold) for name in TUMOURS + CLEAN}
        for name, measure in MEASURES.items():
            values = [float(measure(mask_counts(masks[image], truth_of(image)))) for image in TUMOURS]
            assert getattr(cut, name) == pytest.approx(np.mean(values))
        assert cut.empty_kept == np.mean([not masks[name].any() for name in CLEAN])
        assert cut.chosen_on is None
    with pytest.raises(ThresholdError):
        evaluate_folder(*folders, thresholds=["warm"])


def test_classes_are_the_first_folders(folders):
    write_image(folders[0] / "root.png", levels_of("tumour/a"))
    write_mask(folders[1] / "root.png", truth_of("tumour/a"))
    evaluation = evaluate_folder(*folders)
    assert list(evaluation.classes) == ["clean", "tumour"]
    assert (evaluation.overall.images, evaluation.classes["tumour"].images) == (4, 3)
    clean = evaluation.classes["clean"]
    assert (clean.images, clean.empty_images, clean.dice_curve, clean.best) == (0, 2, (), None)
    assert clean.mean_dice is clean.mean_dice_interval is clean.binary_cross_entropy is clean.thresholds[0].dice is None
    assert clean.thresholds[0].empty_kept == 0.5
    assert [row["class"] for row in evaluation.images] == ["clean", "clean", "", "tumour", "tumour", "tumour"]


def test_rows_hold_every_image(folders):
    rows = {row["name"]: row for row in evaluate_folder(*folders, thresholds=["0.4"]).images}
    assert set(rows) == set(TUMOURS + CLEAN)
    row = rows["tumour/deep er/ç"]
    assert (row["pixels"], row["true_pixels"], row["counted_as_zero"]) == (192, 35, False)
    assert row["mean_dice"] == mean_dice(levels_of(row["name"]), truth_of(row["name"]))
    counts = mask_counts(levels_of(row["name"]) > 102, truth_of(row["name"]))
    assert [row[f"{name} at 0.4"] for name in MEASURES] == [float(measure(counts)) for measure in MEASURES.values()]


def test_masks_are_noticed(folders, tmp_path):
    for name in TUMOURS + CLEAN:
        write_mask(tmp_path / "out" / f"{name}.png", np.roll(truth_of(name), 1, axis=0))
    evaluation = evaluate_folder(tmp_path / "out", folders[1], thresholds=["max:0.75", "otsu"])
    assert evaluation.kind == "masks"
    scores = evaluation.overall
    assert [(cut.threshold, cut.chosen_on) for cut in scores.thresholds] == [("none", "not recorded")]
    assert scores.thresholds[0].dice == pytest.approx(0.8)  # 28 of 35 pixels overlap
    assert scores.mean_dice == pytest.approx(0.8 * 255 / 256)
    assert scores.thresholds[0].empty_kept == 1.0
    assert scores.best is scores.best_level is None
    with pytest.raises(EvaluationError, match="holds masks already"):
        save_best_threshold(tmp_path / "t.json", evaluation, name="val")
    assert evaluate_folder(*folders).kind == "maps"


def test_a_chosen_threshold_says_what_chose_it(folders, tmp_path):
    evaluation = evaluate_folder(*folders)
    save_best_threshold(tmp_path / "t.json", evaluation, name="val")
    loaded = load_threshold(tmp_path / "t.json")
    assert (loaded.value, loaded.source.name, loaded.source.masks) == (evaluation.overall.best_level, "val", 3)
    for threshold in (str(tmp_path / "t.json"), tmp_path / "t.json", parse_threshold(tmp_path / "t.json")):
        cut = evaluate_folder(*folders, thresholds=[threshold]).overall.thresholds[0]
        assert cut.chosen_on == "val (3 masks)"
        assert (cut.level, cut.file) == (loaded.value, str(tmp_path / "t.json"))
        assert cut.sha256 == hashlib.sha256((tmp_path / "t.json").read_bytes()).hexdigest()
        assert cut.dice == pytest.approx(evaluation.overall.best.dice)


def test_without_a_filled_truth_there_is_no_threshold_to_choose(folders, tmp_path):
    evaluation = evaluate_folder(folders[0] / "clean", folders[1] / "clean")
    with pytest.raises(EvaluationError, match="all 2 true masks are empty"):
        save_best_threshold(tmp_path / "t.json", evaluation, name="val")


def test_missing_predictions_are_listed(folders):
    for name in ("tumour/a", "tumour/b"):
        (folders[0] / f"{name}.png").unlink()
    with pytest.raises(EvaluationError, match="each of the 5 true masks; 2 are missing: tumour/a, tumour/b;"):
        evaluate_folder(*folders)
    for i in range(7):
        write_mask(folders[1] / f"tumour/x{i}.png", truth_of("tumour/a"))
    with pytest.raises(EvaluationError, match=r"9 are missing: .*x2 and 4 more"):
        evaluate_folder(*folders)


def test_other_sizes_are_listed(folders):
    write_image(folders[0] / "tumour/a.png", levels_of("tumour/a")[:5, :4])
    with pytest.raises(EvaluationError, match=r"1 differ .*tumour/a \(4x5 against 16x12\)"):
        evaluate_folder(*folders)


def test_nothing_in_common(folders, tmp_path):
    with pytest.raises(EvaluationError, match="nothing in common: expected predictions named like clean/a; got cams/"):
        evaluate_folder(tmp_path, folders[1])


def test_two_files_of_one_name_are_refused(folders):
    write_image(folders[1] / "tumour/a.bmp", levels_of("tumour/a"))
    with pytest.raises(InputError, match="have the same name but for the suffix"):
        evaluate_folder(*folders)


def test_suffixes_may_differ_and_predictions_without_a_mask_are_reported(folders):
    (folders[0] / "tumour/a.png").unlink()
    write_image(folders[0] / "tumour/a.bmp", levels_of("tumour/a"))
    before = evaluate_folder(*folders)
    assert before.warnings == ()
    write_image(folders[0] / "tumour/unmasked.png", levels_of("tumour/a"))
    after = evaluate_folder(*folders)
    assert after.warnings == ("1 predictions have no true mask and were left out",)
    assert after.overall == before.overall


def write_manifest(path: Path, entries: list[tuple[str, str | None, str]]) -> None:
    lines = [
        json.dumps({"schema_version": 2, "input": f"{name}.png", "name": name, "class": label, "status": status})
        for name, label, status in entries
    ]
    path.write_text("\n".join([*lines, '{"name": "hal']))


@pytest.mark.parametrize("depth", [0, 1])
def test_a_class_that_was_no_target_counts_as_a_zero_map(tmp_path, depth):
    masks, cams = tmp_path / "masks", tmp_path / "out" / "layercam"
    for name in ("cat/1", "dog/1", "dog/2"):
        write_mask(masks / f"{name}.png", truth_of("tumour/a"))
    write_image(cams / "cat/1.png", levels_of("tumour/a"))
    manifest = [cams, cams.parent][depth] / "manifest.jsonl"
    write_manifest(manifest, [("1", "cat", "ok"), ("2", None, "ok")])
    evaluation = evaluate_folder(cams, masks)
    assert evaluation.classes["dog"].mean_dice == 0.0
    assert evaluation.classes["cat"].mean_dice > 0.0
    assert [row["counted_as_zero"] for row in evaluation.images] == [False, True, True]
    assert evaluation.warnings[0].startswith("2 true masks of classes that were not found")

    write_manifest(manifest, [("1", "cat", "ok"), ("1", "dog", "ok"), ("2", None, "failed")])
    with pytest.raises(EvaluationError, match="2 are missing: dog/1, dog/2"):
        evaluate_folder(cams, masks)


def test_files_that_were_lost_are_missing(tmp_path):
    records = []
    for name in "ab":
        write_mask(tmp_path / f"truth/{name}.png", truth_of("tumour/a"))
        write_mask(tmp_path / f"out/masks/{name}.png", truth_of("tumour/a"))
        files = {"mask": f"masks/{name}.png"}
        records.append(Record(input=f"{name}.png", name=name, class_name="scratch", files=files))
    (tmp_path / "out/manifest.jsonl").write_text("".join(map(to_line, records)))
    assert evaluate_folder(tmp_path / "out/masks", tmp_path / "truth").overall.thresholds[0].dice == 1
    (tmp_path / "out/masks/b.png").unlink()
    with pytest.raises(EvaluationError, match="1 are missing: b;"):
        evaluate_folder(tmp_path / "out/masks", tmp_path / "truth")


def test_masks_of_each_class_are_not_those_of_images(tmp_path):
    for name in "ab":
        write_mask(tmp_path / f"truth/{name}.png", truth_of("tumour/a"))
    write_mask(tmp_path / "out/masks/scratch/a.png", truth_of("tumour/a"))
    a = Record(input="a.png", name="a", class_name="scratch", files={"mask": "masks/scratch/a.png"})
    b = Record(input="b.png", name="b", empty="none of the classes predicted")
    (tmp_path / "out/manifest.jsonl").write_text(to_line(a) + to_line(b))
    with pytest.raises(EvaluationError, match="nothing in common: expected predictions named like a; got scratch/a"):
        evaluate_folder(tmp_path / "out/masks", tmp_path / "truth")
    # Of one class they are: what it was no target of counts as a map of zeros.
    scores = evaluate_folder(tmp_path / "out/masks/scratch", tmp_path / "truth").overall
    assert (scores.images, scores.thresholds[0].dice) == (2, 0.5)


def test_the_result_is_json_and_repeatable(folders):
    seen = []

    def progress(items, total, title):
        for item in items:
            seen.append((item.name, total, title))
            yield item

    evaluation = evaluate_folder(*folders, progress=progress)
    assert seen == [(name, 5, "evaluate") for name in sorted(TUMOURS + CLEAN)]
    content = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert content["overall"]["mean_dice_interval"] == list(evaluation.overall.mean_dice_interval)
    assert content["overall"]["thresholds"][0]["chosen_on"] is None
    assert evaluation == evaluate_folder(*folders)


def test_table_has_a_row_per_class_and_threshold(folders, tmp_path):
    evaluation = evaluate_folder(*folders, thresholds=["max:0.75", "otsu"])
    columns, rows = evaluation_table(evaluation)
    assert all(len(row) == len(columns) for row in rows)
    cells = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [(cell["class"], cell["chosen on"]) for cell in cells] == [
        *[("all", "no mask")] * 2,
        ("all", THESE_MASKS),
        *[("clean", "no mask")] * 2,
        *[("tumour", "no mask")] * 2,
        ("tumour", THESE_MASKS),
    ]
    cut = evaluation.overall.thresholds[0]
    assert cells[0]["Dice"] == "{:.3f} [{:.3f}, {:.3f}]".format(cut.dice, *cut.dice_interval)
    assert evaluation_note(evaluation) == "in brackets: 95% bootstrap over images, seed 0"
    assert (cells[0]["empty kept"], cells[3]["mean-Dice"], cells[5]["empty kept"]) == ("50% of 2", "-", "-")
    # One class that holds every image says nothing that "all" does not.
    for name in CLEAN:
        (folders[1] / f"{name}.png").unlink()
    assert {row[0] for row in evaluation_table(evaluate_folder(*folders))[1]} == {"all"}


def number_masks(folders, ring):
    """The true masks as class numbers: 15 for the object, 255 for void in the rows ``ring``."""
    for name in TUMOURS + CLEAN:
        levels = np.where(truth_of(name), 15, 0).astype(np.uint8)
        levels[ring] = 255
        write_image(folders[1] / f"{name}.png", levels)


def test_void_pixels_take_part_in_no_score(folders):
    ring = slice(0, 4)
    number_masks(folders, ring)
    with pytest.raises(ImageError, match="it has 0, 15, 255"):
        evaluate_folder(*folders)
    # In an image without the object 0 and 255 may be a mask too, so void has to be named.
    with pytest.raises(ImageError, match="or name 255 as void"):
        evaluate_folder(*folders, reading=MaskReading(mask_class="15"))
    reading = MaskReading(mask_class="tumour", mask_classes=parse_mask_classes({"tumour": 15, "void": 255}))
    found = evaluate_folder(*folders, thresholds=["0.4", "max:0.7"], reading=reading)
    rows = {row["name"]: row for row in found.images}
    assert found.warnings == ("5 true masks have void pixels, which take part in no score",)
    for name in TUMOURS:
        levels, truth, cam = levels_of(name), truth_of(name), levels_of(name) / np.float32(255)
        row = rows[name]
        assert row["void_pixels"] == 4 * SHAPE[1]
        assert row["pixels"] == 8 * SHAPE[1]
        assert row["true_pixels"] == truth[4:].sum()
        assert row["mean_dice"] == mean_dice(levels[4:], truth[4:])
        for text in ("0.4", "max:0.7"):
            counts = mask_counts(cam_to_mask(cam, text)[4:], truth[4:])
            assert row[f"dice at {text}"] == float(MEASURES["dice"](counts))
    assert (found.overall.images, found.overall.empty_images) == (3, 2)


def test_masks_that_are_void_everywhere_are_left_out(folders):
    number_masks(folders, slice(0, 0))
    levels = np.full(SHAPE, 255, np.uint8)
    levels[0, 0] = 3
    write_image(folders[1] / "tumour/a.png", levels)
    reading = MaskReading(mask_class="tumour", mask_classes=parse_mask_classes({"tumour": 15, "void": 255}))
    assert evaluate_folder(*folders, reading=reading).overall.images == 2
    write_image(folders[1] / "tumour/a.png", np.full(SHAPE, 255, np.uint8))
    found = evaluate_folder(*folders, reading=reading)
    assert found.overall.images == 2
    assert found.warnings == ("1 true masks are void everywhere and were left out",)


def test_true_masks_of_zero_and_one(folders):
    before = evaluate_folder(*folders)
    for name in TUMOURS + CLEAN:
        write_image(folders[1] / f"{name}.png", truth_of(name).astype(np.uint8))
    assert evaluate_folder(*folders) == before


@pytest.mark.parametrize("white", [1, 255])
def test_predictions_that_are_masks(folders, white):
    for name in TUMOURS + CLEAN:
        write_image(folders[0] / f"{name}.png", truth_of(name).astype(np.uint8) * np.uint8(white))
    found = evaluate_folder(*folders)
    assert found.kind == "masks"
    assert found.overall.thresholds[0].dice == 1.0


def test_predictions_of_class_numbers_are_refused(folders):
    for name in TUMOURS + CLEAN:
        write_image(folders[0] / f"{name}.png", truth_of(name).astype(np.uint8) * np.uint8(15))
    with pytest.raises(EvaluationError, match="hold 0 and one of the levels 15, as class numbers do"):
        evaluate_folder(*folders)
    write_image(folders[0] / "tumour/a.png", levels_of("tumour/a"))
    assert evaluate_folder(*folders).kind == "maps"


def test_coloured_predictions_are_refused(folders):
    write_image(folders[0] / "tumour/a.png", np.dstack([levels_of("tumour/a"), *np.zeros((2, *SHAPE), np.uint8)]))
    with pytest.raises(ImageError, match="expected grey levels; it has the colours"):
        evaluate_folder(*folders)


def test_stacks_are_told(folders):
    (folders[1] / "tumour/a.png").unlink()
    pages = [PilImage.fromarray(truth_of("tumour/a").astype(np.uint8) * np.uint8(255))] * 3
    pages[0].save(folders[1] / "tumour/a.tif", save_all=True, append_images=pages[1:])
    assert evaluate_folder(*folders).warnings == ("1 true masks hold several pages, of which the first was taken",)


def test_the_command_takes_a_class(folders, call):
    number_masks(folders, slice(0, 4))
    code, _, errors = call("evaluate", folders[0], "--masks", folders[1])
    assert code == 2
    assert "0, 15, 255" in errors
    for chosen, count in (("15", 3), ("person", 3), ("dog", 0)):
        arguments = ("--mask-class", chosen, "--mask-classes", "voc")
        code, out, errors = call("evaluate", folders[0], "--masks", folders[1], "--json", *arguments)
        assert code == 0
        assert "5 true masks have void pixels" in errors
        assert json.loads(out)["overall"]["images"] == count
    code, _, errors = call("evaluate", folders[0], "--masks", folders[1], "--mask-class", "person")
    assert code == 2
    assert "mask classes give names" in errors


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("side", [0, 1])
def test_photographs_are_neither_predictions_nor_true_masks(folders, side, mode):
    (folders[side] / "tumour/a.png").unlink()
    photo = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
    PilImage.fromarray(photo).convert(mode).save(folders[side] / "tumour/a.jpg")
    with pytest.raises(ImageError, match=r"tumour/a.jpg: expected"):
        evaluate_folder(*folders)


# What chose the level


def dices_at(level: int, names) -> list[float]:
    return [float(dice(mask_counts(levels_of(name) > level, truth_of(name)))) for name in names]


def test_the_interval_of_dice_at_the_level(folders, tmp_path):
    evaluation = evaluate_folder(*folders, thresholds=["0.5"], seed=3)
    for cut, level in (
        (evaluation.overall.thresholds[0], 127),
        (evaluation.overall.best, evaluation.overall.best_level),
    ):
        expected = bootstrap_interval(dices_at(level, TUMOURS), seed=3)
        assert cut.dice_interval == pytest.approx(expected, abs=1e-6)
    assert (evaluation.seed, evaluation.confidence, evaluation.resamples) == (3, 0.95, 2000)
    save_best_threshold(tmp_path / "t.json", evaluation, name="val")
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["dice_interval"] == list(evaluation.overall.best.dice_interval)
    assert (content["confidence"], content["resamples"], content["seed"]) == (0.95, 2000, 3)
    assert (content["scored_on"], content["masks"]) == ("the 3 masks that chose it", 3)


def test_masks_that_are_drawn_choose_and_the_others_score(folders, tmp_path):
    chosen = set()
    for seed in range(12):
        evaluation = evaluate_folder(*folders, draw=2, seed=seed)
        assert evaluation == evaluate_folder(*folders, draw=2, seed=seed)
        drawn, best = evaluation.drawn, evaluation.overall.best
        chosen.add(drawn)
        assert set(drawn) < set(TUMOURS)  # never an empty mask
        assert len(drawn) == 2
        (rest,) = set(TUMOURS) - set(drawn)
        means = [np.mean(dices_at(level, drawn)) for level in range(256)]
        assert means[evaluation.overall.best_level] == pytest.approx(max(means))
        assert best.dice == pytest.approx(dices_at(best.level, [rest])[0])
        assert (best.images, best.chosen_on) == (1, "2 of these masks, not those scored")
        assert evaluation.overall.thresholds == evaluate_folder(*folders, seed=seed).overall.thresholds
    assert len(chosen) == 3
    save_best_threshold(tmp_path / "t.json", evaluation, name="train")
    content = json.loads((tmp_path / "t.json").read_text())
    assert (content["masks"], content["drawn"], content["drawn_from"]) == (2, list(drawn), 3)
    assert (content["seed"], content["scored_on"]) == (11, "the 1 other masks")
    assert load_threshold(tmp_path / "t.json").source.masks == 2
    assert evaluation_note(evaluation).endswith("seed 11; 2 masks drawn by it choose the best threshold")
    everything = evaluate_folder(*folders, draw=3)
    assert everything.overall.best.dice == pytest.approx(evaluate_folder(*folders).overall.best.dice)
    assert everything.overall.best.chosen_on == "3 of these masks"


def test_no_more_can_be_drawn_than_there_are(folders):
    with pytest.raises(
        EvaluationError, match="at least 4 true masks that hold an object, to draw as many; there are 3"
    ):
        evaluate_folder(*folders, draw=4)
    for name in TUMOURS + CLEAN:
        write_mask(folders[0] / f"{name}.png", truth_of(name))
    with pytest.raises(EvaluationError, match="holds masks already"):
        evaluate_folder(*folders, draw=2)


def test_the_command_draws_and_says_how(folders, call, tmp_path):
    words = ("evaluate", folders[0], "--masks", folders[1], "--draw", "2", "--seed", "5")
    code, out, _ = call(*words, "--save-threshold", tmp_path / "t.json", "--name", "train")
    assert code == 0
    assert "95% bootstrap over images, seed 5; 2 masks drawn by it" in " ".join(out.split())
    code, out, _ = call(*words, "--threshold", tmp_path / "t.json", "--json")
    found = json.loads(out)
    assert len(found["drawn"]) == 2
    (cut,) = found["overall"]["thresholds"]
    assert (cut["file"], cut["level"]) == (str(tmp_path / "t.json"), found["overall"]["best_level"])
    assert len(cut["sha256"]) == 64


def test_masks_tell_which_threshold_made_them(folders, tmp_path):
    evaluation = evaluate_folder(*folders)
    save_best_threshold(tmp_path / "t.json", evaluation, name="val")
    masks_folder(folders[0], tmp_path / "filed", MaskSettings(threshold=tmp_path / "t.json"))
    (tmp_path / "t.json").unlink()
    (cut,) = evaluate_folder(tmp_path / "filed", folders[1]).overall.thresholds
    assert (cut.chosen_on, cut.level) == ("val (3 masks)", evaluation.overall.best_level)
    assert cut.file == str(tmp_path / "t.json")
    assert len(cut.sha256) == 64
    assert cut.dice == pytest.approx(evaluation.overall.best.dice)
    masks_folder(folders[0], tmp_path / "otsu", MaskSettings(threshold="otsu"))
    (cut,) = evaluate_folder(tmp_path / "otsu", folders[1]).overall.thresholds
    assert (cut.threshold, cut.chosen_on, cut.file) == ("otsu", None, None)
    shutil.copytree(tmp_path / "otsu", tmp_path / "alone", ignore=lambda _, names: ["run.json", "manifest.jsonl"])
    (cut,) = evaluate_folder(tmp_path / "alone", folders[1]).overall.thresholds
    assert (cut.threshold, cut.chosen_on) == ("none", NOT_RECORDED)


@pytest.mark.parametrize(("targets", "told"), [((), 4), (("label",), 4), (("predicted",), 0), (("cat",), 2)])
def test_predictions_that_follow_labels_are_said(tiny_classifier, make_images, tmp_path, targets, told):
    for name, image in zip(("cat/a", "cat/b", "none/a", "none/b"), make_images(*[(40, 40)] * 4), strict=True):
        write_image(tmp_path / f"images/{name}.png", image)
        write_mask(tmp_path / f"truth/{name}.png", np.full((40, 40), name.startswith("cat")))
    cams_folder(tmp_path / "images", tiny_classifier, tmp_path / "cams", CamSettings(), targets=targets)
    masks_folder(tmp_path / "cams/layercam", tmp_path / "masks")
    for place in ("cams/layercam", "masks"):
        notes = evaluate_folder(tmp_path / place, tmp_path / "truth").warnings
        said = [note for note in notes if "follow the labels of their images" in note]
        assert [int(note.split()[0]) for note in said] == ([told] if told else [])


def test_files_that_are_passed_over_are_said(tmp_path):
    for folder in ("maps", "masks"):
        write_mask(tmp_path / folder / "a.png", np.eye(4, dtype=bool))
    for name in ("masks/b.mov", "masks/c.mov", "masks/notes.txt"):
        (tmp_path / name).touch()
    found = evaluate_folder(tmp_path / "maps", tmp_path / "masks")
    assert found.warnings == (f"2 other files passed over (.mov 2), in {tmp_path / 'masks'}",)
