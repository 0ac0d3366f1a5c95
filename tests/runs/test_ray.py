"""What is ours around Ray, with a stand-in for it that does the same here; Ray itself in a slow test, where it is."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from camseg.base.errors import CamsegError, InputError, OutputError
from camseg.data.datasets import Dataset, Sample
from camseg.data.images import write_image
from camseg.runs.executors import ray as executor
from camseg.runs.loop import run_folder
from camseg.runs.manifest import read_manifest
from camseg.runs.run import RUN
from camseg.runs.settings import FolderOptions, Placement
from camseg.runs.stage import Stage, new_item

NODE = {"Alive": True, "Resources": {"CPU": 4.0}}


class Dying(BaseException):
    pass


class Together(Stage):
    """Stands for the network; on the names in ``bad`` it raises ``error``."""

    name = "together"
    place = "batch"

    def __init__(self, bad=(), error=Dying):
        self.bad, self.error = bad, error

    def hear(self, say):
        say("set up")

    def __call__(self, batch):
        names = [item.sample.name for item in batch]
        if {*names} & {*self.bad}:
            raise self.error("out of order")
        return [replace(item, features=" ".join(names)) for item in batch]


class Writing(Stage):
    name = "writing"

    def __init__(self, folder):
        self.folder = folder

    def each(self, item):
        (self.folder / f"{item.name}.txt").write_text(item.features)
        return replace(item, record=replace(item.record, files={"mask": f"{item.name}.txt"}))


class Here:
    """Stands for ``ray`` and ``ray.data``: a task whose actor dies is begun again, without end, as Ray does it."""

    __version__ = "2.99"

    def __init__(self):
        self.tasks, self.sizes, self.told, self.initialized = [], [], Counter(), False
        self.DataContext = SimpleNamespace(get_current=SimpleNamespace)
        self.ActorPoolStrategy = lambda min_size, max_size: (min_size, max_size)

    def is_initialized(self):
        return self.initialized

    def init(self, **_):
        self.initialized = True

    def shutdown(self):
        self.initialized = False

    def nodes(self):
        return [NODE]

    def put(self, value):
        return value

    get = put

    def remote(self, kind):
        def make():
            made = kind()
            return SimpleNamespace(add=SimpleNamespace(remote=made.add))

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=make))

    def from_items(self, rows, override_num_blocks):
        self.rows = np.array_split(np.array(rows, object), override_num_blocks)
        return self

    def map_batches(self, actor, *, fn_constructor_args, batch_size, compute, **_):
        self.actor, self.arguments = actor, fn_constructor_args
        self.sizes.append((batch_size, compute))
        return self

    def iter_rows(self):
        actor = self.actor(*self.arguments)
        for rows in self.rows:
            columns = {name: np.array([row[name] for row in rows], object) for name in ("number", "job")}
            self.tasks.append([*columns["number"]])
            while True:
                try:
                    answers = actor(columns)
                    break
                except Dying:
                    actor = self.actor(*self.arguments)
            for number, answer in zip(answers["number"], answers["answer"], strict=True):
                yield {"number": number, "answer": answer}


@pytest.fixture
def here(monkeypatch):
    """The stand-in; stages are handed on as they are, for a test's own cannot be imported elsewhere."""
    stand_in = Here()
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    monkeypatch.setitem(sys.modules, "ray.data", stand_in)
    monkeypatch.setattr(executor, "threads", lambda: 1)
    monkeypatch.setattr(executor, "pickle", SimpleNamespace(dumps=lambda value: value, loads=lambda value: value))
    return stand_in


def run(folder, together=None, *, count=22, batch_size=2, engine="ray", **options):
    folder.mkdir(exist_ok=True)
    samples = tuple(Sample(path=Path(f"in/{n:03}.png"), name=f"{n:03}") for n in range(count))
    data = Dataset(root=Path("in"), samples=samples, classes=(), multi_label=False)
    return run_folder(
        "test",
        data,
        [new_item(sample) for sample in samples],
        [together or Together(), Writing(folder)],
        folder,
        settings={},
        batch_size=batch_size,
        options=FolderOptions(workers=2, **options),
        placement=Placement(engine=engine),
    )


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != RUN)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_cluster_does_the_same_and_every_actor_has_tasks(tmp_path, here):
    heard = []
    run(tmp_path / "one", engine="local")
    report = run(tmp_path / "ray", say=heard.append)
    assert (report.done, report.failed) == (22, [])
    assert report.seconds["network"] > 0
    assert "set up" in heard
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")
    assert [len(task) for task in here.tasks] == [1] * 11
    assert not here.initialized  # what was connected for this is left again
    here.tasks.clear()
    here.initialized = True
    run(tmp_path / "long", count=600)
    assert {len(task) for task in here.tasks} == {7, 8}
    assert here.initialized
    assert run(tmp_path / "long", count=600).kept == 600


def test_batches_that_are_lost_are_done_again_alone_and_fail_at_last(tmp_path, here, monkeypatch):
    monkeypatch.setattr(here, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}])
    heard = []
    report = run(tmp_path / "ray", Together(bad=("009",)), say=heard.append)
    assert [record.name for record in report.failed] == ["008", "009"]
    assert "ended early, three times" in report.failed[0].error
    assert report.done == 20
    assert "3 batches were lost with a process or a machine, and are done again" in heard
    assert here.tasks[4:] == [[3], [4], [5]]
    assert run(tmp_path / "ray").done == 2
    run(tmp_path / "one", engine="local")
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")


