"""``import_corrections``: what a tool gives back becomes a person's masks, bit for bit, and nothing else does."""

import base64
import io
import json
import zipfile
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image as PilImage

from camseg.base.errors import ExchangeError, InputError
from camseg.base.files import write_json, write_text
from camseg.data.images import read_mask, write_image, write_mask
from camseg.exchange.corrections import Corrector, correct
from camseg.exchange.export import export_folder
from camseg.exchange.importing import import_corrections
from camseg.exchange.loading import list_folder
from camseg.exchange.registry import IMPORTERS
from camseg.exchange.settings import ExportSettings, ImportSettings
from camseg.runs.corrections import read_corrections
from camseg.runs.record import Record, to_line

SIZE = (30, 44)
NONE = np.zeros(SIZE, bool)


def shapes():
    """Masks that formats have lost something of: holes, pieces, borders, a pixel; by image and class."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    ring = (np.hypot(y - 14, x - 20) < 12) & (np.hypot(y - 12, x - 18) > 4)
    pieces = ((y // 3 + x // 4) % 3 == 0) & (y > 4)
    return {
        ("ring.png", "cat"): ring,
        ("ring.png", "dög 2"): ~ring,
        ("a/pieces.jpg", "cat"): pieces,
        ("b/pieces.jpg", "cat"): ~pieces,
        ("bord er.png", "cat"): (y == 0) | (x == 43) | (y > 26),
        ("ü#1.png", "dög 2"): (y == 29) & (x == 43),
        ("turned.jpg", "cat"): (x > 30) & (y < 5),
        ("same.png", "cat"): ring & (x > 20),
        ("gone.png", "cat"): NONE,
        ("none.png", "cat"): NONE,
    }


DRAWN = shapes()
MADE = {key: np.roll(mask, 3, axis=1) if mask.any() else mask for key, mask in DRAWN.items()}
MADE["same.png", "cat"] = DRAWN["same.png", "cat"]
MADE["gone.png", "cat"] = DRAWN["ring.png", "cat"]
DECISIONS = dict.fromkeys(DRAWN, "edited") | {
    ("same.png", "cat"): "accepted", ("none.png", "cat"): "accepted", ("gone.png", "cat"): "empty"
}  # fmt: skip


def make_run(root, masks, per_class=True):
    """A folder as ``label`` writes it, with a folder for each class, and its images, of which EXIF turns one."""
    lines = []
    for (name, kind), mask in masks.items():
        stem = name.rpartition(".")[0]
        path = root / "images" / name
        if name == "turned.jpg":
            path.parent.mkdir(parents=True, exist_ok=True)
            exif = PilImage.Exif()
            exif[0x0112] = 6
            PilImage.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).save(path, exif=exif)
        else:
            write_image(path, np.full((*SIZE, 3), 90, np.uint8))
        file = f"masks/{kind}/{stem}.png" if per_class else f"masks/{stem}.png"
        write_mask(root / "out" / file, mask)
        empty = None if mask.any() else "nothing above the threshold"
        lines.append(Record(input=name, name=stem, class_name=kind, files={"mask": file}, score=0.5, empty=empty))
    write_text(root / "out/manifest.jsonl", "".join(map(to_line, lines)))
    run = {"schema_version": 2, "command": "label", "settings": {}, "identity": {"inputs": str(root / "images")}}
    write_json(root / "out/run.json", run)
    return root / "out"


def export(out, to, name, **settings):
    report = export_folder(out, to, name, ExportSettings(**settings))
    assert report.failed == []
    return to


def answer(tmp_path, out, name, masks=DRAWN, **settings):
    """What the tool gives back where a person has drawn ``masks``: its own facts, with other shapes."""
    theirs = export(make_run(tmp_path / "drawn", masks), tmp_path / f"drawn-{name}", name, images="none", **settings)
    own = export(out, tmp_path / f"for-{name}", name, images="none", **settings)
    if name == "label-studio":
        drawn = json.loads((theirs / "tasks.json").read_text())
        tasks = json.loads((own / "tasks.json").read_text())
        for number, (task, other) in enumerate(zip(tasks, drawn, strict=True)):
            task["annotations"] = [submitted(other["predictions"][0]["result"], id=number)]
        write_json(own / "tasks.json", tasks)
        return own / "tasks.json"
    if name == "labelme":
        for path in own.rglob("*.json"):
            if path.name != "export.json":
                content = json.loads(path.read_text())
                content["shapes"] = json.loads((theirs / path.relative_to(own)).read_text())["shapes"]
                write_json(path, content)
        return own
    return theirs / {"cvat": "annotations.xml", "coco": "annotations/instances_default.json"}[name]


def submitted(regions, **facts):
    """An annotation as Label Studio exports it."""
    person = {"id": 3, "email": "ann@example.org", "first_name": ""}
    times = {"created_at": "2026-01-01T10:00:00.000000Z", "updated_at": "2026-01-01T11:00:00.000000Z"}
    return {"result": regions, "was_cancelled": False, "lead_time": 20.0, "completed_by": person, **times, **facts}


def lines(out):
    """The last line of each image and class."""
    return {(one.input, one.class_name): one for one in read_corrections(out)}


def check(out, expected=DRAWN):
    """The masks that count are those."""
    found = {(one.image, one.class_name): one.mask for image in list_folder(out) for one in image.annotations}
    filled = {key: mask for key, mask in expected.items() if mask.any()}
    assert found.keys() == filled.keys()
    for key, mask in filled.items():
        assert np.array_equal(found[key], mask), key


WAYS = [
    ("coco", "mask"), ("coco", "polygon"), ("cvat", "mask"), ("cvat", "polygon"), ("label-studio", "mask"),
    ("labelme", "mask"), ("labelme", "polygon"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "geometry"), WAYS)
def test_masks_come_back_bit_for_bit(tmp_path, name, geometry):
    out = make_run(tmp_path, MADE)
    before = {path: path.read_bytes() for path in (out / "masks").rglob("*.png")}
    file = answer(tmp_path, out, name, geometry=geometry)
    report = import_corrections(out, file, name, ImportSettings(unchanged="accepted"))
    assert (report.failed, report.stale, report.images) == ([], [], 9)
    found = lines(out)
    assert {key: line.decision for key, line in found.items()} == DECISIONS
    check(out)
    for key, line in found.items():
        union = np.count_nonzero(DRAWN[key] | MADE[key])
        both = np.count_nonzero(DRAWN[key] & MADE[key])
        assert line.iou == (pytest.approx(both / union, abs=1e-6) if union else 1.0)
        assert line.tool == name
        assert (line.corrected is not None) == (line.decision in ("edited", "empty"))
        assert line.file == f"masks/{key[1]}/{key[0].rpartition('.')[0]}.png"
        if line.corrected:
            assert line.corrected == line.file.replace("masks/", "corrected/", 1)
            assert np.array_equal(read_mask(out / line.corrected), DRAWN[key])
    assert {path: path.read_bytes() for path in (out / "masks").rglob("*.png")} == before, "the machine's masks stay"
    again = import_corrections(out, file, name, ImportSettings(unchanged="accepted"))
    assert (again.decisions, again.kept) == ({}, len(DRAWN))
    assert len(read_corrections(out)) == len(DRAWN)


def test_a_folder_of_masks_comes_back(tmp_path):
    out = make_run(tmp_path, MADE)
    report = import_corrections(out, make_run(tmp_path / "drawn", DRAWN) / "masks", "png")
    assert (report.failed, report.unseen) == ([], 2)
    check(out)


@pytest.mark.parametrize(
    ("name", "inner"), [("cvat", "annotations.xml"), ("coco", "annotations/instances_default.json")]
)
def test_zips_are_read_without_being_unpacked(tmp_path, name, inner):
    out = make_run(tmp_path, MADE)
    file = answer(tmp_path, out, name)
    with zipfile.ZipFile(tmp_path / "job.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, inner)
        archive.writestr("images/readme.txt", "of no interest")
    report = import_corrections(out, tmp_path / "job.zip", name)
    assert report.failed == []
    check(out)


def test_what_nobody_looked_at_is_no_decision(tmp_path):
    out = make_run(tmp_path, MADE)
    file = export(out, tmp_path / "cvat", "cvat", images="none") / "annotations.xml"
    report = import_corrections(out, file, "cvat")
    assert (report.decisions, report.unseen) == ({}, len(MADE))
    assert not (out / "corrections.jsonl").exists()
    text = file.read_text().replace('source="auto"', 'source="manual"', 1)
    write_text(file, text)
    report = import_corrections(out, file, "cvat")  # CVAT says that a person drew one of them
    assert (report.decisions, report.unseen) == ({"accepted": 1}, len(MADE) - 1)


@pytest.mark.parametrize("name", ["cvat", "coco", "labelme"])
def test_polygons_that_nobody_touched_stand_for_their_masks(tmp_path, name):
    y, x = np.mgrid[:60, :80]
    mask = np.hypot(y - 30, x - 40) < 22
    out = make_run(tmp_path, {("round.png", "cat"): mask})
    write_image(tmp_path / "images/round.png", np.zeros((60, 80, 3), np.uint8))
    place = export(out, tmp_path / name, name, images="none", geometry="polygon", tolerance=2.0)
    file = {"cvat": place / "annotations.xml", "coco": place / "annotations/instances_default.json"}.get(name, place)
    report = import_corrections(out, file, name, ImportSettings(unchanged="accepted"))
    assert report.decisions == {"accepted": 1}
    check(out, {("round.png", "cat"): mask})
    write_text(out / "exported.jsonl", "")
    assert import_corrections(out, file, name).decisions == {"edited": 1}, "without a record they are masks like others"


def test_polygons_of_an_earlier_export_stand_for_their_masks_after_a_later_one(tmp_path):
    y, x = np.mgrid[:60, :80]
    mask = np.hypot(y - 30, x - 40) < 22
    out = make_run(tmp_path, {("round.png", "cat"): mask})
    write_image(tmp_path / "images/round.png", np.zeros((60, 80, 3), np.uint8))
    settings = {"images": "none", "geometry": "polygon"}
    people = export(out, tmp_path / "people", "cvat", tolerance=1.5, **settings)
    export(out, tmp_path / "training", "cvat", tolerance=0.0, **settings)
    report = import_corrections(out, people / "annotations.xml", "cvat", ImportSettings(unchanged="accepted"))
    assert report.decisions == {"accepted": 1}
    check(out, {("round.png", "cat"): mask})


# One mask per image, whatever it shows


@pytest.fixture
def flat(tmp_path):
    """Images of cats and of none, with one mask each, as ``label`` writes for classes that exclude each other."""
    made = {
        ("cat.png", "cat"): MADE["ring.png", "cat"],
        ("other.png", "cat"): MADE["ring.png", "cat"],
        ("clean.png", "none"): NONE,
    }
    return make_run(tmp_path, made, per_class=False)


def coco(path, annotations, size=SIZE):
    """A COCO file of masks by image and class."""
    images, classes = sorted({name for name, _ in annotations}), sorted({kind for _, kind in annotations})
    from camseg.exchange.rle import encode_coco

    content = {
        "images": [
            {"id": number, "file_name": name, "width": size[1], "height": size[0]} for number, name in enumerate(images)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes)],
        "annotations": [
            {
                "id": number, "image_id": images.index(name), "category_id": classes.index(kind),
                "segmentation": {"size": list(mask.shape), "counts": encode_coco(mask)},
            }
            for number, ((name, kind), mask) in enumerate(annotations.items())
        ],
    }  # fmt: skip
    write_json(path, content)
    return path


def test_an_object_that_the_machine_missed_takes_the_place_of_the_empty_mask(flat, tmp_path):
    drawn = DRAWN["ring.png", "cat"]
    import_corrections(flat, coco(tmp_path / "a.json", {("clean.png", "cat"): drawn}), "coco")
    (line,) = read_corrections(flat)
    assert (line.file, line.corrected, line.class_name, line.iou) == (
        "masks/clean.png", "corrected/clean.png", "cat", 0.0
    )  # fmt: skip
    found = {image.name: [one.class_name for one in image.annotations] for image in list_folder(flat)}
    assert found == {"cat.png": ["cat"], "other.png": ["cat"], "clean.png": ["cat"]}


def test_another_class_takes_the_place_of_one_that_a_person_took_away(flat, tmp_path):
    drawn = DRAWN["a/pieces.jpg", "cat"]
    file = coco(tmp_path / "a.json", {("cat.png", "dog"): drawn, ("other.png", "cat"): MADE["ring.png", "cat"]})
    report = import_corrections(flat, file, "coco")
    assert report.decisions == {"empty": 1, "edited": 1}
    assert np.array_equal(read_mask(flat / "corrected/cat.png"), drawn)
    found = {image.name: [one.class_name for one in image.annotations] for image in list_folder(flat)}
    assert found["cat.png"] == ["dog"]
    assert import_corrections(flat, file, "coco").decisions == {}


def test_a_second_class_gets_a_folder_of_its_own(flat, tmp_path):
    both = {("cat.png", "cat"): MADE["ring.png", "cat"], ("cat.png", "dog"): DRAWN["a/pieces.jpg", "cat"]}
    import_corrections(flat, coco(tmp_path / "a.json", both), "coco")
    (line,) = read_corrections(flat)
    assert (line.file, line.corrected, line.iou) == (None, "corrected/dog/cat.png", 0.0)
    found = {(one.image, one.class_name): one.mask for image in list_folder(flat) for one in image.annotations}
    assert np.array_equal(found["cat.png", "dog"], DRAWN["a/pieces.jpg", "cat"])
    # And it can be taken away again.
    import_corrections(flat, coco(tmp_path / "a.json", {**both, ("cat.png", "dog"): NONE}), "coco")
    assert [one.class_name for one in next(iter(list_folder(flat))).annotations] == ["cat"]


# What is refused, and listed


def test_corrections_of_other_masks_than_those_that_lie_there_are_refused(tmp_path):
    for name, geometry in WAYS:
        root = tmp_path / f"{name}-{geometry}"
        out = make_run(root, MADE)
        file = answer(root, out, name, geometry=geometry)
        write_mask(out / "masks/cat/ring.png", NONE)
        report = import_corrections(out, file, name)
        assert len(report.stale) == 1
        assert "ring.png: the mask of 'cat' is another one than was exported" in report.stale[0]
        assert ("ring.png", "cat") not in lines(out)
        assert lines(out)["ring.png", "dög 2"].decision == "edited"


def test_what_was_changed_elsewhere_since_is_not_overwritten(tmp_path):
    out = make_run(tmp_path, MADE)
    file = answer(tmp_path, out, "cvat")
    for word, expected in (("2000-01-01T00:00:00Z", 0), ("2999-01-01T00:00:00Z", 1)):
        Corrector(out).correct("ring.png", mask=~NONE, class_name="cat", tool="review", time=word)
        report = import_corrections(out, file, "cvat")
        assert len(report.stale) == expected
    assert "was edited in review since it was exported" in report.stale[0]
    assert lines(out)["ring.png", "cat"].tool == "review"


def test_unknown_images_other_sizes_and_those_that_are_there_twice_are_listed(tmp_path):
    out = make_run(tmp_path, MADE)
    content = json.loads(answer(tmp_path, out, "coco").read_text())
    ids = {one["file_name"]: one["id"] for one in content["images"]}
    for image in content["images"]:
        if image["file_name"] == "bord er.png":
            image["width"] = 45
        if image["file_name"] == "a/pieces.jpg":
            image["file_name"] = "../../../etc/passwd.jpg"
    content["images"].append({"id": 99, "file_name": "ring.png", "width": 44, "height": 30})
    content["annotations"][-1]["segmentation"]["counts"] = "~~"
    damaged = next(name for name, number in ids.items() if number == content["annotations"][-1]["image_id"])
    write_json(tmp_path / "file.json", content)
    report = import_corrections(out, tmp_path / "file.json", "coco")
    assert sorted(line.partition(":")[0] for line in report.failed) == sorted(
        ["../../../etc/passwd.jpg", "bord er.png", "ring.png", damaged]
    )
    words = " ".join(report.failed)
    assert "expected an image of 44 x 30, as it lies here; it says 45 x 30" in words
    assert "tells of it 2 times" in words
    assert {name for name, _ in lines(out)} == {"b/pieces.jpg", "gone.png", "turned.jpg"}


def test_names_without_their_folders_are_taken_where_they_can_mean_one_image(tmp_path):
    made = {("deep/a.png", "cat"): NONE, ("one/b.png", "cat"): NONE, ("two/b.png", "cat"): NONE}
    out = make_run(tmp_path, made)
    drawn = {("a.png", "cat"): ~NONE, ("b.png", "cat"): ~NONE, ("task/images/two/b.png", "cat"): ~NONE}
    report = import_corrections(out, coco(tmp_path / "a.json", drawn), "coco")
    assert report.failed == ["b.png: it may be one/b.png or two/b.png; give images names with their folders"]
    assert {name for name, _ in lines(out)} == {"deep/a.png", "two/b.png"}


@pytest.mark.parametrize("kind", ["../../evil", "..", "a/b", "", ".hidden", "a\\b", " cat"])
def test_classes_that_lead_out_of_the_folder_are_refused(tmp_path, kind):
    out = make_run(tmp_path / "deep/er", MADE)
    file = coco(tmp_path / "a.json", {("ring.png", kind): DRAWN["ring.png", "cat"]})
    if kind:
        assert "cannot be the name of a folder" in import_corrections(out, file, "coco").failed[0]
    else:
        with pytest.raises(ExchangeError, match="the name of a category"):
            import_corrections(out, file, "coco")
    assert not [path for path in tmp_path.rglob("*.png") if "corrected" in path.parts or "evil" in str(path)]


def xml(body, image='name="ring.png" width="44" height="30"', start=""):
    return f"<?xml version='1.0'?>{start}<annotations><image id='0' {image}>{body}</image></annotations>"


MASK = '<mask label="cat" source="manual" rle="{}" left="{}" top="{}" width="{}" height="{}"></mask>'
POLYGON = '<polygon label="cat" points="{}"></polygon>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotations>", "not valid XML"),
        ("<html></html>", "another XML"),
        (xml("").replace("image", "track"), "tracks of a video"),
        (xml("", start='<!DOCTYPE x [<!ENTITY a "b">]>'), "declares entities or a document type"),
        (xml("&x;", start='<!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/passwd">]>'), "declares entities"),
        ("<annotations></annotations>", "tells of no image"),
        (xml("", image='width="3"'), "expected the name of an image"),
    ],
)
def test_xml_that_is_no_annotation_is_refused_whole(tmp_path, content, message):
    out = make_run(tmp_path, MADE)
    write_text(tmp_path / "a.xml", content)
    with pytest.raises((ExchangeError, InputError), match=message):
        import_corrections(out, tmp_path / "a.xml", "cvat")


@pytest.mark.parametrize(
    "body",
    [
        MASK.format("0, 4", 42, 0, 2, 2).replace("42", "43"),  # beyond the border
        MASK.format("0, 5", 0, 0, 2, 2),
        MASK.format("0, -4, 8", 0, 0, 2, 2),
        MASK.format("0, x", 0, 0, 2, 2),
        MASK.format("0, 9999999999999999999999", 0, 0, 2, 2),
        MASK.format("0, 4", "nan", 0, 2, 2),
        MASK.replace('label="cat"', "").format("0, 4", 0, 0, 2, 2),
        POLYGON.format(""),
        POLYGON.format("1,2;3,4"),
        POLYGON.format("1,2;3,4;5"),
        POLYGON.format("1,2;3,4;inf,5"),
        POLYGON.format("1,2;3,4;1e30,5"),
        POLYGON.format(";".join("1,0;2,30" for _ in range(60_000))),
    ],
)
def test_damaged_shapes_fail_their_image_alone(tmp_path, body):
    out = make_run(tmp_path, MADE)
    good = "<image name='gone.png' width='44' height='30'></image></annotations>"
    write_text(tmp_path / "a.xml", xml(body).replace("</annotations>", good))
    export(out, tmp_path / "cvat", "cvat", images="none")
    report = import_corrections(out, tmp_path / "a.xml", "cvat")
    assert [line.partition(":")[0] for line in report.failed] == ["ring.png"]
    assert {key: line.decision for key, line in lines(out).items()} == {("gone.png", "cat"): "empty"}


def test_zips_that_lead_out_or_unfold_to_too_much_are_refused(tmp_path):
    out = make_run(tmp_path, MADE)

    def zipped(*members):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members:
                archive.writestr(name, data)
        return tmp_path / "a.zip"

    with pytest.raises(ExchangeError, match="leads out of it"):
        import_corrections(out, zipped(("../../a.xml", "x"), ("annotations.xml", "x")), "cvat")
    with pytest.raises(ExchangeError, match="would unfold"):
        import_corrections(out, zipped(("annotations.xml", b"\0" * (65 << 20))), "cvat")
    with pytest.raises(ExchangeError, match="lacks what is needed"):
        import_corrections(out, zipped(("a.txt", "x")), "cvat")
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-5] + b"xxxxx")
    with pytest.raises((ExchangeError, InputError)):
        import_corrections(out, tmp_path / "a.zip", "cvat")


@pytest.mark.parametrize("name", [name for name in IMPORTERS if name != "png"])
@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "[1, 2]", '{"images": 3}', "[" * 20000, "\x00\xff", "<a>"])
def test_rubbish_is_refused_in_words(tmp_path, name, content):
    out = make_run(tmp_path, {("ring.png", "cat"): NONE})
    (tmp_path / "in").mkdir()
    path = tmp_path / ("in/ring.xml" if name == "cvat" else "in/ring.json")
    path.write_text(content, encoding="latin-1")
    refused = pytest.raises((ExchangeError, InputError), match=r"expected|not valid|no image")
    # Of a folder of JSON files others are passed over, and damaged ones told.
    damaged = name == "labelme" and content[-1:] not in ("]", "}", "l")
    with nullcontext() if damaged else refused:
        report = import_corrections(out, path, name)
        assert len(report.failed) == 1
    assert not (out / "corrections.jsonl").exists()


def test_what_is_no_file_is_refused(tmp_path):
    out = make_run(tmp_path, {("ring.png", "cat"): NONE})
    with pytest.raises(InputError, match="unknown format 'cvt'; choose among coco, cvat"):
        import_corrections(out, tmp_path / "a.xml", "cvt")
    for name in IMPORTERS:
        with pytest.raises(InputError):
            import_corrections(out, tmp_path / "none.json", name)
    write_text(tmp_path / "a.csv", "x")
    with pytest.raises(InputError, match=r"expected a \.xml file, or a zip with one"):
        import_corrections(out, tmp_path / "a.csv", "cvat")


# Each tool's own ways


def tasks(tmp_path, *results, **facts):
    """A file of Label Studio's with one task, whose annotations have these regions."""
    data = {"image": "/data/upload/2/0a1b2c3d-ring.png"}
    annotations = [submitted(regions, id=number, **facts) for number, regions in enumerate(results)]
    write_json(tmp_path / "tasks.json", [{"id": 1, "data": data, "annotations": annotations}])
    return tmp_path / "tasks.json"


