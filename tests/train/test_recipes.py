import json
import math
from dataclasses import asdict, fields, replace

import pytest
import safetensors.torch

from camseg.base.errors import CamsegError, CheckpointError, InputError
from camseg.base.settings import from_json
from camseg.classify.checkpoint import load_network
from camseg.data.settings import NONE, Augmentation
from camseg.models.building import create_model
from camseg.train.plan import plan_training, prepare_training, read_training, run_training, trained_on
from camseg.train.recipes import RECIPES
from camseg.train.settings import Training, TrainSettings

TINY = {"model": "test_resnet", "weights": "none", "image_size": 32, "epochs": 2, "batch_size": 8}


def train(data, out, **plan):
    prepared = prepare_training(plan_training(data, **plan), out)
    return run_training(prepared, out, device="cpu")


def test_the_recipes_say_what_the_papers_say():
    def stated(name, *settings):
        return tuple(getattr(RECIPES[name].training.settings, setting) for setting in settings)

    assert RECIPES["default"].training == Training()
    assert stated("guan-loew", "epochs") == (200,)
    assert stated("guan-loew", "patience") > (0,)
    assert RECIPES["guan-loew"].training.val_fraction == 0.2
    assert stated("laptev", "batch_size", "optimizer", "epochs", "learning_rate") == (32, "adam", 75, 1e-4)
    assert RECIPES["laptev"].training.image_size == 512
    assert "12^-4" in RECIPES["laptev"].gaps
    assert stated("med-ic", "batch_size", "optimizer", "epochs", "learning_rate") == (16, "adam", 30, 1e-4)
    med_ic = RECIPES["med-ic"].training
    assert (med_ic.image_size, med_ic.test_fraction, med_ic.val_fraction) == (28, 0.2, 0.1)
    brain = RECIPES["brain-mri"].training
    assert (brain.image_size, brain.resize, brain.val_fraction) == (224, "pad", 0.2)
    assert brain.settings.trainable == "last-stages"
    assert min(stated("brain-mri", "warmup_epochs", "plateau_patience", "patience")) > 0
    changes = brain.settings.augmentation
    assert math.radians(changes.rotation) == pytest.approx(0.05)
    assert (changes.zoom, changes.shift, changes.contrast, changes.brightness, changes.mirror) == (
        0.1, 0.05, 0.1, 0.0, False,
    )  # fmt: skip
    assert all(recipe.paper and recipe.training.recipe == name for name, recipe in RECIPES.items())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_decides_what_nothing_else_does(name):
    recipe = RECIPES[name].training
    plan = plan_training("x", recipe=name)
    assert plan.recipe == name
    assert plan.weights == "imagenet"
    assert (plan.settings, plan.image_size, plan.resize) == (recipe.settings, recipe.image_size, recipe.resize)
    assert (plan.val_fraction, plan.test_fraction) == (recipe.val_fraction, recipe.test_fraction)
    changes = {"epochs": 3, "image_size": 40, "resize": "stretch", "augmentation": {"zoom": 0.5}}
    changed = plan_training("x", recipe=name, changes=changes)
    assert (changed.image_size, changed.resize) == (40, "stretch")
    zoomed = replace(recipe.settings.augmentation, zoom=0.5)
    assert changed.settings == replace(recipe.settings, epochs=3, augmentation=zoomed)


def test_from_scratch_nothing_is_frozen_unless_asked_for():
    def frozen(**changes):
        settings = plan_training("x", recipe="brain-mri", changes=changes).settings
        return settings.warmup_epochs, settings.trainable

    assert frozen() == (5, "last-stages")
    assert frozen(weights="none") == (0, "all")
    assert frozen(weights="none", trainable="head", warmup_epochs=2) == (2, "head")


def test_without_a_wish_weights_are_imagenet_s_where_there_are_such(tmp_path):
    for model, weights in ((None, "imagenet"), ("ResNet50", "imagenet"), ("MobileNetV2+mab", "imagenet")):
        assert plan_training("x", changes={"model": model}).weights == weights
    for model in ("MedIC", "nasnet_mobile+sbr", "ViT-Minimal"):
        assert plan_training("x", changes={"model": model}).weights == "none"
    assert plan_training("x", changes={"weights": tmp_path / "w.pth"}).weights == str(tmp_path / "w.pth")


