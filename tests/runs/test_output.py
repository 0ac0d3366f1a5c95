import json
from pathlib import Path

import pytest

from camseg.base.errors import InputError, OutputError
from camseg.runs.lineage import network_records, provenance
from camseg.runs.manifest import MANIFEST, read_manifest
from camseg.runs.output import Output, check_names, check_output, map_root
from camseg.runs.record import Record
from camseg.runs.run import RUN, Run


def make_run(command="cams", settings=None, **identity):
    return Run(
        command=command, settings={"methods": ("layercam",)} if settings is None else settings, identity=identity
    )


RUN_A = make_run(scales=(1.0, 1.5), classifier="a" * 64)
RUN_B = make_run(scales=(1.0,), classifier="b" * 64)
SECONDS = {"total": 1.23456}


def line(name, class_name=None, status="ok", files=None, **more):
    return Record(input=f"{name}.jpg", name=name, class_name=class_name, files=files or {}, status=status, **more)


def write(folder, name):
    """What a stage does: the file first, then its line."""
    (folder / f"{name}.png").write_text("pixels")
    return line(name, files={"mask": f"{name}.png"})


def test_names_that_collide_are_refused_before_any_work():
    check_names([("a/1", Path("a/1.jpg")), ("b/1", Path("b/1.jpg")), ("1", Path("1.png"))])
    with pytest.raises(InputError, match=r"a/1\.jpg and a/1\.png would write the same output"):
        check_names([("a/1", Path("a/1.jpg")), ("a/1", Path("a/1.png"))])
    with pytest.raises(InputError, match="the same output"):
        check_names([("Straße", Path("Straße.jpg")), ("STRASSE", Path("STRASSE.jpg"))])
    with pytest.raises(InputError, match=r"output of x\.jpg would be named like the folder for x\.png/y\.jpg"):
        check_names([("x.png/y", Path("x.png/y.jpg")), ("x", Path("x.jpg"))])


def test_a_fresh_folder_says_what_it_was_written_with(tmp_path):
    out = Output(tmp_path / "deep/out", RUN_A)
    out.close([], SECONDS)
    run = json.loads((out.folder / RUN).read_text())
    assert list(run) == ["schema_version", "command", "settings", "identity", "versions", "seconds", "agreement"]
    assert run["command"] == "cams"
    assert run["settings"] == {"methods": ["layercam"]}
    assert run["identity"] == {"scales": [1.0, 1.5], "classifier": "a" * 64}
    assert {"camseg", "torch", "numpy", "python"} <= run["versions"].keys()
    assert "unknown" not in run["versions"].values()
    assert run["seconds"] == {"total": 1.235}


def test_lines_are_appended_as_work_goes_and_sorted_at_its_end(tmp_path):
    out = Output(tmp_path, RUN_A)
    for name in "ba":
        out.add([line(name, "x"), line(name, "y")])
        assert read_manifest(tmp_path)[-1].name == name
    out.close(["a", "b"], SECONDS)
    assert [(one.name, one.class_name) for one in read_manifest(tmp_path)] == [
        *[("a", "x"), ("a", "y")],
        *[("b", "x"), ("b", "y")],
    ]


def test_finished_means_every_line_ok_every_file_there_and_the_same_labels(tmp_path):
    out = Output(tmp_path, RUN_A)
    assert not out.finished("a")
    out.add([write(tmp_path, "a")])
    assert out.finished("a")
    (tmp_path / "a.png").unlink()
    assert not out.finished("a")
    out.add([line("b", "x"), line("b", "y", "failed")])
    assert not out.finished("b")
    out.add([line("c", labels=("cat",))])
    assert out.finished("c", ("cat",))
    assert not out.finished("c", ("dog",))
    assert not out.finished("c")


def test_an_equal_run_continues_where_a_killed_one_stopped(tmp_path):
    killed = Output(tmp_path, RUN_A)
    killed.add([write(tmp_path, "a")])
    killed.add([line("b", status="failed")])
    with (tmp_path / MANIFEST).open("ab") as file:
        file.write(b'{"input": "c.jpg", "name": "c", "cl')  # no close() either
    again = Output(tmp_path, RUN_A)
    assert [name for name in "abc" if again.finished(name)] == ["a"]
    for name in "bc":
        again.add([write(tmp_path, name)])
    again.close(list("abc"), SECONDS)

    straight = Output(tmp_path / "straight", RUN_A)
    for name in "abc":
        straight.add([write(straight.folder, name)])
    straight.close(list("abc"), SECONDS)
    for name in (MANIFEST, RUN):
        assert (tmp_path / name).read_bytes() == (straight.folder / name).read_bytes()