def region(kind, value, label="cat", **facts):
    size = {"original_width": 44, "original_height": 30, "image_rotation": 0}
    return {
        "id": kind,
        "type": kind,
        "from_name": "l",
        "to_name": "i",
        **size,
        "value": {**value, kind: [label]},
        **facts,
    }


def bitmask(mask, alpha):
    """A picture as Label Studio's bitmasks are: colour where the object is, else transparent or black."""
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[mask] = (200, 30, 30, 255)
    if not alpha:
        pixels[..., 3] = 255
    buffer = io.BytesIO()
    PilImage.fromarray(pixels).save(buffer, format="PNG")
    return {"imageDataURL": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()}


Y, X = np.mgrid[: SIZE[0], : SIZE[1]]
PERCENT = {
    "polygonlabels": {"points": [[25, 10], [75, 10], [75, 50], [25, 50]]},
    "rectanglelabels": {"x": 25, "y": 10, "width": 50, "height": 40, "rotation": 0},
}
BOX = (X >= 11) & (X < 33) & (Y >= 3) & (Y < 15)


@pytest.mark.parametrize(
    ("one", "expected"),
    [(region(kind, value), BOX) for kind, value in PERCENT.items()]
    + [
        (region("bitmasklabels", bitmask(DRAWN["ring.png", "cat"], alpha)), DRAWN["ring.png", "cat"])
        for alpha in (0, 1)
    ]
    + [
        (
            region("ellipselabels", {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "rotation": 0}),
            ((X + 0.5 - 22) / 11) ** 2 + ((Y + 0.5 - 15) / 7.5) ** 2 < 1,
        )
    ],
)
def test_label_studios_regions_become_masks(tmp_path, one, expected):
    out = make_run(tmp_path, {("ring.png", "cat"): NONE})
    report = import_corrections(out, tasks(tmp_path, [one]), "label-studio")
    assert report.failed == []
    assert np.array_equal(read_mask(out / "corrected/cat/ring.png"), expected)