def test_plans_that_cannot_be(tmp_path):
    for plan, message in (
        ({"recipe": "no-such"}, "unknown recipe 'no-such'; choose among default, patch-scores, guan-loew"),
        ({"recipe": "laptev", "like": tmp_path}, "not both"),
        ({"changes": {"rate": 1}}, "has no 'rate'; it has .*learning_rate"),
        ({"changes": {"augmentation": {"hue": 1}}}, "unknown setting 'hue'; choose among rotation"),
        ({"changes": {"test_fraction": 1.5}}, r"test fraction: less than 1; got 1.5"),
        ({"changes": {"batch_size": 2.5}}, "batch size: a whole number; got 2.5"),
        ({"changes": {"augmentation": {"zoom": -1}}}, "zoom: at least 0; got -1"),
    ):
        with pytest.raises(InputError, match=message):
            plan_training("x", **plan)
    with pytest.raises(InputError, match="images to train from, or a run"):
        plan_training()


@pytest.mark.parametrize("changes", [{"balance": "sampling", "optimizer": "adam"}, {"test_fraction": 0.25, "seed": 3}])
def test_a_run_can_be_repeated_from_itself(make_folder, tmp_path, changes):
    data = make_folder()
    first = train(data, tmp_path / "first", recipe="med-ic", changes={**TINY, "negative": ("blue",), **changes})
    plan = plan_training(like=tmp_path / "first")
    assert plan == read_training(tmp_path / "first")
    assert plan.data == str(data)
    assert plan.recipe == "med-ic"
    again = train(None, tmp_path / "again", like=tmp_path / "first")
    assert again == first
    assert again["test"]["images"] == round(24 * plan.test_fraction + 0.49)
    for name in ("model.safetensors", "classifier.json", "history.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()
    other = plan_training("elsewhere", like=tmp_path / "first", changes={"epochs": 5, "val": "there"})
    assert (other.settings.epochs, other.settings.balance) == (5, plan.settings.balance)
    assert other.data.endswith("/elsewhere")
    assert plan_training(like=tmp_path / "first", changes={"model": "MobileNetV2"}).weights == "imagenet"


def test_what_cannot_work_is_refused_before_the_training(make_folder, tmp_path):
    data = make_folder()
    for changes, message in (
        ({"val": data}, "24 images of .* are in .* too, such as .*; keep them apart"),
        ({"val": data / "red/00.png"}, "have no label|expected"),
        ({"window": "x"}, "window full, percentile or LOW,HIGH; got 'x'"),
        ({"mean": (1, 2)}, "one or three numbers for mean"),
        ({"mean": ("x",)}, "expected mean: .*number"),
        ({"image_size": 7}, "at least 8 pixels"),
    ):
        with pytest.raises(CamsegError, match=message):
            prepare_training(plan_training(data, changes={**TINY, **changes}), tmp_path / "out")
    # One image is enough, and a link to it is the same image.
    other = make_folder(count=6)
    (other / "red/00.png").unlink()
    (other / "red/00.png").symlink_to(data / "red/00.png")
    with pytest.raises(CamsegError, match=r"1 images of .* are in .* too"):
        prepare_training(plan_training(data, changes={**TINY, "val": other}), tmp_path / "out")


def test_other_images_are_no_repetition(make_folder, tmp_path):
    data, run = make_folder(), tmp_path / "first"
    train(data, run, changes={**TINY, "test_fraction": 0.25})
    classifier = load_network(run)
    learned, validated = trained_on(classifier)
    assert (len(learned), len(validated)) == (14, 4)
    assert not learned & validated
    (data / "red/00.png").unlink()
    assert trained_on(classifier) is None
    with pytest.raises(InputError, match="has other images, labels or groups than then; name DATA"):
        prepare_training(plan_training(like=run), tmp_path / "x")
    anew = prepare_training(plan_training(data, like=run), tmp_path / "x")
    assert len(anew.training.samples_sha256) == 64
    assert anew.training.samples_sha256 != read_training(run).samples_sha256


def test_another_weights_file_is_no_repetition(make_folder, tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(create_model("test_resnet", 7).state_dict(), path, {"arch": "test_resnet"})
    changes = {"weights": path, "image_size": 32, "epochs": 1}
    train(make_folder(), tmp_path / "first", changes=changes)
    plan = read_training(tmp_path / "first")
    assert len(plan.weights_sha256) == 64
    assert prepare_training(plan, tmp_path / "x").classifier.arch == "test_resnet"
    safetensors.torch.save_file(create_model("test_resnet", 7).state_dict(), path, {"arch": "test_resnet"})
    with pytest.raises(InputError, match="not the file it was"):
        prepare_training(plan, tmp_path / "x")
    prepare_training(plan_training(like=tmp_path / "first", changes={"weights": path}), tmp_path / "x")


def test_runs_that_do_not_say_how_they_were_trained(tmp_path, make_classifier):
    make_classifier().save(tmp_path)
    with pytest.raises(CheckpointError, match="does not say what it was trained from"):
        read_training(tmp_path)
    settings = json.loads((tmp_path / "classifier.json").read_text())
    good = asdict(Training(data="x"))
    assert good["settings"].keys() == {field.name for field in fields(TrainSettings)}
    for bad in (
        {"data": "x"},
        *({**good, name: 3} for name in ("settings", "negative", "data", "val", "model", "model_args", "window")),
        {**good, "val_fraction": "half"},
        {**good, "negative": "none"},
        *({**good, "settings": {**good["settings"], name: "x"}} for name in ("epochs", "learning_rate", "balance")),
    ):
        (tmp_path / "classifier.json").write_text(json.dumps({**settings, "training": bad}))
        with pytest.raises(CheckpointError, match="cannot be repeated"):
            read_training(tmp_path)
    (tmp_path / "classifier.json").write_text(json.dumps({**settings, "training": good}))
    assert read_training(tmp_path) == Training(data="x")


def test_the_command(call, make_folder, tmp_path):
    code, text, _ = call("train-cls", "--help")
    assert code == 0
    assert all(name in " ".join(text.split()) for name in RECIPES)
    options = ("--model", "MedIC", "--epochs", "1", "--augmentation", "zoom=0.1", "--balance", "sampling")
    first = tmp_path / "first"
    code, _, err = call("train-cls", make_folder(), "--recipe", "med-ic", "-o", first, *options)
    assert code == 0, err
    assert "med_ic from scratch: 17 training and 2 validation images of blue, red" in err
    training = read_training(first)
    assert training.settings.balance == "sampling"
    assert training.settings.augmentation == replace(NONE, zoom=0.1)
    assert json.loads((first / "classifier.json").read_text())["image_size"] == 28
    code, text, err = call("train-cls", "--like", first, "-o", tmp_path / "again", "--json")
    assert code == 0, err
    assert json.loads(text)["test"]["images"] == 5
    assert (tmp_path / "again/model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    code, text, err = call(
        "train-cls",
        "--like",
        first,
        "-o",
        tmp_path / "x",
        "--augment",
        "--seed",
        "7",
        "--val-fraction",
        "0.2",
        "--dry-run",
        "--json",
    )
    assert code == 0, err
    settings = json.loads(text)["training"]["settings"]
    assert settings["augmentation"] == asdict(Augmentation())
    assert settings["seed"] == 7
    code, _, err = call("train-cls", "-o", tmp_path / "x")
    assert code == 2
    assert "expected labelled images to train from" in err


def test_options_of_the_command(call, make_folder, tmp_path):
    """Only what is given changes a recipe, from a file too; the command line comes before the file."""
    (tmp_path / "x.toml").write_text('epochs = 3\nmodel-arg = {drop_rate = 0.5}\nnegative = ["blue"]\nseed = 1\n')

    def planned(*options):
        code, text, err = call("train-cls", make_folder(), "-o", tmp_path / "x", "--dry-run", "--json", *options)
        assert code == 0, err
        return from_json(Training, json.loads(text)["training"])

    options = ("--recipe", "guan-loew", "--model", "test_resnet", "--weights", "none", "--image-size", "32")
    plain = planned(*options)
    assert plain.settings == RECIPES["guan-loew"].training.settings
    told = planned(*options, "--config", tmp_path / "x.toml", "--seed", "2", "--lr", "0.5", "--mean", "0.1,0.2,0.3")
    assert told.settings == replace(plain.settings, epochs=3, seed=2, learning_rate=0.5)
    assert (told.negative, told.model_args, told.mean) == (("blue",), {"drop_rate": 0.5}, (0.1, 0.2, 0.3))
    ranges = planned(*options, "--augment", "--augmentation", "zoom=0.5", "--augmentation", "mirror=false")
    assert ranges.settings.augmentation == Augmentation(zoom=0.5, mirror=False)
    code, _, err = call("train-cls", make_folder(), "-o", tmp_path / "x", *options, "--augmentation", "hue=1")
    assert code == 2
    assert "unknown setting 'hue'" in err


@pytest.mark.parametrize("trainable", ["all", "last-stages"])
def test_batches_of_one_image_that_leave_batch_norms_without_a_spread(make_folder, tmp_path, trainable):
    changes = {"model": "mobilenetv2_035", "weights": "none", "image_size": 32, "batch_size": 1, "trainable": trainable}
    data = make_folder()
    with pytest.raises(InputError, match=r"mobilenetv2_035 needs at least 2 images per batch at 32 pixels .*size 1 "):
        prepare_training(plan_training(data, changes=changes), tmp_path / "out")
    for other in ({"batch_size": 2}, {"image_size": 64}, {"trainable": "head"}):
        prepare_training(plan_training(data, changes={**changes, **other}), tmp_path / "out")
