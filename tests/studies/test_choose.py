"""Runs ranked without true masks: every figure from its definition on tiny runs, planted objects as their masks say."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from camseg.base.errors import InputError
from camseg.cams.compute import compute_by_settings
from camseg.cams.predict import predict
from camseg.cams.settings import CamSettings
from camseg.classify.checkpoint import load_classifier
from camseg.data.images import read_image, write_image
from camseg.masks.settings import parse_threshold
from camseg.measure.faithfulness import deletion_curve, insertion_curve
from camseg.studies import choose, choose_maps
from camseg.studies.choose import choose_runs
from camseg.studies.choose_maps import BatchMaps, faithfulness, masks_of, read_views
from camseg.studies.choose_report import ranks, vetoes
from camseg.studies.choose_scores import Shown, dice_with_others, find_donors
from camseg.studies.planting import GENERATORS, Donor, plant
from camseg.studies.settings import ChooseSettings

CAMS = CamSettings(layers=("layer2",))
QUICK = ChooseSettings(cams=CAMS, limit=4)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three images with a bright square, two without."""
    root, random = tmp_path_factory.mktemp("choose"), np.random.default_rng(0)
    for label, count in (("scratch", 3), ("clean", 2)):
        for index in range(count):
            image = random.integers(60, 120, (40, 48, 3)).astype(np.uint8)
            if label == "scratch":
                image[10:26, 12 + index : 28 + index] = (220, 200, 40)
            write_image(root / f"images/{label}/{index}.png", image)
    return root / "images"


@pytest.fixture
def make_run(make_classifier, tmp_path):
    def make(seed=0, classes=("clean", "scratch"), **settings):
        run = tmp_path / f"run{seed}"
        make_classifier(seed=seed, classes=classes, **{"image_size": 32, "negative": ["clean"], **settings}).save(run)
        return str(run)

    return make


def maps_and_masks(classifier, images, targets, settings):
    """Of each image the map and the masks."""
    maps = BatchMaps(classifier=classifier, load=lambda: (images, targets), settings=settings)
    masks = masks_of({name: maps.spread(name) for name in settings.propagations}, settings)
    return list(zip(maps.cams, masks, strict=True))


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_agreement_is_the_mean_dice_with_the_other_runs(make_run, images):
    runs = [make_run(seed) for seed in range(3)]
    found = choose_runs(runs, images, QUICK)
    masks = []
    for run in runs:
        classifier = load_classifier(run)
        views = [read_views(classifier, images / f"scratch/{index}.png") for index in range(3)]
        masks.append([own[0] for _, own in maps_and_masks(classifier, views, ["scratch"] * 3, QUICK)])
    scores = {one.run: one for one in found.candidates}
    for own, run in enumerate(runs):
        others = [place for place in range(3) if place != own]
        right = np.mean([dice(masks[own][n], masks[other][n]) for n in range(3) for other in others])
        assert scores[run].agreement == pytest.approx(right)
    assert sorted(found.positives) == [(f"scratch/{n}", "scratch") for n in range(3)]
    assert set(found.negatives) == {"clean/0", "clean/1"}
    # Half the rank by agreement, half the mean rank over the generators.
    tables = [ranks([scores[run].agreement for run in runs])]
    tables += [ranks([scores[run].planted[name] for run in runs]) for name in GENERATORS]
    for place, run in enumerate(runs):
        assert scores[run].planted_rank == pytest.approx(np.mean([table[place] for table in tables[1:]]))
        assert scores[run].rank == pytest.approx((tables[0][place] + scores[run].planted_rank) / 2)
    assert [one.rank for one in found.candidates] == sorted(one.rank for one in found.candidates)
    assert choose_runs(runs, images, QUICK) == found