def test_label_studios_shapes_and_labels_may_stand_apart(tmp_path):
    out = make_run(tmp_path, {("ring.png", "cat"): NONE})
    points = PERCENT["polygonlabels"]
    apart = [
        {**region("labels", points), "id": "x"},
        {**region("polygon", points), "id": "x", "value": points},
        {"id": "c", "type": "choices", "from_name": "c", "to_name": "i", "value": {"choices": ["blurred"]}},
        {**region("keypointlabels", {"x": 3, "y": 4, "width": 1}, label="eye"), "id": "k"},
    ]
    report = import_corrections(out, tasks(tmp_path, apart), "label-studio")
    assert (report.failed, report.left_out) == ([], {"keypoint": 1})
    assert np.array_equal(read_mask(out / "corrected/cat/ring.png"), BOX)


def test_the_newest_annotation_that_was_not_cancelled_counts(tmp_path):
    out = make_run(tmp_path, {("ring.png", "cat"): NONE})
    other = region("rectanglelabels", {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0})
    file = tasks(tmp_path, [other], [region("polygonlabels", PERCENT["polygonlabels"])], [other], [other])
    content = json.loads(file.read_text())
    first, second, third, _fourth = content[0]["annotations"]
    first["updated_at"], second["updated_at"] = "2026-01-01T12:00:00Z", "2026-01-02T12:00:00Z"
    third.update(updated_at="2026-02-02T12:00:00Z", was_cancelled=True)
    second["lead_time"] = 12.5
    content.append({"id": 2, "data": {"image": "none.png"}, "annotations": [], "predictions": []})
    write_json(file, content)
    report = import_corrections(out, file, "label-studio")
    assert report.failed == []
    (line,) = read_corrections(out)
    assert np.array_equal(read_mask(out / "corrected/cat/ring.png"), BOX)
    assert (line.seconds, line.annotator, line.time) == (12.5, "ann@example.org", "2026-01-02T12:00:00Z")


