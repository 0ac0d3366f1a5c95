"""The folder that every preparation writes: its table, what fails, and what is never overwritten."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from camseg.base.errors import ImageError, InputError, OutputError
from camseg.base.files import by_name
from camseg.data.datasets import load_images, load_training_data
from camseg.data.images import read_image, read_mask
from camseg.prepare.output import Picture, Preparation, PreparationInput, Skipped, source_name, write_pictures
from camseg.prepare.settings import FrameSettings, check_class
from camseg.runs.manifest import read_manifest
from camseg.runs.record import Record, to_line
from camseg.runs.settings import FolderOptions

TABLES = ("labels.csv", "manifest.jsonl", "run.json")


def sources(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return [PreparationInput(path=folder / name, name=Path(name).stem) for name in names]


def make(one):
    """Two images of one input, of classes of their own; "bad" fails after its first, and "none" gives nothing."""
    if one.name == "none":
        yield Skipped("nothing to see")
        return
    for number, label in enumerate(("cat", "dog")):
        pixels = np.full((2, 3), 10 * number, np.uint8)
        name = f"{one.name}/{number}"
        yield Picture(name=name, image=pixels, group=one.name, source=one.name, label=label, masks={"": pixels > 5})
        if one.name == "bad":
            raise ImageError(f"{one.path}: broken")


def preparation(root, labelled=True, every=1):
    settings = FrameSettings(every=every)
    return Preparation(command="prepare test", root=root, settings=settings, labelled=labelled)


@pytest.fixture
def write(tmp_path):
    def run(*names, labelled=True, every=1, **options):
        inputs = sources(tmp_path / "in", *names)
        out = tmp_path / "out"
        options = FolderOptions(**{"workers": 2, **options})
        return write_pictures(preparation(tmp_path / "in", labelled, every), inputs, make, out, options=options)

    return run


def rows(out):
    with (out / "labels.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def files(out):
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def test_images_masks_and_the_table_are_written_and_can_be_read(tmp_path, write):
    report = write("b.x", "a.x")
    out = tmp_path / "out"
    assert files(out) == sorted(
        [*(f"{folder}{name}/{n}.png" for folder in ("", "masks/") for name in "ab" for n in (0, 1)), *TABLES]
    )
    assert rows(out)[:2] == [["image", "label", "group", "source"], ["b/0.png", "cat", "b", "b"]]
    assert (report.done, report.images, report.failed) == (2, 4, [])
    dataset = load_training_data(out / "labels.csv")
    assert [(sample.name, sample.labels, sample.group) for sample in dataset.samples] == [
        ("a/0", ("cat",), "a"),
        ("a/1", ("dog",), "a"),
        ("b/0", ("cat",), "b"),
        ("b/1", ("dog",), "b"),
    ]
    assert not dataset.multi_label
    for sample in dataset.samples:
        assert read_image(sample.path)[0, 0].tolist() == [10 * int(sample.name[-1])] * 3
        assert read_mask(out / "masks" / f"{sample.name}.png").all() == (sample.name[-1] == "1")


def test_without_labels_the_images_classes_are_unknown(tmp_path, write):
    write("a.x", labelled=False)
    assert rows(tmp_path / "out")[0] == ["image", "group", "source"]
    assert all(sample.labels is None for sample in load_images(tmp_path / "out/labels.csv").samples)


def test_an_input_that_fails_is_reported_and_what_it_gave_stays(tmp_path, write):
    heard = []
    report = write("a.x", "bad.x", "none.x", say=heard.append)
    assert report.failed == [f"{tmp_path / 'in/bad.x'}: broken"]
    assert heard == [f"failed: {report.failed[0]}"]
    assert (report.done, report.images, report.skipped) == (2, 3, {"nothing to see": 1})
    assert [row[0] for row in rows(tmp_path / "out")[1:]] == ["a/0.png", "a/1.png", "bad/0.png"]


def test_unforeseen_errors_and_folders_that_cannot_be_listed_are_failures(tmp_path):
    def explode(one):
        raise ZeroDivisionError("two\nlines")

    (one,) = sources(tmp_path / "in", "a.x")
    failures = [(Path("f"), "denied")]
    report = write_pictures(preparation(tmp_path / "in"), [one], explode, tmp_path / "out", failures=failures)
    assert report.failed == ["f: denied", f"{one.path}: ZeroDivisionError: two lines"]


def test_what_is_finished_is_listed_when_the_work_is_interrupted(tmp_path, write):
    def interrupted(items, _total, _title):
        yield next(iter(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write("a.x", "b.x", "c.x", progress=interrupted, workers=1)
    assert [row[0] for row in rows(tmp_path / "out")[1:]] == ["a/0.png", "a/1.png"]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_bytes_do_not_depend_on_the_workers(tmp_path, write, workers):
    write("a.x", "b.x", "c.x", "d.x", workers=workers)
    assert [row[2] for row in rows(tmp_path / "out")[1:]] == [*"aabbccdd"]


def test_a_dry_run_writes_nothing(tmp_path, write):
    report = write("a.x", "b.x", dry_run=True)
    assert report.planned == 2
    assert not (tmp_path / "out").exists()


def test_overwriting_removes_what_was_written_and_nothing_else(tmp_path, write):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").touch()
    with pytest.raises(OutputError, match="--overwrite"):
        write("a.x")
    write("a.x", "b.x", overwrite=True)
    write("a.x", overwrite=True)
    assert files(out) == sorted(["a/0.png", "a/1.png", "masks/a/0.png", "masks/a/1.png", "mine.txt", *TABLES])


def test_a_run_is_continued_where_inputs_failed_or_changed(tmp_path, write):
    assert write("a.x", "b.x", "none.x").done == 3
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    assert (write("a.x", "b.x", "none.x").kept, len(before)) == (3, 8)
    report = write("a.x", "b.x", "none.x", "c.x", "bad.x")
    assert (report.done, report.kept, report.images, len(report.failed)) == (1, 3, 7, 1)
    (tmp_path / "in/b.x").write_text("another content")
    (tmp_path / "out/a/1.png").unlink()
    report = write("a.x", "b.x", "none.x", "c.x")
    assert (report.done, report.kept, report.images) == (2, 2, 6)
    assert [row[0] for row in rows(tmp_path / "out")[1:]] == [f"{name}/{n}.png" for name in "abc" for n in (0, 1)]
    assert write("a.x", dry_run=True).planned == 0


def test_a_finished_run_of_other_settings_is_kept(tmp_path, write):
    write("a.x")
    with pytest.raises(OutputError, match="every 1 -> 2"):
        write("a.x", every=2)
    assert write("a.x").kept == 1


@pytest.mark.parametrize("left", ["failed", "nothing", "killed", "refused"])
def test_an_unfinished_run_does_not_stand_in_the_way_of_the_corrected_one(tmp_path, write, left):
    out = tmp_path / "out"
    if left == "failed":
        write("bad.x", "a.x")
    elif left == "nothing":
        assert write("none.x").images == 0
    elif left == "killed":
        write("b.x", "a.x")
        (out / "labels.csv").unlink()
    else:
        inputs = sources(tmp_path / "in", "a.x")
        with pytest.raises(InputError, match="no"):
            write_pictures(preparation(tmp_path / "in"), inputs, make, out, check=lambda: check_class("no/"))
    heard = []
    report = write("a.x", every=2, say=heard.append)
    assert (report.done, report.kept, report.images) == (1, 0, 2)
    assert [line.partition(" is written anew")[0] for line in heard] == [str(out)]
    assert files(out) == sorted(["a/0.png", "a/1.png", "masks/a/0.png", "masks/a/1.png", *TABLES])


def test_a_table_that_somebody_changed_is_not_written_anew(tmp_path, write):
    out = tmp_path / "out"
    write("a.x", "bad.x")
    table = (out / "labels.csv").read_text().replace("dog", "wolf")
    (out / "labels.csv").write_text(table)
    with pytest.raises(OutputError, match=r"labels\.csv was changed since"):
        write("a.x", "bad.x")
    with pytest.raises(OutputError, match="every 1 -> 2"):
        write("a.x", every=2)
    assert write("a.x").kept == 1  # there is nothing to add to it
    assert (out / "labels.csv").read_text() == table


def test_every_image_has_its_line_in_the_manifest(tmp_path, write):
    write("a.x", "bad.x", "none.x")
    lines = read_manifest(tmp_path / "out")
    assert [(line.name, line.status, line.files.get("image")) for line in lines] == [
        ("a", "ok", "a/0.png"),
        ("a", "ok", "a/1.png"),
        ("bad", "ok", "bad/0.png"),
        ("bad", "failed", None),
        ("none", "ok", None),
    ]
    assert (lines[1].input, lines[1].labels, lines[1].area, lines[1].source.group) == ("a.x", ("dog",), 6, "a")
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert (run["command"], run["settings"]) == ("prepare test", {"every": 1, "fps": None})
    assert "numpy" in run["versions"]


def test_overwriting_never_removes_what_camseg_did_not_write(tmp_path, write):
    out = tmp_path / "out"
    out.mkdir()
    (out / "labels.csv").write_text("image,label\nphoto.png,cat\n")
    (out / "photo.png").touch()
    with pytest.raises(OutputError, match="not written by camseg prepare"):
        write("a.x", overwrite=True)
    (out / "labels.csv").unlink()
    (tmp_path / "outside.png").touch()
    line = to_line(Record(input="a.x", name="a", files={"image": "a.png"}))
    (out / "manifest.jsonl").write_text(line.replace("a.png", "../outside.png"))
    write("a.x", overwrite=True)
    assert (tmp_path / "outside.png").exists()
    assert (out / "photo.png").exists()


def test_inputs_and_outputs_do_not_mix(tmp_path):
    inputs = sources(tmp_path / "in", "a.x", "b.x")
    for out, words in ((tmp_path, "lie in the output"), (tmp_path / "in/out", "lies in the folder of inputs")):
        with pytest.raises(InputError, match=words):
            write_pictures(preparation(tmp_path / "in"), inputs, make, out)


@pytest.mark.parametrize("names", [("a.x", "a.y"), ("A.x", "a.x"), ("masks.x",)])
def test_inputs_that_would_write_one_file_are_refused(tmp_path, names):
    if len({name.lower() for name in names}) < len(names) and len(set(names)) == len(names):
        inputs = [PreparationInput(path=tmp_path / name, name=Path(name).stem) for name in names]
    else:
        inputs = sources(tmp_path / "in", *names)
    with pytest.raises(InputError, match="rename"):
        write_pictures(preparation(tmp_path / "in"), inputs, make, tmp_path / "out")


def test_odd_names_come_back_from_the_table(tmp_path):
    names = [" lead", 'a,"b";c', "ümläut", "two\nlines", "1.2.840"]
    inputs = [PreparationInput(path=tmp_path / "in" / name, name=name) for name in names]
    write_pictures(preparation(tmp_path / "in"), inputs, make, tmp_path / "out")
    found = load_images(tmp_path / "out/labels.csv").samples
    assert sorted(sample.name for sample in found) == sorted(f"{name}/{n}" for name in names for n in (0, 1))
    assert all(sample.path.is_file() for sample in found)


def test_a_name_that_is_no_text_fails_alone(tmp_path):
    inputs = [PreparationInput(path=tmp_path / "a.x", name=name) for name in ("ok", "bad\udcff")]
    report = write_pictures(preparation(tmp_path / "in"), inputs[1:] + inputs[:1], make, tmp_path / "out")
    assert report.images == 2
    assert "no UTF-8" in report.failed[0]


def test_names_lose_the_longest_suffix_alone():
    root = Path("r")
    assert source_name(root / "p/a.b.nii.GZ", root, (".nii", ".nii.gz", ".gz")) == "p/a.b"
    assert source_name(root / "1.2.840", root, (".dcm",)) == "1.2.840"
    with pytest.raises(InputError, match="same name"):
        by_name([("a", Path("a.png")), ("a", Path("a.jpg"))])


@pytest.mark.parametrize("name", ["", " a", "..", "a/b", "a\\b", "a;b", "Masks"])
def test_class_names_that_cannot_be_folders_are_refused(name):
    with pytest.raises(InputError, match="class name"):
        check_class(name)
