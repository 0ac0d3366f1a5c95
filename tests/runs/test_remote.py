"""Images at addresses and outputs sent there: what is there in the end is what a local folder would hold."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from camseg.base import addresses
from camseg.base.addresses import changed_at, origin, parse_place
from camseg.base.errors import InputError, RemoteError
from camseg.data import remarks
from camseg.data.images import squeezed, write_image
from camseg.label.folder import label_folder
from camseg.label.settings import LabelSettings
from camseg.refinement.settings import RefineSettings
from camseg.runs import sending
from camseg.runs.manifest import MANIFEST, read_manifest
from camseg.runs.mirrors import mirror_images
from camseg.runs.record import from_line
from camseg.runs.run import RUN
from camseg.runs.sending import OutputMirror
from camseg.runs.settings import FolderOptions

fsspec = pytest.importorskip("fsspec")

QUICK = ("--scales", "1", "--no-flip", "--refiner", "none", "--propagation", "none", "--batch-size", "2")
NAMES = [f"{label}/{n}" for label in ("cat", "dog", "none") for n in "ab"]


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """The file system of memory://, empty, with a list of what was fetched from it."""
    files = fsspec.filesystem("memory")
    monkeypatch.setattr(sending.tempfile, "tempdir", str(tmp_path))
    kind = type(files)  # each thread has a file system of its own, with the same content
    monkeypatch.setattr(kind, "store", {})
    monkeypatch.setattr(kind, "pseudo_dirs", [""])
    get, files.fetched = kind.get_file, []

    def get_file(self, place, *arguments, **more):
        files.fetched.append(place)
        return get(self, place, *arguments, **more)

    monkeypatch.setattr(kind, "get_file", get_file)
    # Of six images it would look at each.
    monkeypatch.setattr(remarks, "squeezed", lambda paths: squeezed(paths[:1]))
    return files


@pytest.fixture
def images(tmp_path, make_images):
    for name, image in zip(NAMES, make_images(*[(40, 60), (64, 64)] * 3), strict=True):
        write_image(tmp_path / f"images/{name}.png", image)
    return tmp_path / "images"


@pytest.fixture
def there(memory, images):
    memory.put(str(images), "/images", recursive=True)
    return "memory://images"


@pytest.fixture
def label(call, tiny_classifier, tmp_path):
    """``camseg label IMAGES --out OUT``: exit code, result and stderr."""
    tiny_classifier.save(tmp_path / "run")

    def run(images, out, *more):
        code, said, err = call(
            *("label", images, "-c", tmp_path / "run", "--out", out, "--json", *QUICK),
            *("--cache", tmp_path / "cache", *more),
        )
        return code, json.loads(said) if said else None, err

    return run


def held(files, root):
    """What lies below a path of a file system, without the run file, which tells how long it took."""
    return {
        name.removeprefix(f"{root}/"): files.cat_file(name)
        for name in files.find(root)
        if not name.rpartition("/")[2].startswith("run")
    }


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != RUN
    }


def test_a_place_is_a_path_or_an_address():
    assert parse_place("photos/new") == Path("photos/new")
    assert parse_place("file:///photos/new") == parse_place("file://localhost/photos/new") == Path("/photos/new")
    assert parse_place(Path("s3:/photos")) == Path("s3:/photos")
    assert parse_place("s3://bucket/images/") == "s3://bucket/images"
    assert parse_place("memory://") == "memory://"
    with pytest.raises(InputError, match="three slashes"):
        parse_place("file://photos/new")


