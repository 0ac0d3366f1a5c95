import gc
import json
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from camseg.base.errors import CamsegError, ImageError
from camseg.base.progress import silent, unheard
from camseg.data.datasets import Sample
from camseg.runs.loop import Steps, process_folder
from camseg.runs.output import MANIFEST, RUN, Output, Run, read_manifest

RUN_A = Run(command="test", settings={"a": 1})


def samples(count):
    return [Sample(path=Path(f"in/{n:03}.png"), name=f"{n:03}") for n in range(count)]


class Load:
    """An item's pixels, which a weak reference can watch."""

    def __init__(self, name):
        self.name = name


def make_steps(folder, read=Load, batches=None, write=None):
    """Files that say in which batch their item was."""

    def infer(batch, loaded):
        if batches is not None:
            batches.append([None if one is None else one.name for one in loaded])
        return [" ".join(sample.name for sample in batch)] * len(batch)

    def write_file(sample, loaded, inferred):
        if write is not None:
            write(sample.name)
        (folder / f"{sample.name}.txt").write_text(f"{loaded.name} of {inferred}")
        file = {"mask": f"{sample.name}.txt"}
        return [{"input": sample.input, "name": sample.name, "class": None, "files": file, "status": "ok"}]

    return Steps(read=lambda sample: read(sample.name), infer=infer, write=write_file)


def run(folder, steps, count=10, *, say=unheard, progress=silent, workers=2, overwrite=False, **more):
    output = Output(folder, RUN_A, overwrite=overwrite)
    return process_folder(
        samples(count),
        steps,
        output,
        **{"batch_size": 4, "workers": workers, "title": "test", "progress": progress, "say": say, **more},
    )


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
    report = run(tmp_path, make_steps(tmp_path, batches=batches), count, workers=workers)
    names = [f"{n:03}" for n in range(count)]
    assert batches == [names[start : start + 4] for start in range(0, count, 4)]
    assert (report.done, report.kept, report.failed) == (count, 0, [])
    assert [record["name"] for record in read_manifest(tmp_path)] == names
    assert all((tmp_path / f"{name}.txt").read_text().startswith(f"{name} of") for name in names)
    assert set(json.loads((tmp_path / RUN).read_text())["seconds"]) == {"read", "network", "write", "total"}


def test_failures_are_lines_and_the_rest_is_done_in_the_same_batches(tmp_path):
    heard, batches = [], []
    steps = make_steps(tmp_path, fail_on("002", "009"), batches, fail_on("005", error=RuntimeError))
    report = run(tmp_path, steps, say=heard.append)
    assert batches[0] == ["000", "001", None, "003"]
    assert report.done == 7
    expected = [
        "in/002.png: the file is empty",
        "in/005.png: RuntimeError: out of order",
        "in/009.png: the file is empty",
    ]
    assert [record["error"] for record in report.failed] == expected
    assert heard == [f"failed: {error}" for error in expected]
    manifest = {record["name"]: record for record in read_manifest(tmp_path)}
    assert len(manifest) == 10
    assert manifest["005"] == {
        "input": "005.png",
        "name": "005",
        "class": None,
        "files": {},
        "status": "failed",
        "error": expected[1],
    }
    assert (tmp_path / "003.txt").read_text() == "003 of 000 001 002 003"


def test_all_may_fail(tmp_path):
    report = run(tmp_path, make_steps(tmp_path, fail_on("000", "001", error=MemoryError)), count=2)
    assert (report.done, len(report.failed)) == (0, 2)


def test_failed_items_are_taken_up_again_and_finished_ones_kept(tmp_path):
    run(tmp_path, make_steps(tmp_path, fail_on("002", "009")))
    written, batches = [], []
    report = run(tmp_path, make_steps(tmp_path, batches=batches, write=written.append))
    assert (report.done, report.kept, report.failed) == (2, 8, [])
    assert sorted(written) == ["002", "009"]
    # The middle batch is finished, the others keep their company.
    assert batches == [["000", "001", "002", "003"], ["008", "009"]]
    straight = tmp_path / "straight"
    straight.mkdir()
    run(straight, make_steps(straight))
    assert contents(tmp_path) == contents(straight)


