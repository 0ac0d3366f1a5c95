"""The commands as a user types them: exit codes, what goes where, and input that nobody should have given."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from camseg.cams.capture import capture
from camseg.cams.methods.registry import METHODS
from camseg.classify.checkpoint import load_classifier
from camseg.cli import app
from camseg.data.images import read_image, read_levels, read_mask, write_image, write_mask
from camseg.masks.settings import save_threshold
from camseg.models.names import DEFAULT_ARCH
from camseg.propagation.registry import METHODS as PROPAGATORS
from camseg.refinement.registry import METHODS as REFINERS
from camseg.runs.manifest import MANIFEST, read_manifest
from camseg.runs.run import RUN

COMMANDS = (
    "train-cls",
    "train-seg",
    "ensemble",
    "layers",
    "kernels",
    "methods",
    "models",
    "cams",
    "propagate",
    "masks",
    "trimap",
    "refine",
    "evaluate",
    "audit",
    "compare",
    "choose",
    "label",
    "segment",
    "merge",
    "export",
    "import",
    "quality",
    "review",
    "loop",
    "report",
    "doctor",
    "demo",
    "prepare rois",
    "prepare slices",
    "prepare dicom",
    "prepare frames",
)
ORIENTATION = 0x0112


@pytest.fixture
def refused(call):
    """Run a command that must be refused: nothing on stdout, and stderr, which has no traceback, in one line."""

    def run(*arguments):
        code, out, err = call(*arguments)
        assert (code, out) == (2, ""), err
        assert "Traceback" not in err
        return " ".join(err.split())

    return run


@pytest.fixture
def run_folder(tmp_path, tiny_classifier):
    """A classifier run: cat, dog, and the negative class none."""
    tiny_classifier.save(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def images(tmp_path, make_images):
    for n, (name, image) in enumerate(zip("ab" * 3, make_images(*[(40, 60), (64, 64)] * 3), strict=True)):
        write_image(tmp_path / "images" / ("cat", "dog", "none")[n // 2] / f"{name}.png", image)
    return tmp_path / "images"


QUICK = ("--scales", "1", "--no-flip")


def camseg(*arguments, **more):
    """Run a command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "camseg", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, **more)


