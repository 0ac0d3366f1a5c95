import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from skimage import filters

from camseg.base.arrays import dequantise, quantise
from camseg.base.errors import InputError, OutputError, ThresholdError
from camseg.masks.settings import AUTOMATIC, GRAMMAR, Threshold, load_threshold, parse_threshold, save_threshold
from camseg.masks.threshold import RULES, cam_to_mask

EXAMPLES = {
    "absolute": "0.4",
    "max": "max:0.75",
    "area": "area:0.1",
    "otsu": "otsu",
    "li": "li",
    "triangle": "triangle",
}


@pytest.fixture
def example(tmp_path):
    """The text of a threshold of each kind."""
    save_threshold(tmp_path / "level.json", 102, name="val", masks=3)
    return {**EXAMPLES, "level": str(tmp_path / "level.json")}


def test_the_examples_are_all_the_rules(example):
    assert set(example) == set(RULES)


@pytest.mark.parametrize("kind", RULES)
def test_str_gives_the_text_back(kind, example):
    parsed = parse_threshold(example[kind])
    assert parsed.kind == kind
    assert str(parsed) == example[kind]
    assert parse_threshold(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        (" 0.25 ", "absolute", 0.25),
        (0.25, "absolute", 0.25),
        (0, "absolute", 0.0),
        (1, "absolute", 1.0),
        (np.float64(0.5), "absolute", 0.5),
        ("1e-1", "absolute", 0.1),
        ("max:1", "max", 1.0),
        ("area:.5", "area", 0.5),
    ],
)
def test_numbers_and_shares(text, kind, value):
    assert parse_threshold(text) == Threshold(kind=kind, value=value)


OUTSIDE_THE_GRAMMAR = [
    "", "1.5", "-0.1", 2, "nan", "inf", True, "max", "max:", "max:75%", "max:1.5", "area:-1", ":0.4", "absolute:0.4",
    "level:102", "Otsu", "otsu:0.5", "no/such/file.json", Path("no/such/file.json"), ".", "a\0b",
]  # fmt: skip


@pytest.mark.parametrize("text", OUTSIDE_THE_GRAMMAR)
def test_anything_else_is_refused_with_the_grammar(text):
    with pytest.raises(ThresholdError) as caught:
        parse_threshold(text)
    assert GRAMMAR in str(caught.value) or isinstance(text, Path)


def test_a_pixel_at_the_threshold_is_outside():
    cam = np.array([[0.0, 0.2, 0.4, 0.8]], dtype=np.float32)
    assert cam_to_mask(cam, "0.4").tolist() == [[False, False, False, True]]
    assert cam_to_mask(cam, "0").tolist() == [[False, True, True, True]]
    assert cam_to_mask(cam, "max:0.5").tolist() == [[False, False, False, True]]
    assert cam_to_mask(cam, "max:0.49").tolist() == [[False, False, True, True]]
    assert not cam_to_mask(cam, "max:1").any()
    assert cam_to_mask(cam).tolist() == [[False, False, False, True]]
    mask = cam_to_mask(cam.astype(np.float64), 0.4)
    assert mask.dtype == np.bool_
    assert mask.tolist() == [[False, False, False, True]]


def test_each_level_of_an_8_bit_map_is_outside_its_own_threshold():
    levels = np.arange(256, dtype=np.uint8)[None]
    for level in range(256):
        assert np.array_equal(cam_to_mask(dequantise(levels), level / 255), levels > level)


@pytest.mark.parametrize("share", ["0.1", "0.3", "0.65", "0.75", "0.95"])
def test_shares_of_the_maximum_are_exact_for_every_8_bit_map(share):
    for highest in range(256):
        levels = np.arange(highest + 1, dtype=np.uint8)[None]
        expected = [[Fraction(int(level)) > Fraction(share) * highest for level in levels[0]]]
        assert cam_to_mask(dequantise(levels), f"max:{share}").tolist() == expected


def test_area_takes_the_hottest_pixels():
    cam = np.random.default_rng(0).permutation(100).reshape(10, 10).astype(np.float32) / 99
    for percent in (0, 1, 29, 50, 99):
        assert np.array_equal(cam_to_mask(cam, f"area:{percent / 100}"), cam > (99.5 - percent) / 99)
    assert np.array_equal(cam_to_mask(cam, "area:1"), cam > 0)


