"""What folders hold, as annotated images: runs, prepared images, foreign masks, and a person's masks in their place."""

import json

import numpy as np
import pytest

from camseg.base.errors import ImageError, InputError
from camseg.base.files import sha256, write_json, write_text
from camseg.data.images import write_image, write_mask
from camseg.exchange.annotation import Annotation
from camseg.exchange.loading import list_folder
from camseg.runs.corrections import Correction, correction_to_line
from camseg.runs.record import Record, to_line

MASK = np.zeros((6, 8), bool)
MASK[1:4, 2:7] = True
OTHER = ~MASK
NONE = np.zeros((6, 8), bool)
GREY = np.full((6, 8, 3), 100, np.uint8)


def make_run(root, lines, command="label"):
    """A folder as ``label`` writes it, of (input, class, mask); a class folder where a name says so."""
    images, out = root / "images", root / "out"
    records = []
    for name, kind, mask, *rest in lines:
        path = f"masks/{rest[0] if rest else name.rpartition('.')[0]}.png"
        write_image(images / name, GREY)
        write_mask(out / path, mask)
        records.append(
            Record(
                input=name,
                name=name.rpartition(".")[0],
                class_name=kind,
                files={"mask": path},
                score=0.75,
                method="layercam",
                propagation="none",
                refiner="grabcut",
                area=int(mask.sum()),
                empty=None if mask.any() else "nothing lies above the threshold",
            )
        )
    write_text(out / "manifest.jsonl", "".join(map(to_line, records)))
    run = {"schema_version": 2, "command": command, "settings": {}, "identity": {"inputs": str(images)}}
    write_json(out / "run.json", run)
    return out


def correct(out, name, decision, mask=None, kind="cat", **rest):
    """Add a correction, with its mask where there is one."""
    file = f"corrected/{name.rpartition('.')[0]}.png"
    if mask is not None:
        write_mask(out / file, mask)
    one = Correction(
        input=name,
        class_name=kind,
        decision=decision,
        corrected=None if mask is None else file,
        tool="cvat",
        time="2026-01-01T00:00:00Z",
        **rest,
    )
    with (out / "corrections.jsonl").open("a", encoding="utf-8") as file:
        file.write(correction_to_line(one))


def test_a_run_gives_its_images_with_what_the_manifest_says(tmp_path):
    out = make_run(tmp_path, [("b/ü.png", "cat", MASK), ("a.jpg", "cat", NONE)])
    listing = list_folder(out)
    assert (len(listing), listing.classes, listing.remarks) == (2, ("cat",), ())
    empty, image = list(listing)
    assert (empty.name, empty.annotations, empty.width, empty.height) == ("a.jpg", (), 8, 6)
    assert image.path == tmp_path / "images/b/ü.png"
    (one,) = image.annotations
    assert (one.image, one.class_name, one.score, one.decision) == ("b/ü.png", "cat", 0.75, None)
    assert one.provenance == "layercam, grabcut"
    assert np.array_equal(one.mask, MASK)


@pytest.mark.parametrize("command", ["label", "refine", "segment"])
def test_masks_of_several_classes_meet_in_their_image(tmp_path, command):
    lines = [("a.png", "dog", OTHER, "dog/a"), ("a.png", "cat", MASK, "cat/a"), ("b.png", "cat", MASK, "cat/b")]
    out = make_run(tmp_path, lines, command)
    if command == "refine":
        run = json.loads((out / "run.json").read_text())
        run["identity"] = {"inputs": str(tmp_path / "trimaps"), "files read.images": run["identity"]["inputs"]}
        write_json(out / "run.json", run)
    first, second = list_folder(out)
    assert [one.class_name for one in first.annotations] == ["cat", "dog"]
    assert [one.class_name for one in second.annotations] == ["cat"]
    assert first.path == tmp_path / "images/a.png"


def test_a_persons_masks_take_the_place_of_the_machines(tmp_path):
    names = ["accepted", "edited", "rejected", "empty", "drawn"]
    out = make_run(tmp_path, [(f"{name}.png", "cat", MASK) for name in names])
    shown = sha256(out / "masks/accepted.png")
    correct(out, "accepted.png", "rejected")
    correct(out, "accepted.png", "accepted", mask_sha256=shown)  # the last word counts
    correct(out, "edited.png", "edited", OTHER, mask_sha256=shown)
    correct(out, "rejected.png", "rejected")
    correct(out, "empty.png", "empty", NONE)
    write_mask(out / "corrected/drawn.png", OTHER)  # without a word
    found = {image.stem: image.annotations for image in list_folder(out)}
    decisions = {name: [one.decision for one in annotations] for name, annotations in found.items()}
    assert decisions == {
        "accepted": ["accepted"], "edited": ["edited"], "rejected": ["rejected"], "empty": [], "drawn": ["edited"]
    }  # fmt: skip
    assert np.array_equal(found["edited"][0].mask, OTHER)
    assert found["edited"][0].provenance == "cvat"
    assert np.array_equal(found["rejected"][0].mask, MASK)
    assert np.array_equal(found["drawn"][0].mask, OTHER)