def masks_of(out):
    files = sorted(path for path in out.rglob("*.png") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


# Help and usage


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_of_every_command_and_option(call, command):
    code, out, _ = call("--help")
    assert code == 0
    words = command.split()
    assert words[0] in out
    code, out, _ = call(*words, "--help")
    assert code == 0
    without = ("layers", "methods", "models", "evaluate", "quality", "review", "loop", "import", "merge", "doctor")
    assert "--out " in out or command in without
    assert "--json" in out


@pytest.mark.parametrize(
    ("command", "names"),
    [("propagate", PROPAGATORS), ("refine", REFINERS), ("label", REFINERS), ("label", PROPAGATORS)],
)
def test_help_names_every_registered_method(call, command, names):
    text = "".join(call(command, "--help")[1].split())  # names may be broken at their hyphens
    assert all(name in text for name in names)


@pytest.mark.parametrize("command", ["cams", "label", "compare"])
def test_help_says_where_the_cam_methods_are_listed(call, command):
    assert "as camseg methods lists them" in " ".join(call(command, "--help")[1].split())
    listed = json.loads(call("methods", "--json")[1])
    assert [(row["name"], row["needs"], row["passes"], row["paper"]) for row in listed] == [
        (name, method.needs, method.passes, method.paper) for name, method in METHODS.items()
    ]
    assert all(name in call("methods")[1] for name in METHODS)


def test_help_of_training_names_the_default_model(call):
    assert f"else {DEFAULT_ARCH}" in " ".join(call("train-cls", "--help")[1].split())


def test_shared_options_mean_the_same_everywhere():
    import typer

    def leaves(group, words=()):
        for name in group.list_commands(None):
            command = group.get_command(None, name)
            if hasattr(command, "list_commands"):
                yield from leaves(command, (*words, name))
            else:
                yield " ".join((*words, name)), command

    commands = dict(leaves(typer.main.get_command(app)))
    assert sorted(commands) == sorted(COMMANDS)
    shared = {"json", "overwrite", "dry_run", "device", "seed", "batch_size", "negative", "classifier", "target", "out"}
    shared |= {"config", "workers", "mask_class", "mask_classes"}
    # What these commands call so is another thing.
    own = {
        ("prepare rois", "negative"),
        ("prepare slices", "negative"),
        ("kernels", "out"),
        ("choose", "out"),
        ("report", "out"),
        ("propagate", "classifier"),
    }
    own |= {
        (command, name)
        for command in ("train-cls", "train-seg", "compare")
        for name in ("negative", "batch_size", "workers")
    }
    own |= {("train-seg", "mask_class"), ("train-seg", "mask_classes")}
    own |= {("prepare rois", "seed"), ("evaluate", "seed")}
    seen: dict[str, dict] = {}
    for name, command in commands.items():
        for option in command.params:
            if option.name in shared and (name, option.name) not in own:
                said = re.sub(r" (\[.*\]|Default: .*)$", "", option.help).removesuffix(".")
                seen.setdefault(option.name, {}).setdefault((tuple(option.opts), said), []).append(name)
    assert seen.keys() == shared
    readers = {"trimap", "refine", "evaluate", "audit", "compare"}
    for name in ("mask_class", "mask_classes"):
        assert readers <= {command for found in seen[name].values() for command in found}
    for forms in seen.values():
        # A command may say more, but begins with the same words.
        flags, least = min(forms, key=lambda form: len(form[1]))
        assert all(opts == flags and said.startswith(least) for opts, said in forms), forms


def test_version(call):
    import camseg

    assert call("--version") == (0, f"camseg {camseg.__version__}\n", "")


# Layers


def test_layers_that_can_be_named(call, run_folder):
    code, out, err = call("layers", run_folder, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["arch"], found["image_size"]) == ("test_resnet", 64)
    assert (found["auto"], found["stages"]) == ("layer4", ["layer3", "layer4"])
    outline = {row["name"]: row for row in found["layers"]}
    assert outline["layer4"] == {"name": "layer4", "channels": 96, "height": 2, "width": 2}
    assert outline["layer1"]["height"] == outline["layer1"]["width"] == 16
    assert "layer4.0.conv1" not in outline
    everything = {row["name"] for row in json.loads(call("layers", run_folder, "--all", "--json")[1])["layers"]}
    assert everything > outline.keys() | {"layer4.0.conv1"}

    code, out, _ = call("layers", run_folder)
    assert code == 0
    rows = {line.split()[1]: line for line in out.splitlines() if "│" in line}
    assert rows.keys() == outline.keys()
    assert ["auto" in rows[name] for name in ("layer2", "layer3", "layer4")] == [False, False, True]
    assert ["stages" in rows[name] for name in ("layer2", "layer3", "layer4")] == [False, True, True]
    assert "2 x 2" in rows["layer4"]


def test_every_layer_that_is_listed_can_be_named(call, run_folder):
    classifier = load_classifier(run_folder)
    x = torch.zeros(1, 3, 64, 64)
    for row in json.loads(call("layers", run_folder, "--all", "--json")[1])["layers"]:
        captured = capture(classifier, x, [0], layer=row["name"])
        assert captured.activations.shape == (1, row["channels"], row["height"], row["width"])


def test_layers_of_a_network_without_maps(call, run_folder, monkeypatch):
    monkeypatch.setattr("camseg.cams.layers.list_layers", lambda _: [])
    found = json.loads(call("layers", run_folder, "--json")[1])
    assert found == {"arch": "test_resnet", "image_size": 64, "auto": None, "stages": [], "layers": []}
    assert call("layers", run_folder)[0] == 0


def test_a_lower_output_stride(call, refused, run_folder, images, tmp_path, make_classifier):
    rows = json.loads(call("layers", run_folder, "--output-stride", 16, "--json")[1])["layers"]
    assert {row["name"]: row["height"] for row in rows}["layer4"] == 4
    for command, quick in (("cams", ()), ("label", QUICK)):
        shared = (command, images, "-c", run_folder, *quick, "--device", "cpu")
        assert call(*shared, "--out", tmp_path / "coarse")[0] == 0
        assert call(*shared, "--output-stride", 8, "--out", tmp_path / "fine")[0] == 0
        coarse, fine = (masks_of(tmp_path / name) for name in ("coarse", "fine"))
        assert coarse.keys() == fine.keys()
        assert coarse != fine
        message = refused(*shared, "--output-stride", 16, "--out", tmp_path / "fine")
        assert "fine" in message  # another classifier's outputs are there
        shutil.rmtree(tmp_path / "coarse")
        shutil.rmtree(tmp_path / "fine")
    assert "8, 16 or 32, got 4" in refused("layers", run_folder, "--output-stride", 4)
    make_classifier("test_vit").save(tmp_path / "vit")
    message = refused("cams", images, "-c", tmp_path / "vit", "--out", tmp_path / "maps", "--output-stride", 16)
    assert "test_vit has no output stride of 16; leave --output-stride out" in message


@pytest.mark.parametrize("arguments", [["nonsense"], ["label"], ["label", "x", "--frobnicate"], ["masks", "x", "y"]])
def test_usage_errors(refused, arguments):
    assert "Error" in refused(*arguments) or "Usage" in refused(*arguments)


# The chain


def test_the_chain_command_by_command(call, images, run_folder, tmp_path):
    def done(*arguments):
        code, out, err = call(*arguments)
        assert code == 0, err
        assert out == ""
        assert "6 done, 0 failed" in err

    truth = tmp_path / "truth"
    for path in images.rglob("*.png"):
        mask = np.zeros(read_image(path).shape[:2], bool)
        mask[10:30, 10:30] = path.parent.name != "none"
        write_mask(truth / path.relative_to(images), mask)
    done("cams", images, "-c", run_folder, "--layer", "stages", "--scales", "auto", "--flip", "-o", tmp_path / "cams")
    done("propagate", images, "--cams", tmp_path / "cams", "-o", tmp_path / "spread")
    done("masks", tmp_path / "spread", "--threshold", "otsu", "-o", tmp_path / "masks")
    code, _, err = call("trimap", tmp_path / "masks", "--cams", tmp_path / "spread", "-o", tmp_path / "trimaps")
    assert code == 0
    assert "2 without an object: labelled none, a negative class" in err
    done("trimap", tmp_path / "spread", "--low", "0.2", "--high", "0.6", "-o", tmp_path / "trimaps2")
    refine = ("refine", images, "--trimap", tmp_path / "trimaps", "--masks", tmp_path / "masks", "--method", "grabcut")
    code, _, err = call(*refine, "--alpha", "--foreground", "-o", tmp_path / "refined")
    assert code == 0
    assert "2 without an object: labelled none, a negative class" in err
    assert {path.name for path in (tmp_path / "refined").iterdir()} == {"masks", "alphas", "foregrounds", MANIFEST, RUN}
    label = ("label", images, "-c", run_folder, "--score", "class", "--threshold", "otsu", "--refiner", "grabcut")
    code, _, err = call(*label, "--save", "cams", "-o", tmp_path / "label")
    assert code == 0
    assert "2 without an object: labelled none, a negative class" in err
    assert masks_of(tmp_path / "label/masks") == masks_of(tmp_path / "refined/masks")
    # Where both lie, levels are of maps, and masks are of masks.
    done("trimap", tmp_path / "label", "--low", "0.2", "--high", "0.6", "-o", tmp_path / "trimaps3")
    assert masks_of(tmp_path / "trimaps3") == masks_of(tmp_path / "trimaps2")
    code, _, err = call(*refine[:5], tmp_path / "label", *refine[6:], "-o", tmp_path / "refined2")
    assert code == 0

    threshold = tmp_path / "best.json"
    save = ("--save-threshold", threshold, "--name", "these six", "--plot", tmp_path / "curve.png")
    code, out, _ = call("evaluate", tmp_path / "spread", "--masks", truth, *save)
    assert code == 0
    assert "mean-Dice" in out
    assert read_image(tmp_path / "curve.png").size
    code, out, _ = call("evaluate", tmp_path / "spread", "--masks", truth, "--threshold", threshold, "--json")
    found = json.loads(out)
    assert found["overall"]["images"] == 4
    assert "these six (4 masks)" in json.dumps(found["overall"]["thresholds"])
    for predictions in (tmp_path / "masks", tmp_path / "refined/masks", tmp_path / "label/masks"):
        assert call("evaluate", predictions, "--masks", truth)[0] == 0
    done("masks", tmp_path / "spread", "--threshold", threshold, "-o", tmp_path / "chosen")


def test_json_is_all_that_goes_to_stdout(call, images, run_folder, tmp_path):
    (images / "cat/bad.png").write_bytes(b"")
    code, out, err = call("label", images, "-c", run_folder, "-o", tmp_path / "out", *QUICK, "--json")
    assert code == 1
    result = json.loads(out)
    assert (result["done"], result["kept"], result["out"]) == (6, 0, str(tmp_path / "out"))
    assert result["failed"] == [f"{images}/cat/bad.png: the file is empty"]
    assert set(result["seconds"]) == {"read", "network", "write", "total"}
    assert "failed: " in err
    assert "manifest.jsonl" in err
    code, out, err = call("label", images, "-c", run_folder, "-o", tmp_path / "out2", "--dry-run", "--json")
    assert (code, json.loads(out)["planned"]) == (1, 6)
    assert f"would fail: {images}/cat/bad.png: the file is empty" in err
    assert not (tmp_path / "out2").exists()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_terminals_alone(call, images, run_folder, tmp_path, monkeypatch, terminal):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    (images / "cat/bad.png").write_bytes(b"")
    code, out, _ = call("label", images, "-c", run_folder, "-o", tmp_path / "out", *QUICK)
    assert (code, out) == (1, "")
    assert ("label: 100%" in stream.getvalue()) == terminal
    assert ("/s" in stream.getvalue()) == terminal
    # One line per failed image, not in the middle of the bar.
    lines = stream.getvalue().replace("\r", "\n").splitlines()
    failed = [line for line in lines if line.startswith("failed: ")]
    assert failed == [f"failed: {images}/cat/bad.png: the file is empty"]


def test_names_with_brackets_and_of_other_scripts_are_shown_as_they_are(call, make_classifier, make_images, tmp_path):
    names = ["[red]猫", ":cat:"]
    for n, image in enumerate(make_images((20, 20), (20, 20))):
        for name in names:
            write_image(tmp_path / f"truth/{name}/{n}.png", image[..., 0] // 128 * 255)
            write_image(tmp_path / f"cams/{name}/{n}.png", image[..., 0])
    code, out, _ = call("evaluate", tmp_path / "cams", "--masks", tmp_path / "truth")
    assert code == 0
    assert all(name in out for name in names)


@pytest.mark.parametrize("as_json", [True, False])
def test_output_survives_a_terminal_without_the_letters(call, images, tmp_path, monkeypatch, as_json):
    place = tmp_path / "bücher 猫"
    for path in images.rglob("*.png"):
        write_mask(place / path.relative_to(images), read_image(path)[..., 0] > 99)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    code, _, _ = call("evaluate", place, "--masks", place, *["--json"] * as_json)
    assert code == 0
    terminal.flush()
    shown = terminal.buffer.getvalue().decode("ascii")
    assert json.loads(shown)["masks"] == str(place) if as_json else "b\\xfccher" in shown


# Options from a file


def told(out):
    """What run.json says, but for how long it took."""
    return {key: value for key, value in json.loads((out / RUN).read_text()).items() if key != "seconds"}


def same(out, other):
    assert masks_of(out) == masks_of(other) != {}
    assert (out / MANIFEST).read_bytes() == (other / MANIFEST).read_bytes()
    assert told(out) == told(other)


def test_a_run_is_repeated_from_its_run_json(call, images, run_folder, tmp_path):
    threshold = tmp_path / "t.json"
    save_threshold(threshold, 100, name="val", masks=3)
    said = ["-c", run_folder, "--method", "gradcam", "--layer", "layer3", "--scales", "1,1.5", "--score", "class"]
    said += ["--propagation", "random-walk", "--propagation-arg", "rounds=2", "--threshold", threshold, "--no-flip"]
    said += ["--refiner", "grabcut", "--dilate", "4", "--erode", "10%", "--sure", "none", "--smooth", "1"]
    said += ["--fill-holes", "all", "--min-area", "0.5%", "--keep", "2", "--save", "cams", "--save", "overlays"]
    said += ["--negative", "dog", "--target", "cat", "--target", "none", "--output-stride", 16, "--batch-size", 4]
    assert call("label", images, *said, "-o", tmp_path / "out")[0] == 0
    threshold.unlink()  # what it said stands in run.json
    run = tmp_path / "out" / RUN
    code, _, err = call("label", images, "--config", run, "-o", tmp_path / "again")
    assert code == 0, err
    same(tmp_path / "out", tmp_path / "again")
    code, _, err = call("label", images, "--config", run, "-o", tmp_path / "out")
    assert (code, "0 done, 6 were there already" in err) == (0, True)
    # From anywhere.
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert call("label", "images", "--config", "out/run.json", "-o", "third")[0] == 0
    finally:
        os.chdir(here)
    same(tmp_path / "out", tmp_path / "third")


@pytest.mark.parametrize("command", ["cams", "propagate", "masks", "trimap", "refine"])
def test_every_stage_is_repeated_from_its_run_json(call, images, run_folder, tmp_path, command):
    cams, spread, masks, trimaps = (tmp_path / name for name in ("cams", "spread", "masks", "trimaps"))
    walk = ("--method", "random-walk", "-c", run_folder, "--arg", "rounds=2", "--window", "percentile")
    threshold = tmp_path / "t.json"
    save_threshold(threshold, 100, name="val", masks=3)
    chain = {
        "cams": (["cams", images], ["-c", run_folder, "--method", "gradcam", "--method", "eigencam", "--flip"]),
        "propagate": (["propagate", images, "--cams", cams / "gradcam"], walk),
        "masks": (["masks", spread], ["--threshold", threshold, "--keep", "1", "--smooth", "1%"]),
        "trimap": (["trimap", masks], ["--cams", spread, "--dilate", "4", "--sure", "0.9"]),
        "refine": (
            ["refine", images, "--trimap", trimaps],
            ["--masks", masks, "--method", "grabcut", "--alpha", "--foreground", "--window", "percentile"],
        ),
    }
    places = {"cams": cams, "propagate": spread, "masks": masks, "trimap": trimaps, "refine": tmp_path / "refined"}
    for name, (inputs, said) in chain.items():
        assert call(*inputs, *said, "-o", places[name])[0] == 0
        if name == command:
            break
    threshold.unlink()
    inputs, _ = chain[command]
    code, _, err = call(*inputs, "--config", places[command] / RUN, "-o", tmp_path / "again")
    assert code == 0, err
    same(places[command], tmp_path / "again")


BY_NAME = """
classifier = "{run}"
target = ["cat", "dog"]
scales = [1.0]
flip = false
method = "gradcam"
propagation = "par"
propagation-arg = {{rounds = 3, dilations = [1, 2]}}
threshold = 0.3
refiner = "none"
fill_holes = "all"
min-area = 20
save = ["cams"]
"""
NESTED = """
classifier = "{run}"
targets = ["cat", "dog"]
save = ["cams"]

[cams]
scales = [1]
flip = false
methods = ["gradcam"]

[propagation]
method = "par"
args = {{rounds = 3, dilations = [1, 2]}}

[masks]
threshold = "0.3"

[refinement]
method = "none"

[cleaning]
fill_holes = "all"
min_area = "20"
"""
AS_JSON = """{{
  "classifier": "{run}", "target": ["cat", "dog"], "scales": [1.0], "flip": false, "cams": {{"methods": ["gradcam"]}},
  "propagation": {{"method": "par", "args": {{"rounds": 3, "dilations": [1, 2]}}}}, "masks": {{"threshold": 0.3}},
  "refiner": "none", "fill-holes": "all", "min_area": "20", "save": ["cams"]
}}"""


@pytest.mark.parametrize(("suffix", "content"), [("toml", BY_NAME), ("toml", NESTED), ("json", AS_JSON)])
def test_a_file_of_options_says_what_the_command_line_says(call, images, run_folder, tmp_path, suffix, content):
    said = ("-c", run_folder, "--target", "cat", "--target", "dog", *QUICK, "--method", "gradcam", "--save", "cams")
    said += ("--propagation", "par", "--propagation-arg", "rounds=3", "--propagation-arg", "dilations=[1,2]")
    said += ("--threshold", "0.3", "--refiner", "none", "--fill-holes", "all", "--min-area", "20")
    assert call("label", images, *said, "-o", tmp_path / "out")[0] == 0
    file = tmp_path / f"options.{suffix}"
    file.write_text(content.format(run=run_folder))
    code, _, err = call("label", images, "--config", file, "-o", tmp_path / "again")
    assert code == 0, err
    same(tmp_path / "out", tmp_path / "again")
    file.write_text(content.format(run=run_folder), encoding="utf-8-sig")
    assert call("label", images, "--config", file, "-o", tmp_path / "again", "--dry-run")[0] == 0


def test_the_command_line_comes_before_the_file(call, images, run_folder, tmp_path):
    file = tmp_path / "options.toml"
    file.write_text(NESTED.format(run=tmp_path / "nowhere"))
    said = ["-c", run_folder, "--target", "cat", "--flip", "--method", "eigencam", "--scales", "auto"]
    said += ["--threshold", "otsu", "--propagation-arg", "rounds=4", "--keep", "1"]
    assert call("label", images, "--config", file, *said, "-o", tmp_path / "out")[0] == 0
    settings = told(tmp_path / "out")["settings"]
    assert settings["classifier"] == str(run_folder)
    assert settings["targets"] == ["cat"]
    assert (settings["cams"]["methods"], settings["cams"]["flip"], settings["cams"]["scales"]) == (
        ["eigencam"],
        True,
        "auto",
    )
    assert settings["masks"] == {"threshold": "otsu"}
    assert settings["propagation"] == {"method": "par", "args": {"rounds": 4}}
    assert settings["cleaning"] == {"smooth": "0", "fill_holes": "all", "min_area": "20", "keep": 1}
    assert settings["save"] == ["cams"]


def test_an_evaluation_takes_its_thresholds_from_a_file(call, images, tmp_path):
    for path in images.rglob("*.png"):
        write_image(tmp_path / "cams" / path.relative_to(images), read_image(path)[..., 0])
        write_mask(tmp_path / "truth" / path.relative_to(images), read_image(path)[..., 0] > 99)
    shared = ("evaluate", tmp_path / "cams", "--masks", tmp_path / "truth", "--json")
    plain = call(*shared, "--threshold", "otsu", "--threshold", "0.3", "--seed", 3)[1]
    (tmp_path / "options.toml").write_text('threshold = ["otsu", 0.3]\nseed = 3\n')
    assert call(*shared, "--config", tmp_path / "options.toml")[1] == plain
    assert call(*shared)[1] != plain


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.toml", 'tresholds = "otsu"\n', "has 'tresholds', which is no option here; there are classifier, negative,"),
        ("x.toml", "[cams]\nsize = 3\n", "has 'cams.size', which is no option here; there are classifier, "),
        ("x.toml", "[cams]\nlayer = ['layer3']\n", "has 'cams.layer', which is no option here"),
        ("x.toml", "[cam]\n", "has 'cam', which is no option here"),
        ("x.toml", "progress = 1\n", "progress"),
        ("x.json", '{"schema_version": 2, "settings": {"masks": {"level": 3}}}', "has 'masks.level'"),
        ("x.toml", 'keep = "many"\n', "expected --keep: a whole number"),
        ("x.toml", "keep = 0\n", "expected --keep: at least 1; got 0"),
        ("x.toml", "scales = [0.0]\n", "expected --scales: at least 0.1 or 'auto'"),
        ("x.toml", "cams = 3\n", "cams"),
        ("x.toml", 'threshold = "much"\n', "threshold 'much' is no rule"),
        (
            "x.toml",
            "[propagation]\nmethod = 'par'\nargs = {laps = 3}\n",
            "unknown setting 'laps'; choose among working_size, rounds",
        ),
        ("x.toml", "threshold = otsu\n", "x.toml: not valid TOML"),
        ("x.toml", b"\xff\xfe", "x.toml: not valid TOML"),
        ("x.json", "{", "x.json: not valid JSON"),
        ("x.json", "[1, 2]", "x.json: expected options by name, or a run.json of camseg"),
        ("x.json", '{"schema_version": 2, "settings": 3}', "x.json: expected options by name, or a run.json of camseg"),
        ("x", 'threshold = "otsu"\n', "x: not valid JSON"),
        ("none.toml", None, "none.toml: cannot be read (No such file or directory)"),
        (".", None, "cannot be read (Is a directory)"),
        ("o.toml", "batch_size = 4\nbatch-size = 8\n", "--batch-size once; got both batch-size and batch_size"),
    ],
)
def test_files_of_options_that_cannot_be_taken(refused, images, run_folder, tmp_path, name, content, words):
    (tmp_path / "files").mkdir()
    if content is not None:
        (tmp_path / "files" / name).write_bytes(content.encode() if isinstance(content, str) else content)
    out = tmp_path / "out"
    error = refused("label", images, "-c", run_folder, "--config", tmp_path / "files" / name, "-o", out)
    assert words in error
    assert "progress, say" not in error  # what only Python sets
    assert not out.exists()


