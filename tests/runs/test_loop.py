import gc
import json
import os
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from camseg.base.errors import CamsegError, ImageError, OutputError
from camseg.base.progress import silent
from camseg.data.datasets import Dataset, Sample
from camseg.runs.loop import run_folder
from camseg.runs.manifest import MANIFEST, read_manifest
from camseg.runs.record import from_line
from camseg.runs.run import RUN
from camseg.runs.settings import FolderOptions
from camseg.runs.stage import Stage, new_item


def samples(count):
    return tuple(Sample(path=Path(f"in/{n:03}.png"), name=f"{n:03}") for n in range(count))


class Load:
    """An item's pixels, which a weak reference can watch."""

    def __init__(self, name):
        self.name = name


class Reading(Stage):
    """Gives an item its pixels, by a function of its name."""

    name = "reading"

    def __init__(self, read):
        self.read = read

    def each(self, item):
        return replace(item, pixels=self.read(item.sample.name))


class Together(Stage):
    """Stands for the network: notes which items a batch holds, and which of them could not be read."""

    name = "together"
    place = "batch"

    def __init__(self, batches):
        self.batches = batches

    def __call__(self, batch):
        if self.batches is not None:
            self.batches.append([None if item.done else item.pixels.name for item in batch])
        names = " ".join(item.sample.name for item in batch)
        return [item if item.done else replace(item, features=names) for item in batch]


class Writing(Stage):
    """Writes files that say in which batch their item was."""

    name = "writing"

    def __init__(self, folder, write):
        self.folder, self.write = folder, write

    def each(self, item):
        name = item.sample.name
        if self.write is not None:
            self.write(name)
        (self.folder / f"{name}.txt").write_text(f"{item.pixels.name} of {item.features}")
        return replace(item, record=replace(item.record, files={"mask": f"{name}.txt"}))


def make_stages(folder, read=Load, batches=None, write=None):
    return [Reading(read), Together(batches), Writing(folder, write)]


def run(folder, stages, count=10, *, batch_size=4, failures=(), **options):
    data = Dataset(root=Path("in"), samples=samples(count), classes=(), multi_label=False, failures=tuple(failures))
    given = FolderOptions(**{"workers": 2, **options})
    items = [new_item(sample) for sample in data.samples]
    return run_folder("test", data, items, stages, folder, settings={}, batch_size=batch_size, options=given)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != RUN}


def fail_on(*names, error=ImageError):
    def step(name):
        if name in names:
            raise error(f"in/{name}.png: the file is empty" if error is ImageError else "out of  order\n")
        return Load(name)

    return step


@pytest.mark.parametrize("count", [0, 1, 4, 10])
@pytest.mark.parametrize("workers", [1, 4])
def test_every_item_goes_through_the_steps_in_batches_of_the_sorted_list(tmp_path, count, workers):
    batches = []
    report = run(tmp_path, make_stages(tmp_path, batches=batches), count, workers=workers)
    names = [f"{n:03}" for n in range(count)]
    assert batches == [names[start : start + 4] for start in range(0, count, 4)]
    assert (report.done, report.kept, report.failed) == (count, 0, [])
    assert [record.name for record in read_manifest(tmp_path)] == names
    assert all((tmp_path / f"{name}.txt").read_text().startswith(f"{name} of") for name in names)
    assert set(json.loads((tmp_path / RUN).read_text())["seconds"]) == {"read", "network", "write", "total"}


def test_failures_are_lines_and_the_rest_is_done_in_the_same_batches(tmp_path):
    heard, batches = [], []
    stages = make_stages(tmp_path, fail_on("002", "009"), batches, fail_on("005", error=RuntimeError))
    report = run(tmp_path, stages, say=heard.append)
    assert batches[0] == ["000", "001", None, "003"]
    assert report.done == 7
    expected = [
        "in/002.png: the file is empty",
        "in/005.png: RuntimeError: out of order",
        "in/009.png: the file is empty",
    ]
    assert [record.error for record in report.failed] == expected
    assert heard == [f"failed: {error}" for error in expected]
    manifest = {record.name: record for record in read_manifest(tmp_path)}
    assert len(manifest) == 10
    assert manifest["005"].failed
    assert (manifest["005"].input, manifest["005"].files) == ("005.png", {})
    assert manifest["005"].error == expected[1]
    assert (tmp_path / "003.txt").read_text() == "003 of 000 001 002 003"