def test_settings_are_ranked_beside_runs(make_run, images):
    settings = ChooseSettings(
        cams=CAMS, thresholds=("max:0.5,max:0.9",), propagations=("par", "none"), limit=2, batch_size=1
    )
    assert settings.thresholds == (parse_threshold("max:0.5"), parse_threshold("max:0.9"))
    runs = [make_run(0), make_run(1)]
    found = choose_runs(runs, images, settings)
    assert len(found.candidates) == 8
    assert len({found.label(one) for one in found.candidates}) == 8
    assert len(found.positives) == 2
    # Compared with the other run's masks under every setting.
    masks = {}
    for run in runs:
        classifier = load_classifier(run)
        views = [read_views(classifier, images / f"{name}.png") for name, _ in found.positives]
        masks[run] = [own for _, own in maps_and_masks(classifier, views, ["scratch"] * 2, settings)]
    names = [(spread, str(level)) for spread in settings.propagations for level in settings.thresholds]
    for one in found.candidates:
        place, other = names.index((one.propagation, one.threshold)), runs[1 - runs.index(one.run)]
        right = np.mean([dice(masks[one.run][n][place], masks[other][n][s]) for n in range(2) for s in range(4)])
        assert one.agreement == pytest.approx(right)


def test_insertion_and_deletion_only_veto(make_run, images, monkeypatch):
    runs = [make_run(seed) for seed in range(3)]
    before = choose_runs(runs, images, QUICK)
    worst = before.best.run

    def lowered(classifier, *rest):
        return faithfulness(classifier, *rest) - (classifier.run == worst)

    monkeypatch.setattr(choose_maps, "faithfulness", lowered)
    after = choose_runs(runs, images, QUICK)
    assert [(one.run, one.rank) for one in after.candidates] == [(one.run, one.rank) for one in before.candidates]
    assert [one.run for one in after.candidates if one.vetoed] == [worst]
    assert after.best == after.candidates[1]


def test_faithfulness_is_insertion_minus_deletion(make_run, images):
    classifier = load_classifier(make_run(0))
    image = read_image(images / "scratch/0.png")
    ((cam, _),) = maps_and_masks(classifier, [{"full": image}], ["scratch"], QUICK)

    def score(stack):
        return predict(classifier, list(stack))[:, 1]

    curves = insertion_curve(score, image, cam, steps=20), None
    lost = deletion_curve(score, image, cam, steps=20, baseline=255 * np.array(classifier.mean))
    found = faithfulness(classifier, image, cam, "scratch", QUICK)
    assert found == pytest.approx(curves[0].area - lost.area, abs=1e-6)


def test_the_veto_needs_a_wide_and_a_steady_gap():
    level = np.array([[0.5, 0.5, 0.5, 0.5]] * 3)
    assert vetoes(level - [[0], [0], [0.2]]).tolist() == [False, False, True]
    assert not vetoes(level - [[0], [0], [0.1]]).any()
    single = level.copy()
    single[2, 0] -= 0.9  # a mean of 0.225, from one image alone
    assert not vetoes(single).any()


def test_equal_scores_share_their_rank():
    assert ranks([0.5, 0.9, 0.5]).tolist() == [2.5, 1.0, 2.5]


def test_what_finds_nothing_agrees_with_nothing():
    seen = Shown(masks=[np.packbits(np.zeros((8, 8), bool))] * 3, total=np.zeros((8, 8), np.uint32))
    assert dice_with_others([seen], 3, 1).tolist() == [0, 0, 0]


def test_only_a_large_region_of_most_masks_is_lent():
    masks = np.zeros((3, 20, 20), bool)
    masks[:2, 2:8, 2:8] = True  # two of three
    masks[:2, 15, 15] = True  # an island
    masks[0, 10:14, 10:14] = True  # one of three
    total = np.zeros((20, 20), np.uint32)
    total[4, 5] = 9
    (donor,) = find_donors([Shown(masks=[np.packbits(mask) for mask in masks], total=total)]).values()
    right = np.zeros((20, 20), bool)
    right[2:8, 2:8] = True
    assert np.array_equal(donor.region, right)
    assert donor.peak == (4.5 / 20, 5.5 / 20)


@pytest.fixture
def donor():
    region = np.zeros((30, 40), bool)
    region[10:20, 14:26] = True
    return Donor(region=region, peak=(0.5, 0.5))