def test_what_is_needed_may_stand_in_the_file_but_must_stand_somewhere(refused, images, tmp_path):
    (tmp_path / "options.toml").write_text('refiner = "none"\n')
    for more in ((), ("--config", tmp_path / "options.toml")):
        words = refused("label", images, *more, "-o", tmp_path / "out")
        assert words == "camseg: missing option --classifier RUN: Classifier run that train-cls wrote."


# Refusals: exit code 2, in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "nope"], "unknown CAM method 'nope'; choose among gradcam"),
        (["--method", "all"], "made of one CAM method's maps"),
        (["--method", "gradcam", "--method", "layercam"], "made of one CAM method's maps"),
        (
            ["--propagation", "nope"],
            "unknown propagation 'nope'; choose among par, crf, guided",
        ),
        (["--refiner", "nope"], "unknown refiner 'nope'; choose among auto, closed-form, grabcut,"),
        (["--threshold", "nope"], "expected a number in [0, 1]"),
        (["--threshold", "nan"], "outside [0, 1]"),
        (["--threshold", "max:-0.1"], "outside [0, 1]"),
        (["--threshold", "."], "is no rule and no file"),
        (["--score", "nope"], "Invalid value"),
        (["--score", "margin", "--negative", "horse"], "no class 'horse'"),
        (["--layer", "nope"], "no layer 'nope'"),
        (["--layer", "fc"], "not a map"),
        (["--scales", "0"], "expected --scales: at least 0.1 or 'auto' or 'few'; got 0.0"),
        (["--scales", "nan"], "expected --scales: "),
        (["--scales", "-1,1"], "got -1.0"),
        (["--scales", "1,1"], "expected different scales"),
        (["--scales", "1;2"], "expected numbers separated by commas"),
        (["--scales", ""], "expected numbers separated by commas"),
        (["--target", "horse"], "no class 'horse'; it has cat, dog, none"),
        (["--target", "all", "--target", "cat"], "alone or class names"),
        (["--save", "nope"], "expected --save: 'cams', 'trimaps', 'alphas' or 'overlays'; got 'nope'"),
        (["--refiner", "none", "--save", "alphas"], "without a refiner"),
        (["--refiner", "grabcut", "--dilate", "-1"], "expected a size of 0 or more"),
        (["--refiner", "grabcut", "--erode", "inf"], "expected a size of 0 or more, at most 1e9"),
        (["--refiner", "grabcut", "--open", "much"], "in percent, as in 10%; got 'much'"),
        (["--refiner", "grabcut", "--low", "0.3"], "needs both"),
        (["--refiner", "grabcut", "--sure", "much"], "is no rule"),
        (["--refiner", "grabcut", "--trimap-recipe", "published", "--open", "3"], "has its own radii"),
        (["--refiner", "fba"], "pass --weights FILE"),
        (["--refiner", "grabcut", "--weights", "some.pth"], "grabcut takes no weights"),
        (["--refiner", "none", "--weights", "some.pth"], "but no refiner"),
        (
            ["--propagation", "random-walk", "--propagation-arg", "steps=3"],
            "unknown setting 'steps'; choose among working_size, power, rounds",
        ),
        (["--propagation-arg", "rounds"], "expected KEY=VALUE"),
        (["--propagation", "none", "--propagation-arg", "rounds=3"], "settings of a propagation, but no propagation"),
        (["--keep", "0"], "expected --keep: at least 1; got 0"),
        (["--keep", "one"], "Invalid value for '--keep': expected a whole number"),
        (["--score", "some"], "'some' is not one of 'auto', 'class', 'margin'"),
        (
            ["--scales", "some"],
            "--scales: expected numbers separated by commas, such as 1,1.5,2, or auto, or few; got 'some'",
        ),
        (["--min-area", "small"], "expected a size of 0 or more"),
        (["--fill-holes", "some"], "expected a size of 0 or more"),
        (["--smooth", "-1"], "expected a size of 0 or more"),
        (["--refiner", "grabcut", "--low", "0.7", "--high", "0.3"], "low threshold below the high one"),
        (["--batch-size", "0"], "expected --batch-size: at least 1; got 0"),
        (["--workers", "0"], "expected --workers: at least 1; got 0"),
        (["--workers", "two"], "Invalid value"),
        (["--device", "toaster"], "device toaster cannot be used here"),
        (["--device", "cuda:99"], "device cuda:99 cannot be used here"),
        (["--device", "meta"], "device meta cannot be used here"),
    ],
)
def test_options_out_of_range(refused, images, run_folder, tmp_path, arguments, words):
    error = refused("label", images, "-c", run_folder, "-o", tmp_path / "out", *arguments)
    assert words in error
    assert not (tmp_path / "out").exists()