def test_a_missing_file_is_written_again(tmp_path):
    run(tmp_path, make_steps(tmp_path))
    before = contents(tmp_path)
    (tmp_path / "004.txt").unlink()
    written = []
    assert run(tmp_path, make_steps(tmp_path, write=written.append)).kept == 9
    assert written == ["004"]
    assert contents(tmp_path) == before


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("where", ["infer", "progress"])
def test_an_interrupt_keeps_the_finished_work(tmp_path, where):
    def stop_at(threshold):
        def progress(items, _total, _title):
            for n, item in enumerate(items):
                if n == threshold:
                    raise Stopped
                yield item

        return progress

    steps = make_steps(tmp_path)
    if where == "infer":
        whole = steps.infer

        def infer(batch, loaded):
            if batch[0].name == "016":
                raise Stopped
            return whole(batch, loaded)

        steps = replace(steps, infer=infer)
    with pytest.raises(Stopped):
        run(tmp_path, steps, 20, progress=stop_at(5) if where == "progress" else silent)
    names = [record["name"] for record in read_manifest(tmp_path)]
    assert 4 <= len(names) < 20
    assert names == sorted(names)
    report = run(tmp_path, make_steps(tmp_path), 20)
    assert report.kept == len(names)
    assert report.done == 20 - len(names)
    straight = tmp_path / "straight"
    straight.mkdir()
    run(straight, make_steps(straight), 20)
    assert contents(tmp_path) == contents(straight)


def test_a_network_that_fails_ends_the_work_in_words(tmp_path):
    def infer(batch, _):
        raise RuntimeError("out of memory\nwhile allocating")

    with pytest.raises(CamsegError, match=r"batch of 4 images from in/000\.png on .*out of memory.*--batch-size"):
        run(tmp_path, replace(make_steps(tmp_path), infer=infer))

    def refuse(batch, _):
        raise ImageError("in its own words")

    with pytest.raises(ImageError, match=r"^in its own words$"):
        run(tmp_path, replace(make_steps(tmp_path), infer=refuse))


def test_folders_that_could_not_be_listed_are_failures_until_they_can(tmp_path):
    heard = []
    locked = [(Path("in/locked"), "Permission denied")]
    report = run(tmp_path, make_steps(tmp_path), 2, say=heard.append, failures=locked)
    assert (report.done, len(report.failed)) == (2, 1)
    assert heard == ["failed: in/locked: Permission denied"]
    assert [(one["name"], one["status"]) for one in read_manifest(tmp_path)][-1] == ("in/locked", "failed")
    assert len(read_manifest(tmp_path)) == 3
    run(tmp_path, make_steps(tmp_path), 2)
    assert [one["name"] for one in read_manifest(tmp_path)] == ["000", "001"]


def test_fallbacks_are_counted(tmp_path):
    steps = make_steps(tmp_path)
    whole = steps.write

    def write(sample, loaded, inferred):
        reason = {"000": "all known", "001": "all known", "002": "solver failed"}.get(sample.name)
        return [record | {"fallback": reason} for record in whole(sample, loaded, inferred)]

    assert run(tmp_path, replace(steps, write=write), 5).fallbacks == {"all known": 2, "solver failed": 1}


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

    steps = make_steps(tmp_path, read, write=lambda _: time.sleep(0.002 if slow == "write" else 0))
    run(tmp_path, steps, 100)
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

    steps = make_steps(tmp_path, read, write=lambda _: writing_first.set())
    whole = steps.infer

    def infer(batch, loaded):
        waited = {"000": reading_second, "004": writing_first}.get(batch[0].name)
        assert waited is None or waited.wait(10), batch[0].name
        return whole(batch, loaded)

    assert run(tmp_path, replace(steps, infer=infer)).done == 10


def test_overwrite_starts_again(tmp_path):
    run(tmp_path, make_steps(tmp_path))
    report = run(tmp_path, make_steps(tmp_path), 3, overwrite=True)
    assert (report.done, report.kept) == (3, 0)
    assert sorted(contents(tmp_path)) == ["000.txt", "001.txt", "002.txt", MANIFEST]


def test_a_long_manifest_is_no_burden(tmp_path):
    """Resuming and finishing take time in proportion to the inputs, not to its square."""
    count = 12_000
    steps = replace(
        make_steps(tmp_path),
        write=lambda sample, *_: [
            {"input": sample.input, "name": sample.name, "class": None, "files": {}, "status": "ok"}
        ],
    )
    started = time.perf_counter()
    run(tmp_path, steps, count, batch_size=50)
    assert run(tmp_path, steps, count, batch_size=50).kept == count
    assert time.perf_counter() - started < 8  # about 1 s; 144 million comparisons would not fit