def test_all_may_fail(tmp_path):
    report = run(tmp_path, make_stages(tmp_path, fail_on("000", "001", error=MemoryError)), count=2)
    assert (report.done, len(report.failed)) == (0, 2)


def test_failed_items_are_taken_up_again_and_finished_ones_kept(tmp_path):
    run(tmp_path, make_stages(tmp_path, fail_on("002", "009")))
    written, batches = [], []
    report = run(tmp_path, make_stages(tmp_path, batches=batches, write=written.append))
    assert (report.done, report.kept, report.failed) == (2, 8, [])
    assert sorted(written) == ["002", "009"]
    # The middle batch is finished, the others keep their company.
    assert batches == [["000", "001", "002", "003"], ["008", "009"]]
    straight = tmp_path / "straight"
    straight.mkdir()
    run(straight, make_stages(straight))
    assert contents(tmp_path) == contents(straight)


def test_a_missing_file_is_written_again(tmp_path):
    run(tmp_path, make_stages(tmp_path))
    before = contents(tmp_path)
    (tmp_path / "004.txt").unlink()
    written = []
    assert run(tmp_path, make_stages(tmp_path, write=written.append)).kept == 9
    assert written == ["004"]
    assert contents(tmp_path) == before


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("where", ["network", "progress"])
def test_an_interrupt_keeps_the_finished_work(tmp_path, where):
    def stop_at(threshold):
        def progress(items, _total, _title):
            for n, item in enumerate(items):
                if n == threshold:
                    raise Stopped
                yield item

        return progress

    stages = make_stages(tmp_path)
    if where == "network":

        class Stopping(Together):
            def __call__(self, batch):
                if batch[0].sample.name == "016":
                    raise Stopped
                return super().__call__(batch)

        stages[1] = Stopping(None)
    with pytest.raises(Stopped):
        run(tmp_path, stages, 20, progress=stop_at(5) if where == "progress" else silent)
    names = [record.name for record in read_manifest(tmp_path)]
    assert 4 <= len(names) < 20
    assert names == sorted(names)
    report = run(tmp_path, make_stages(tmp_path), 20)
    assert report.kept == len(names)
    assert report.done == 20 - len(names)
    straight = tmp_path / "straight"
    straight.mkdir()
    run(straight, make_stages(straight), 20)
    assert contents(tmp_path) == contents(straight)


def test_a_network_that_fails_ends_the_work_in_words(tmp_path):
    class Failing(Together):
        def __call__(self, batch):
            raise self.batches

    stages = make_stages(tmp_path)
    stages[1] = Failing(RuntimeError("out of memory\nwhile allocating"))
    with pytest.raises(CamsegError, match=r"batch of 4 images from in/000\.png on .*out of memory.*--batch-size"):
        run(tmp_path, stages)
    stages[1] = Failing(ImageError("in its own words"))
    with pytest.raises(ImageError, match=r"^in its own words$"):
        run(tmp_path, stages)


def test_folders_that_could_not_be_listed_are_failures_until_they_can(tmp_path):
    heard = []
    locked = [(Path("in/locked"), "Permission denied")]
    report = run(tmp_path, make_stages(tmp_path), 2, say=heard.append, failures=locked)
    assert (report.done, len(report.failed)) == (2, 1)
    assert heard == ["failed: in/locked: Permission denied"]
    assert [(one.name, one.status) for one in read_manifest(tmp_path)][-1] == ("in/locked", "failed")
    assert len(read_manifest(tmp_path)) == 3
    run(tmp_path, make_stages(tmp_path), 2)
    assert [one.name for one in read_manifest(tmp_path)] == ["000", "001"]


def test_fallbacks_are_counted(tmp_path):
    stages = make_stages(tmp_path)

    class FallingBack(Writing):
        def each(self, item):
            reason = {"000": "all known", "001": "all known", "002": "solver failed"}.get(item.sample.name)
            return super().each(replace(item, record=replace(item.record, fallback=reason)))

    stages[2] = FallingBack(tmp_path, None)
    assert run(tmp_path, stages, 5).fallbacks == {"all known": 2, "solver failed": 1}