def test_margin_needs_a_negative_class(refused, call, images, make_classifier, tmp_path):
    make_classifier().save(tmp_path / "plain")
    margin = ("cams", images, "-c", tmp_path / "plain", "--score", "margin", "-o", tmp_path / "out")
    assert "score margin needs a negative class" in refused(*margin)
    assert call(*margin, "--negative", "none")[0] == 0


def test_label_needs_labels(refused, make_images, run_folder, tmp_path):
    write_image(tmp_path / "plain/a.png", make_images((20, 20))[0])
    error = refused("label", tmp_path / "plain", "-c", run_folder, "-o", tmp_path / "out", "--target", "label")
    assert "--target label needs a label for every image" in error


def test_unusable_images(refused, run_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/readme.txt").write_text("no image")
    for images in ("nowhere", "empty", "texts"):
        error = refused("label", tmp_path / images, "-c", run_folder, "-o", tmp_path / "out")
        assert images in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "expected the columns image,label"),
        (b"image,label\n", "no image listed"),
        ("image,label\nkäse.png,cat\n".encode("latin-1"), "not a readable UTF-8 CSV"),
        ("image,label\na.png,cat\n".encode("utf-16"), "not a readable UTF-8 CSV"),
        (b"name;class\na;b\n", "expected the columns image,label"),
        (b"image,label\na.png,horse\n", "no class 'horse'"),
        (b"image,label\na.png,cat;dog\n", "has 2 labels"),
        (b"image,label\na.png,cat\na.png,dog\n", "line 3 lists a.png again"),
        (b"image,label\na.png,cat\na.jpg,cat\n", "would write the same output"),
        (b"image,label\n,cat\n", "line 2 names no image"),
        (b"image,label\n..,cat\n", "line 2 names no image"),
        (b"image,label\na.png,cat,dog\n", "more cells than the header"),
        (b'image,label\n"' + b"x" * 200_000 + b'",cat\n', "field larger"),
    ],
)
def test_unusable_tables(refused, run_folder, tmp_path, content, words):
    (tmp_path / "x.csv").write_bytes(content)
    assert words in refused("label", tmp_path / "x.csv", "-c", run_folder, "-o", tmp_path / "out")