def test_addresses_give_what_local_folders_give(label, images, there, memory, tmp_path):
    code, done, _ = label(images, tmp_path / "out")
    expected = tree(tmp_path / "out")
    assert (code, done["done"], len(expected)) == (0, 6, 7)
    for source, out in ((there, "memory://out"), (images, "memory://from_here/out"), (there, tmp_path / "here")):
        code, done, err = label(source, out)
        assert (code, done["done"], done["out"]) == (0, 6, str(out)), err
        assert str(tmp_path / "cache") not in err
        remote = "://" in str(out)
        assert (held(memory, out.partition(":/")[2]) if remote else tree(out)) == expected
        run = memory.cat_file(f"{out}/{RUN}") if remote else (out / RUN).read_bytes()
        assert json.loads(run)["identity"]["inputs"] == str(source)
        assert label(source, out)[1]["kept"] == 6
    assert sum(name.startswith("/images") for name in memory.fetched) == 6  # each once, and kept


def test_file_addresses_are_paths(label, images, tmp_path):
    assert label(f"file://{images}", f"file://{tmp_path}/out")[1]["out"] == str(tmp_path / "out")
    assert label(images, tmp_path / "out")[1]["kept"] == 6


def test_a_dry_run_and_a_corrupt_image(label, there, memory):
    memory.pipe_file("/images/dog/c.png", b"rubbish")
    code, planned, err = label(there, "memory://out", "--dry-run")
    assert (code, planned["planned"], memory.exists("/out")) == (1, 6, False)
    assert "would fail: memory://images/dog/c.png: not an image" in err
    code, done, err = label(there, "memory://out")
    assert (code, done["done"]) == (1, 6)
    assert "listed in memory://out/manifest.jsonl" in err
    failed = [from_line(line) for line in memory.cat_file("/out/manifest.jsonl").splitlines()][4]
    assert failed.error == done["failed"][0]
    assert failed.error.startswith("memory://images/dog/c.png: not an image")
    memory.pipe_file("/images/dog/c.png", memory.cat_file("/images/dog/a.png"))
    assert label(there, "memory://out", "--dry-run")[1]["planned"] == 1
    assert label(there, "memory://out")[1]["done"] == 1


def test_a_continued_run_does_and_fetches_only_what_is_missing_or_changed(label, there, memory, tmp_path, make_images):
    label(there, "memory://out")
    before = held(memory, "/out")
    shutil.rmtree(tmp_path / "cache")
    memory.fetched.clear()
    assert label(there, "memory://out")[1]["kept"] == 6
    assert [name for name in memory.fetched if name.endswith("png")] == ["/images/cat/a.png"]  # is looked at
    memory.rm_file("/out/masks/none/b.png")
    write_image(tmp_path / "other.png", make_images((50, 50), seed=1)[0])
    memory.put_file(str(tmp_path / "other.png"), "/images/cat/a.png")
    code, done, err = label(there, "memory://out")
    assert (code, done["done"], done["kept"]) == (0, 2, 4)
    assert "1 inputs have changed and are done again, such as memory://images/cat/a.png" in err
    after = held(memory, "/out")
    assert {name for name in after if after[name] != before[name]} == {"masks/cat/a.png", MANIFEST}
    memory.rm_file("/images/cat/b.png")
    assert label(there, "memory://out")[1]["kept"] == 5


def test_more_kinds_of_files_are_added_and_overwriting_removes_all(label, there, memory):
    label(there, "memory://out")
    before = held(memory, "/out")
    assert label(there, "memory://out", "--save", "overlays")[1]["done"] == 6
    after = held(memory, "/out")
    assert {name for name in after if after[name] != before.get(name)} == {MANIFEST} | {
        f"overlays/{name}.png" for name in NAMES
    }
    code, _, err = label(there, "memory://out", "--threshold", "0.5")
    assert code == 2
    assert "memory://out was written with other settings (--threshold max:0.75 -> 0.5)" in err
    assert held(memory, "/out") == after
    assert label(there, "memory://out", "--threshold", "0.5", "--target", "all", "--overwrite")[1]["done"] == 6
    assert all(name == MANIFEST or name.count("/") == 3 for name in held(memory, "/out"))