@pytest.mark.parametrize("slow", ["read", "write"])
def test_memory_is_bounded_however_many_items_there_are(tmp_path, slow):
    """Two batches are read ahead and two wait to be written."""
    alive, most, lock = weakref.WeakSet(), 0, threading.Lock()

    def read(name):
        nonlocal most
        if slow == "read":
            time.sleep(0.001)
        load = Load(name)
        with lock:
            alive.add(load)
            most = max(most, len(alive))
        return load

    stages = make_stages(tmp_path, read, write=lambda _: time.sleep(0.002 if slow == "write" else 0))
    run(tmp_path, stages, 100)
    assert 4 < most <= 4 * 4
    gc.collect()
    assert not alive


def test_reading_ahead_and_writing_behind_overlap_with_the_network(tmp_path):
    """Each stage waits until another one has begun: a loop that takes them one after the other would hang."""
    reading_second, writing_first = threading.Event(), threading.Event()

    def read(name):
        if name == "004":
            reading_second.set()
        return Load(name)

    stages = make_stages(tmp_path, read, write=lambda _: writing_first.set())

    class Waiting(Together):
        def __call__(self, batch):
            name = batch[0].sample.name
            waited = {"000": reading_second, "004": writing_first}.get(name)
            assert waited is None or waited.wait(10), name
            return super().__call__(batch)

    stages[1] = Waiting(None)
    assert run(tmp_path, stages).done == 10


def test_overwrite_starts_again(tmp_path):
    run(tmp_path, make_stages(tmp_path))
    report = run(tmp_path, make_stages(tmp_path), 3, overwrite=True)
    assert (report.done, report.kept) == (3, 0)
    assert sorted(contents(tmp_path)) == ["000.txt", "001.txt", "002.txt", MANIFEST]


def test_a_long_manifest_is_no_burden(tmp_path, monkeypatch):
    """Resuming and finishing read each line a few times, however many there are."""
    count, read = 3000, 0

    def counting(line):
        nonlocal read
        read += 1
        return from_line(line)

    monkeypatch.setattr("camseg.runs.manifest.from_line", counting)
    stages = [Reading(Load), Together(None)]
    run(tmp_path, stages, count, batch_size=50)
    assert run(tmp_path, stages, count, batch_size=50).kept == count
    assert read <= 5 * count


def test_stages_of_another_identity_are_refused(tmp_path):
    class Known(Together):
        def __init__(self, level):
            super().__init__(None)
            self.level = level

        def identity(self):
            return {"level": self.level}

    stages = make_stages(tmp_path)
    stages[1] = Known(3)
    run(tmp_path, stages)
    stages[1] = Known(4)
    with pytest.raises(OutputError, match=r"together\.level 3 -> 4"):
        run(tmp_path, stages)
    assert json.loads((tmp_path / RUN).read_text())["identity"]["together.level"] == 3


def test_stages_are_set_up_once_for_the_device_and_only_for_work(tmp_path):
    heard = []

    class Ready(Together):
        def setup(self, device):
            heard.append(device)

    stages = make_stages(tmp_path)
    stages[1] = Ready(None)
    for _ in range(2):
        run(tmp_path, stages)
    assert heard == ["cpu"]


def test_inputs_that_hold_something_else_are_done_again_and_said(tmp_path):
    folder, heard, written = tmp_path / "in", [], []
    folder.mkdir()
    data = [Sample(path=folder / f"{n:03}.png", name=f"{n:03}") for n in range(6)]
    for sample in data:
        sample.path.write_text("P5 1 1 255\na")

    class Looking(Reading):
        def files(self, item):
            return (item.sample.path,)

    def go(**options):
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        stages = [Looking(Load), Together(None), Writing(out, written.append)]
        inputs = Dataset(root=folder, samples=tuple(data), classes=(), multi_label=False)
        items = [new_item(sample) for sample in data]
        given = FolderOptions(say=heard.append, **options)
        return run_folder("test", inputs, items, stages, out, settings={}, batch_size=4, options=given)

    assert (go().done, len(heard)) == (6, 0)
    data[1].path.write_text("P5 1 1 255\nb")
    os.utime(data[1].path, (1, 1))  # as a copy that keeps the time of the original
    data[4].path.write_text("P5 1 1 255\na")  # touched, and yet the same
    assert (go(dry_run=True).planned, go(dry_run=True).kept) == (1, 5)
    written.clear()
    report = go()
    assert (report.done, report.kept, written) == (1, 5, ["001"])
    assert heard == [f"1 inputs have changed and are done again, such as {data[1].path}"]
    assert go().kept == 6