def test_area_keeps_pixels_of_one_value_together():
    plateau = np.array([[0.9, 0.9, 0.9, 0.5, 0.4, 0.3, 0.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    assert cam_to_mask(plateau, "area:0.1").sum() == 0  # 0 or 3 pixels for 1
    assert cam_to_mask(plateau, "area:0.2").sum() == 3  # 0 or 3 pixels for 2
    assert cam_to_mask(plateau, "area:0.4").sum() == 4
    assert cam_to_mask(plateau, "area:0.9").sum() == 6  # zeros are never in a mask


@pytest.mark.parametrize("kind", AUTOMATIC)
def test_automatic_rules_are_those_of_scikit_image_on_the_8_bit_map(kind):
    cam = np.random.default_rng(1).beta(1, 5, (40, 50)).astype(np.float32)
    levels = quantise(cam)
    mask = cam_to_mask(cam, kind)
    assert np.array_equal(mask, levels > getattr(filters, f"threshold_{kind}")(levels))
    assert 0 < mask.sum() < mask.size
    assert np.array_equal(cam_to_mask(dequantise(levels), kind), mask)


@pytest.mark.parametrize("kind", AUTOMATIC)
def test_automatic_rules_separate_any_two_values(kind):
    rng = np.random.default_rng(2)
    for _ in range(200):
        low, high = np.sort(rng.choice(256, 2, replace=False))
        bright = rng.random((3, 4)) < 0.5
        bright[0, :2] = False, True
        cam = dequantise(np.where(bright, high, low).astype(np.uint8))
        assert np.array_equal(cam_to_mask(cam, kind), bright)


@pytest.mark.parametrize("shape", [(1, 1), (3, 4)])
@pytest.mark.parametrize("kind", RULES)
def test_maps_of_one_value(kind, shape, example):
    assert not cam_to_mask(np.zeros(shape, np.float32), example[kind]).any()
    full = cam_to_mask(np.full(shape, 0.5, np.float32), example[kind])
    assert full.all() if kind in ("absolute", "max", "level") else not full.any()


def test_a_file_holds_a_level_and_what_chose_it(tmp_path):
    path = tmp_path / "new folder" / "schwelle ä.json"
    save_threshold(path, np.int64(102), name="brain train", masks=120, scores={"dice": 0.5})
    assert json.loads(path.read_text("utf-8")) == {
        "threshold": 0.4,
        "level": 102,
        "name": "brain train",
        "masks": 120,
        "scores": {"dice": 0.5},
    }
    assert os.listdir(path.parent) == [path.name]
    loaded = load_threshold(path)
    assert loaded == parse_threshold(path) == parse_threshold(str(path))
    assert (loaded.kind, loaded.value, loaded.source.name, loaded.source.masks) == ("level", 102, "brain train", 120)


def test_a_level_is_compared_with_the_8_bit_map(tmp_path):
    save_threshold(tmp_path / "t.json", 102, name="val", masks=1)
    cam = np.array([[102.4, 102.6, 103, 101]], dtype=np.float32) / 255
    for threshold in (tmp_path / "t.json", str(tmp_path / "t.json"), load_threshold(tmp_path / "t.json")):
        assert cam_to_mask(cam, threshold).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "\udcff",
        "[]",
        "102",
        "{}",
        '{"level": 102, "name": "val"}',
        '{"level": 256, "name": "val", "masks": 1}',
        '{"level": 1.5, "name": "val", "masks": 1}',
        '{"level": true, "name": "val", "masks": 1}',
        '{"level": 1, "name": null, "masks": 1}',
        '{"level": 1, "name": "val", "masks": "1"}',
    ],
)
def test_unusable_files(text, tmp_path):
    path = tmp_path / "t.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ThresholdError, match=r"t\.json"):
        parse_threshold(path)


def test_saving_refuses_other_levels_and_unwritable_places(tmp_path):
    with pytest.raises(ThresholdError, match="256"):
        save_threshold(tmp_path / "t.json", 256, name="val", masks=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_threshold(tmp_path / "file" / "t.json", 1, name="val", masks=1)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("cam", [np.zeros((2, 2), np.uint8), np.full((2, 2), 2.0), np.full((2, 2), np.nan), None])
def test_no_map_no_mask(cam):
    with pytest.raises(InputError):
        cam_to_mask(cam, 0.5)