def test_shards_fetch_their_own_images_and_merge_into_one_output(label, call, images, there, memory, tmp_path):
    label(images, tmp_path / "out")
    for number in (1, 2):
        memory.fetched.clear()
        assert label(there, "memory://out", "--shard", f"{number}/2", "--cache", tmp_path / f"cache{number}")[0] == 0
        own = memory.cat_file(f"/out/manifest.{number}-of-2.jsonl").splitlines()
        looked_at = {"/images/cat/a.png"}
        expected = {f"/images/{from_line(line).input}" for line in own} | looked_at
        assert {name for name in memory.fetched if name.endswith(".png")} == expected
        assert len(expected) < 6
    assert {"/out/run.1-of-2.json", "/out/manifest.2-of-2.jsonl"} < {*memory.find("/out")}
    assert label(there, "memory://out", "--shard", "1/2")[1]["done"] == 0
    code, out, err = call("merge", "memory://out", "--json")
    assert (code, json.loads(out)["inputs"]) == (0, 6), err
    assert held(memory, "/out") == tree(tmp_path / "out")
    assert not [name for name in memory.find("/out") if "-of-" in name]
    assert label(there, "memory://out")[1]["kept"] == 6


def test_maps_of_a_classifier_and_masks_of_a_segmenter(call, images, there, memory, make_segmenter, label, tmp_path):
    make_segmenter().save(tmp_path / "seg")
    for command, run, more in (
        ("cams", ("-c", tmp_path / "run"), ("--method", "gradcam", "--save", "overlays")),
        ("segment", ("-s", tmp_path / "seg"), ()),
    ):
        outs = tmp_path / command, f"memory://{command}"
        for source, out in zip((images, there), outs, strict=True):
            code, _, err = call(command, source, *run, *more, "--out", out, "--cache", tmp_path / "cache")
            assert code == 0, err
        assert held(memory, f"/{command}") == tree(outs[0])


def test_several_devices_fetch_and_send_too(label, images, there, memory, tmp_path):
    label(images, tmp_path / "out")
    assert label(there, "memory://out", "--devices", "cpu:2")[1]["done"] == 6
    assert held(memory, "/out") == tree(tmp_path / "out")


def test_tables_and_single_images(label, there, memory, tmp_path):
    memory.pipe_file("/images/some.csv", b"image,label\ncat/a.png,cat\nnone/b.png,none\ncat/z.png,cat\n")
    code, done, _ = label(f"{there}/some.csv", "memory://out")
    assert (code, done["done"]) == (1, 2)
    assert done["failed"] == ["memory://images/cat/z.png: no such file"]
    assert label(f"{there}/dog/a.png", "memory://one")[1]["done"] == 1
    assert {*held(memory, "/one")} == {"masks/a.png", MANIFEST}