def test_a_task_submitted_without_a_region_says_that_there_is_no_object(tmp_path):
    out = make_run(tmp_path, {("ring.png", "cat"): MADE["ring.png", "cat"]})
    import_corrections(out, tasks(tmp_path, []), "label-studio")
    (line,) = read_corrections(out)
    assert (line.decision, line.iou) == ("empty", 0.0)
    assert not read_mask(out / "corrected/cat/ring.png").any()


def test_the_time_of_an_image_is_shared_by_its_masks(tmp_path):
    out = make_run(tmp_path, MADE)
    import_corrections(out, answer(tmp_path, out, "label-studio"), "label-studio")
    seconds = {key: line.seconds for key, line in lines(out).items()}
    assert (seconds["ring.png", "cat"], seconds["ring.png", "dög 2"], seconds["a/pieces.jpg", "cat"]) == (10, 10, 20)


def test_images_turned_within_label_studio_are_refused(tmp_path):
    out = make_run(tmp_path, {("ring.png", "cat"): NONE})
    file = tasks(tmp_path, [region("polygonlabels", PERCENT["polygonlabels"], image_rotation=90)])
    assert "turned by 90 degrees" in import_corrections(out, file, "label-studio").failed[0]


def test_cvats_boxes_and_ellipses_are_masks_and_its_points_are_not(tmp_path):
    out = make_run(tmp_path, {("ring.png", "cat"): NONE, ("ring.png", "dog"): MADE["ring.png", "cat"]})
    body = (
        '<box label="cat" xtl="11" ytl="3" xbr="33" ybr="15" z_order="1"></box><tag label="cat"></tag>'
        '<points label="dog" points="1,2"></points>'
    )
    write_text(tmp_path / "a.xml", xml(body))
    report = import_corrections(out, tmp_path / "a.xml", "cvat")
    assert (report.failed, report.left_out, report.decisions) == ([], {"points": 1}, {"edited": 1})
    assert np.array_equal(read_mask(out / "corrected/cat/ring.png"), BOX)
    turned = body.replace("<box ", '<box rotation="90" ').replace(
        "<tag", '<ellipse label="ring" cx="22" cy="15" rx="11" ry="7.5"/><tag'
    )
    write_text(tmp_path / "a.xml", xml(turned))
    import_corrections(out, tmp_path / "a.xml", "cvat")
    found = read_mask(out / "corrected/cat/ring.png")
    # A box of 22 x 12 about (22, 9) that stands: 12 x 22, cut off at the top.
    assert np.array_equal(found, (X >= 16) & (X < 28) & (Y < 20))
    expected = ((X + 0.5 - 22) / 11) ** 2 + ((Y + 0.5 - 15) / 7.5) ** 2 < 1
    assert np.array_equal(read_mask(out / "corrected/ring/ring.png"), expected)


