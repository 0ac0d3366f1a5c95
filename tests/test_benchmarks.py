import importlib.util
import json
from pathlib import Path

import pytest
import torch

from camseg.data.images import write_image, write_mask

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cam_cost(monkeypatch):
    module = load("cam_cost")
    # A quarter of the channels, and of the methods that need no pass per channel two.
    monkeypatch.setattr(module, "FEW_CHANNELS", {"test_resnet": "layer1"})
    monkeypatch.setattr(module, "PEERS", {name: module.PEERS[name] for name in ("layercam", "eigencam")})
    return module


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)  # it takes functions of cam_cost
    return load("gpu")


def tables(text):
    """The tables of a Markdown text, each as the rows of its cells, without the line under the head."""
    found, lines = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip("|").split("|")])
        elif lines:
            assert set(lines[1]) == {"---"}
            assert len({len(cells) for cells in lines}) == 1
            found.append([lines[0], *lines[2:]])
            lines = []
    return found


def test_what_the_tables_hold(cam_cost, make_classifier, make_images, tmp_path, capsys):
    make_classifier().save(tmp_path / "run")
    write_image(tmp_path / "images/a.png", make_images((40, 50))[0])
    arguments = ["--device", "cpu", "--threads", str(torch.get_num_threads()), "--batch", "2", "--size", "64"]
    arguments += ["--archs", "test_resnet", "test_vit", "--repeats", "1", "--json", str(tmp_path / "cost.json")]
    arguments += ["--data", str(tmp_path / "images"), "--classifier", str(tmp_path / "run")]
    cam_cost.main(arguments)
    found = json.loads((tmp_path / "cost.json").read_text())
    cost, channels, precision, differences = tables(capsys.readouterr().out)
    assert len(cost) - 1 == len(found["cost"]) == 2 * 5
    for cells, row in zip(cost[1:], found["cost"], strict=True):
        assert cells[:2] == [row["network"], row["what"]]
        assert min(row["plain_ms"], row["ours_ms"], row["peer_ms"]) > 0
        assert float(cells[4]) == pytest.approx(row["ours_ms"] / row["plain_ms"], abs=0.006)
        assert float(cells[6]) == pytest.approx(row["peer_ms"] / row["ours_ms"], abs=0.06)
        one, every = ("images" not in row["what"] and "classes" not in row["what"]), row["what"].startswith("all")
        limit, faster = (1.2, 12.0) if every else (1.15 if "vit" in row["network"] else 1.05, 1.8)
        reached = row["ours_ms"] <= limit * row["plain_ms"] and row["peer_ms"] >= faster * row["ours_ms"]
        assert row["target"] == (None if not one else "met" if reached else "missed")
    whats = [row["what"] for row in found["channels"]]
    assert whats[:2] == ["scorecam, all 32 channels", "scorecam, 8 channels"]
    assert len(channels) - 1 == len(whats)
    assert [row["network"] for row in found["precision"]] == ["test_resnet, 2 x 64 px", "test_vit, 2 x 64 px"]
    assert len(precision) == 3
    assert [(row["precision"], row["method"]) for row in found["differences"]] == [
        (precision, method) for precision in ("bf16", "fp16") for method in ("layercam", "eigencam")
    ]
    assert len(differences) == 5
    for row in found["differences"]:
        assert 0 < row["mean"] <= row["worst image's mean"] <= row["largest"] < 0.5


def test_the_quick_run_leaves_out_what_is_slow(cam_cost, tmp_path, capsys):
    cam_cost.main(["--device", "cpu", "--batch", "1", "--size", "64", "--archs", "test_resnet", "--quick"])
    assert len(tables(capsys.readouterr().out)) == 2


def write_halves(folder, make_images):
    for half in ("train", "test"):
        for number, image in enumerate(make_images(*[(32, 32)] * 8)):
            name = f"{half}/{('cat', 'none')[number % 2]}/{number}.png"
            write_image(folder / "images" / name, image)
            write_mask(folder / "masks" / name, (image.mean(axis=2) > 128) & (number % 2 == 0))


@pytest.mark.slow
def test_rows_of_students_are_measured_once(make_classifier, make_images, tmp_path, monkeypatch, capsys):
    student = load("student")
    parts = {name: student.PARTS[name] for name in ("naive", "levels")}
    monkeypatch.setattr(student, "PARTS", parts)
    write_halves(tmp_path / "data/set", make_images)
    make_classifier(negative=["none"]).save(tmp_path / "teachers/set-0/classifier")
    arguments = [str(tmp_path / "data"), "--weights", "none", "--out", str(tmp_path / "out"), "--set", "set=none"]
    arguments += ["--seeds", "0", "--model", "linknet+test_resnet", "--image-size", "32", "--few", "1"]
    arguments += ["--teachers", str(tmp_path / "teachers"), "--threads", str(torch.get_num_threads())]
    names = [
        "teacher",
        "naive",
        "levels",
        *student.SECOND,
        "1 true masks, random",
        "1 true masks, worst first",
        "true masks",
    ]
    student.main([*arguments, "--epochs", "1", "--only", "teacher", "--only", "true masks"])
    student.main([*arguments, "--epochs", "1"])
    rows = [json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_text().splitlines()]
    assert sorted(row["row"] for row in rows) == sorted(names)  # none of them twice
    (taught,) = (tmp_path / "out").glob("set-0/*/1_true_masks_worst_first/masks")
    (corrected,) = (taught / "corrected").rglob("*.png")
    assert corrected.resolve() == tmp_path / "data/set/masks/train/cat" / corrected.name
    capsys.readouterr()
    student.main([*arguments, "--epochs", "1"])
    (cells,) = tables(capsys.readouterr().out)
    assert [row[0] for row in cells[1:]] == names
    for place, key in ((2, "dice_training"), (3, "dice")):
        by_name = {row["row"]: row[key] for row in rows}
        assert [float(row[place]) for row in cells[1:]] == [pytest.approx(by_name[name], abs=5e-4) for name in names]
    student.main([*arguments, "--epochs", "2", "--only", "naive"])  # with other options it is another row
    assert len((tmp_path / "out/rows.jsonl").read_text().splitlines()) == len(names) + 1