def test_what_the_manifest_there_names_is_there_whenever_it_ends(there, memory, tiny_classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(sending, "_FIRST", 0.01)
    monkeypatch.setattr(sending, "_EVERY", 0.01)
    pipe, seen = type(memory).pipe_file, []

    def pipe_file(self, place, data, **more):
        if MANIFEST in place:
            files = [file for line in data.splitlines() for file in from_line(line).files.values()]
            assert all(memory.exists(f"/out/{file}") for file in files)
            assert memory.exists(f"/out/{RUN}")
            seen.append(len(files))
        pipe(self, place, data, **more)

    monkeypatch.setattr(type(memory), "pipe_file", pipe_file)
    quick = LabelSettings(refinement=RefineSettings(method="none"))

    def run(killed_after=None, *, sends_the_rest=True):
        """How many images were done; where nothing sends the rest, what was not sent by then is lost."""
        done = []

        def progress(records, total, title):
            for one in records:
                if len(done) == killed_after:
                    raise KeyboardInterrupt
                done.append(one)
                yield one

        mirror = OutputMirror("memory://out")
        with mirror if killed_after is None else pytest.raises(KeyboardInterrupt):
            if killed_after is not None:
                mirror.__enter__()
            options = FolderOptions(workers=1, progress=progress)
            data = mirror_images(there, cache=tmp_path / "cache")
            try:
                label_folder(data, tiny_classifier, mirror.folder, quick, batch_size=1, options=options)
            finally:
                if not sends_the_rest:  # as by kill -9
                    mirror._ended.set()
                    mirror._thread.join()
                elif killed_after is not None:
                    mirror.__exit__(None, None, None)
        return len(done)

    run(killed_after=2, sends_the_rest=False)
    told = len(memory.cat_file(f"/out/{MANIFEST}").splitlines()) if memory.exists(f"/out/{MANIFEST}") else 0
    run(killed_after=3 - told)
    assert len(memory.cat_file(f"/out/{MANIFEST}").splitlines()) == 3
    assert run() == 3
    assert len(memory.cat_file(f"/out/{MANIFEST}").splitlines()) == 6
    assert seen == sorted(seen)


def test_what_cannot_be_fetched_has_failed_and_is_done_the_next_time(label, there, memory, monkeypatch):
    get = type(memory).get_file

    def broken(self, place, *arguments, **more):
        if place.endswith("dog/b.png"):
            raise ConnectionError("the line is cut\nhere")
        return get(self, place, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "get_file", broken)
        code, done, _ = label(there, "memory://out")
    assert (code, done["done"]) == (1, 5)
    assert done["failed"] == ["memory://images/dog/b.png cannot be reached (ConnectionError: the line is cut here)"]
    assert label(there, "memory://out")[1]["done"] == 1


def test_what_cannot_be_sent_is_kept_here(label, there, memory, monkeypatch, tmp_path):
    pipe = type(memory).pipe_file

    def broken(self, place, data, **more):
        if place.endswith("dog/b.png"):
            raise ConnectionError("the line is cut")
        pipe(self, place, data, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "pipe_file", broken)
        code, _, err = label(there, "memory://out")
    assert code == 2
    kept = next(tmp_path.glob("camseg-*")) / "files"
    assert err.splitlines()[-1].startswith("camseg: memory://out/masks/dog/b.png cannot be reached")
    assert err.rstrip().endswith(f"what was not sent is kept in {kept}")
    assert "masks/dog/b.png" in tree(kept)
    assert len(read_manifest(kept)) == 6
    assert not memory.exists(f"/out/{MANIFEST}")


def test_refusals_in_one_line(label, there, memory, images, tmp_path, monkeypatch):
    def refused(source, out, *more):
        code, _, err = label(source, out, *more)
        assert code == 2
        assert "Traceback" not in err
        return err.splitlines()[-1]

    assert refused("memory://nowhere", tmp_path / "out") == "camseg: memory://nowhere does not exist"
    assert "fsspec knows no nope://" in refused("nope://images", tmp_path / "out")
    assert "three slashes" in refused("file://images", tmp_path / "out")
    assert "memory://images/out lies in the folder of inputs memory://images;" in refused(there, "memory://images/out")
    assert "memory://out is none; call camseg on each" in refused(images, "memory://out", "--engine", "ray")
    memory.pipe_file("/full/letter.txt", b"dear")
    assert "memory://full holds other files" in refused(there, "memory://full")
    assert memory.find("/full") == ["/full/letter.txt"]
    memory.store["/odd/../a.png"] = memory.store["/full/letter.txt"]  # as stores of objects may have it
    assert "memory://odd holds '../a.png', which can be the name of no file here" in refused("memory://odd", "o")
    memory.pipe_file("/clash/a/b.png", b"-")
    memory.store["/clash/a"] = memory.store["/clash/a/b.png"]
    assert "rename one" in refused("memory://clash", "o")

    class NoCredentialsError(Exception):
        pass

    def denied(*_, **__):
        raise NoCredentialsError("Unable to locate credentials\nanywhere")

    monkeypatch.setattr(type(memory), "info", denied)
    said = refused(there, tmp_path / "out")
    assert "(NoCredentialsError: Unable to locate credentials anywhere); are this machine's credentials" in said
    assert not Path("o").exists()


def test_packages_that_are_absent_are_named(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(addresses.importlib, "import_module", absent)
    for address, wanted in (("s3://bucket", "'camseg\\[remote\\]' s3fs"), ("memory://x", "'camseg\\[remote\\]'")):
        with pytest.raises(InputError, match=rf"{address} needs .*No module named 'fsspec'.*pip install {wanted}$"):
            mirror_images(address)


def test_a_mirror_tells_what_it_stands_for(there, memory, tmp_path):
    mirror = mirror_images(there, cache=tmp_path / "cache")
    image = mirror / "cat" / "a.png"
    assert (origin(mirror), origin(image)) == (there, f"{there}/cat/a.png")
    assert (image.stat().st_size, memory.fetched) == (0, [])
    assert changed_at(image) == pytest.approx(memory.info("/images/cat/a.png")["created"].timestamp(), abs=1e-3)
    assert origin(tmp_path / "images" / "cat" / "a.png") is None
    addresses.fetch(image)
    assert image.read_bytes() == memory.cat_file("/images/cat/a.png")
    memory.rm_file("/images/cat/b.png")
    memory.pipe_file("/images/cat/a.png", np.random.default_rng(0).bytes(10))
    mirror_images(there, cache=tmp_path / "cache")
    assert image.stat().st_size == 0
    assert not (mirror / "cat" / "b.png").exists()
    memory.rm("/images", recursive=True)
    with pytest.raises(RemoteError, match="does not exist"):
        mirror_images(there, cache=tmp_path / "cache")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_local_s3_server(label, images, tmp_path, monkeypatch, make_images):
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "us-east-1")
        for number, image in enumerate(make_images(*[(64, 64)] * 60)):
            write_image(images / f"dog/{number:02}.png", image)
        files = fsspec.filesystem("s3")
        files.mkdir("bucket")
        files.put(f"{images}/", "bucket/images/", recursive=True)
        code, done, err = label("s3://bucket/images", "s3://nowhere/out")
        assert (code, done) == (2, None)
        assert "Traceback" not in err
        assert "cannot write: s3://nowhere/out does not exist" in err
        assert "s3://bucket/nothing does not exist" in label("s3://bucket/nothing", tmp_path / "out")[2]
        label(images, tmp_path / "out")
        _killed(tmp_path, files, "s3://bucket/out")
        kept = (
            len(files.cat_file(f"bucket/out/{MANIFEST}").splitlines()) if files.exists(f"bucket/out/{MANIFEST}") else 0
        )
        for number in (1, 2):
            assert label("s3://bucket/images", "s3://bucket/shards", "--shard", f"{number}/2")[0] == 0
        code, done, err = label("s3://bucket/images", "s3://bucket/out")
        assert (code, done["kept"], done["done"]) == (0, kept, 66 - kept), err
        assert held(files, "bucket/out") == tree(tmp_path / "out")
    finally:
        server.stop()


def _killed(tmp_path, files, out):
    """``camseg label`` of the images, killed when something of it is there."""
    command = [sys.executable, "-m", "camseg", "label", "s3://bucket/images", "-c", tmp_path / "run", *QUICK]
    command += ["--cache", tmp_path / "cache", "--out", out, "--workers", "1"]
    run = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    while run.poll() is None and not files.exists(f"{out}/{RUN}"):
        files.invalidate_cache()
        time.sleep(0.05)
    time.sleep(0.3)
    run.kill()
    run.wait()
    files.invalidate_cache()
    if files.exists(f"{out}/{MANIFEST}"):
        lines = files.cat_file(f"{out}/{MANIFEST}").splitlines()
        assert all(files.exists(f"{out}/{file}") for line in lines for file in from_line(line).files.values())