def test_the_topmost_shape_may_take_its_pixels_alone(tmp_path):
    out = make_run(tmp_path, {("ring.png", "cat"): NONE, ("ring.png", "dog"): NONE})
    box = '<box label="{}" xtl="{}" ytl="0" xbr="{}" ybr="30" z_order="{}"></box>'
    write_text(tmp_path / "a.xml", xml(box.format("cat", 10, 20, 2) + box.format("dog", 0, 30, 1)))
    import_corrections(out, tmp_path / "a.xml", "cvat")
    assert read_mask(out / "corrected/dog/ring.png").sum() == 900
    import_corrections(out, tmp_path / "a.xml", "cvat", ImportSettings(exclusive=True))
    assert np.array_equal(read_mask(out / "corrected/dog/ring.png"), (X < 10) | ((X >= 20) & (X < 30)))
    assert read_mask(out / "corrected/cat/ring.png").sum() == 300


def test_labelmes_rectangles_and_circles_are_masks_and_its_lines_are_not(tmp_path):
    out = make_run(tmp_path, {("ring.png", "cat"): NONE})
    shapes_of = [
        {"label": "cat", "points": [[10, 12], [3, 2]], "shape_type": "rectangle"},
        {"label": "cat", "points": [[30, 15], [34, 15]], "shape_type": "circle"},
        {"label": "cat", "points": [[30, 15], [34, 15]], "shape_type": "line"},
    ]
    content = {"imagePath": "..\\other\\ring.png", "imageWidth": None, "imageHeight": None, "shapes": shapes_of}
    write_json(tmp_path / "in/ring.json", content)
    report = import_corrections(out, tmp_path / "in", "labelme", ImportSettings(annotator="ann"))
    assert (report.failed, report.left_out) == ([], {"line": 1})
    expected = ((X >= 3) & (X <= 10) & (Y >= 2) & (Y <= 12)) | (np.hypot(X - 30, Y - 15) <= 4)
    assert np.array_equal(read_mask(out / "corrected/cat/ring.png"), expected)
    assert read_corrections(out)[0].annotator == "ann"


