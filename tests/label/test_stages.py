"""Every stage in a process of its own: it pickles, and makes of an item there what it makes of it here."""

import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN, quantise
from camseg.cams.plan import plan
from camseg.cams.settings import EFFORTS, CamSettings
from camseg.classify.ensemble import Ensemble
from camseg.classify.targets import TargetRule
from camseg.data.datasets import Sample
from camseg.data.images import write_cam, write_image, write_mask
from camseg.label.file_stages import WRITERS, ReadStage, WriteCamsStage, WriteStage
from camseg.label.network_stages import CamStage, FeatureStage, LoadStage, PlaceStage, SquareStage
from camseg.label.quality_stage import QualityStage
from camseg.label.stages import CleanStage, FuseStage, PropagateStage, RefineStage, ThresholdStage, TrimapStage
from camseg.masks.settings import CleaningSettings, FusionSettings, MaskSettings, parse_threshold
from camseg.propagation.settings import PropagateSettings
from camseg.refinement.settings import RefineSettings, TrimapSettings
from camseg.runs.record import Record
from camseg.runs.stage import Item, Stage, new_item

SIZE = (40, 60)
MODULES = tuple(f"camseg.label.{name}" for name in ("file_stages", "network_stages", "quality_stage", "stages"))
WALK = PropagateSettings(method="random-walk")

# Raises where a stage asks for what only the process that made it has.
ELSEWHERE = """
import pickle, sys
from pathlib import Path
for place in map(Path, sys.argv[1:]):
    stage, items = pickle.loads((place / "sent").read_bytes())
    stage.setup("cpu")
    made = stage(items)
    light = "torch" not in sys.modules
    (place / "came").write_bytes(pickle.dumps((made, stage.identity(), stage.place, light)))
"""


def below(kind: type) -> set[type]:
    """The classes made of a class, and those made of them."""
    return {one for child in kind.__subclasses__() for one in {child, *below(child)}}


STAGES = sorted((one for one in below(Stage) if one.__module__ in MODULES), key=lambda one: one.__name__)


@dataclass
class World:
    """A small image with all that stages may find beside it."""

    folder: Path
    classifier: object
    item: Item

    @property
    def plan(self):
        return plan(self.classifier, CamSettings(methods=("layercam", "eigencam"), layers=("stages",)), guided=True)


@pytest.fixture
def world(tmp_path, tiny_classifier, make_images) -> World:
    (image,) = make_images(SIZE)
    write_image(tmp_path / "images/cat/a.png", image)
    path = tmp_path / "images/cat/a.png"
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    cam = np.exp(-((rows - 18) ** 2 + (columns - 30) ** 2) / 200).astype(np.float32)
    mask = cam > 0.5
    trimap = np.select([cam > 0.8, cam > 0.3], [FOREGROUND, UNKNOWN], BACKGROUND).astype(np.uint8)
    write_cam(tmp_path / "cam/cat/a.png", cam)
    write_mask(tmp_path / "mask/cat/a.png", mask)
    write_image(tmp_path / "trimap/cat/a.png", trimap)
    item = replace(
        new_item(Sample(path=path, name="cat/a", labels=("cat",))),
        pixels=image,
        size=SIZE,
        cams={"layercam": (quantise(cam) / 255).astype(np.float32)},
        mask=mask,
        trimap=trimap,
        alpha=cam,
        foreground=(image / 255).astype(np.float32),
    )
    return World(folder=tmp_path, classifier=tiny_classifier, item=item)


def fresh(world):
    """What is known before anything has run."""
    item = world.item
    return replace(item, pixels=None, size=(0, 0), cams={}, mask=None, trimap=None, alpha=None, foreground=None)


def read(world):
    folders = {"mask": world.folder / "mask", "trimap": world.folder / "trimap"}
    item = replace(fresh(world), sample=Sample(path=world.folder / "cam/cat/a.png", name="cat/a"))
    return ReadStage(kind="cam", root=world.folder / "cam", beside=folders), item


def load(world):
    return LoadStage(plan=world.plan), fresh(world)


def cams(world):
    (item,) = LoadStage(plan=world.plan)([fresh(world)])
    return CamStage(
        plan=world.plan, rule=TargetRule(word="all", per_class=True), batch_size=1, say=lambda line: None
    ), item


def cams_of_an_ensemble(world):
    both = Ensemble(members=(world.classifier, world.classifier), shares=(0.5, 0.5))
    return cams(replace(world, classifier=both))


def placing(world):
    stage, item = cams(world)
    return PlaceStage(plan=world.plan), stage([item])[0]


def square(world):
    return SquareStage(classifier=world.classifier), replace(world.item, pixels=None, size=(0, 0))


def features(world):
    stage, item = square(world)
    return FeatureStage(classifier=world.classifier, batch_size=1), stage([item])[0]


def spread(world):
    return PropagateStage(settings=PropagateSettings(method="par", args={"rounds": 3})), world.item


def walked(world):
    stage, item = features(world)
    return PropagateStage(settings=WALK), stage([item])[0]


def apart(world):
    """An item whose two members see the object at different places."""
    cam = world.item.cam
    return replace(world.item, members=(cam, np.ascontiguousarray(cam[::-1])))