@pytest.mark.slow
def test_epochs_are_kept_and_chosen_among(make_images, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)  # it takes functions of grids
    stopping = load("stopping")
    write_halves(tmp_path / "set", make_images)
    arguments = [str(tmp_path / "set"), "--weights", "none", "--negative", "none", "--out", str(tmp_path / "out")]
    arguments += ["--model", "test_resnet", "--seeds", "0,1", "--epochs", "4", "--image-size", "32", "--images", "3"]
    stopping.main([*arguments, "--threads", str(torch.get_num_threads())])
    (rows,) = tables(capsys.readouterr().out)
    assert [row[0] for row in rows[1:]][-2:] == [stopping.LAST, stopping.BEST]
    kept = {row[0]: row[1] for row in rows[1:]}
    assert kept[stopping.LAST] == "4, 4"
    assert all(int(epoch) in (2, 4) for cell in kept.values() for epoch in cell.split(", "))
    assert all(float(row[2]) <= float(rows[-1][2]) for row in rows[1:])
    weights = [(tmp_path / "out/0" / str(epoch) / "model.safetensors").read_bytes() for epoch in (1, 2, 3, 4)]
    assert len({*weights}) == 4
    assert weights[-1] == (tmp_path / "out/0/run/model.safetensors").read_bytes()


def test_the_gpu_benchmark_goes_through_its_code_on_a_cpu(gpu, tmp_path, capsys):
    arguments = ["--device", "cpu", "--tiny", "--out", str(tmp_path), "--only", "parity", "copies", "memory"]
    assert gpu.main(arguments) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert [*found] == ["training", "parity", "copies", "memory"]
    assert found["parity"][0]["maps, mean difference"] == 0
    assert 0 < found["parity"][1]["maps, mean difference"] < 0.02
    assert (found["memory"][0]["halved to"], found["memory"][0]["said"]) == (2, 1)
    assert (tmp_path / "gpu.md").read_text() == capsys.readouterr().out
    assert len(tables((tmp_path / "gpu.md").read_text())) == 4


def test_a_part_that_fails_or_comes_too_late_is_a_row(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "prepare", lambda *_: (None, []))
    monkeypatch.setitem(gpu.SECTIONS, "copies", lambda world: 1 / 0)
    arguments = ["--device", "cpu", "--tiny", "--out", str(tmp_path), "--only", "copies"]
    assert gpu.main(arguments) == 1
    assert "ZeroDivisionError" in (tmp_path / "gpu.md").read_text()
    assert gpu.main([*arguments, "--limit", "-1"]) == 0
    assert "left out" in json.loads((tmp_path / "gpu.json").read_text())["sections"]["copies"][0]
    assert gpu.main(["--device", "cuda:99"]) == 2


def test_copies_to_the_host_are_counted_by_their_bytes(gpu):
    names = ("Memcpy DtoH (Device -> Pageable)", "Memcpy DtoH (Device -> Pinned)", "Memcpy HtoD (Pageable -> Device)")
    events = [{"name": name, "args": {"bytes": 1 << n}} for n, name in enumerate(names)]
    assert gpu.device_to_host({"traceEvents": [*events, {"name": "aten::copy_"}, {"ph": "M"}]}) == (3, 2)


def test_the_benchmark_of_scale_measures_what_it_says(tmp_path, monkeypatch):
    scale = load("scale")
    monkeypatch.setattr(scale, "run", lambda folder: scale.label(folder / "images", folder / "out"))
    row = scale.measure(tmp_path, 30, 24)
    assert len([*(tmp_path / "images").rglob("site_0/patient_00000/series_1_slice_0*.jpg")]) == row["images"] == 30
    assert 300 < row["manifest, bytes per image"] < 3000
    assert 0 < row["before its first, s"] < row["every tenth gone, s"]
    assert row["all there, s"] < row["label, s"]


def test_what_views_cost_in_passes(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # efforts draws its images as grids does
    efforts = load("efforts")
    passes = {text: efforts.Views.parse(text).passes for text in ("1", "1.5", "0.75,1m", "few", "auto", "autom")}
    assert passes == {"1": 1, "1.5": 3.25, "0.75,1m": 3.125, "few": 4.625, "auto": 7.8125, "autom": 15.625}