def test_a_correction_of_another_mask_does_not_count(tmp_path):
    out = make_run(tmp_path, [("a.png", "cat", MASK)])
    correct(out, "a.png", "edited", OTHER, mask_sha256="0" * 64)
    correct(out, "gone.png", "edited", OTHER)
    listing = list_folder(out)
    assert np.array_equal(next(iter(listing)).annotations[0].mask, MASK)
    assert [line.partition(" in ")[0] for line in listing.remarks] == ["1 corrections", "1 corrections"]


def test_a_class_that_only_a_person_saw_is_there_too(tmp_path):
    out = make_run(tmp_path, [("a.png", "cat", MASK)])
    correct(out, "a.png", "edited", OTHER, kind="dog")
    listing = list_folder(out)
    assert listing.classes == ("cat", "dog")
    assert [one.class_name for one in next(iter(listing)).annotations] == ["cat", "dog"]


def test_foreign_masks_find_their_images_by_name_and_their_class_by_folder(tmp_path):
    for name in ("a.jpg", "sub/a.png", "sub/b.png"):
        write_image(tmp_path / "images" / name, GREY)
    write_mask(tmp_path / "masks/a.png", MASK)
    write_mask(tmp_path / "masks/scratch/sub/a.png", MASK)
    write_mask(tmp_path / "masks/other.png", MASK)
    listing = list_folder(tmp_path / "masks", tmp_path / "images")
    found = {image.name: [one.class_name for one in image.annotations] for image in listing}
    assert found == {"a.jpg": ["object"], "sub/a.png": ["scratch"]}
    assert [line.split()[:2] for line in listing.remarks] == [["1", "masks"], ["1", "images"]]
    named = list_folder(tmp_path / "masks", tmp_path / "images", class_name="hole")
    assert named.classes == ("hole", "scratch")


def test_images_that_exif_turns_are_of_the_size_that_is_seen(tmp_path):
    from PIL import Image as PilImage

    exif = PilImage.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    PilImage.fromarray(GREY).save(tmp_path / "images/a.jpg", exif=exif)
    write_mask(tmp_path / "masks/a.png", np.ones((8, 6), bool))
    (image,) = list_folder(tmp_path / "masks", tmp_path / "images")
    assert (image.width, image.height, image.turned) == (6, 8, True)


def test_a_mask_of_another_size_is_an_error_of_its_image(tmp_path):
    out = make_run(tmp_path, [("a.png", "cat", np.ones((3, 3), bool))])
    with pytest.raises(ImageError, match=r"size, 8 x 6; it is 3 x 3"):
        list(list_folder(out))


def test_images_that_have_moved_are_named(tmp_path):
    out = make_run(tmp_path, [("a.png", "cat", MASK)])
    (tmp_path / "images").rename(tmp_path / "moved")
    listing = list_folder(out)
    assert listing.images[0].path is None
    assert "1 images were not found" in listing.remarks[0]
    assert list_folder(out, tmp_path / "moved").images[0].path == tmp_path / "moved/a.png"


def test_a_folder_within_an_output_stands_for_what_lies_there(tmp_path):
    lines = [("a.png", "cat", MASK, "cat/a"), ("a.png", "dog", OTHER, "dog/a"), ("b.png", "dog", OTHER, "dog/b")]
    out = make_run(tmp_path, lines)
    correct(out, "b.png", "edited", MASK, kind="dog", file="masks/dog/b.png")
    write_mask(out / "painted/a.png", ~NONE)

    def found(folder):
        return {(one.image, one.class_name): one.mask for image in list_folder(folder) for one in image.annotations}

    assert found(out).keys() == found(out / "masks").keys() == {("a.png", "cat"), ("a.png", "dog"), ("b.png", "dog")}
    listing = list_folder(out / "masks/cat")
    assert (listing.folder, listing.remarks) == (out, ())
    assert found(out / "masks/cat").keys() == {("a.png", "cat")}
    dogs = found(out / "masks/dog")
    assert dogs.keys() == {("a.png", "dog"), ("b.png", "dog")}
    assert np.array_equal(dogs["b.png", "dog"], MASK)
    painted = found(out / "painted")
    assert painted.keys() == {("a.png", "object")}
    assert painted["a.png", "object"].all()
    assert found(out / "corrected").keys() == {("b.png", "object")}


def test_images_that_differ_in_their_suffix_alone_are_told_apart_or_refused(tmp_path):
    out = make_run(tmp_path, [("x.jpg", "cat", MASK)])
    write_image(tmp_path / "images/x.png", GREY)
    assert [image.path for image in list_folder(out).images] == [tmp_path / "images/x.jpg"]
    write_mask(tmp_path / "masks/x.png", MASK)
    with pytest.raises(InputError, match=r"x\.jpg and .*x\.png have the same name but for the suffix"):
        list_folder(tmp_path / "masks", tmp_path / "images")


def test_what_is_no_folder_of_masks_is_refused(tmp_path):
    with pytest.raises(InputError, match="folder of a run"):
        list_folder(tmp_path / "none")
    write_mask(tmp_path / "masks/a.png", MASK)
    with pytest.raises(InputError, match="of which images"):
        list_folder(tmp_path / "masks")


def test_an_annotation_is_never_empty_nor_of_another_size():
    with pytest.raises(InputError, match="is empty"):
        Annotation(image="a.png", width=8, height=6, class_name="cat", mask=NONE)
    with pytest.raises(InputError, match="expected a mask of the image's size"):
        Annotation(image="a.png", width=6, height=8, class_name="cat", mask=MASK)
