import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from camseg.base.errors import EvaluationError, InputError, LayerError, OutputError
from camseg.base.settings import from_json, to_json
from camseg.cams.compute import classifier_features, compute_cams
from camseg.cams.methods.registry import METHODS
from camseg.cams.settings import WEIGHED, CamSettings
from camseg.data.images import read_cam, read_image, read_levels, read_mask, read_trimap, write_image
from camseg.data.mask_settings import MaskReading
from camseg.exchange.corrections import correct
from camseg.label.chain import label_image
from camseg.label.folder import cams_folder, label_folder
from camseg.label.settings import Kind, LabelSettings
from camseg.label.steps import masks_folder, propagate_folder, refine_folder, trimap_folder
from camseg.masks.settings import CleaningSettings, MaskSettings, parse_threshold, save_threshold
from camseg.measure.evaluate import evaluate_folder
from camseg.measure.overlays import overlay_cam
from camseg.propagation.settings import PropagateSettings
from camseg.refinement.settings import RefineSettings, TrimapSettings
from camseg.runs import stage
from camseg.runs.manifest import MANIFEST, read_manifest
from camseg.runs.record import SCHEMA_VERSION
from camseg.runs.run import RUN
from camseg.runs.settings import FolderOptions

SIZES = [(40, 60), (64, 64), (30, 90), (50, 20)]
KINDS = get_args(Kind)
OTSU = MaskSettings(threshold="otsu")
NOT_REFINED = RefineSettings(method="none")
QUICK = LabelSettings(
    cams=CamSettings(score="auto", layers=("stages",), scales=(1.0,), flip=False), refinement=NOT_REFINED
)
FLAWS = ("vanished", "filled the image", "drifted off", "no clearer outline")
KEYS = [
    *(
        "schema_version",
        "input",
        "name",
        "input_sha256",
        "labels",
        "class",
        "files",
        "score",
        "method",
        "layer",
        "scales",
        "empty",
        "agreement",
        "propagation",
        "threshold",
    ),
    *("refiner", "fallback", "area", "quality", "quality_reasons", "agreements", "source", "status", "error"),
]


