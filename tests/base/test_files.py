import errno
import json
import os
import sys

import pytest

from camseg.base.errors import CheckpointError, InputError, OutputError
from camseg.base.files import check_can_write, find_files, read_json, write_bytes, write_json, write_text, writing


def test_round_trips_make_their_folders(tmp_path):
    write_bytes(tmp_path / "a/b/c", b"\0\1")
    assert (tmp_path / "a/b/c").read_bytes() == b"\0\1"
    value = {"name": "Häschen 🐇", "list": [1, 2.5, None, True]}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json", OutputError) == value
    assert "Häschen 🐇" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_names_that_are_no_utf8_survive(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")  # as Latin-1 file names come from Linux
    write_json(tmp_path / "x.json", {name: 1})
    assert read_json(tmp_path / "x.json", OutputError) == {name: 1}
    json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    write_text(tmp_path / "x.txt", name)
    assert (tmp_path / "x.txt").read_bytes() == b"caf\\udce9.png"


def test_numbers_that_json_lacks_are_refused_before_writing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", float("nan"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_no_temporary_file(tmp_path, monkeypatch, problem):
    write_text(tmp_path / "x", "old")

    def interrupt(*_):
        raise problem

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(problem):
        write_text(tmp_path / "x", "new")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("x", "old")]


def test_a_file_filled_bit_by_bit_appears_when_it_is_whole(tmp_path):
    with writing(tmp_path / "a/b.txt") as file:
        file.write(b"one ")
        file.write(b"two")
        assert not (tmp_path / "a/b.txt").exists()
    assert (tmp_path / "a/b.txt").read_bytes() == b"one two"

    def fail():
        with writing(tmp_path / "a/b.txt") as file:
            file.write(b"three")
            (tmp_path / "elsewhere").read_bytes()

    with pytest.raises(FileNotFoundError, match="elsewhere"):  # an error of another file keeps its name
        fail()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]
    assert (tmp_path / "a/b.txt").read_bytes() == b"one two"


def test_reading_reports_the_caller_s_kind_of_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"missing\.json: cannot be read \(No such file"):
        read_json(tmp_path / "missing.json", CheckpointError)
    for content in (b"", b"{", b"\xff\xfe\xfa"):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(OutputError, match=r"x\.json: not valid JSON"):
            read_json(tmp_path / "x.json", OutputError)


def test_find_files_passes_over_what_is_hidden_and_never_walks_in_circles(tmp_path):
    for name in ("b/2.v", "a.v", "a.txt", ".hidden/3.v", "b/.4.v"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b/loop").symlink_to(tmp_path)
    found = find_files(tmp_path, lambda path: path.suffix == ".v", "V files")
    assert [path.relative_to(tmp_path).as_posix() for path in found.files] == ["a.v", "b/2.v"]
    assert find_files(tmp_path / "a.txt", lambda path: False, "V files").files == (tmp_path / "a.txt",)
    with pytest.raises(InputError, match="W files"):
        find_files(tmp_path, lambda path: False, "W files")
    with pytest.raises(InputError, match="does not exist"):
        find_files(tmp_path / "missing", lambda path: True, "W files")


def test_linked_folders_are_entered_by_every_way_that_is_no_circle(tmp_path):
    for name in ("a", "b", "store"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.v").touch()
    (tmp_path / "a/to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b/to_a").symlink_to(tmp_path / "a")
    (tmp_path / "a/up").symlink_to(tmp_path.parent)
    (tmp_path / "linked").symlink_to(tmp_path / "store")
    found = find_files(tmp_path, lambda path: path.suffix == ".v", "V files")
    assert [path.relative_to(tmp_path).as_posix() for path in found.files] == [
        "a/a.v",
        "a/to_b/b.v",
        "b/b.v",
        "b/to_a/a.v",
        "linked/store.v",
        "store/store.v",
    ]


def test_a_full_disk_says_which_file_did_not_fit(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    opened = os.fdopen

    def fdopen(*arguments):
        file = opened(*arguments)

        class Full:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def write(self, _):
                raise full

        return Full()

    monkeypatch.setattr(os, "fdopen", fdopen)
    with pytest.raises(OSError, match=r"No space left on device: '.*deep/mask\.png'"):
        write_bytes(tmp_path / "deep/mask.png", b"x")
    assert not list((tmp_path / "deep").iterdir())


def test_folders_that_can_be_written_to(tmp_path):
    check_can_write(tmp_path / "a/b")
    check_can_write(tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing is left
    (tmp_path / "file").touch()
    for place in ("file", "file/run", "file/a/b"):
        with pytest.raises(OutputError, match=r"cannot write to .*: .*file is a file, no folder; choose another --out"):
            check_can_write(tmp_path / place)
    for place in ("x" * 300, "a\0b"):
        with pytest.raises(OutputError, match=r"cannot write to .*; choose another --out"):
            check_can_write(tmp_path / place)
    if sys.platform == "linux":
        with pytest.raises(OutputError, match="cannot write to /proc/run: "):
            check_can_write("/proc/run")