@pytest.mark.parametrize(
    "points", [[[40, 20], [44, 25]], [[-1, 0], [3, 3]], [[5, 5], [2, 2]], [[1, 1]], "x", [[0, 0], [5, 5]]]
)
def test_masks_of_labelme_lie_within_the_image_and_fill_their_corners(tmp_path, points):
    out = make_run(tmp_path, {("ring.png", "cat"): NONE})
    own = export(make_run(tmp_path / "x", {("ring.png", "cat"): DRAWN["ring.png", "cat"]}), tmp_path / "lm", "labelme")
    content = json.loads((own / "ring.json").read_text())
    content["shapes"][0]["points"] = points
    write_json(own / "ring.json", content)
    report = import_corrections(out, own, "labelme")
    assert len(report.failed) == 1
    assert not (out / "corrected").exists()


def test_masks_of_zero_and_one_are_labelmes_too(tmp_path):
    out = make_run(tmp_path, {("ring.png", "cat"): NONE})
    buffer = io.BytesIO()
    PilImage.fromarray(DRAWN["ring.png", "cat"].astype(np.uint8)).save(buffer, format="PNG")
    shape = {"label": "cat", "points": [[0, 0], [43, 29]], "shape_type": "mask"}
    shape["mask"] = base64.b64encode(buffer.getvalue()).decode()
    write_json(tmp_path / "in/ring.json", {"shapes": [shape]})
    import_corrections(out, tmp_path / "in", "labelme")
    assert np.array_equal(read_mask(out / "corrected/cat/ring.png"), DRAWN["ring.png", "cat"])