def test_half_a_line_alone_is_not_joined_to_the_next(tmp_path):
    Output(tmp_path, RUN_A)
    (tmp_path / MANIFEST).write_text('{"input": "a.jpg", "na')
    Output(tmp_path, RUN_A).add([line("a")])
    assert read_manifest(tmp_path) == [line("a")]


def test_an_input_whose_lines_were_cut_is_taken_up_again(tmp_path):
    out = Output(tmp_path, RUN_A)
    out.add([line("a", "x")])
    out.add([line("b", "x"), line("b", "y")])
    path = tmp_path / MANIFEST
    path.write_bytes(path.read_bytes()[:-5])
    assert [one.name for one in read_manifest(tmp_path)] == ["a"]


def test_replaced_lines_survive_a_second_kill(tmp_path):
    out = Output(tmp_path, RUN_A)
    out.add([write(tmp_path, "a")])
    (tmp_path / "a.png").unlink()
    Output(tmp_path, RUN_A).add([write(tmp_path, "a")])  # killed: the manifest holds both
    assert len(read_manifest(tmp_path)) == 2
    out = Output(tmp_path, RUN_A)
    assert out.finished("a")
    out.close(["a"], SECONDS)
    assert len(read_manifest(tmp_path)) == 1


def test_files_that_a_repeated_input_no_longer_has_are_removed(tmp_path):
    out = Output(tmp_path, RUN_A)
    for name in ("cat", "dog"):
        (tmp_path / f"{name}.png").write_text("x")
    out.add([line("a", "cat", files={"mask": "cat.png"})])
    out.add([line("a", "dog", files={"mask": "dog.png"})])
    assert [path.name for path in tmp_path.glob("*.png")] == ["dog.png"]


def test_lines_of_other_inputs_stay_while_they_tell_of_files(tmp_path):
    out = Output(tmp_path, RUN_A)
    out.add([write(tmp_path, "gone")])
    out.add([line("/locked", status="failed")])
    out.add([write(tmp_path, "a")])
    out.close(["a"], SECONDS)
    assert [one.name for one in read_manifest(tmp_path)] == ["a", "gone"]


def test_names_of_any_bytes_go_to_the_manifest_and_back(tmp_path):
    names = ["Häschen", "猫 cat", "line\u2028separator", "caf\udce9", "a\nb", 'quo"te']
    out = Output(tmp_path, RUN_A)
    for name in names:
        out.add([line(name)])
    assert [one.name for one in read_manifest(tmp_path)] == names
    assert all(Output(tmp_path, RUN_A).finished(name) for name in names)
    assert "Häschen" in (tmp_path / MANIFEST).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [
        "no json\n",
        "[1]\n",
        "[" * 5000 + "\n",
        '{"name": "a"}\n',
        '{"name": "a", "status": "ok", "files": []}\n',
        '{"name": "a", "status": "ok", "files": {"mask": 3}}\n',
        '{"name": "a", "status": "ok", "files": {"mask": "../../precious.png"}}\n',
        '{"name": "a", "status": "ok", "files": {"mask": "/precious.png"}}\n',
        "\udcff\n",
    ],
)
def test_a_damaged_manifest_is_refused_and_overwritten_on_request_only(tmp_path, damage):
    folder = tmp_path / "a/out"
    precious = tmp_path / "precious.png"
    precious.write_text("keep")
    Output(folder, RUN_A).add([write(folder, "good")])
    path = folder / MANIFEST
    path.write_bytes(damage.encode(errors="surrogateescape") + path.read_bytes())
    with pytest.raises(OutputError, match="line 1 is damaged; --overwrite"):
        Output(folder, RUN_A)
    Output(folder, RUN_A, overwrite=True)
    assert not (folder / "good.png").exists()
    assert precious.exists()


def test_other_settings_are_refused_in_words(tmp_path):
    Output(tmp_path, RUN_A)
    before = (tmp_path / RUN).read_bytes()
    with pytest.raises(OutputError, match=r"scales 1,1.5 -> 1") as refusal:
        Output(tmp_path, RUN_B)
    assert "classifier aaa" in str(refusal.value)
    assert len(str(refusal.value)) < 400
    assert (tmp_path / RUN).read_bytes() == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_no_output_folder(tmp_path, overwrite):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="a file, no folder"):
        check_output(tmp_path / "out", RUN_A, overwrite=overwrite)


