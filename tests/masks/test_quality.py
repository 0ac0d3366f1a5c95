"""How far a mask can be trusted, judged from what it becomes where something is varied."""

from dataclasses import replace

import numpy as np
import pytest

from camseg.cams.settings import CamSettings
from camseg.classify.ensemble import Ensemble
from camseg.label.chain import label_image
from camseg.label.quality_stage import QualityStage
from camseg.label.settings import LabelSettings
from camseg.masks.quality import (
    FEWEST,
    border_share,
    level_agreement,
    quality,
    reasons,
    shrink_mask,
    unusual_areas,
    view_agreements,
    working_size,
)
from camseg.runs.stage import new_item


def square(top, size=40, side=16):
    mask = np.zeros((size, size), np.float32)
    mask[top : top + side, 4 : 4 + side] = 1
    return mask


def test_views_that_agree_in_all_but_one_thing():
    views = np.stack([square(4), square(12)])[None, :, None]  # (1 scale, 2 flips, 1 layer, h, w)
    same = np.broadcast_to(views, (3, 2, 1, 40, 40))
    found = view_agreements([same])
    assert found == {"scales": pytest.approx(1), "flips": pytest.approx(0.5), "views": pytest.approx(0.7)}
    assert view_agreements([views, views[:, ::-1]]) == {"flips": pytest.approx(0.5), "views": pytest.approx(0.5)}
    assert view_agreements([views[:, :1]]) == view_agreements([]) == {}


def test_a_steep_map_agrees_with_its_levels_more_than_a_flat_one():
    distance = np.abs(np.arange(64) - 32.0)
    flat = np.clip(1 - distance / 40, 0, 1)[None].repeat(64, 0).astype(np.float32)
    steep = np.clip(3 - distance / 6, 0, 1)[None].repeat(64, 0).astype(np.float32)
    values = [level_agreement(cam, cam > 0.7) for cam in (flat, steep)]
    assert values[0] < values[1] < 1
    assert level_agreement(flat, flat > 2) == 0
    assert level_agreement(square(4), square(4) > 0) == 1


def test_small_masks_do_not_vanish():
    mask = np.zeros((1000, 600), bool)
    mask[500:502, 300:302] = True
    small = shrink_mask(mask)
    assert small.shape == working_size(1000, 600) == (128, 77)
    assert 0 < small.sum() <= 4
    assert working_size(3, 5) == (3, 5)
    assert working_size(1, 10000) == (1, 128)


def test_quality_is_a_mean_and_reasons_are_named():
    assert quality({}) is None
    assert quality({"unheard of": 0.2}) is None
    assert quality({"views": 0.5, "levels": 0.7, "flips": 0.1}) == pytest.approx(0.6)
    assert quality({"views": 0.5, "levels": 0.7}, 0.9) == pytest.approx(0.7)
    assert quality({}, 0.9) is None
    inner, whole = square(4) > 0, np.ones((40, 40), bool)
    assert reasons(inner, {"flips": 0.9}, 0.9, None) == ()
    assert border_share(whole) == 1
    found = reasons(whole, {"flips": 0.1}, 0.5, "vanished")
    assert len(found) == 4
    assert "not refined: vanished" in found


def test_areas_out_of_line_with_the_set():
    areas = [100.0 + n for n in range(FEWEST)]
    assert unusual_areas([*areas, 5.0, 105.0, 5000.0]).tolist() == [False] * FEWEST + [True, False, True]
    assert not unusual_areas([1.0, 100.0, 10000.0]).any()


def test_the_chain_says_how_far_its_masks_can_be_trusted(make_classifier, make_images):
    image = make_images((48, 64))[0]
    settings = LabelSettings(cams=CamSettings(score="class", layers=("stages",), scales=(1.0, 1.5), flip=True))
    members = tuple(make_classifier(seed=seed, negative=["none"]) for seed in range(2))
    found = label_image(image, Ensemble(members=members, shares=(0.5, 0.5)), "cat", settings)
    alone = label_image(image, members[0], "cat", settings)
    assert found.mask.any()
    assert 0 < found.quality < 1
    assert 0 < alone.quality < 1
    assert found.quality != alone.quality
    still = replace(settings, cams=replace(settings.cams, flip=False, layers=("layer4",), scales=(1.0,)))
    assert label_image(image, members[0], "cat", still).quality != alone.quality
    nothing = label_image(image, members[0], "none", settings)
    assert not nothing.mask.any()
    assert 0 < nothing.quality < 1  # as sure as the classifier is of it


def test_of_an_empty_mask_the_stage_says_what_is_known(tmp_path):
    from camseg.data.datasets import Sample

    item = replace(new_item(Sample(path=tmp_path / "a.png", name="a")), mask=np.zeros((8, 8), bool))
    missed = QualityStage()([item])[0].record
    assert (missed.quality, len(missed.quality_reasons)) == (0.0, 1)
    scored = replace(item, record=replace(item.record, score=0.2))
    assert QualityStage(may_be_empty=True)([scored])[0].record.quality == pytest.approx(0.8)
    told = replace(item, record=replace(item.record, quality=1.0, empty="labelled none"))
    assert QualityStage()([told])[0].record.quality == 1.0
