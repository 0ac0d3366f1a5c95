"""Masks of an ensemble: its members' maps become one before propagation, after it, or by votes."""

from dataclasses import replace

import numpy as np
import pytest

from camseg.base.errors import InputError
from camseg.cams.compute import compute_cams
from camseg.cams.settings import CamSettings
from camseg.classify.ensemble import Ensemble
from camseg.data.images import read_cam, read_image, read_mask
from camseg.label.chain import label_image
from camseg.label.folder import cams_folder, label_folder
from camseg.label.settings import LabelSettings
from camseg.label.steps import masks_folder, propagate_folder
from camseg.masks.consensus import agreement, pairwise_dice
from camseg.masks.settings import FusionSettings, MaskSettings
from camseg.masks.threshold import cam_to_mask
from camseg.propagation.propagate import propagate
from camseg.refinement.settings import RefineSettings
from camseg.runs.manifest import read_manifest
from camseg.runs.run import read_run

QUICK = LabelSettings(
    cams=CamSettings(score="class", layers=("layer3",)),
    masks=MaskSettings(threshold="max:0.6"),
    refinement=RefineSettings(method="none"),
)


def settings(fusion="maps", centrality=None):
    return replace(QUICK, consensus=FusionSettings(fusion=fusion, centrality=centrality))


@pytest.fixture
def ensemble(make_classifier):
    return Ensemble(members=tuple(make_classifier(seed=seed) for seed in range(3)), shares=(0.5, 0.25, 0.25))


@pytest.fixture
def image(make_images):
    return make_images((48, 64))[0]


def rounded(cam):
    return np.round(cam * 255).astype(np.float32) / 255


def by_hand(ensemble, image):
    return [rounded(compute_cams(one, [image], ["cat"], layer="layer3")["layercam"][0]) for one in ensemble.members]


def spread(image, cam):
    return rounded(propagate(image, cam))


def near(one, other):
    return np.abs(one - other).max() <= 1.01 / 255


def test_the_mean_before_propagation(ensemble, image):
    maps = by_hand(ensemble, image)
    found = label_image(image, ensemble, "cat", settings())
    assert near(found.cam, spread(image, rounded(np.average(maps, axis=0, weights=ensemble.shares))))
    masks = [cam_to_mask(cam, "max:0.6") for cam in maps]
    assert found.agreement == pytest.approx(agreement(masks), abs=1e-3)


@pytest.mark.parametrize("how", ["mean", "median", "votes"])
def test_after_propagation(ensemble, image, how):
    ensemble = replace(ensemble, shares=(1 / 3,) * 3)
    maps = [spread(image, cam) for cam in by_hand(ensemble, image)]
    masks = [cam_to_mask(cam, "max:0.6") for cam in maps]
    found = label_image(image, ensemble, "cat", settings(how))
    if how == "votes":
        assert (found.mask != (np.sum(masks, axis=0) >= 2)).mean() < 0.01
    else:
        expected = np.mean(maps, axis=0) if how == "mean" else np.median(maps, axis=0)
        assert near(found.cam, expected)
        assert (found.mask != cam_to_mask(expected, "max:0.6")).mean() < 0.02
    assert found.agreement == pytest.approx(agreement(masks), abs=1e-3)


@pytest.mark.parametrize("share", [0.495, 0.505])
def test_a_narrow_majority_of_votes_decides(ensemble, image, share):
    two = Ensemble(members=ensemble.members[:2], shares=(share, 1 - share))
    masks = [cam_to_mask(spread(image, cam), "max:0.6") for cam in by_hand(two, image)]
    assert (masks[0] != masks[1]).any()  # else there is nothing to see
    assert (label_image(image, two, "cat", settings("votes")).mask == masks[int(share < 0.5)]).all()


def test_one_that_disagrees_counts_little(make_classifier, image):
    good, odd = make_classifier(seed=0), make_classifier(seed=4)
    alone = label_image(image, good, "cat", settings()).cam
    ensemble = Ensemble(members=(good, good, odd), shares=(1 / 3,) * 3)
    table = pairwise_dice([cam_to_mask(cam, "max:0.6") for cam in by_hand(ensemble, image)])
    assert table[0, 2] < 0.9  # else there is nothing to see
    equal = label_image(image, ensemble, "cat", settings()).cam
    central = label_image(image, ensemble, "cat", settings(centrality=0.02)).cam
    assert np.abs(central - alone).mean() < 0.2 * np.abs(equal - alone).mean()


def test_folders_say_how_far_members_agree(ensemble, make_folder, tmp_path):
    folder = make_folder(count=2)
    report = label_folder(folder, ensemble, tmp_path / "out", settings("median", 0.1))
    assert not report.failed
    records = read_manifest(tmp_path / "out")
    for record in records:
        image = read_image(folder / record.input)
        alone = label_image(image, ensemble, record.class_name, settings("median", 0.1))
        assert record.agreement == pytest.approx(alone.agreement, abs=1e-3) or record.empty
        assert (read_mask(tmp_path / "out" / record.files["mask"]) != alone.mask).mean() < 0.02
    assert len({record.agreement for record in records}) > 1
    over_all = pytest.approx(np.mean([one.agreement for one in records if one.agreement is not None]), abs=1e-4)
    assert report.agreement == over_all
    again = label_folder(folder, ensemble, tmp_path / "out", settings("median", 0.1))
    assert (again.kept, again.agreement) == (len({one.name for one in records}), report.agreement)
    assert read_run(tmp_path / "out")["agreement"] == report.agreement


def test_the_chain_by_single_commands_has_the_same_bytes(ensemble, make_folder, tmp_path):
    folder = make_folder(count=2)
    label_folder(folder, ensemble, tmp_path / "label", settings())
    cams_folder(folder, ensemble, tmp_path / "cams", QUICK.cams)
    propagate_folder(folder, tmp_path / "cams/layercam", tmp_path / "spread")
    masks_folder(tmp_path / "spread/par", tmp_path / "masks", QUICK.masks)
    for record in read_manifest(tmp_path / "label"):
        mask = tmp_path / "label" / record.files["mask"]
        assert mask.read_bytes() == (tmp_path / "masks" / f"{record.name}.png").read_bytes()


def test_one_network_agrees_with_nobody(make_classifier, make_folder, tmp_path):
    plain, other = tmp_path / "plain", tmp_path / "other"
    for out, chosen in ((plain, settings()), (other, settings("median", 0.1))):
        label_folder(make_folder(count=1), make_classifier(), out, replace(chosen, save=("cams",)))
        assert all(record.agreement is None for record in read_manifest(out))
        assert read_run(out)["agreement"] is None
    for record in read_manifest(plain):
        assert np.array_equal(read_cam(plain / record.files["cam"]), read_cam(other / record.files["cam"]))


def test_settings_that_cannot_be():
    for values in ({"fusion": "mode"}, {"centrality": 0.0}, {"centrality": -1.0}):
        with pytest.raises(InputError):
            FusionSettings(**values)
