import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from camseg.base.errors import ImageError, InputError, OutputError
from camseg.data.datasets import Dataset, Sample
from camseg.runs.loop import run_folder
from camseg.runs.manifest import MANIFEST, read_manifest
from camseg.runs.merge import merge_folders
from camseg.runs.run import RUN
from camseg.runs.settings import FolderOptions, Placement, parse_shard
from camseg.runs.shards import cut_portion
from camseg.runs.stage import Stage, new_item


class Together(Stage):
    """Stands for the network: an item's bytes tell in which company it was."""

    name = "together"
    place = "batch"

    def __init__(self, level=1):
        self.level = level

    def identity(self):
        return {"level": self.level}

    def __call__(self, batch):
        names = " ".join(item.sample.name for item in batch)
        return [replace(item, features=names) for item in batch]


class Writing(Stage):
    name = "writing"

    def __init__(self, folder, failing=()):
        self.folder, self.failing = Path(folder), failing

    def each(self, item):
        name = item.sample.name
        if name in self.failing:
            raise ImageError(f"in/{name}.png: the file is empty")
        path = self.folder / f"masks/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(item.features)
        return replace(item, record=replace(item.record, files={"mask": f"masks/{name}.png"}))


def names_of(count):
    return [f"{'ab'[n % 2]}/{n:03}" for n in range(count)]


def run(out, shard=None, names=None, *, root="in", level=1, failing=("a/008",), failures=(), **options):
    samples = tuple(Sample(path=Path(f"{root}/{name}.png"), name=name) for name in sorted(names or names_of(22)))
    data = Dataset(root=Path(root), samples=samples, classes=(), multi_label=False, failures=failures)
    return run_folder(
        "test",
        data,
        [new_item(sample) for sample in samples],
        [Together(level), Writing(out, failing)],
        out,
        settings={},
        batch_size=4,
        options=FolderOptions(workers=1, **options),
        placement=Placement(shard=shard),
    )


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != RUN)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("count", [1, 3, 9])
def test_shards_that_are_merged_are_what_one_call_makes(tmp_path, count):
    out, whole = tmp_path / "out", tmp_path / "whole"
    locked = [(Path("in/locked"), "Permission denied")]
    run(whole, failures=locked)
    reports = [run(out, f"{number}/{count}", failures=locked) for number in range(count, 0, -1)]
    assert sum(report.done for report in reports) == 21
    assert not (out / MANIFEST).exists()
    merged = merge_folders(out)
    assert [record.error for record in merged.failed] == [
        "in/a/008.png: the file is empty",
        "in/locked: Permission denied",
    ]
    assert (merged.inputs, merged.copied) == (23, 0)
    assert contents(out) == contents(whole)
    facts, expected = (json.loads((folder / RUN).read_text()) for folder in (out, whole))
    assert {**facts, "seconds": {}} == {**expected, "seconds": {}}


def test_batches_are_dealt_out_whole_evenly_and_by_their_paths_alone():
    names = names_of(1000)
    portions = [cut_portion(parse_shard(f"{number}/8"), names, 16) for number in range(1, 9)]
    assert sorted(name for portion in portions for name in portion.names) == sorted(names)
    assert {len(portion.facts["batches"]) for portion in portions} == {7, 8}
    starts = [names.index(portion.names[0]) // 16 for portion in portions]
    assert starts == [portion.facts["batches"][0] for portion in portions]
    assert portions[2].facts["batches"] == [0, 6, 7, 15, 26, 28, 36, 48]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "-1/2", "a/b", "1/2/3", ""])
def test_a_shard_is_one_of_so_many(text):
    with pytest.raises(InputError, match="expected a shard I/N"):
        parse_shard(text)
    assert str(parse_shard(" 4/4 ")) == "4/4"


class Stopped(BaseException):
    pass


def stopping(items, _total, _title):
    for number, item in enumerate(items):
        if number == 5:
            raise Stopped
        yield item