def test_an_empty_folder_is_taken(tmp_path):
    check_output(tmp_path, RUN_A)
    check_output(tmp_path / "new", RUN_A)
    assert not list(tmp_path.iterdir())


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="holds other files"):
        Output(tmp_path, RUN_A)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "was not written by camseg"),
        ('{"settings": 3}', "was not written by camseg"),
        ('{"settings": {}}', "another version"),
        ('{"schema_version": 99, "settings": {}}', "another version"),
        ('{"schema_version": 3, "command": "masks", "settings": {}, "identity": {}}', "holds outputs of camseg masks"),
    ],
)
def test_another_run_json_is_refused(tmp_path, content, message):
    (tmp_path / RUN).write_text(content)
    with pytest.raises(OutputError, match=message):
        check_output(tmp_path, RUN_A)
    check_output(tmp_path, RUN_A, overwrite=True)


def test_overwrite_removes_what_the_earlier_run_wrote_and_nothing_else(tmp_path):
    out = Output(tmp_path, RUN_A)
    for name in "ab":
        out.add([write(tmp_path, name)])
    (tmp_path / "notes.txt").write_text("mine")
    Output(tmp_path, RUN_B, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", RUN]
    assert json.loads((tmp_path / RUN).read_text())["identity"]["scales"] == [1.0]


@pytest.mark.parametrize("earlier", [None, "{}", '{"command": "masks", "settings": {}}', "[]"])
def test_overwrite_removes_parts_only_of_the_same_command(tmp_path, earlier):
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps/mine.png").write_text("pixels")
    if earlier is not None:
        (tmp_path / RUN).write_text(earlier)
    Output(tmp_path, RUN_A, overwrite=True, parts=("maps", "none"))
    assert (tmp_path / "maps/mine.png").exists()
    Output(tmp_path, RUN_B, overwrite=True)  # of the same command, and without parts
    assert (tmp_path / "maps/mine.png").exists()
    Output(tmp_path, RUN_A, overwrite=True, parts=("maps", "none"))
    assert not (tmp_path / "maps").exists()


def test_the_maps_of_one_method_are_found_below_what_cams_wrote(tmp_path):
    assert map_root(tmp_path) == tmp_path
    Output(tmp_path / "one", RUN_A)
    assert map_root(tmp_path / "one") == tmp_path / "one/layercam"
    Output(tmp_path / "two", make_run(settings={"methods": ["gradcam", "layercam"]}))
    with pytest.raises(InputError, match=r"maps of 2 methods; name one, such as .*gradcam"):
        map_root(tmp_path / "two")
    Output(tmp_path / "masks", make_run("masks", {}))
    assert map_root(tmp_path / "masks") == tmp_path / "masks"


def test_provenance_follows_the_settings_and_not_the_files(tmp_path):
    assert provenance(tmp_path) is None
    Output(tmp_path / "a", RUN_A).close([], SECONDS)
    first = provenance(tmp_path / "a")
    assert first is not None
    assert provenance(tmp_path / "a/layercam") == provenance(tmp_path / "a/layercam/cat") == first
    Output(tmp_path / "a", RUN_A).close(["x"], {"total": 9.0})
    assert provenance(tmp_path / "a") == first
    Output(tmp_path / "a", RUN_B, overwrite=True)
    assert provenance(tmp_path / "a") not in (None, first)
    (tmp_path / "a" / RUN).write_text("not ours")
    assert provenance(tmp_path / "a") is None


def test_the_network_s_run_is_found_behind_the_later_stages(tmp_path):
    cams = Output(tmp_path / "cams", RUN_A)
    cams.add([line("a", "cat")])
    assert network_records(tmp_path / "cams/layercam") == network_records(tmp_path / "cams") == [line("a", "cat")]
    later = Output(tmp_path / "masks", make_run("masks", {}, inputs=str(tmp_path / "cams/layercam")))
    later.add([line("cat/a")])
    assert network_records(tmp_path / "masks") == [line("a", "cat")]
    circle = Output(tmp_path / "circle", make_run("masks", {}, inputs=str(tmp_path / "circle")))
    circle.add([line("x")])
    assert network_records(tmp_path / "circle") == [line("x")]
    foreign = tmp_path / "a/b/foreign"
    foreign.mkdir(parents=True)
    (foreign / MANIFEST).write_text('[1, 2]\n{"id": 3}\nno json\n\udcff', errors="surrogateescape")
    assert network_records(foreign) == []
    assert network_records(tmp_path / "a") == []