def test_class_pictures_are_read_by_their_numbers(tmp_path):
    out = make_run(tmp_path, {("ring.png", "cat"): NONE, ("ring.png", "dog"): NONE})
    drawn = make_run(tmp_path / "drawn", {("ring.png", "cat"): BOX, ("ring.png", "dog"): ~BOX})
    index = export(drawn, tmp_path / "index", "index-png", images="none")
    for kind in ("cat", "dog"):
        reading = {"mask_class": kind, "mask_classes": str(index / "classes.csv")}
        import_corrections(out, index / "masks", "png", ImportSettings(reading=reading))
    check(out, {("ring.png", "cat"): BOX, ("ring.png", "dog"): ~BOX})


# Kills, dry runs, the command


@pytest.mark.parametrize("where", ["mask", "line"])
def test_a_killed_import_goes_on(tmp_path, where, monkeypatch):
    whole = make_run(tmp_path / "whole", MADE)
    out = make_run(tmp_path, MADE)
    file = answer(tmp_path, out, "cvat")
    import_corrections(whole, file, "cvat")
    from camseg.runs import corrections

    name = {"mask": "write_mask", "line": "append_lines"}[where]
    calls, real = [], getattr(corrections, name)

    def killed(path, *rest):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(corrections, name, killed)
        with pytest.raises(KeyboardInterrupt):
            import_corrections(out, file, "cvat")
    with (out / "corrections.jsonl").open("a") as half:
        half.write('{"schema_version": 1, "input": "ring.p')
    report = import_corrections(out, file, "cvat")
    assert report.kept == 2
    strip = [{**vars(line), "time": ""} for line in read_corrections(out)]
    assert strip == [{**vars(line), "time": ""} for line in read_corrections(whole)]
    check(out)