def test_rows_that_name_no_image_fail_alone(call, images, run_folder, tmp_path):
    rows = ["images/cat/a.png", "images/dog/a.png/", "images/cat", "images/no.png", "nul\0.png", "x" * 300, "/etc"]
    (tmp_path / "x.csv").write_text("image\n" + "".join(f"{row}\n" for row in rows))
    code, _, err = call("label", tmp_path / "x.csv", "-c", run_folder, "-o", tmp_path / "out", *QUICK)
    assert code == 1
    assert "2 done, 5 failed" in err
    assert len([line for line in err.splitlines() if line.startswith("failed: ")]) == 5


@pytest.mark.parametrize(
    "damage",
    [
        None,
        "",
        "not json",
        "[]",
        "3",
        "{}",
        '{"arch": "test_resnet"}',
        {"arch": "no_such_net"},
        {"arch": 3},
        {"classes": ["only", "two"]},
        {"classes": 3},
        {"model_args": {"no_such": 1}},
        {"unknown": 1},
        {"negative": None},
    ],
)
def test_damaged_classifiers(refused, images, run_folder, tmp_path, damage):
    path = run_folder / "classifier.json"
    if damage is None:
        path.unlink()
    else:
        text = damage if isinstance(damage, str) else json.dumps({**json.loads(path.read_text()), **damage})
        path.write_text(text)
    assert "classifier.json" in refused("label", images, "-c", run_folder, "-o", tmp_path / "out") or damage == {
        "classes": ["only", "two"]
    }
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"garbage" * 9, None])
def test_damaged_weights(refused, images, run_folder, tmp_path, content):
    path = run_folder / "model.safetensors"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert "model.safetensors" in refused("label", images, "-c", run_folder, "-o", tmp_path / "out")


def test_no_classifier_at_all(refused, images, tmp_path):
    for run in (tmp_path / "nowhere", images, images / "cat/a.png"):
        assert str(run) in refused("label", images, "-c", run, "-o", tmp_path / "out")


def test_unusable_output_folders(refused, images, run_folder, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("x")
    for out, words in [
        (tmp_path / "file", "is a file"),
        (tmp_path / "file/below", "file"),
        (tmp_path / "full", "holds other files"),
        (images / "out", "lies in the folder of inputs"),
        (tmp_path, "the inputs lie in the output folder"),
        ("/proc/out", "/proc/out"),
    ]:
        assert words in refused("label", images, "-c", run_folder, "-o", out)


def test_a_disk_that_takes_nothing(call, images, run_folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    code, _, err = call("label", images, "-c", run_folder, "-o", tmp_path / "out", *QUICK)
    assert code == 2
    assert "No space left on device" in err


def test_images_that_cannot_be_written_fail_alone(call, images, run_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/masks").write_text("in the way")
    code, _, err = call("label", images, "-c", run_folder, "-o", tmp_path / "out", "--overwrite", *QUICK)
    assert code == 1
    assert "0 done, 6 failed" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["masks", "{nowhere}"], "does not exist"),
        (["masks", "{cams}", "--threshold", "0,5"], "expected a number"),
        (["masks", "{cams}", "--threshold", "{file}"], "not valid JSON"),
        (["masks", "{both}"], "holds the maps of 2 methods; name one"),
        (["trimap", "{cams}", "--low", "0.3"], "needs both"),
        (["trimap", "{cams}", "--dilate", "wide"], "expected a size of 0 or more"),
        (["trimap", "{nowhere}"], "does not exist"),
        (["propagate", "{images}", "--cams", "{cams}", "--method", "nope"], "choose among par"),
        (["propagate", "{images}", "--cams", "{nowhere}"], "does not exist"),
        (["propagate", "{images}", "--cams", "{cams}", "--method", "random-walk"], "name it with --classifier RUN"),
        (["propagate", "{images}", "--cams", "{cams}", "--arg", "rounds=many"], "expected rounds: a whole number"),
        (["trimap", "{cams}", "--cams", "{nowhere}"], "expected the folder of the cams that belong to the inputs"),
        (["propagate", "{nowhere}", "--cams", "{cams}"], "does not exist"),
        (["propagate", "{images}", "--cams", "{cams}", "--window", "9,1"], "expected a window"),
        (["refine", "{images}", "--trimap", "{cams}", "--method", "nope"], "choose among auto, closed-form"),
        (["refine", "{images}", "--trimap", "{nowhere}"], "does not exist"),
        (["refine", "{images}", "--trimap", "{cams}", "--masks", "{nowhere}"], "expected the folder of the masks"),
        (["cams", "{images}", "-c", "{run}", "--method", "nope"], "choose among gradcam"),
    ],
)
def test_stages_out_of_range(call, refused, images, run_folder, tmp_path, arguments, words):
    both = ("--method", "gradcam", "--method", "layercam")
    assert call("cams", images, "-c", run_folder, "-o", tmp_path / "both", *both)[0] == 0
    (tmp_path / "file").write_text("not json")
    places = {"cams": tmp_path / "both/gradcam", "images": images, "run": run_folder}
    places |= {name: tmp_path / name for name in ("nowhere", "file", "both")}
    error = refused(*(argument.format(**places) for argument in arguments), "-o", tmp_path / "out")
    assert words in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{nowhere}", "--masks", "{truth}"], "does not exist"),
        (["{cams}", "--masks", "{nowhere}"], "does not exist"),
        (["{cams}", "--masks", "{truth}", "--threshold", "nan"], "outside [0, 1]"),
        (["{cams}", "--masks", "{truth}", "--seed", "-1"], "expected --seed: at least 0; got -1"),
        (["{cams}", "--masks", "{truth}", "--plot", "{cams}"], "suffix .png"),
        (["{cams}", "--masks", "{truth}", "--save-threshold", "{cams}", "--name", "x"], "cannot be written"),
        (["{cams}", "--masks", "{truth}", "--save-threshold", "{nowhere}"], "needs --name"),
        (["{cams}", "--masks", "{part}"], "nothing in common"),
    ],
)
def test_evaluations_out_of_range(refused, images, tmp_path, arguments, words):
    for path in images.rglob("*.png"):
        write_image(tmp_path / "cams" / path.relative_to(images), read_image(path)[..., 0])
        write_mask(tmp_path / "truth" / path.relative_to(images), read_image(path)[..., 0] > 99)
    write_mask(tmp_path / "part/other.png", np.ones((9, 9), bool))
    places = {"images": images, **{name: tmp_path / name for name in ("cams", "truth", "nowhere", "part")}}
    assert words in refused("evaluate", *(argument.format(**places) for argument in arguments))