def tree(folder: Path, *, without: tuple[str, ...] = (RUN,)) -> dict[str, bytes]:
    """Every file below a folder; run.json tells how long it took, and so differs."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in without
    }


def lines(folder: Path) -> list[dict]:
    """The manifest as any program reads it."""
    return [json.loads(line) for line in (folder / MANIFEST).read_text(encoding="utf-8").splitlines()]


def pixels(path: Path) -> np.ndarray:
    """As they are in the file."""
    with PilImage.open(path) as picture:
        return np.array(picture)


@pytest.fixture
def images(tmp_path, make_images):
    """Two cats, two dogs, two images without either, of several sizes."""
    for n, (name, image) in enumerate(zip("ab" * 3, make_images(*SIZES, *SIZES[:2]), strict=True)):
        write_image(tmp_path / "images" / ("cat", "dog", "none")[n // 2] / f"{name}.png", image)
    return tmp_path / "images"


@pytest.fixture
def unlabelled(tmp_path, make_images):
    for n, image in enumerate(make_images(*SIZES)):
        write_image(tmp_path / f"plain/{n}.png", image)
    return tmp_path / "plain"


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# What is written


def test_masks_mirror_the_images_and_the_manifest_says_how(images, tiny_classifier, tmp_path):
    out = tmp_path / "out"
    report = label_folder(images, tiny_classifier, out)
    assert (report.done, report.failed) == (6, [])
    assert set(tree(out)) == {f"masks/{c}/{n}.png" for c in ("cat", "dog", "none") for n in "ab"} | {MANIFEST}
    for path in images.rglob("*.png"):
        mask = read_levels(out / "masks" / path.relative_to(images))
        assert mask.shape == read_image(path).shape[:2]
        assert set(np.unique(mask)) <= {0, 255}
        assert mask.any() == (path.parent.name != "none")
    records = read_manifest(out)
    assert [record.name for record in records] == sorted(record.name for record in records)
    settings = LabelSettings()
    for record, line in zip(records, lines(out), strict=True):
        assert list(line) == KEYS
        assert (line["schema_version"], line["class"]) == (SCHEMA_VERSION, record.class_name)
        assert record.class_name == record.name.split("/")[0] == record.labels[0]
        assert (out / record.files["mask"]).is_file()
        assert record.area == read_mask(out / record.files["mask"]).sum()
        assert record.input == record.name + ".png"
        assert 0 < record.score < 1
        assert record.layer == "layer3,layer4"  # the names, not "stages"
        assert (record.method, record.propagation) == (settings.cams.methods[0], settings.propagation.method)
        assert (record.scales, record.threshold) == (WEIGHED["auto"], str(settings.masks.threshold))
        assert (record.status, record.error) == ("ok", None)
        assert record.refiner in ("auto", "closed-form", "grabcut")
        reason = "labelled none, a negative class" if record.class_name == "none" else None
        assert record.empty == reason
        assert record.fallback in (reason, *FLAWS)
    run = json.loads((out / RUN).read_text())
    assert list(run) == ["schema_version", "command", "settings", "identity", "versions", "seconds", "agreement"]
    assert (run["schema_version"], run["command"]) == (SCHEMA_VERSION, "label")
    assert run["identity"]["cams.classifier"] == tiny_classifier.fingerprint()
    assert run["identity"]["inputs"] == str(images)
    assert run["identity"]["trimap.dilate"] == run["settings"]["trimap"]["dilate"] == str(TrimapSettings().dilate)
    assert from_json(LabelSettings, {name: run["settings"][name] for name in to_json(settings)}) == settings


@pytest.mark.parametrize("refiner", ["auto", "closed-form"])
def test_what_is_saved_beside_the_masks_on_request(images, tiny_classifier, tmp_path, refiner):
    out = tmp_path / "out"
    refined = replace(QUICK, refinement=RefineSettings(method=refiner), save=KINDS)
    label_folder(images, tiny_classifier, out, refined)
    names = {path.relative_to(images).as_posix() for path in images.rglob("*.png")}
    expected = {f"{kind}/{name}" for kind in ("masks", *KINDS) for name in names}
    assert set(tree(out)) == expected | {MANIFEST}
    for record in read_manifest(out):
        assert list(record.files) == ["mask", "cam", "trimap", "alpha", "overlay"]
        alpha, mask = read_cam(out / record.files["alpha"]), read_mask(out / record.files["mask"])
        np.testing.assert_array_equal(mask, alpha > 0.5)
        known = read_levels(out / record.files["trimap"])
        assert mask[known == 255].all()
        assert not mask[known == 0].any()
        assert (record.fallback is None) == (record.class_name != "none")
        assert pixels(out / record.files["overlay"]).shape == (*mask.shape, 3)


@pytest.mark.parametrize("per_class", [False, True])
def test_maps_lie_below_their_method_and_the_class_comes_last(images, tiny_classifier, tmp_path, per_class):
    out = tmp_path / "out"
    settings = CamSettings(methods=("gradcam", "eigencam"))
    cams_folder(images, tiny_classifier, out, settings, targets=["cat", "dog"] if per_class else [])
    names = [path.relative_to(images).with_suffix("").as_posix() for path in images.rglob("*.png")]
    middles = ("cat/", "dog/") if per_class else ("",)
    expected = {f"{method}/{middle}{name}.png" for method in settings.methods for middle in middles for name in names}
    assert set(tree(out)) == expected | {MANIFEST}
    record = read_manifest(out)[0]
    assert record.files == {method: f"{method}/{middles[0]}cat/a.png" for method in settings.methods}
    assert record.method == "gradcam,eigencam"


def test_raw_maps_are_float_tiff(unlabelled, tiny_classifier, tmp_path):
    settings = CamSettings(methods=tuple(METHODS)[:2], raw=True)
    cams_folder(unlabelled, tiny_classifier, tmp_path / "out", settings, targets=["cat"], batch_size=1)
    image = read_image(unlabelled / "0.png")
    expected = compute_cams(tiny_classifier, [image], ["cat"], settings.methods, raw=True)
    for method in settings.methods:
        raw = pixels(tmp_path / f"out/{method}/0.tif")
        assert raw.dtype == np.float32
        np.testing.assert_array_equal(raw, expected[method][0])


def test_two_inputs_of_one_name_are_refused_before_any_work(images, tiny_classifier, tmp_path):
    write_image(images / "cat/a.jpg", read_image(images / "dog/a.png"))
    with pytest.raises(InputError, match=r"a\.jpg and .*a\.png would write the same output"):
        label_folder(images, tiny_classifier, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Targets


@pytest.mark.parametrize(
    ("targets", "per_class"),
    [
        *[((), False), (("label",), False), (("predicted",), False), (("dog",), False), (("dog", "dog"), False)],
        *[(("all",), True), (("cat", "dog"), True), (("none", "cat"), True)],
    ],
)
def test_a_folder_per_class_appears_when_there_may_be_several(images, tiny_classifier, tmp_path, targets, per_class):
    label_folder(images, tiny_classifier, tmp_path / "out", QUICK, targets=targets)
    named = {"all": {"cat", "dog", "none"}}.get(targets[0] if targets else "", set(targets))
    below = {path.relative_to(tmp_path / "out/masks").parent.as_posix() for path in (tmp_path / "out").rglob("*.png")}
    plain = {"cat", "dog", "none"}
    assert below == ({f"{target}/{label}" for target in named for label in plain} if per_class else plain)


@pytest.mark.parametrize("targets", [(), ("predicted",), ("dog",)])
def test_a_multi_label_classifier_has_a_folder_per_class(unlabelled, make_classifier, tmp_path, targets):
    classifier = make_classifier(multi_label=True)
    label_folder(unlabelled, classifier, tmp_path / "out", QUICK, targets=targets)
    records = read_manifest(tmp_path / "out")
    for record in records:
        expected = {"mask": f"masks/{record.class_name}/{record.name}.png"} if record.class_name else {}
        assert record.files == expected
    if targets != ("dog",):
        rows = classifier.model(classifier.preprocess([read_image(path) for path in sorted(unlabelled.iterdir())]))
        present = {(str(n), classifier.classes[k]) for n, k in (rows > 0).nonzero().tolist()}
        assert {(record.name, record.class_name) for record in records if record.class_name} == present


def test_labels_decide_and_predictions_fill_in(unlabelled, tiny_classifier, tmp_path):
    labels = table(tmp_path / "labels.csv", "image,label", "plain/0.png,dog", "plain/1.png,none")
    label_folder(labels, tiny_classifier, tmp_path / "labelled", QUICK)
    assert [record.class_name for record in read_manifest(tmp_path / "labelled")] == ["dog", "none"]
    assert not read_mask(tmp_path / "labelled/masks/plain/1.png").any()
    label_folder(unlabelled, tiny_classifier, tmp_path / "predicted", QUICK)
    logits = tiny_classifier.model(
        tiny_classifier.preprocess([read_image(path) for path in sorted(unlabelled.iterdir())])
    )
    predicted = [tiny_classifier.classes[k] for k in logits.argmax(dim=1)]
    assert [record.class_name for record in read_manifest(tmp_path / "predicted")] == predicted
    with pytest.raises(InputError, match="--target label needs a label for every image; 4 have none"):
        label_folder(unlabelled, tiny_classifier, tmp_path / "other", QUICK, targets=["label"])


def test_an_empty_cell_is_an_empty_mask(unlabelled, tiny_classifier, tmp_path):
    labels = table(tmp_path / "labels.csv", "image,label", "plain/0.png,dog", "plain/1.png,", "plain/2.png")
    report = label_folder(labels, tiny_classifier, tmp_path / "out", QUICK)
    assert report.done == 3
    records = {record.name: record for record in read_manifest(tmp_path / "out")}
    assert records["plain/0"].area > 0
    for n in (1, 2):
        record = records[f"plain/{n}"]
        assert (record.class_name, record.labels, record.area, record.status) == (None, (), 0, "ok")
        mask = read_levels(tmp_path / f"out/masks/plain/{n}.png")
        assert mask.shape == SIZES[n]
        assert not mask.any()


def test_an_empty_cell_of_a_multi_label_set_counts_as_zero_in_every_class(unlabelled, make_classifier, tmp_path):
    classifier = make_classifier(multi_label=True)
    labels = table(tmp_path / "labels.csv", "image,label", "plain/0.png,dog;cat", "plain/1.png,")
    label_folder(labels, classifier, tmp_path / "out", QUICK)
    assert set(tree(tmp_path / "out")) == {f"masks/{name}/plain/0.png" for name in ("cat", "dog")} | {MANIFEST}
    last = read_manifest(tmp_path / "out")[-1]
    assert (last.class_name, last.files, last.labels, last.status) == (None, {}, (), "ok")
    for name in ("cat", "dog"):
        for n in range(2):
            truth = np.zeros(SIZES[n], np.uint8)
            truth[:9, : 9 * (1 - n)] = 255
            write_image(tmp_path / f"truth/{name}/plain/{n}.png", truth)
    # The stages one by one know of it too.
    cams_folder(labels, classifier, tmp_path / "cams", QUICK.cams)
    propagate_folder(labels, tmp_path / "cams/layercam", tmp_path / "spread")
    masks_folder(tmp_path / "spread/par", tmp_path / "masks")
    for predictions in ("out/masks", "cams/layercam", "spread/par", "masks"):
        found = evaluate_folder(tmp_path / predictions, tmp_path / "truth")
        assert (found.overall.images, found.overall.empty_images) == (2, 2)
        assert found.overall.mean_dice_of_empty == 1.0
    (tmp_path / "masks/cat/plain/0.png").unlink()
    with pytest.raises(EvaluationError, match="1 are missing: cat/plain/0"):
        evaluate_folder(tmp_path / "masks", tmp_path / "truth")


def test_several_labels_need_a_multi_label_classifier(unlabelled, tiny_classifier, tmp_path):
    labels = table(tmp_path / "labels.csv", "image,label", "plain/0.png,dog;cat", "plain/1.png,dog")
    with pytest.raises(InputError, match=r"0\.png has 2 labels, but .* exclude each other"):
        label_folder(labels, tiny_classifier, tmp_path / "out", QUICK)
    report = label_folder(labels, tiny_classifier, tmp_path / "out", QUICK, targets=["cat"])
    assert report.done == 2


def test_images_of_a_negative_class_are_empty_for_every_target(images, tiny_classifier, tmp_path):
    cams_folder(images, tiny_classifier, tmp_path / "out", CamSettings(), targets=["all"])
    for path in (tmp_path / "out/layercam").rglob("*.png"):
        target, label, _ = path.relative_to(tmp_path / "out/layercam").parts
        assert read_levels(path).any() == ("none" not in (target, label)), path


def test_margin_needs_a_negative_class_and_fails_before_any_work(images, make_classifier, tmp_path):
    with pytest.raises(InputError, match="--negative CLASS"):
        cams_folder(images, make_classifier(), tmp_path / "out", CamSettings(score="margin"))
    assert not (tmp_path / "out").exists()
    # Of itself the chain takes the class's score then.
    of_class = replace(QUICK, cams=replace(QUICK.cams, score="class"))
    label_folder(images, make_classifier(), tmp_path / "out", QUICK)
    label_folder(images, make_classifier(), tmp_path / "class", of_class)
    assert tree(tmp_path / "out") == tree(tmp_path / "class")


# The same bytes, whatever happens


@pytest.mark.processes
@pytest.mark.parametrize("propagation", ["par", "random-walk"])
def test_label_is_the_chain_of_the_single_commands_byte_for_byte(images, tiny_classifier, tmp_path, propagation):
    settings = LabelSettings(propagation=PropagateSettings(method=propagation), save=("cams",))
    walks = {"classifier": tiny_classifier} if settings.propagation.needs_features else {}
    label_folder(images, tiny_classifier, tmp_path / "label", settings)
    cams_folder(images, tiny_classifier, tmp_path / "cams", settings.cams)
    propagate_folder(images, tmp_path / "cams/layercam", tmp_path / "spread", settings.propagation, **walks)
    maps = tmp_path / f"spread/{propagation}"
    masks_folder(maps, tmp_path / "masks", settings.masks)
    trimap_folder(tmp_path / "masks", tmp_path / "trimaps", settings.trimap, cams=maps)
    refine_folder(images, tmp_path / "trimaps", tmp_path / "refined", settings.refinement, masks=tmp_path / "masks")
    here = tree(tmp_path / "label/masks")
    assert len(here) == 6
    assert here == tree(tmp_path / "refined/masks")
    assert tree(tmp_path / "label/cams") == tree(tmp_path / f"spread/{propagation}")
    # What the manifests say of each image has come along; views and levels are known to the whole chain only.
    assert all(record.quality is not None for out in ("label", "refined") for record in read_manifest(tmp_path / out))
    own = {"files": {}, "input_sha256": None, "quality": None, "quality_reasons": (), "agreements": {}}
    told = [[replace(record, **own) for record in read_manifest(tmp_path / out)] for out in ("label", "refined")]
    assert told[0] == told[1]
    assert all(record.score is not None and record.layer == "layer3,layer4" for record in told[1])


@pytest.mark.parametrize("refiner", ["grabcut"])
@pytest.mark.parametrize("thresholds", [{}, {"low": "0.3", "high": "max:0.8"}])
def test_label_is_the_chain_with_refiners_too(images, tiny_classifier, tmp_path, refiner, thresholds):
    trimap = TrimapSettings(dilate="4", **thresholds)
    settings = LabelSettings(
        propagation=PropagateSettings(method="none"),
        masks=OTSU,
        refinement=RefineSettings(method=refiner),
        trimap=trimap,
        save=("trimaps", "alphas"),
    )
    label_folder(images, tiny_classifier, tmp_path / "label", settings)
    cams_folder(images, tiny_classifier, tmp_path / "cams", settings.cams)
    masks_folder(tmp_path / "cams/layercam", tmp_path / "masks", settings.masks)
    maps = tmp_path / "cams/layercam"
    if thresholds:
        trimap_folder(maps, tmp_path / "trimaps", trimap)
    else:
        trimap_folder(tmp_path / "masks", tmp_path / "trimaps", trimap, cams=maps)
    options = {"masks": tmp_path / "masks", "save": ["alphas", "foregrounds"]}
    refine_folder(images, tmp_path / "trimaps", tmp_path / "refined", settings.refinement, **options)
    assert tree(tmp_path / "label/masks") == tree(tmp_path / "refined/masks")
    assert tree(tmp_path / "label/alphas") == tree(tmp_path / "refined/alphas")
    assert tree(tmp_path / "label/trimaps") == tree(tmp_path / "trimaps", without=(RUN, MANIFEST))
    fallbacks = [[record.fallback for record in read_manifest(tmp_path / out)] for out in ("label", "refined")]
    assert fallbacks[0] == fallbacks[1]
    cutout = pixels(tmp_path / "refined/foregrounds/cat/a.png")  # RGBA
    np.testing.assert_array_equal(cutout[..., 3], read_levels(tmp_path / "refined/alphas/cat/a.png"))


def test_two_thresholds_cut_the_maps_that_are_given_whatever_others_lie_beside(images, tiny_classifier, tmp_path):
    for target in ("cat", "dog"):
        cams_folder(images, tiny_classifier, tmp_path / target, CamSettings(), targets=[target])
    chosen, maps = TrimapSettings(low="0.3", high="max:0.8"), tmp_path / "cat/layercam"
    trimap_folder(maps, tmp_path / "alone", chosen)
    trimap_folder(maps, tmp_path / "beside", chosen, cams=tmp_path / "dog/layercam")
    assert tree(tmp_path / "alone") == tree(tmp_path / "beside")


@pytest.mark.parametrize(
    "settings",
    [
        LabelSettings(),
        replace(QUICK, refinement=RefineSettings(method="grabcut"), propagation=PropagateSettings(method="none")),
    ],
)
def test_label_image_is_label_folder_of_one(images, tiny_classifier, tmp_path, settings):
    label_folder(images, tiny_classifier, tmp_path / "out", settings, batch_size=1)
    for path in images.rglob("*.png"):
        labelled = label_image(read_image(path), tiny_classifier, path.parent.name, settings)
        np.testing.assert_array_equal(labelled.mask, read_mask(tmp_path / "out/masks" / path.relative_to(images)))


def test_label_passes_features_and_cleaning_on_as_the_commands_do(images, tiny_classifier, tmp_path):
    walk = PropagateSettings(method="random-walk", args={"rounds": 2})
    afterwards = CleaningSettings(smooth="2", fill_holes="all", min_area="1%", keep=1)
    settings = replace(QUICK, propagation=walk, masks=OTSU, cleaning=afterwards, save=("cams",))
    label_folder(images, tiny_classifier, tmp_path / "label", settings)
    cams_folder(images, tiny_classifier, tmp_path / "cams", settings.cams)
    propagate_folder(images, tmp_path / "cams/layercam", tmp_path / "spread", walk, classifier=tiny_classifier)
    masks_folder(tmp_path / "spread/random-walk", tmp_path / "masks", settings.masks, afterwards)
    assert tree(tmp_path / "label/cams") == tree(tmp_path / "spread/random-walk")
    assert tree(tmp_path / "label/masks") == tree(tmp_path / "masks", without=(RUN, MANIFEST))
    for path in images.rglob("*.png"):
        labelled = label_image(read_image(path), tiny_classifier, path.parent.name, settings)
        np.testing.assert_array_equal(labelled.mask, read_mask(tmp_path / "label/masks" / path.relative_to(images)))


def test_the_network_runs_once_per_batch_whatever_propagation_walks_on(images, tiny_classifier, tmp_path):
    passes = []
    label_folder(images, tiny_classifier, tmp_path / "first", QUICK)  # layers and scales are tried but once
    tiny_classifier.model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    for n, layers in enumerate((("stages",), ("layer2",))):
        for method in ("par", "random-walk"):
            cams = replace(QUICK.cams, layers=layers)
            settings = replace(QUICK, cams=cams, propagation=PropagateSettings(method=method))
            label_folder(images, tiny_classifier, tmp_path / "dry", settings, options=FolderOptions(dry_run=True))
            passes.clear()
            label_folder(images, tiny_classifier, tmp_path / f"{method}{n}", settings, batch_size=4)
            assert passes == [4, 2], method


def test_propagation_alone_runs_the_network_once_per_batch(images, tiny_classifier, tmp_path):
    cams_folder(images, tiny_classifier, tmp_path / "cams", QUICK.cams)
    passes = []
    tiny_classifier.model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    walk = PropagateSettings(method="random-walk")
    propagate_folder(images, tmp_path / "cams/layercam", tmp_path / "out", walk, classifier=tiny_classifier)
    assert passes == [6]


def test_features_are_those_of_the_image_alone(make_classifier, make_images):
    classifier = make_classifier(resize="pad")
    (image,) = make_images((64, 32))
    features = classifier_features(classifier, image)
    assert features.dtype == np.float32
    assert features.shape[1] == 2 * features.shape[2]  # the padding at the sides is left out


def test_label_image_takes_the_likeliest_class_by_default(make_images, tiny_classifier):
    (image,) = make_images((40, 60))
    best = tiny_classifier.classes[tiny_classifier.model(tiny_classifier.preprocess([image])).argmax()]
    default, named = label_image(image, tiny_classifier), label_image(image, tiny_classifier, best)
    np.testing.assert_array_equal(default.cam, named.cam)
    with pytest.raises(InputError, match="no class 'horse'"):
        label_image(image, tiny_classifier, "horse")
    with pytest.raises(InputError, match="expected an RGB image"):
        label_image(image.astype(float), tiny_classifier, "cat")


def test_any_number_of_workers_gives_the_same_bytes(images, tiny_classifier, tmp_path):
    settings = replace(QUICK, refinement=RefineSettings(method="grabcut"))
    for workers in (1, 4):
        options = FolderOptions(workers=workers)
        label_folder(images, tiny_classifier, tmp_path / f"{workers}", settings, batch_size=2, options=options)
    assert tree(tmp_path / "1", without=()).keys() == tree(tmp_path / "4", without=()).keys()
    assert tree(tmp_path / "1") == tree(tmp_path / "4")


def test_a_run_that_was_cut_off_anywhere_ends_as_if_it_had_not_been(images, tiny_classifier, tmp_path):
    label_folder(images, tiny_classifier, tmp_path / "whole", batch_size=4)
    whole = tree(tmp_path / "whole")
    manifest = whole[MANIFEST]
    for cut in (0, 10, len(manifest) // 2, len(manifest) - 1):
        out = tmp_path / f"cut{cut}"
        label_folder(images, tiny_classifier, out, batch_size=4)
        (out / MANIFEST).write_bytes(manifest[:cut])
        (out / "masks/cat/b.png").unlink()
        (out / "masks/dog/.b.png.tmp").write_bytes(b"half")  # as a killed write leaves it
        report = label_folder(images, tiny_classifier, out, batch_size=4)
        assert report.done >= 1
        assert report.done + report.kept == 6
        (out / "masks/dog/.b.png.tmp").unlink()
        assert tree(out) == whole


def test_inputs_that_failed_or_are_finished_keep_their_place_in_the_batch(images, tiny_classifier, tmp_path):
    whole = tmp_path / "whole"
    label_folder(images, tiny_classifier, whole, batch_size=3)
    spoilt = images / "cat/b.png"
    good = spoilt.read_bytes()
    spoilt.write_bytes(good[:50])
    report = label_folder(images, tiny_classifier, tmp_path / "out", batch_size=3)
    assert [record.name for record in report.failed] == ["cat/b"]
    expected = tree(whole)
    for name, content in tree(tmp_path / "out").items():
        if name != MANIFEST:
            assert content == expected[name], name
    spoilt.write_bytes(good)
    report = label_folder(images, tiny_classifier, tmp_path / "out", batch_size=3)
    assert (report.done, report.kept) == (1, 5)
    assert tree(tmp_path / "out") == expected


def test_a_corrected_label_is_taken_up(unlabelled, tiny_classifier, tmp_path):
    labels = table(tmp_path / "labels.csv", "image,label", "plain/0.png,dog", "plain/1.png,cat")
    label_folder(labels, tiny_classifier, tmp_path / "out", QUICK)
    table(labels, "image,label", "plain/0.png,dog", "plain/1.png,none")
    report = label_folder(labels, tiny_classifier, tmp_path / "out", QUICK)
    assert (report.done, report.kept) == (1, 1)
    assert not read_mask(tmp_path / "out/masks/plain/1.png").any()


def test_added_images_are_taken_up(unlabelled, tiny_classifier, tmp_path):
    label_folder(unlabelled, tiny_classifier, tmp_path / "out", QUICK)
    write_image(unlabelled / "00.png", read_image(unlabelled / "0.png"))
    report = label_folder(unlabelled, tiny_classifier, tmp_path / "out", QUICK)
    assert (report.done, report.kept) == (1, 4)


@pytest.mark.parametrize("change", ["settings", "classifier", "images", "targets", "negative", "batch", "threshold"])
def test_a_run_of_another_kind_is_not_mixed_in(images, unlabelled, make_classifier, tmp_path, change):
    save_threshold(tmp_path / "t.json", 100, name="val", masks=3)
    settings = replace(QUICK, masks=MaskSettings(threshold=tmp_path / "t.json"))
    first = make_classifier(negative=["none"])
    call = {"images": images, "classifier": first, "settings": settings, "targets": (), "batch_size": 16}
    label_folder(out=tmp_path / "out", **call)
    # What was read stays as it is, whatever becomes of the file; read again it is another threshold.
    save_threshold(tmp_path / "t.json", 101, name="val", masks=3)
    assert label_folder(out=tmp_path / "out", **call).kept == 6
    before = tree(tmp_path / "out", without=())
    changes = {
        "settings": {"settings": replace(settings, cams=replace(settings.cams, flip=True))},
        "classifier": {"classifier": make_classifier(seed=1, negative=["none"])},
        "images": {"images": unlabelled},
        "targets": {"targets": ["cat"]},
        "negative": {"classifier": replace(first, negative=("dog",))},
        "batch": {"batch_size": 4},
        "threshold": {"settings": replace(settings, masks=MaskSettings(threshold=tmp_path / "t.json"))},
    }
    words = {
        "settings": r"cams\.flip off -> on",
        "classifier": r"cams\.classifier .* -> ",
        "images": "inputs .* -> .*plain",
        "targets": r"cams\.targets none -> cat",
        "negative": r"cams\.classifier .* -> ",
        "batch": r"cams\.batch_size 16 -> 4",
        "threshold": r"masks\.threshold .* -> ",
    }
    with pytest.raises(OutputError, match=rf"written with other settings \({words[change]}"):
        label_folder(out=tmp_path / "out", **call | changes[change])
    assert tree(tmp_path / "out", without=()) == before
    report = label_folder(
        out=tmp_path / "out", **call | changes[change], options=FolderOptions(overwrite=True, workers=1)
    )
    assert report.done == len(list(Path(changes[change].get("images", images)).rglob("*.png")))


def test_maps_that_were_written_anew_are_not_mixed_with_the_old_masks(unlabelled, tiny_classifier, tmp_path):
    cams = tmp_path / "cams"
    cams_folder(unlabelled, tiny_classifier, cams, CamSettings(), targets=["cat"])
    masks_folder(cams / "layercam", tmp_path / "masks", OTSU)
    assert masks_folder(cams / "layercam", tmp_path / "masks", OTSU).kept == 4
    options = FolderOptions(overwrite=True)
    cams_folder(unlabelled, tiny_classifier, cams, CamSettings(), targets=["dog"], options=options)
    with pytest.raises(OutputError, match=r"cam run .* -> "):
        masks_folder(cams / "layercam", tmp_path / "masks", OTSU)
    masks_folder(cams / "layercam", tmp_path / "masks", OTSU, options=options)


@pytest.mark.parametrize("command", ["propagate", "refine"])
@pytest.mark.parametrize("change", ["images", "window"])
def test_stages_with_other_images_or_another_window_are_not_mixed_in(images, unlabelled, tmp_path, command, change):
    for path in images.rglob("*.png"):
        write_image(tmp_path / "in" / path.relative_to(images), np.zeros(read_image(path).shape[:2], np.uint8))
    run, source = {"propagate": (propagate_folder, "cams"), "refine": (refine_folder, "trimaps")}[command]
    call = {"images": images, source: tmp_path / "in", "out": tmp_path / "out"}
    run(**call)
    before = tree(tmp_path / "out", without=())
    changed = {"images": {"images": unlabelled}, "window": {"window": "percentile"}}[change]
    with pytest.raises(OutputError, match=f"{change} .* -> "):
        run(**call | changed)
    assert tree(tmp_path / "out", without=()) == before


def test_overwriting_removes_the_earlier_run_s_files_and_no_others(images, tiny_classifier, tmp_path):
    out = tmp_path / "out"
    label_folder(images, tiny_classifier, out, replace(QUICK, save=("overlays",)), targets=["all"])
    (out / "masks/mine.png").write_bytes(b"mine")
    label_folder(images, tiny_classifier, out, QUICK, options=FolderOptions(overwrite=True))
    assert set(tree(out)) == {f"masks/{c}/{n}.png" for c in ("cat", "dog", "none") for n in "ab"} | {
        MANIFEST,
        "masks/mine.png",
    }


def test_a_dry_run_checks_everything_and_writes_nothing(images, tiny_classifier, tmp_path):
    options = FolderOptions(dry_run=True)
    report = label_folder(images, tiny_classifier, tmp_path / "out", QUICK, options=options)
    assert (report.planned, report.kept, report.done) == (6, 0, 0)
    assert not (tmp_path / "out").exists()
    nowhere = replace(QUICK, cams=replace(QUICK.cams, layers=("nope",)))
    with pytest.raises(LayerError):
        label_folder(images, tiny_classifier, tmp_path / "out", nowhere, options=options)
    label_folder(images, tiny_classifier, tmp_path / "out", QUICK)
    (tmp_path / "out/masks/cat/a.png").unlink()
    before = tree(tmp_path / "out", without=())
    report = label_folder(images, tiny_classifier, tmp_path / "out", QUICK, options=options)
    assert (report.planned, report.kept) == (1, 5)
    with pytest.raises(OutputError):
        label_folder(images, tiny_classifier, tmp_path / "out", options=options)
    again = replace(options, overwrite=True)
    assert label_folder(images, tiny_classifier, tmp_path / "out", options=again).planned == 6
    assert tree(tmp_path / "out", without=()) == before


# What is refused, and what is bounded


def test_inputs_and_outputs_lie_apart(images, tiny_classifier, tmp_path):
    for out in (images, images / "cat", images.parent, images / "new", images / "cat/../new"):
        with pytest.raises(InputError, match="choose another --out"):
            label_folder(images, tiny_classifier, out, QUICK)
    (tmp_path / "link").symlink_to(images)
    with pytest.raises(InputError, match="lies in the folder of inputs"):
        label_folder(images, tiny_classifier, tmp_path / "link/new", QUICK)
    assert label_folder(images, tiny_classifier, tmp_path / "images2", QUICK).done == 6  # only a longer name
    # One file's folder may hold anything, also on the second call.
    for _ in range(2):
        label_folder(images / "cat/a.png", tiny_classifier, images / "cat/out", QUICK)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LabelSettings(cams=CamSettings(methods=("none",))),
        lambda: LabelSettings(refinement={"method": "x"}),
        lambda: LabelSettings(propagation={"method": "x"}),
    ],
)
def test_settings_name_the_choices(make):
    with pytest.raises(InputError, match=r"choose among \w"):
        make()


@pytest.mark.parametrize("change", [{"methods": ("all",)}, {"methods": ("gradcam", "layercam")}, {"raw": True}])
def test_masks_are_made_of_one_method_s_maps(change):
    with pytest.raises(InputError, match="one CAM method's maps"):
        LabelSettings(cams=CamSettings(**change))


@pytest.mark.parametrize("change", [{"low": "0.5"}, {"low": "0.5", "high": "0.4"}, {"erode": "-1"}, {"open": "x"}])
def test_trimap_settings_are_checked(change):
    with pytest.raises(InputError):
        TrimapSettings(**change)


def test_thresholds_of_areas_run_the_other_way():
    TrimapSettings(low="area:0.3", high="area:0.1")
    TrimapSettings(low="0.3", high="max:0.1")  # nobody knows before the map
    with pytest.raises(InputError, match="low threshold below"):
        TrimapSettings(low="area:0.1", high="area:0.3")
    with pytest.raises(InputError, match=r"threshold 'nan' is outside \[0, 1\]"):
        TrimapSettings(low="nan", high="0.3")


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (("masks",), "expected save.*'cams', 'trimaps', 'alphas' or 'overlays'; got 'masks'"),
        (("alphas",), "without a refiner there are no alphas; choose a refiner"),
        (("trimaps",), "without a refiner there are no trimaps; choose a refiner"),
    ],
)
def test_only_what_there_will_be_can_be_saved(save, words):
    with pytest.raises(InputError, match=words):
        LabelSettings(refinement=NOT_REFINED, save=save)


def test_layers_and_scales_are_tried_before_any_work(images, make_classifier, tmp_path):
    for settings in (CamSettings(layers=("fc",)), CamSettings(layers=("nothing",))):
        with pytest.raises(LayerError):
            cams_folder(images, make_classifier(), tmp_path / "out", settings)
    tiles = make_classifier("test_vit", image_size=160)
    with pytest.raises(InputError, match="test_vit cannot take inputs of 88 pixels"):
        cams_folder(images, tiles, tmp_path / "out", CamSettings(layers=("patch_embed.proj",), scales=(1.0, 0.55)))
    with pytest.raises(InputError, match=r"expected workers: .* 1; got 0"):
        FolderOptions(workers=0)
    with pytest.raises(InputError, match="batch size"):
        cams_folder(images, make_classifier(), tmp_path / "out", CamSettings(), batch_size=0)
    assert not (tmp_path / "out").exists()


def test_scores_that_are_no_numbers_fail_the_image(images, tiny_classifier, tmp_path):
    tiny_classifier.model.fc.weight.data[:] = np.nan
    report = label_folder(images, tiny_classifier, tmp_path / "out", QUICK, targets=["cat"])
    assert len(report.failed) == 6
    assert "not finite" in report.failed[0].error


def test_stages_refuse_unknown_methods_and_missing_folders(images, tmp_path):
    with pytest.raises(InputError, match=r"unknown propagation 'x'; choose among par"):
        propagate_folder(images, images, tmp_path / "out", PropagateSettings(method="x"))
    with pytest.raises(InputError, match=r"unknown refiner 'x'; choose among auto, closed-form"):
        refine_folder(images, images, tmp_path / "out", RefineSettings(method="x"))
    with pytest.raises(InputError, match="expected a propagation by name; none is only for the whole chain"):
        propagate_folder(images, images, tmp_path / "out", PropagateSettings(method="none"))
    with pytest.raises(InputError, match="expected a refiner by name; none is only for the whole chain"):
        refine_folder(images, images, tmp_path / "out", NOT_REFINED)
    with pytest.raises(InputError, match="random-walk walks over a classifier's features"):
        propagate_folder(images, images, tmp_path / "out", PropagateSettings(method="random-walk"))
    with pytest.raises(InputError, match=r"expected the folder of the masks .*nowhere is none"):
        refine_folder(images, images, tmp_path / "out", masks=tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"expected the folder of the cams .*nowhere is none"):
        trimap_folder(images, tmp_path / "out", cams=tmp_path / "nowhere")
    with pytest.raises(InputError, match="does not exist"):
        masks_folder(tmp_path / "nowhere", tmp_path / "out", OTSU)
    with pytest.raises(InputError, match="expected a window"):
        propagate_folder(images, images, tmp_path / "out", window="x")
    assert not (tmp_path / "out").exists()


def test_a_map_without_its_image_fails_alone(images, tiny_classifier, tmp_path):
    cams_folder(images, tiny_classifier, tmp_path / "cams", CamSettings())
    (images / "cat/a.png").unlink()
    report = propagate_folder(images, tmp_path / "cams/layercam", tmp_path / "out")
    assert report.done == 5
    assert "a.png: no image cat/a among the images" in report.failed[0].error


def test_images_are_found_below_a_folder_per_class(images, tiny_classifier, tmp_path):
    cams_folder(images, tiny_classifier, tmp_path / "cams", CamSettings(), targets=["cat", "dog"])
    report = propagate_folder(images, tmp_path / "cams/layercam", tmp_path / "out")
    assert (report.done, report.failed) == (12, [])


def test_16_bit_images_pass_the_same_window_in_every_stage(make_classifier, tmp_path):
    classifier = make_classifier(window="percentile")
    levels = np.random.default_rng(0).integers(1000, 1400, (40, 60)).astype(np.uint16)
    levels[10:20, 10:30] += 400
    data = tmp_path / "images"
    data.mkdir()
    PilImage.fromarray(levels).save(data / "a.png")
    settings = replace(QUICK, refinement=RefineSettings(method="closed-form"))
    label_folder(data, classifier, tmp_path / "label", settings, targets=["cat"])
    cams_folder(data, classifier, tmp_path / "cams", settings.cams, targets=["cat"])
    window, masks = classifier.window, tmp_path / "masks"
    propagate_folder(data, tmp_path / "cams/layercam", tmp_path / "spread", window=window)
    masks_folder(tmp_path / "spread/par", masks, settings.masks)
    trimap_folder(masks, tmp_path / "trimaps", settings.trimap, cams=tmp_path / "spread/par")
    refine_folder(data, tmp_path / "trimaps", tmp_path / "out", settings.refinement, masks=masks, window=window)
    assert tree(tmp_path / "label/masks") == tree(tmp_path / "out/masks")
    refine_folder(data, tmp_path / "trimaps", tmp_path / "other", settings.refinement, masks=masks)
    assert tree(tmp_path / "other/masks") != tree(tmp_path / "out/masks")


def test_large_images_are_not_kept_in_memory_while_they_wait(images, tiny_classifier, tmp_path, monkeypatch):
    settings = replace(QUICK, save=("overlays",))
    kept = label_folder(images, tiny_classifier, tmp_path / "kept", settings)
    monkeypatch.setattr(stage, "KEPT_PIXELS", 0)
    reads = []
    monkeypatch.setattr(stage, "read_image", lambda path, window: reads.append(path) or read_image(path, window))
    label_folder(images, tiny_classifier, tmp_path / "reread", settings)
    assert sorted(set(reads)) == sorted(images.rglob("*.png"))  # again, behind the network
    assert kept.done == 6
    assert tree(tmp_path / "kept") == tree(tmp_path / "reread")


def test_a_classifier_is_not_changed_by_the_work(images, tiny_classifier, tmp_path):
    tiny_classifier.model.train()
    before = tiny_classifier.fingerprint()
    label_folder(images, tiny_classifier, tmp_path / "out", QUICK)
    assert tiny_classifier.fingerprint() == before
    assert all(module.training for module in tiny_classifier.model.modules())
    assert not any(module._forward_hooks for module in tiny_classifier.model.modules())


# Why there is nothing, and where things come from


def why(folder: Path) -> dict[str, str]:
    return {line["name"]: line["empty"] for line in lines(folder)}


def test_all_zero_maps_say_why(images, unlabelled, tiny_classifier, tmp_path):
    quick = CamSettings()
    said: list[str] = []
    report = cams_folder(images, tiny_classifier, tmp_path / "a", quick, options=FolderOptions(say=said.append))
    expected = {f"none/{n}": "labelled none, a negative class" for n in "ab"}
    assert {name: reason for name, reason in why(tmp_path / "a").items() if reason} == expected
    assert report.empty == {"labelled none, a negative class": 2}
    assert said == [
        "6 of 6 images are labelled, as their folders are named: the labels decide for which class each gets its map, "
        "not the classifier; --target predicted asks that"
    ]
    said.clear()
    cams_folder(unlabelled, tiny_classifier, tmp_path / "b", quick, options=FolderOptions(say=said.append))
    cams_folder(
        images, tiny_classifier, tmp_path / "p", quick, targets=["predicted"], options=FolderOptions(say=said.append)
    )
    assert said == []
    assert {*why(tmp_path / "b").values(), *why(tmp_path / "p").values()} == {None}
    with torch.no_grad():
        tiny_classifier.model.get_submodule(tiny_classifier.head_layers[0]).bias[2] += 50
    for name, place in (("bn", unlabelled), ("pn", images)):
        cams_folder(place, tiny_classifier, tmp_path / name, quick, targets=["predicted"] if name == "pn" else ())
        assert {*why(tmp_path / name).values()} == {"predicted none, a negative class"}
        # Whatever the label says, it is as sure as the prediction is.
        assert all(record.quality == record.score for record in read_manifest(tmp_path / name))
    cams_folder(unlabelled, tiny_classifier, tmp_path / "c", quick, targets=["none"])
    assert {*why(tmp_path / "c").values()} == {"none is a negative class"}
    csv = table(tmp_path / "t.csv", "image,label", "plain/0.png,", "plain/1.png,cat")
    cams_folder(csv, tiny_classifier, tmp_path / "d", quick, options=FolderOptions(say=said.append))
    assert why(tmp_path / "d") == {"plain/0": "labelled with none of the classes", "plain/1": None}
    assert said[0].startswith("2 of 2 images are labelled, by their table: the labels decide")


def test_a_map_that_shows_nothing_and_a_class_that_nobody_found(unlabelled, make_classifier, tmp_path, monkeypatch):
    classifier = make_classifier(multi_label=True)
    with torch.no_grad():
        head = classifier.model.get_submodule(classifier.head_layers[0])
        head.weight.zero_()
        head.bias.copy_(torch.tensor([-5.0, -5.0, -5.0]))
    cams_folder(unlabelled, classifier, tmp_path / "a", CamSettings())
    assert {*why(tmp_path / "a").values()} == {"none of the classes predicted"}
    cams_folder(unlabelled, classifier, tmp_path / "b", CamSettings(), targets=["cat"])
    assert {*why(tmp_path / "b").values()} == {"nothing speaks for the class by layercam"}


def test_masks_say_why_they_are_empty_and_refiners_why_they_did_not_run(images, tiny_classifier, tmp_path):
    negative = "labelled none, a negative class"
    report = label_folder(images, tiny_classifier, tmp_path / "out", replace(QUICK, refinement=RefineSettings()))
    assert report.empty == {negative: 2}
    assert negative not in report.fallbacks
    assert [line["fallback"] for line in lines(tmp_path / "out") if line["empty"]] == [negative] * 2
    cams_folder(images, tiny_classifier, tmp_path / "cams", CamSettings())
    high = masks_folder(tmp_path / "cams/layercam", tmp_path / "high", MaskSettings(threshold=1.0))
    assert high.empty == {"nothing lies above the threshold": 4, negative: 2}
    cleaned = masks_folder(
        tmp_path / "cams/layercam", tmp_path / "clean", cleaning=CleaningSettings(min_area="100%", keep=1)
    )
    assert cleaned.empty == {"cleaning left nothing": 4, negative: 2}


@pytest.mark.parametrize("trimaps", ["written", "copied"])
def test_lines_carry_on_what_earlier_commands_said(images, tiny_classifier, tmp_path, trimaps):
    cams_folder(images, tiny_classifier, tmp_path / "cams", CamSettings())
    propagate_folder(images, tmp_path / "cams/layercam", tmp_path / "spread", PropagateSettings(method="guided"))
    masks_folder(tmp_path / "spread/guided", tmp_path / "masks", MaskSettings(threshold=0.5))
    trimap_folder(tmp_path / "masks", tmp_path / "tri")
    place = tmp_path / "tri"
    if trimaps == "copied":  # without their manifest: that of the masks tells
        place = tmp_path / "copy"
        shutil.copytree(tmp_path / "tri", place, ignore=lambda _, names: [MANIFEST, RUN])
    refine_folder(images, place, tmp_path / "out", masks=tmp_path / "masks")
    made = read_manifest(tmp_path / "cams")
    for record, first in zip(read_manifest(tmp_path / "out"), made, strict=True):
        for name in ("input", "name", "labels", "class_name", "score", "method", "layer", "scales"):
            assert getattr(record, name) == getattr(first, name), name
        assert (record.propagation, record.threshold) == ("guided", "0.5")
        assert record.refiner == "closed-form"


def test_without_any_manifest_the_image_is_the_input(tmp_path, make_images):
    (image,) = make_images((40, 60))
    (tmp_path / "images").mkdir()
    PilImage.fromarray(image).save(tmp_path / "images/a.jpg")
    trimap = np.full((40, 60), 128, np.uint8)
    trimap[:10], trimap[30:] = 0, 255
    write_image(tmp_path / "tri/a.png", trimap)
    refine_folder(tmp_path / "images", tmp_path / "tri", tmp_path / "out")
    assert read_manifest(tmp_path / "out")[0].input == "a.jpg"


def test_files_may_be_asked_for_later(images, tiny_classifier, tmp_path):
    def call(out, *save, targets=("cat", "dog"), dry=False):
        said: list[str] = []
        options = FolderOptions(say=said.append, dry_run=dry)
        report = label_folder(images, tiny_classifier, out, replace(QUICK, save=save), targets=targets, options=options)
        return report, " ".join(said)

    out = tmp_path / "out"
    call(out)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*.png")}
    assert call(out, "overlays", dry=True)[0].planned == 6
    report, said = call(out, "overlays")
    assert (report.done, report.kept) == (6, 0)
    assert "6 inputs get files that were not asked for before (overlay); the others stay" in said
    report, said = call(out, "cams", "overlays")
    assert "not asked for before (cam)" in said
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    call(tmp_path / "once", "cams", "overlays")
    assert tree(out, without=(RUN, MANIFEST)) == tree(tmp_path / "once", without=(RUN, MANIFEST))
    for record, other in zip(read_manifest(out), read_manifest(tmp_path / "once"), strict=True):
        assert replace(record, files={}) == replace(other, files={})
        assert record.files == other.files
    # What is not asked for any more stays too.
    assert call(out)[0].kept == 6
    assert len(read_manifest(out)[0].files) == 3


def test_a_changed_image_is_done_again_whole(unlabelled, tiny_classifier, tmp_path, make_images):
    out = tmp_path / "out"
    label_folder(unlabelled, tiny_classifier, out, replace(QUICK, save=("overlays",)))
    write_image(unlabelled / "0.png", make_images((40, 60), seed=9)[0])
    label_folder(unlabelled, tiny_classifier, out, replace(QUICK, save=("cams",)))
    files = {record.name: set(record.files) for record in read_manifest(out)}
    assert files == {"0": {"mask", "cam"}, **{name: {"mask", "cam", "overlay"} for name in "123"}}
    assert not (out / "overlays/0.png").exists()  # it was of the old image


def test_maps_drawn_over_the_images(images, tiny_classifier, tmp_path):
    out, methods = tmp_path / "out", CamSettings(methods=("layercam", "gradcam"))
    cams_folder(images, tiny_classifier, out, methods)
    before = tree(out, without=(RUN, MANIFEST))
    cams_folder(images, tiny_classifier, out, methods, save=["overlays"])
    after = tree(out, without=(RUN, MANIFEST))
    assert {name: after[name] for name in before} == before
    assert len(after) == 2 * len(before)
    for record in read_manifest(out):
        image = read_image(images / record.input)
        for method in methods.methods:
            assert record.files[f"{method} overlay"] == f"overlays/{method}/{record.name}.png"
            drawn = read_image(out / record.files[f"{method} overlay"])
            np.testing.assert_array_equal(drawn, overlay_cam(image, read_cam(out / record.files[method])))
    with pytest.raises(InputError, match="leave raw or overlays out"):
        cams_folder(images, tiny_classifier, tmp_path / "raw", CamSettings(raw=True), save=["overlays"])


def test_the_device_is_recorded_where_it_decides(images, tiny_classifier, tmp_path):
    cams_folder(images, tiny_classifier, tmp_path / "cams", CamSettings())
    label_folder(images, tiny_classifier, tmp_path / "label", QUICK)
    propagate_folder(images, tmp_path / "cams/layercam", tmp_path / "spread", PropagateSettings(method="guided"))
    for name in ("cams", "label", "spread"):
        assert json.loads((tmp_path / name / RUN).read_text())["settings"]["device"] == "cpu"


# Masks and maps of others


def numbered(folder: Path) -> np.ndarray:
    """A mask of class numbers, with a thing of class 3 whose outline is void, beside one of class 7."""
    levels = np.zeros((60, 80), np.uint8)
    levels[10:40, 10:40], levels[14:36, 14:36], levels[45:55, 50:70] = 255, 3, 7
    write_image(folder / "a.png", levels)
    return levels


def test_trimaps_take_one_class_and_leave_void_unknown(tmp_path):
    levels = numbered(tmp_path / "masks")
    settings = TrimapSettings(dilate="2", erode="2", sure=None)
    (failed,) = trimap_folder(tmp_path / "masks", tmp_path / "none", settings).failed
    assert "--mask-class N" in failed.error
    reading = MaskReading(mask_class="thing", mask_classes={"thing": 3, "other": 7})
    assert not trimap_folder(tmp_path / "masks", tmp_path / "tri", settings, reading=reading).failed
    trimap = read_trimap(tmp_path / "tri/a.png")
    assert (trimap[levels == 255] == 128).all()
    assert (trimap[17:33, 17:33] == 255).all()  # 2 pixels inside the object
    assert (trimap[levels == 7] == 0).all()
    with pytest.raises(OutputError, match="mask_class thing -> 7"):
        trimap_folder(tmp_path / "masks", tmp_path / "tri", settings, reading=MaskReading(mask_class="7"))


def test_a_mask_that_a_person_takes_back_is_the_machine_s_again(unlabelled, tiny_classifier, tmp_path):
    label_folder(unlabelled, tiny_classifier, tmp_path / "out", QUICK)
    machine = read_mask(tmp_path / "out/masks/0.png")
    correct(tmp_path / "out", "0.png", "edited", ~machine)
    assert trimap_folder(tmp_path / "out/masks", tmp_path / "tri").done == 4
    drawn = (tmp_path / "tri/0.png").read_bytes()
    correct(tmp_path / "out", "0.png", None, machine)
    report = trimap_folder(tmp_path / "out/masks", tmp_path / "tri")
    assert (report.done, report.kept) == (1, 3)
    assert (tmp_path / "tri/0.png").read_bytes() != drawn
    assert trimap_folder(tmp_path / "out/masks", tmp_path / "tri").done == 0


def test_another_file_of_the_same_name_is_another_input(unlabelled, tiny_classifier, tmp_path):
    write_image(tmp_path / "plain.bmp", read_image(unlabelled / "1.png"))
    os.utime(tmp_path / "plain.bmp", (0, 0))
    write_image(tmp_path / "plain.png", read_image(unlabelled / "0.png"))
    labels = table(tmp_path / "labels.csv", "image", "plain.png")
    label_folder(labels, tiny_classifier, tmp_path / "out", QUICK)
    table(labels, "image", "plain.bmp")
    report = label_folder(labels, tiny_classifier, tmp_path / "out", QUICK)
    assert (report.done, report.kept) == (1, 0)
    assert [record.input for record in read_manifest(tmp_path / "out")] == ["plain.bmp"]


def test_void_around_nothing_is_an_empty_mask(tmp_path):
    numbered(tmp_path / "masks")
    trimap_folder(tmp_path / "masks", tmp_path / "tri", reading=MaskReading(mask_class=9))
    assert lines(tmp_path / "tri")[0]["fallback"] == "empty mask"


def test_refinement_falls_back_to_one_class(tmp_path, make_images):
    levels = numbered(tmp_path / "masks")
    write_image(tmp_path / "images/a.png", make_images(levels.shape)[0])
    write_image(tmp_path / "tri/a.png", np.full_like(levels, 128))
    for chosen in (3, 7):
        out = tmp_path / str(chosen)
        places = (tmp_path / "images", tmp_path / "tri", out)
        assert not refine_folder(*places, masks=tmp_path / "masks", reading=MaskReading(mask_class=chosen)).failed
        assert np.array_equal(read_mask(out / "masks/a.png"), levels == chosen)


def test_a_mask_class_needs_masks(tmp_path):
    numbered(tmp_path / "masks")
    two = TrimapSettings(low=parse_threshold("0.3"), high=parse_threshold("0.6"))
    with pytest.raises(InputError, match="a map, which has no mask class"):
        trimap_folder(tmp_path / "masks", tmp_path / "out", two, reading=MaskReading(mask_class=3))
    with pytest.raises(InputError, match="a mask class, but no masks"):
        refine_folder(tmp_path / "masks", tmp_path / "masks", tmp_path / "out", reading=MaskReading(mask_class=3))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_photographs_are_no_masks_maps_or_trimaps(tmp_path, make_images, mode):
    for name, image in zip("ab", make_images((40, 60), (40, 60)), strict=True):
        for kind, suffix in (("jpg", ".jpg"), ("png", ".png")):
            (tmp_path / kind).mkdir(exist_ok=True)
            PilImage.fromarray(image).convert(mode).save(tmp_path / kind / f"{name}{suffix}")
    for kind in ("jpg", "png"):
        photos = tmp_path / kind
        assert len(trimap_folder(photos, tmp_path / f"{kind}-tri").failed) == 2
        assert len(refine_folder(photos, photos, tmp_path / f"{kind}-out").failed) == 2
    reports = [masks_folder(tmp_path / "jpg", tmp_path / "masks")]
    reports += [propagate_folder(tmp_path / "png", tmp_path / "jpg", tmp_path / "cams", PropagateSettings())]
    for failed in (record for report in reports for record in report.failed):
        assert ("JPEG keeps levels only nearly" if mode == "L" else "it has the colours") in failed.error
    assert [len(report.failed) for report in reports] == [2, 2]