def test_a_dry_run_says_what_would_be_and_writes_nothing(tmp_path, call):
    out = make_run(tmp_path, MADE)
    file = answer(tmp_path, out, "cvat")
    before = sorted(out.rglob("*"))
    code, stdout, _ = call("import", out, file, "--format", "cvat", "--dry-run", "--json")
    assert code == 0
    assert json.loads(stdout)["decisions"] == {"edited": 7, "empty": 1}
    assert sorted(out.rglob("*")) == before


def test_the_command_says_what_it_brought_in_and_gives_1_where_something_was_refused(tmp_path, call):
    out = make_run(tmp_path, MADE)
    file = answer(tmp_path, out, "label-studio")
    code, stdout, err = call("import", out, file, "--format", "label-studio")
    assert (code, stdout) == (0, "")
    assert "brought in 10 corrections (2 accepted, 7 edited, 1 empty) of 9 images, 0 were there already" in err
    assert "10 of them took 20.0 s at the median, 18.0 s on average (Laptev and Gerget state 54.5 s per mask)" in err
    write_mask(out / "masks/cat/ring.png", NONE)
    code, _, err = call("import", out, file, "--format", "label-studio")
    assert code == 1
    assert "failed: ring.png: the mask of 'cat' is another one than was exported; export it again" in err
    assert "0 images failed, 1 corrections were refused" in err


# One correction at a time


def test_a_person_may_correct_from_python(tmp_path):
    out = make_run(tmp_path, MADE)
    drawn = DRAWN["a/pieces.jpg", "cat"]
    line = correct(out, "a/pieces.jpg", mask=drawn, seconds=3.5, annotator="ann")
    assert (line.decision, line.file, line.seconds) == ("edited", "masks/cat/a/pieces.png", 3.5)
    assert read_corrections(out) == [line]
    assert correct(out, "a/pieces", "accepted").decision == "edited", "what a person drew is accepted"
    assert correct(out, "a/pieces", mask=MADE["a/pieces.jpg", "cat"]).decision == "accepted"
    assert correct(out, "a/pieces", "rejected").iou is None
    assert correct(out, "a/pieces", "empty").iou == 0.0
    assert len(read_corrections(out)) == 5


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"image": "none.gif"}, "CorrectionError", "holds no mask of such an image"),
        ({"decision": "accepted"}, "CorrectionError", "expected the class; there are cat, dög 2"),
        ({"mask": np.ones((3, 3), bool), "class_name": "cat"}, "CorrectionError", "44 x 30; it is 3 x 3"),
        ({"mask_sha256": "0" * 64, "decision": "accepted", "class_name": "cat"}, "StaleMaskError", "another one"),
        ({"decision": "edited", "class_name": "cat"}, "InputError", "expected the edited mask"),
        ({"decision": "accepted", "mask": ~NONE, "class_name": "cat"}, "InputError", "accepted; it is edited"),
        ({"class_name": "cat"}, "InputError", "a decision or a mask"),
        ({"decision": "rejected", "class_name": "emu"}, "InputError", "no mask of 'emu' to reject"),
    ],
)
def test_corrections_that_cannot_be_taken_are_refused(tmp_path, given, kind, message):
    from camseg.base import errors

    out = make_run(tmp_path, MADE)
    with pytest.raises(getattr(errors, kind), match=message):
        Corrector(out).correct(**{"image": "ring.png", **given})
    assert not (out / "corrections.jsonl").exists()