def test_an_unforeseen_error_is_one_line_too(call, images, run_folder, tmp_path, monkeypatch):
    def surprise(*_args, **_options):
        raise RuntimeError("something\nwith lines")

    monkeypatch.setattr("camseg.label_folder", surprise)
    with pytest.raises(RuntimeError):
        call("label", images, "-c", run_folder, "-o", tmp_path / "out")
    monkeypatch.delenv("CAMSEG_TRACEBACK")
    code, _, err = call("label", images, "-c", run_folder, "-o", tmp_path / "out")
    assert code == 2
    assert err == "camseg: RuntimeError: something with lines (CAMSEG_TRACEBACK=1 shows where)\n"


# A folder of rubbish


def encode(picture, suffix, **options):
    buffer = io.BytesIO()
    picture.save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **options)
    return buffer.getvalue()


@pytest.fixture
def rubbish(tmp_path):
    """(folder, names that can be read with the sizes of their masks, names that cannot)."""
    folder = tmp_path / "rubbish"
    pixels = np.random.default_rng(0).integers(0, 256, (30, 48, 4), dtype=np.uint8)
    rgb, grey = PilImage.fromarray(pixels[..., :3]), PilImage.fromarray(pixels[..., 0])
    wide = (pixels[..., 0].astype(np.uint16) * 257, np.dstack([pixels[..., :3].astype(np.uint16) * 257] * 1))
    files = {
        "rgb.jpg": encode(rgb, "jpg"),
        "grey 8.jpg": encode(grey, "jpg"),
        "grey.tiff": encode(grey, "tif"),
        "rgba.png": encode(PilImage.fromarray(pixels), "png"),
        "greyalpha.png": encode(PilImage.fromarray(pixels[..., :2], "LA"), "png"),
        "palette.png": encode(rgb.convert("P"), "png"),
        "frames.gif": encode(rgb.convert("P"), "gif"),
        "bits.png": encode(grey.convert("1"), "png"),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "jpg"),
        "grey16.png": encode(PilImage.fromarray(wide[0]), "png"),
        "web.webp": encode(rgb, "webp"),
        "PHOTO.BMP": encode(rgb, "bmp"),
        "with space and ümläut.png": encode(rgb, "png"),
        "猫/写真.png": encode(rgb, "png"),
        "folder.png/inside.png": encode(rgb, "png"),
        "really a jpeg.png": encode(rgb, "jpg"),
    }
    sizes = dict.fromkeys(files, (30, 48))
    for orientation in range(1, 9):
        exif = PilImage.Exif()
        exif[ORIENTATION] = orientation
        files[f"exif{orientation}.jpg"] = encode(rgb, "jpg", exif=exif)
        sizes[f"exif{orientation}.jpg"] = (30, 48) if orientation < 5 else (48, 30)
    files["pixel.png"] = encode(rgb.crop((0, 0, 1, 1)), "png")
    files["line.png"] = encode(rgb.crop((0, 0, 48, 1)), "png")
    files["flat.png"] = encode(PilImage.new("RGB", (48, 30)), "png")
    sizes |= {"pixel.png": (1, 1), "line.png": (1, 48), "flat.png": (30, 48)}
    whole = encode(rgb, "png")
    bad = {
        "zero.png": b"",
        "text.png": b"I am no image.\n",
        "truncated.png": whole[: len(whole) // 2],
        "half.jpg": files["rgb.jpg"][: len(files["rgb.jpg"]) // 2],
        "flipped.png": whole[:60] + bytes(byte ^ 255 for byte in whole[60:200]) + whole[200:],
        "header.png": whole[:20],
        "zeros.tif": bytes(1000),
        "cut.gif": files["frames.gif"][:40],
        "html.jpg": b"<!DOCTYPE html><html>404</html>",
    }
    for name, content in {**files, **bad}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    import cv2

    cv2.imwrite(str(folder / "rgb16.png"), wide[1])
    sizes["rgb16.png"] = (30, 48)
    (folder / "empty.png").mkdir()
    (folder / "broken link.png").symlink_to(folder / "nowhere.png")
    (folder / "circle.png").symlink_to("circle.png")
    for ignored in (".hidden.png", "notes.txt", "Thumbs.db"):
        (folder / ignored).write_bytes(whole)
    return folder, sizes, [*bad, "broken link.png", "circle.png"]


def test_a_folder_of_rubbish(call, rubbish, run_folder, tmp_path, monkeypatch):
    folder, sizes, bad = rubbish
    (folder / "locked").mkdir()
    write_image(folder / "locked/a.png", np.zeros((9, 9, 3), np.uint8))
    scan = os.scandir

    def guarded(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    out = tmp_path / "out"
    code, _, err = call("label", folder, "-c", run_folder, "-o", out, "--batch-size", 8, "--target", "cat")
    assert code == 1
    assert f"{len(sizes)} done, {len(bad) + 1} failed" in err
    lines = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert len(lines) == len(bad) + 1
    for name in [*bad, "locked"]:
        assert any(f"failed: {folder / name}: " in line for line in lines), name
    records = {record.input: record for record in read_manifest(out)}
    failed = {name for name, record in records.items() if record.failed}
    assert failed == {*bad, str(folder / "locked")}
    assert {name for name, record in records.items() if record.status == "ok"} == set(sizes)
    for name, size in sizes.items():
        mask = read_levels(out / records[name].files["mask"])
        assert mask.shape == size == read_image(folder / name).shape[:2]
        assert records[name].area == (mask == 255).sum()
    assert len(masks_of(out)) == len(sizes)
    # Again: only the failures are taken up.
    code, _, err = call("label", folder, "-c", run_folder, "-o", out, "--batch-size", 8, "--target", "cat")
    assert code == 1
    assert f"0 done, {len(sizes)} were there already, {len(bad) + 1} failed" in err


def test_an_image_turned_by_its_exif_has_a_turned_mask(call, make_images, run_folder, tmp_path):
    """Every orientation of one picture is read the same, and so labelled the same."""
    (image,) = make_images((40, 60))
    turns = {1: 0, 2: PilImage.FLIP_LEFT_RIGHT, 3: PilImage.ROTATE_180, 4: PilImage.FLIP_TOP_BOTTOM}
    turns |= {5: PilImage.TRANSPOSE, 6: PilImage.ROTATE_90, 7: PilImage.TRANSVERSE, 8: PilImage.ROTATE_270}
    (tmp_path / "images").mkdir()
    for orientation, turn in turns.items():
        picture = PilImage.fromarray(image)
        picture = picture if orientation == 1 else picture.transpose(turn)
        exif = PilImage.Exif()
        exif[ORIENTATION] = orientation
        picture.save(tmp_path / f"images/{orientation}.png", exif=exif)
    assert call("label", tmp_path / "images", "-c", run_folder, "-o", tmp_path / "out", "--target", "cat")[0] == 0
    masks = [read_mask(tmp_path / f"out/masks/{orientation}.png") for orientation in turns]
    assert masks[0].any()
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


def test_a_large_photograph(call, run_folder, tmp_path):
    rows, columns = np.mgrid[0:2000, 0:3000]
    image = np.dstack([rows // 16 % 256, columns // 24 % 256, (rows + columns) // 40 % 256]).astype(np.uint8)
    (tmp_path / "images").mkdir()
    PilImage.fromarray(image).save(tmp_path / "images/large.jpg", quality=70)
    code, _, err = call("label", tmp_path / "images", "-c", run_folder, "-o", tmp_path / "out", "--target", "cat")
    assert code == 0, err
    assert read_levels(tmp_path / "out/masks/large.png").shape == (2000, 3000)


def test_all_may_fail(call, run_folder, tmp_path):
    (tmp_path / "images").mkdir()
    for n in range(3):
        (tmp_path / f"images/{n}.png").write_bytes(b"x" * n)
    code, _, err = call("label", tmp_path / "images", "-c", run_folder, "-o", tmp_path / "out")
    assert code == 1
    assert "0 done, 3 failed" in err


def test_a_refiner_s_weights_are_read_before_any_work(refused, images, run_folder, tmp_path):
    (tmp_path / "w.pth").write_text("no weights")
    fba = ("--weights", tmp_path / "w.pth", "-o", tmp_path / "out")
    assert "w.pth" in refused("refine", images, "--trimap", images, "--method", "fba", *fba)
    assert "w.pth" in refused("label", images, "-c", run_folder, "--refiner", "fba", *fba)
    assert not (tmp_path / "out").exists()


def test_rubbish_between_the_stages(call, images, run_folder, tmp_path):
    """Maps, masks and trimaps that something else has touched."""
    assert call("cams", images, "-c", run_folder, "-o", tmp_path / "cams")[0] == 0
    (tmp_path / "cams/layercam/cat/a.png").write_bytes(b"")
    (tmp_path / "cams/layercam/cat/b.png").write_bytes((images / "cat/b.png").read_bytes()[:90])
    write_image(tmp_path / "cams/layercam/dog/a.png", np.zeros((5, 5), np.uint8))  # of another size
    code, _, err = call("propagate", images, "--cams", tmp_path / "cams", "-o", tmp_path / "spread")
    assert code == 1
    assert "3 done, 3 failed" in err
    assert "differ in size" in err
    assert call("masks", tmp_path / "spread", "-o", tmp_path / "masks")[0] == 0
    assert call("trimap", tmp_path / "masks", "-o", tmp_path / "trimaps")[0] == 0
    write_image(tmp_path / "trimaps/dog/b.png", np.full((64, 64), 77, np.uint8))
    (tmp_path / "masks/none/a.png").unlink()
    refine = ("refine", images, "--trimap", tmp_path / "trimaps", "--masks", tmp_path / "masks", "--method", "grabcut")
    code, _, err = call(*refine, "-o", tmp_path / "refined")
    assert code == 1
    assert "1 done, 2 failed" in err
    assert "expected a trimap of 0, 128 and 255 only; it also holds [77]" in err


def test_masks_and_raw_maps_are_no_maps_for_the_next_stage(call, images, run_folder, tmp_path):
    assert call("cams", images, "-c", run_folder, "--raw", "-o", tmp_path / "raw")[0] == 0
    code, _, err = call("masks", tmp_path / "raw", "-o", tmp_path / "masks")
    assert code == 1
    assert "0 done, 6 failed" in err


# Interruptions


def progress_of(out, lines, process):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (out / MANIFEST).exists() and (out / MANIFEST).read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(make_images, run_folder, tmp_path, sent, code):
    for n, image in enumerate(make_images(*[(200, 300)] * 60)):
        write_image(tmp_path / f"images/{n:02}.png", image)
    call = ("label", tmp_path / "images", "-c", run_folder, "--target", "cat", "--batch-size", 4)
    assert camseg(*call, "-o", tmp_path / "whole").returncode == 0
    out = tmp_path / "out"
    command = [sys.executable, "-m", "camseg", *map(str, call), "-o", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # Where the tests run in the background, shells have them ignore this signal, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    progress_of(out, 8, process)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    done = len(read_manifest(out))
    assert 0 < done < 60
    again = camseg(*call, "-o", out)
    assert again.returncode == 0
    assert f"{60 - done} done, {done} were there already" in again.stderr
    assert masks_of(out) == masks_of(tmp_path / "whole")
    assert (out / MANIFEST).read_bytes() == (tmp_path / "whole" / MANIFEST).read_bytes()


def test_an_interrupt_ends_with_130(call, images, run_folder, tmp_path, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("camseg.label.network_stages.extract", interrupt)
    code, _, err = call("label", images, "-c", run_folder, "-o", tmp_path / "out", *QUICK)
    assert code == 130
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_error_of_ours(images, tmp_path):
    for path in images.rglob("*.png"):
        write_mask(tmp_path / "truth" / path.relative_to(images), read_image(path)[..., 0] > 99)
    command = [sys.executable, "-m", "camseg", "evaluate", str(tmp_path / "truth"), "--masks", str(tmp_path / "truth")]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert b"Traceback" not in err
    assert process.returncode == 1


# Training


TRAIN = ("--weights", "none", "--model", "test_resnet", "--image-size", "32", "--epochs", "2")
FILES = {"model.safetensors", "classifier.json", "metrics.json", "history.csv", "curves.png", "confusion.png"} | {
    "reliability.png"
}


def test_training_from_class_folders(call, make_folder, tmp_path):
    run = tmp_path / "run"
    code, out, err = call("train-cls", make_folder(), "-o", run, *TRAIN, "--negative", "blue")
    assert code == 0, err
    assert {path.name for path in run.iterdir()} == FILES
    assert "validation accuracy" in out
    assert "macro-F1" in out
    assert "epoch 2/2" in err
    classifier = load_classifier(run)
    assert (classifier.classes, classifier.negative, classifier.multi_label) == (("blue", "red"), ("blue",), False)
    assert (run / "history.csv").read_text().count("\n") == 3
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"accuracy", "macro_f1", "classes", "confusion", "best_epoch"} <= metrics.keys()
    assert call("label", make_folder(count=2), "-c", run, "-o", tmp_path / "out", *QUICK)[0] == 0


def test_training_says_its_metrics_as_json(call, make_folder, tmp_path):
    data = make_folder()
    code, out, _ = call(
        "train-cls", data, "--val", make_folder(count=4, size=30), "-o", tmp_path / "run", *TRAIN, "--json"
    )
    assert code == 0
    metrics = json.loads(out)
    assert (metrics["train_images"], metrics["val_images"]) == (24, 8)
    code, out, _ = call("train-cls", data, "-o", tmp_path / "other", *TRAIN, "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["classes"] == ["blue", "red"]
    assert not (tmp_path / "other").exists()


def test_training_goes_on_and_does_not_repeat_itself(call, refused, make_folder, tmp_path, monkeypatch):
    data, run = make_folder(), tmp_path / "run"
    assert call("train-cls", data, "-o", tmp_path / "whole", *TRAIN)[0] == 0

    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("camseg.train.trainer.write_reports", interrupt)
        assert call("train-cls", data, "-o", run, *TRAIN)[0] == 130
    assert "unfinished run with other data or settings" in refused("train-cls", data, "-o", run, *TRAIN, "--seed", "1")
    code, _, err = call("train-cls", data, "-o", run, *TRAIN)
    assert code == 0
    assert f"continuing {run} after epoch 2" in err
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert "holds a finished run" in refused("train-cls", data, "-o", run, *TRAIN)
    assert call("train-cls", data, "-o", run, *TRAIN, "--overwrite", "--seed", "1")[0] == 0


def test_training_on_several_labels(call, make_folder, tmp_path):
    cells = {"blue": "blue;cold", "red": ""}
    rows = [f"{path},{cells[path.parent.name]}" for path in make_folder().rglob("*.png")]
    (tmp_path / "x.csv").write_text("image,label\n" + "\n".join(rows) + "\n")
    code, _, err = call("train-cls", tmp_path / "x.csv", "-o", tmp_path / "run", *TRAIN)
    assert code == 0, err
    assert load_classifier(tmp_path / "run").multi_label
    assert load_classifier(tmp_path / "run").classes == ("blue", "cold")


def test_training_leaves_out_what_it_cannot_read(call, make_folder, tmp_path):
    data = make_folder()
    (data / "red/00.png").write_bytes(b"")
    code, _, err = call("train-cls", data, "-o", tmp_path / "run", *TRAIN)
    assert code == 1
    assert "failed: " in err
    assert "red/00.png" in err
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "no_such_net"], "no model 'no_such_net'"),
        (["--weights", "nowhere.pth"], "no such weights file"),
        (["--weights", "."], "not a readable weights file"),
        (["--weights", "{data}/red/00.png"], "damaged, or holds more than tensors"),
        (["--val-fraction", "nan"], "expected --val-fraction: a finite number; got nan"),
        (["--val-fraction", "-1"], "expected --val-fraction: at least 0; got -1"),
        (["--val-fraction", "1"], "expected --val-fraction: less than 1; got 1"),
        (["--val-fraction", "0.999"], "cannot split"),
        (["--lr", "nan"], "expected --learning-rate: a finite number; got nan"),
        (["--lr", "0"], "expected --learning-rate: more than 0; got 0"),
        (["--lr", "inf"], "expected --learning-rate: a finite number; got inf"),
        (["--lr", "1e30"], "loss became"),
        (["--mean", "a"], "numbers separated by commas"),
        (["--mean", "1,2"], "one or three numbers"),
        (["--std", "0"], "above 0"),
        (["--mean", "inf"], "expected --mean: a finite number; got inf"),
        (["--image-size", "0"], "at least 8 pixels"),
        (["--window", "9,1"], "window"),
        (["--negative", "green"], "the negative class 'green' is not one of"),
        (["--model-arg", "x"], "KEY=VALUE"),
        (["--model-arg", "no_such=1"], "cannot be built"),
        (["--model-arg", "num_classes=7"], "cannot be built"),
        (["--warmup-epochs", "-1"], "expected --warmup-epochs: at least 0; got -1"),
        (["--patience", "-1"], "expected --patience: at least 0; got -1"),
        (["--epochs", "0"], "expected --epochs: at least 1; got 0"),
        (["--seed", "-1"], "expected --seed: at least 0; got -1"),
        (["--seed", "99999999999"], "expected --seed: less than 4294967296; got 99999999999"),
        (["--resize", "crop"], "Invalid value"),
        (["--val", "{data}/red"], "have no label"),
        (["--val", "nowhere"], "does not exist"),
        (["--device", "toaster"], "device toaster"),
    ],
)
def test_trainings_out_of_range(refused, make_folder, tmp_path, arguments, words):
    data = make_folder()
    arguments = [argument.format(data=data) for argument in arguments]
    assert words in refused("train-cls", data, "-o", tmp_path / "run", *TRAIN, *arguments)


def test_a_single_class_cannot_be_learnt(refused, make_folder, tmp_path):
    data = make_folder()
    shutil.rmtree(data / "red")
    assert "at least 2 classes" in refused("train-cls", data, "-o", tmp_path / "run", *TRAIN)
    assert "have no label" in refused("train-cls", data / "blue", "-o", tmp_path / "run", *TRAIN)


def test_a_run_is_not_written_among_its_images_or_over_a_file(refused, make_folder, tmp_path):
    data = make_folder()
    (tmp_path / "file").write_text("x")
    for out, words in ((data, "inputs lie in"), (data / "run", "lies in the folder"), (tmp_path / "file", "is a file")):
        assert words in refused("train-cls", data, "-o", out, *TRAIN)


def test_pretrained_weights_that_cannot_be_had_say_what_to_do(refused, make_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    arguments = ("--weights", "imagenet", "--model", "test_resnet")
    error = refused("train-cls", make_folder(), "-o", tmp_path / "run", *arguments)
    assert "could not be had" in error
    assert "--weights FILE" in error


@pytest.mark.slow
def test_the_demo_tells_how_good_every_stage_is(call, tmp_path, monkeypatch):
    from camseg.studies import demo

    settings = demo.TrainSettings
    monkeypatch.setattr(demo, "TrainSettings", lambda **given: replace(settings(**given), epochs=1))
    code, out, err = call("demo", "--out", tmp_path / "demo")
    assert code == 0, err
    assert all(word in out for word in ("mean-Dice", "Dice", "IoU", "CAM (", "propagated", "mask (", "refined mask ("))
    assert read_image(tmp_path / "demo/contact_sheet.png").size
    code, out, _ = call("demo", "--out", tmp_path / "demo", "--json")
    assert code == 0
    assert len(json.loads(out)["stages"]) == 4


# What the screen says of results


def test_shards_of_a_folder_are_merged_into_what_one_call_writes(call, images, run_folder, tmp_path):
    (images / "cat/c.png").write_text("rubbish")
    said = ("label", images, "-c", run_folder, "--batch-size", "2", "--refiner", "none", *QUICK)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert call(*said, "-o", whole)[0] == 1
    codes = []
    for shard in ("2/3", "1/3", "3/3"):
        code, _, err = call(*said, "-o", out, "--shard", shard)
        codes.append(code)
        assert code == 0 or f"listed in {out}/manifest.{shard.replace('/', '-of-')}.jsonl" in err
    assert sorted(codes) == [0, 0, 1]
    code, _, err = call("export", out, "--format", "coco", "--out", tmp_path / "coco")
    assert (code, f"camseg merge {out}" in err) == (2, True)
    code, out_text, _ = call("merge", out, "--json")
    assert (code, json.loads(out_text)["inputs"]) == (1, 7)
    assert masks_of(out) == masks_of(whole)
    assert (out / MANIFEST).read_bytes() == (whole / MANIFEST).read_bytes()
    assert call(*said, "-o", tmp_path / "many", "--devices", "cpu:2")[0] == 1
    assert masks_of(tmp_path / "many") == masks_of(whole)
    assert (tmp_path / "many" / MANIFEST).read_bytes() == (whole / MANIFEST).read_bytes()
    code, _, err = call("merge", tmp_path / "joined", whole)
    assert (code, "7 inputs, 6 files copied, 1 had failed" in err) == (1, True)


def test_the_screen_says_that_labels_decided_and_why_there_is_nothing(call, images, run_folder, tmp_path):
    for command, words in (("cams", ()), ("label", ("--refiner", "closed-form"))):
        code, _, err = call(command, images, "-c", run_folder, *QUICK, *words, "-o", tmp_path / command)
        assert code == 0
        assert "6 of 6 images are labelled, as their folders are named" in err
        assert "2 without an object: labelled none, a negative class" in err
        assert "empty mask" not in err
    words = ("--target", "predicted", "--json")
    code, out, err = call("cams", images, "-c", run_folder, *QUICK, *words, "-o", tmp_path / "predicted")
    assert "labelled" not in err
    assert json.loads(out)["empty"] == {}
    code, _, err = call("evaluate", tmp_path / "label", "--masks", tmp_path / "label/masks")
    assert "6 predictions follow the labels of their images" in err


def test_overlays_for_finished_maps(call, images, run_folder, tmp_path):
    words = ("cams", images, "-c", run_folder, *QUICK, "-o", tmp_path / "cams")
    assert call(*words)[0] == 0
    before = masks_of(tmp_path / "cams")
    code, _, err = call(*words, "--save", "overlays")
    assert (code, "6 inputs get files that were not asked for before (layercam overlay)" in err) == (0, True)
    after = masks_of(tmp_path / "cams")
    assert before == {name: after[name] for name in before}
    assert set(after) - set(before) == {f"overlays/{name}" for name in before}
    # The maps are still found by the folder's name.
    assert call("masks", tmp_path / "cams", "-o", tmp_path / "masks")[0] == 0
    assert len(masks_of(tmp_path / "masks")) == 6


def test_the_list_of_methods_needs_no_network():
    code = "import sys, camseg.cli.methods as m; m.methods(); m.methods(json=True); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