@pytest.mark.parametrize("generator", GENERATORS)
def test_planted_objects_lie_where_their_masks_say(donor, generator):
    base, image = np.full((60, 80, 3), 40, np.uint8), np.full((30, 40, 3), 200, np.uint8)
    for seed in range(4):
        made = plant(generator, base, image, donor, (seed, 0))
        assert made.mask.any()
        assert made.mask.mean() < 0.4
        assert (made.image[made.mask] > 115).all()  # more than half of 200 over 40
        assert (made.image[~made.mask] <= 120).all()
        again = plant(generator, base, image, donor, (seed, 0))
        assert np.array_equal(made.image, again.image)
        # Another window of the same image: the same place.
        assert np.array_equal(plant(generator, base // 2, image // 2, donor, (seed, 0)).mask, made.mask)
    assert not np.array_equal(made.mask, plant(generator, base, image, donor, (9, 0)).mask)


def test_planted_scores_are_dice_with_the_planted_masks(make_run, images, monkeypatch):
    kept = []
    monkeypatch.setattr(
        choose, "plant", lambda *arguments: kept.append((arguments[0], plant(*arguments))) or kept[-1][1]
    )
    runs = [make_run(0), make_run(1)]
    found = choose_runs(runs, images, QUICK)
    first = kept[: len(kept) // 2]
    assert len(first) == len(GENERATORS) * 2
    classifier = load_classifier(runs[0])
    (one,) = [one for one in found.candidates if one.run == runs[0]]
    for name in GENERATORS:
        made = [planted for generator, planted in first if generator == name]
        own = maps_and_masks(classifier, [{"full": planted.image} for planted in made], ["scratch"] * 2, QUICK)
        right = [dice(masks[0], planted.mask) for (_, masks), planted in zip(own, made, strict=True)]
        assert one.planted[name] == pytest.approx(np.mean(right))


def test_without_a_negative_class_nothing_is_planted(make_run, images):
    found = choose_runs([make_run(0, negative=[]), make_run(1, negative=[])], images, QUICK)
    assert any("No planted objects" in note and "--negative" in note for note in found.notes)
    assert found.negatives == ()
    assert all(not one.planted and one.planted_rank is None for one in found.candidates)
    named = choose_runs([make_run(0, negative=[]), make_run(1, negative=[])], images, ChooseSettings(
        cams=CAMS, limit=4, negative=("clean",)
    ))  # fmt: skip
    assert len(named.negatives) == 2


def test_images_without_labels_go_by_the_mean_prediction(make_run, images, tmp_path):
    for path in images.rglob("*.png"):
        write_image(tmp_path / f"flat/{path.parent.name}{path.name}", read_image(path))
    runs = [make_run(seed, negative=[]) for seed in range(2)]
    found = choose_runs(runs, tmp_path / "flat", QUICK)
    for name, target in found.positives:
        image = read_image(tmp_path / f"flat/{name}.png")
        mean = np.mean([predict(load_classifier(run), [image])[0] for run in runs], axis=0)
        assert target == ("clean", "scratch")[mean.argmax()]


@pytest.fixture
def passes(monkeypatch):
    """The batches that go through networks for maps, and after how many of them the work is killed."""

    class Passes(list):
        killed_at = None

        def compute(self, *arguments, **options):
            if len(self) == self.killed_at:
                raise KeyboardInterrupt
            self.append(len(arguments[1]))
            return compute_by_settings(*arguments, **options)

    made = Passes()
    monkeypatch.setattr(choose_maps, "compute_by_settings", made.compute)
    return made


def test_killed_it_goes_on(make_run, images, tmp_path, passes):
    runs = [make_run(0), make_run(1)]
    settings = replace(QUICK, batch_size=2, limit=3)
    expected, every = choose_runs(runs, images, settings), len(passes)
    assert every == 2 * (2 + len(GENERATORS))  # of each run two batches with an object, and one to plant into
    cache, said = tmp_path / "kept", []
    passes.clear()
    for stop in (3, every - 2):  # among the maps, and among the planted objects
        passes.killed_at = stop
        with pytest.raises(KeyboardInterrupt):
            choose_runs(runs, images, settings, cache=cache, say=said.append)
    passes.killed_at = None
    assert choose_runs(runs, images, settings, cache=cache, say=said.append) == expected
    assert len(passes) == every
    assert said == [f"goes on with what {cache} holds of an earlier call"] * 2
    # Nothing is left to do, and an added run is looked at alone until objects are planted.
    assert choose_runs(runs, images, settings, cache=cache) == expected
    assert len(passes) == every
    three = [*runs, make_run(2)]
    wide = choose_runs(three, images, settings, cache=cache)
    assert len(passes) - every <= 2 + 3 * len(GENERATORS)
    assert wide == choose_runs(three, images, settings)


def test_what_has_changed_is_done_again(make_run, images, tmp_path, passes):
    runs, copy, cache = [make_run(0), make_run(1)], tmp_path / "images", tmp_path / "kept"
    shutil.copytree(images, copy)
    settings = replace(QUICK, batch_size=1)
    choose_runs(runs, copy, settings, cache=cache)
    passes.clear()
    said = []
    write_image(copy / "scratch/0.png", read_image(images / "scratch/0.png")[::-1])
    found = choose_runs(runs, copy, settings, cache=cache, say=said.append)
    planted = 2 * 2 * len(GENERATORS)  # every image may be lent
    assert len(passes) == 2 + planted
    assert any("scratch/0.png changed since an earlier call" in line for line in said)
    assert found == choose_runs(runs, copy, settings)
    passes.clear()
    damaged = sorted(cache.rglob("images/*/none.safetensors"))[0]
    damaged.write_bytes(b"rubbish")
    assert choose_runs(runs, copy, settings, cache=cache, say=said.append) == found
    assert len(passes) == 1
    assert f"{damaged} is damaged and computed again" in said
    # Other settings lie apart.
    choose_runs(runs, copy, replace(settings, seed=1), cache=cache)
    assert choose_runs(runs, copy, settings, cache=cache) == found


def test_the_command(call, make_run, images, tmp_path):
    runs = [make_run(0), make_run(1)]
    arguments = ["choose", *runs, images, "--limit", "2", "--layer", "layer2", "--scales", "1", "--device", "cpu"]
    code, out, err = call(*arguments, "--out", tmp_path / "deep/choice.json")
    assert (code, "planted" in err) == (0, True)
    found = json.loads((tmp_path / "deep/choice.json").read_text())
    assert out.splitlines()[-1] == f"best: {found['best']['run']}"
    for word in ("agreement", "patches", "pieces", "noise", "mean rank", "veto"):
        assert word in out
    assert json.loads(call(*arguments, "--json")[1]) == found
    (images.parent / "broken/scratch").mkdir(parents=True)
    (images.parent / "broken/scratch/9.png").write_bytes(b"no image")
    write_image(images.parent / "broken/scratch/1.png", read_image(images / "scratch/1.png"))
    code, _, err = call("choose", *runs, images.parent / "broken", *arguments[4:])
    assert code == 1
    assert "9.png" in err


def test_what_cannot_be_ranked_is_refused(call, make_run, images, tmp_path):
    run, other = make_run(0), make_run(1)
    three = make_run(2, classes=("a", "b"), negative=["a"])
    apart = make_run(3, negative=[])
    flat = tmp_path / "flat/clean"
    write_image(flat / "0.png", read_image(images / "clean/0.png"))
    for inputs, words in (
        ([run, images], "at least two runs"),
        ([images], "at least two runs"),
        ([run, run, images], "different runs"),
        ([run, three, images], "same classes"),
        ([run, apart, images], "same negative classes"),
        ([run, other, apart], "images last"),
        ([run, other, tmp_path / "flat"], "with an object"),
        ([run, tmp_path / "nothing", images], "does not exist"),
        ([run, other, images, "--negative", "clean", "--negative", "scratch"], "every class is negative"),
        ([run, other, images, "--threshold", "max:0.5", "--threshold", "max:0.5"], "different settings"),
        ([run, other, images, "--threshold", "max:2"], "threshold"),
        ([run, other, images, "--propagation", "spread"], "propagation"),
        ([run, other, images, "--method", "layercam", "--method", "gradcam"], "one CAM method"),
        ([run, other, images, "--out", tmp_path], "expected a file"),
        ([run, other, images, "--cache", run], "holds other files, such as"),
        ([run, other, images, "--cache", images / "clean/0.png"], "is a file, no folder; choose another --cache"),
    ):
        code, out, err = call("choose", *inputs)
        assert (code, out) == (2, ""), err
        assert words in err
        assert err.count("\n") == 1
    with pytest.raises(InputError, match="generator"):
        plant("weeds", np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), None, (0,))