def spread_members(world):
    return PropagateStage(settings=PropagateSettings(method="par", args={"rounds": 3})), apart(world)


def fused(world):
    settings = FusionSettings(fusion="median", centrality=0.1)
    return FuseStage(settings=settings, threshold=parse_threshold("max:0.6"), shares=(0.5, 0.5)), apart(world)


def threshold(world):
    return ThresholdStage(settings=MaskSettings(threshold="otsu")), world.item


def trimap(world):
    return TrimapStage(settings=TrimapSettings(dilate="4", sure="max:0.9")), world.item


def refined(world):
    return RefineStage(settings=RefineSettings(method="grabcut"), colors=True), world.item


def chosen(world):
    return RefineStage(settings=RefineSettings(method="auto")), world.item


def cleaned(world):
    return CleanStage(settings=CleaningSettings(smooth="2", fill_holes="all", min_area="1%", keep=1)), world.item


def judged(world):
    before = world.item.mask & (np.arange(SIZE[0])[:, None] > 12)
    views = (np.stack([world.item.cam, world.item.cam[:, ::-1]])[None, :, None],)  # (scales, flips, layers, h, w)
    return QualityStage(), replace(world.item, before=before, views=views)


def written(world):
    return WriteStage(folder=world.folder / "here", kinds={kind: f"{kind}s" for kind in WRITERS}), world.item


def written_maps(world):
    return WriteCamsStage(folder=world.folder / "here", raw=True), world.item


CASES = {
    ReadStage: [read],
    LoadStage: [load],
    CamStage: [cams, cams_of_an_ensemble],
    PlaceStage: [placing],
    SquareStage: [square],
    FeatureStage: [features],
    PropagateStage: [spread, walked, spread_members],
    FuseStage: [fused],
    ThresholdStage: [threshold],
    TrimapStage: [trimap],
    RefineStage: [refined, chosen],
    CleanStage: [cleaned],
    QualityStage: [judged],
    WriteStage: [written],
    WriteCamsStage: [written_maps],
}
NETWORKS = {LoadStage, CamStage, PlaceStage, SquareStage, FeatureStage, PropagateStage}


def test_no_stage_is_forgotten():
    assert set(CASES) == set(STAGES)


def equal(one, other) -> bool:
    """Arrays by their bytes, also where they lie in mappings and tuples; all else by ==."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("networks", [False, True])
def test_stages_do_the_same_in_a_process_of_their_own(world, tmp_path, networks):
    cases = [(kind, make) for kind, makes in CASES.items() if (kind in NETWORKS) == networks for make in makes]
    stages, found = {}, {}
    for kind, make in cases:
        stage, item = make(world)
        assert type(stage) is kind
        place = tmp_path / "cases" / make.__name__
        place.mkdir(parents=True)
        there = stage
        if "folder" in {field.name for field in fields(stage)}:
            stage, there = (replace(stage, folder=place / name) for name in ("here", "there"))
        (place / "sent").write_bytes(pickle.dumps((there, [item])))
        before = pickle.dumps(item)
        stage.setup("cpu")
        stages[place], found[place] = stage, stage([item])
        assert pickle.dumps(item) == before  # stages make new items
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *map(str, stages)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for place, stage in stages.items():
        came, identity, where, light = pickle.loads((place / "came").read_bytes())
        assert len(came) == len(found[place]) > 0
        for one, other in zip(found[place], came, strict=True):
            assert isinstance(other.record, Record)
            for field in fields(Item):
                assert equal(getattr(one, field.name), getattr(other, field.name)), (place.name, field.name)
        assert equal(stage.identity(), identity)
        assert stage.place == where
        assert light != networks, place.name
        if (place / "here").exists():
            assert files(place / "here") == files(place / "there") != {}


def test_an_item_that_has_failed_takes_part_in_batches_and_is_left_as_it_is(world):
    for make in (cams, features):
        stage, item = make(world)
        (alone,) = [one for one in stage([item]) if one.record.class_name in ("cat", None)]
        failed = replace(item, done=True, squares=())
        first, *rest = stage([failed, item])
        assert first is failed
        (beside,) = [one for one in rest if one.record.class_name in ("cat", None)]
        assert beside.record == alone.record
        for name in ("layercam", "eigencam") if alone.grids else ():
            np.testing.assert_allclose(beside.grids[name][0], alone.grids[name][0], atol=1e-4)


@pytest.mark.parametrize("effort", EFFORTS)
def test_an_effort_is_a_name_of_views_so_that_either_continues_the_other(effort, tiny_classifier):
    scales, flip = {"fast": ((1.0,), False), "balanced": ("few", False), "best": ("auto", True)}[effort]
    ways = CamSettings(effort=effort), CamSettings(scales=scales, flip=flip)
    rule = TargetRule(word="auto")
    stages = [CamStage(plan=plan(tiny_classifier, settings), rule=rule, batch_size=2) for settings in ways]
    assert stages[0].plan.members[0].scales == stages[1].plan.members[0].scales
    named, spelled = (stage.identity() for stage in stages)
    assert named == spelled
    assert (named["scales"], named["flip"]) == (scales if isinstance(scales, str) else [1.0], flip)