def test_a_killed_shard_goes_on_and_is_merged_only_when_it_is_done(tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    run(whole)
    run(out, "1/2")
    with pytest.raises(Stopped):
        run(out, "2/2", progress=stopping)
    with open(out / "manifest.2-of-2.jsonl", "a") as file:
        file.write('{"half a line')
    with pytest.raises(OutputError, match=r"1 of 2 shards are not finished, such as shard 2/2 in .*run it again"):
        merge_folders(out)
    # The line that was cut off may have been a second one of the input before it.
    assert run(out, "2/2", dry_run=True).kept == run(out, "2/2").kept == 4
    merge_folders(out)
    assert contents(out) == contents(whole)
    assert run(out, "2/2").kept + run(out, "1/2").kept == 21
    merge_folders(out)
    assert contents(out) == contents(whole)


def test_images_that_come_later_are_done_by_all_shards_again_and_nothing_twice(tmp_path):
    out = tmp_path / "out"
    for shard in ("1/2", "2/2"):
        run(out, shard, failing=())
    merge_folders(out)
    more = [*names_of(22), "a/0005", "c/1", "c/2"]
    run(out, "1/2", more, failing=())
    with pytest.raises(OutputError, match=r"1 of 2 shards are missing: 2/2"):
        merge_folders(out)
    run(out, "2/2", more, failing=())
    assert merge_folders(out).inputs == 25
    assert [record.name for record in read_manifest(out)] == sorted(more)
    assert run(out, None, more, failing=()).kept == 25
    fewer = more[2:]
    for shard in ("1/2", "2/2"):
        assert run(out, shard, fewer, failing=()).done == 0
    merge_folders(out)
    # What is gone stays listed behind the others, as its files are still there.
    assert [record.name for record in read_manifest(out)] == [*sorted(fewer), *more[:2]]


def test_what_is_not_one_run_is_not_merged(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="holds no shards"):
        merge_folders(out)
    assert not out.exists()
    run(out, "1/3")
    with pytest.raises(OutputError, match=r"level 1 -> 2"):
        run(out, "2/3", level=2)
    with pytest.raises(OutputError, match="2 of 3 shards are missing: 2/3, 3/3"):
        merge_folders(out)
    run(tmp_path / "other", "2/3", level=2)
    with pytest.raises(OutputError, match=r"shard 1/3 in .* differ in their settings: together.level"):
        merge_folders(out, [tmp_path / "other"])
    run(out, "2/2")
    with pytest.raises(OutputError, match=r"got shard 2/2 in .* and shard 1/3 in"):
        merge_folders(out)
    shutil.rmtree(out)
    run(out, "1/2")
    run(out, "2/2", names_of(23))
    with pytest.raises(OutputError, match=r"other lists of images \(22 and 23\)"):
        merge_folders(out)
    run(out, "1/2", names_of(23))
    records = read_manifest(out, name="manifest.1-of-2.jsonl")
    gone = out / next(record.files["mask"] for record in records if record.files)
    gone.unlink()
    with pytest.raises(OutputError, match=rf"{gone} is not there any more; run shard 1/2 in"):
        merge_folders(out)
    run(out, "1/2", names_of(23))
    shutil.copytree(out, tmp_path / "twice")
    with pytest.raises(OutputError, match="shard 1/2 is in two of the folders"):
        merge_folders(out, [tmp_path / "twice"])
    assert merge_folders(out).inputs == 23


def test_one_call_alone_leaves_shards_as_they_are(tmp_path):
    out = tmp_path / "out"
    run(out, "1/2")
    before = contents(out)
    with pytest.raises(OutputError, match=r"holds shards that are not merged yet; camseg merge"):
        run(out)
    with pytest.raises(OutputError, match="of which none may remove what others wrote"):
        run(out, "2/2", overwrite=True)
    assert contents(out) == before
    assert run(out, overwrite=True).done == 21
    assert not [*out.glob("*-of-*")]
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files"):
        run(tmp_path / "foreign", "1/2")


def test_a_shard_that_found_a_full_disk_may_lie_elsewhere(tmp_path):
    out, other, whole = tmp_path / "out", tmp_path / "other", tmp_path / "whole"
    run(whole)
    run(out, "1/2")
    run(other, "2/2")
    before = contents(other)
    assert merge_folders(out, [other]).copied == len([name for name in before if name.endswith(".png")])
    assert contents(out) == contents(whole)
    assert contents(other) == before


def test_outputs_of_parts_join_into_that_of_the_folder_around_them(tmp_path, monkeypatch):
    parts = tmp_path / "photos/one", tmp_path / "photos/two"
    for root in parts:
        root.mkdir(parents=True)
        run(tmp_path / f"out_{root.name}", names=["x/1", "2", "x/3"], root=str(root), failing=("2",))
    folders = [tmp_path / f"out_{root.name}" for root in parts]
    out = tmp_path / "joined"
    with pytest.raises(OutputError, match=r"holds the outputs of .*one alone; name a new folder first"):
        merge_folders(folders[0], folders[1:])
    from camseg.runs import merge

    def full(path):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(merge, "writing", full)
        with pytest.raises(OSError, match="No space"):
            merge_folders(out, folders)
    (folders[1] / "corrections.jsonl").touch()
    report = merge_folders(out, folders)
    assert (report.inputs, len(report.failed), report.copied) == (6, 2, 4)
    assert report.uncorrected == folders[1:]  # nobody should believe that they came along
    records = read_manifest(out)
    assert [record.input for record in records] == [
        f"{part}/{n}.png" for part in ("one", "two") for n in ("2", "x/1", "x/3")
    ]
    assert [record.files.get("mask") for record in records[:2]] == [None, "masks/one/x/1.png"]
    assert (out / "masks/two/x/3.png").read_bytes() == (folders[1] / "masks/x/3.png").read_bytes()
    facts = json.loads((out / RUN).read_text())
    assert facts["identity"]["inputs"] == str(tmp_path / "photos")
    assert "merging" not in facts
    run(tmp_path / "again", names=["x/1"], root=str(parts[0]))
    with pytest.raises(OutputError, match="same output"):
        merge_folders(tmp_path / "new", [folders[0], tmp_path / "again"])
    with pytest.raises(InputError, match="holds no output of camseg"):
        merge_folders(out, [tmp_path / "photos"])


def test_a_shard_that_was_stopped_while_it_did_inputs_again_is_not_merged(tmp_path):
    for n in (1, 2):
        run(tmp_path, parse_shard(f"{n}/2"), failing=())
    manifest = tmp_path / "manifest.1-of-2.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join([*lines, lines[0]]))
    with pytest.raises(OutputError, match=r"manifest\.1-of-2\.jsonl: its command was stopped .*run it again"):
        merge_folders(tmp_path)
    run(tmp_path, parse_shard("1/2"), failing=())
    merge_folders(tmp_path)
