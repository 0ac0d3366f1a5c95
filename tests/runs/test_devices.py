import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from camseg.base import workers
from camseg.base.errors import CamsegError, InputError, WorkerError
from camseg.data.datasets import Dataset, Sample
from camseg.data.images import write_image
from camseg.label.folder import label_folder
from camseg.label.settings import LabelSettings
from camseg.refinement.settings import RefineSettings
from camseg.runs.executors.devices import find_places
from camseg.runs.loop import run_folder
from camseg.runs.manifest import read_manifest
from camseg.runs.run import RUN
from camseg.runs.settings import FolderOptions, Placement
from camseg.runs.stage import Stage, new_item


class Together(Stage):
    """Stands for the network: an item's bytes tell in which company it was; on the names in ``deadly`` it dies."""

    name = "together"
    place = "batch"

    def __init__(self, deadly=()):
        self.deadly, self.batches, self.heard = deadly, [], []

    def setup(self, device):
        self.heard.append(device)

    def hear(self, say):
        say("set up")

    def __call__(self, batch):
        names = [item.sample.name for item in batch]
        self.batches.append(names)
        if {*names} & {*self.deadly}:
            raise Dying
        return [replace(item, features=" ".join(names)) for item in batch]


class Writing(Stage):
    name = "writing"

    def __init__(self, folder):
        self.folder = folder

    def each(self, item):
        name = item.sample.name
        (self.folder / f"{name}.txt").write_text(item.features)
        return replace(item, record=replace(item.record, files={"mask": f"{name}.txt"}))


class Dying(BaseException):
    pass


@pytest.fixture
def processes(monkeypatch):
    """Stand-ins for processes, in threads: what raises ``Dying`` in one ends it, with all that it held."""

    class Here:
        def __init__(self, single):
            self.dead = False

        def call(self, function, arguments):
            try:
                assert not self.dead
                return True, function(*arguments)
            except Dying:
                self.dead = True
                raise WorkerError("the process ended early (exit code -9)") from None
            except Exception as error:
                return False, error

        def kill(self):
            pass

        end = kill

    monkeypatch.setattr(workers, "_Worker", Here)


def run(folder, devices, together=None, count=22, **options):
    folder.mkdir(exist_ok=True)
    samples = tuple(Sample(path=Path(f"in/{n:03}.png"), name=f"{n:03}") for n in range(count))
    data = Dataset(root=Path("in"), samples=samples, classes=(), multi_label=False)
    stages = [together or Together(), Writing(folder)]
    given = FolderOptions(workers=2, **options)
    items = [new_item(sample) for sample in samples]
    placement = Placement(devices=devices)
    return run_folder(
        "test", data, items, stages, folder, settings={}, batch_size=4, options=given, placement=placement
    )


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != RUN)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("devices", ["cpu:1", "cpu:3", "cpu:9"])
def test_any_number_of_devices_does_the_same(tmp_path, processes, devices):
    together, heard = Together(), []
    run(tmp_path / "one", None)
    report = run(tmp_path / "many", devices, together, say=heard.append)
    assert (report.done, report.failed) == (22, [])
    assert report.seconds["network"] > 0
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert sorted(together.batches) == [
        [f"{n:03}" for n in range(start, min(start + 4, 22))] for start in range(0, 22, 4)
    ]
    assert together.heard == ["cpu"] * int(devices[4:])
    assert "set up" in heard
    assert run(tmp_path / "many", devices, together).kept == 22


def test_a_batch_whose_process_dies_is_tried_three_times_and_fails_alone(tmp_path, processes):
    together, heard = Together(deadly=("009",)), []
    report = run(tmp_path / "many", "cpu:2", together, say=heard.append)
    assert (report.done, [record.name for record in report.failed]) == (18, ["008", "009", "010", "011"])
    assert all("in/0" in record.error and "exit code -9" in record.error for record in report.failed)
    assert together.batches.count(["008", "009", "010", "011"]) == 3
    assert sum("is started again" in line for line in heard) == 3
    run(tmp_path / "one", None)
    assert run(tmp_path / "many", "cpu:2").done == 4
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_an_error_of_the_network_ends_all_in_words(tmp_path, processes):
    class Failing(Together):
        def __call__(self, batch):
            if batch[0].sample.name == "008":
                raise RuntimeError("out of order")
            return super().__call__(batch)

    with pytest.raises(CamsegError, match=r"batch of 4 images from in/008\.png on .*out of order"):
        run(tmp_path / "many", "cpu:2", Failing())


@pytest.mark.parametrize("deaths", [2, 3])
def test_a_process_that_dies_while_it_is_set_up_is_tried_three_times(tmp_path, processes, deaths):
    tries, heard = [], []

    class Unready(Together):
        def setup(self, device):
            tries.append(device)
            if len(tries) <= deaths:
                raise Dying

    if deaths == 3:
        with pytest.raises(WorkerError, match="exit code -9"):
            run(tmp_path / "out", "cpu:1", Unready())
    else:
        assert run(tmp_path / "out", "cpu:1", Unready(), say=heard.append).done == 22
        assert sum("is started again" in line for line in heard) == 2
    assert len(tries) == 3


class Stopped(BaseException):
    pass


def test_an_interrupt_ends_all_and_keeps_what_is_done(tmp_path, processes):
    def stopping(items, _total, _title):
        for number, item in enumerate(items):
            if number == 6:
                raise Stopped
            yield item

    with pytest.raises(Stopped):
        run(tmp_path / "many", "cpu:2", progress=stopping)
    assert len(read_manifest(tmp_path / "many")) == 6
    assert run(tmp_path / "many", "cpu:3").kept == 6
    run(tmp_path / "one", None)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_devices_are_of_one_kind_and_there(monkeypatch):
    assert find_places("cpu:2, cpu") == ["cpu"] * 3
    with pytest.raises(InputError, match="cuda:7 cannot be used here"):
        find_places("cuda:7")
    monkeypatch.setattr("camseg.base.device.find_devices", lambda text: text.split(","))
    with pytest.raises(InputError, match="expected devices of one kind, such as cuda:0,cuda:1; got cpu,cuda:0"):
        find_places("cpu,cuda:0")


@pytest.mark.processes
@pytest.mark.slow
def test_real_processes_write_the_bytes_of_one_also_when_one_is_killed(
    tmp_path, make_images, tiny_classifier, monkeypatch
):
    for n, image in enumerate(make_images(*[(40, 60)] * 24)):
        write_image(tmp_path / f"images/{n:02}.png", image)
    (tmp_path / "images/05.png").write_text("rubbish")
    settings = LabelSettings(refinement=RefineSettings(method="grabcut"))

    def label(out, devices=None, **options):
        options = FolderOptions(workers=2, **options)
        return label_folder(
            tmp_path / "images",
            tiny_classifier,
            tmp_path / out,
            settings,
            batch_size=4,
            options=options,
            placement=Placement(devices=devices),
        )

    assert label("one").done == 23
    started = []

    class Watched(workers._Worker):
        def __init__(self, single):
            super().__init__(single)
            started.append((single, self.process.pid))

    monkeypatch.setattr(workers, "_Worker", Watched)
    assert label("two", "cpu:2").done == 23
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    shutil.rmtree(tmp_path / "two")
    started.clear()

    def killing(items, _total, _title):
        for number, item in enumerate(items):
            if number == 2:
                os.kill(started[0][1], signal.SIGKILL)
            yield item

    heard = []
    assert label("two", "cpu:2", progress=killing, say=heard.append).done == 23
    assert [single for single, _ in started] == [False] * 3
    assert "exit code -9" in next(line for line in heard if "is started again" in line)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