def test_errors_on_the_machines_are_raised_here_in_words(tmp_path, here, monkeypatch):
    with pytest.raises(CamsegError, match=r"batch of 2 images from in/008\.png on .*out of order"):
        run(tmp_path / "ray", Together(bad=("009",), error=RuntimeError))
    assert len(read_manifest(tmp_path / "ray")) < 22
    monkeypatch.setattr(executor, "_WAIT", 0.0)
    there = {"versions": {**executor.versions(), "torch": "1.0+cpu"}}
    monkeypatch.setattr(executor, "versions", lambda: dict(there["versions"]))
    seen = executor._Surroundings(folder=os.getcwd(), files={}, versions={**executor.versions(), "torch": "1.0"})
    seen = replace(seen, versions=executor._comparable(seen.versions))
    seen.check()  # what was built otherwise is no other version
    there["versions"]["torch"] = "1.1"
    with pytest.raises(InputError, match=r"has other versions than this one \(torch 1\.1, not 1\.0\)"):
        seen.check()
    (tmp_path / "run.json").write_text("{}")
    shared = replace(seen, versions={}, files={tmp_path / "run.json": executor.sha256(tmp_path / "run.json")})
    shared.check()
    (tmp_path / "run.json").write_text("another folder's")
    with pytest.raises(OutputError, match=r"does not see .*run\.json; .* on a file system that all machines share"):
        shared.check()


def test_a_cluster_is_shared_out_by_its_gpus_or_by_the_threads_of_this_process():
    small, large = {"CPU": 4.0}, {"CPU": 32.0, "GPU": 4.0}
    share_out = executor._share_out
    assert share_out([small, large], None, 2) == executor.Cluster(device="cuda", actors=4, cores=8)
    assert share_out([small, large], "cpu", 8) == executor.Cluster(device="cpu", actors=4, cores=8)
    assert share_out([small], None, 8) == executor.Cluster(device="cpu", actors=1, cores=4)
    assert share_out([{"GPU": 2.0}], "cuda", 1) == executor.Cluster(device="cuda", actors=2, cores=1)
    with pytest.raises(InputError, match="the cluster has no GPU; --devices cpu"):
        share_out([small], "cuda", 1)


def test_what_cannot_be_asked_of_ray_is_said(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="add --engine ray"):
        Placement(ray_address="host:6379")
    with pytest.raises(InputError, match="expected --devices cpu or cuda; got cuda:0,cuda:1"):
        Placement(engine="ray", devices="cuda:0,cuda:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--engine ray needs ray .*pip install 'camseg\[ray\]'"):
        run(tmp_path / "ray")
    monkeypatch.setitem(sys.modules, "ray", Here())
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(InputError, match=r"no Ray answers at 127\.0\.0\.1:9"):
        run(tmp_path / "ray")
    assert contents(tmp_path / "ray") == {}


REAL = """
import os, signal, sys, threading
from pathlib import Path
import ray, torch
import camseg
from camseg.runs.executors import ray as executor

folder, word = Path(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
classifier = camseg.load_classifier(folder / "run", device="cpu")
settings = camseg.LabelSettings(refinement=camseg.RefineSettings(method="none"))

def kill(items, total, title):
    for number, item in enumerate(items):
        if number == 4:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                if b"MapBatches(_Actor)" in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    break
        yield item

def label(out, engine, progress=camseg.FolderOptions().progress):
    options = camseg.FolderOptions(workers=2, progress=progress)
    return camseg.label_folder(
        folder / "images", classifier, folder / out, settings, batch_size=4, options=options,
        placement=camseg.Placement(engine=engine),
    )

if word == "versions":
    versions = executor.versions
    executor.versions = lambda: {**versions(), "torch": "0.1"}
if word == "one":
    label("one", "local")
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
try:
    report = label("ray", "ray", kill if word == "kill" else camseg.FolderOptions().progress)
    said = f"{report.done} {len(report.failed)}"
except camseg.CamsegError as error:
    said = f"{type(error).__name__} {error}"
(folder / "said").write_text(said)
"""


@pytest.mark.slow
def test_ray_itself_writes_the_bytes_of_one_process_also_when_an_actor_is_killed(
    tmp_path, make_images, tiny_classifier
):
    pytest.importorskip("ray.data", exc_type=ImportError)
    tiny_classifier.save(tmp_path / "run")
    for n, image in enumerate(make_images(*[(40, 60)] * 40)):
        write_image(tmp_path / f"images/{n:02}.png", image)
    (tmp_path / "images/05.png").write_text("rubbish")
    (tmp_path / "script.py").write_text(REAL)

    def script(word):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path), word]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "" or word == "kill"  # of a cluster that was there before, Ray tells on its own
        return (tmp_path / "said").read_text()

    assert script("one") == "39 1"
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")
    (tmp_path / "ray").rename(tmp_path / "before")
    assert script("versions").startswith("InputError the machine ")
    assert not read_manifest(tmp_path / "ray")
    assert script("kill") == "39 1"
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")
