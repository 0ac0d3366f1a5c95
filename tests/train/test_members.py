"""Members on folds and from seeds: every image teaches all but one of them, and what they say is told as it is."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from camseg.base.errors import DatasetError, InputError, OutputError
from camseg.base.progress import silent
from camseg.base.settings import to_json
from camseg.classify.checkpoint import load_classifier, load_network
from camseg.data.datasets import load_training_data
from camseg.data.splits import fold
from camseg.label.agreement import set_agreement
from camseg.train.members import plan_members, prepare_members, train_members, try_members
from camseg.train.plan import plan_training, read_training
from camseg.train.settings import MemberSettings

TINY = {"model": "test_resnet", "weights": "none", "image_size": 32, "epochs": 1, "batch_size": 8}


def prepare(data, out, *, folds=None, seeds=1, **changes):
    training = plan_training(data, changes={**TINY, **changes})
    return prepare_members(plan_members(training, MemberSettings(folds=folds, seeds=seeds)), out)


def train(data, out, **plan):
    return train_members(prepare(data, out, **plan), out, device="cpu")


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_image_is_held_back_once(make_folder, count):
    data = load_training_data(make_folder(count=10))
    pairs = [fold(data, number, count, seed=3) for number in range(count)]
    held = [sample.name for _, val in pairs for sample in val.samples]
    assert sorted(held) == sorted(sample.name for sample in data.samples)
    for train_, val in pairs:
        assert not {one.name for one in train_.samples} & {one.name for one in val.samples}
        assert len(train_.samples) + len(val.samples) == len(data.samples)
        assert {label for one in val.samples for label in one.labels} == set(data.classes)


def test_groups_stay_together(make_folder, tmp_path):
    data = load_training_data(make_folder(count=8))
    rows = [f"{one.path},{one.labels[0]},{n // 2 % 6}" for n, one in enumerate(data.samples)]
    (tmp_path / "all.csv").write_text("image,label,group\n" + "\n".join(rows))
    grouped = load_training_data(tmp_path / "all.csv")
    for number in range(3):
        parts = fold(grouped, number, 3, seed=0)
        groups = [{one.group for one in part.samples} for part in parts]
        assert not groups[0] & groups[1]


def test_folds_that_cannot_be(make_folder):
    data = load_training_data(make_folder(count=2))
    with pytest.raises(DatasetError, match=r"cannot make \d+ folds"):
        fold(data, 0, len(data.samples) + 1, seed=0)
    rare = replace(data, samples=data.samples[:3])
    with pytest.raises(DatasetError, match=r"part of the split holds no image of .* number of folds"):
        [fold(rare, number, 2, seed=0) for number in range(2)]
    for number, count in ((0, 1), (3, 3), (-1, 3)):
        with pytest.raises(InputError, match="at least 2 folds"):
            fold(data, number, count, seed=0)


def test_the_members_plans(make_folder):
    training = plan_training(make_folder(), changes={**TINY, "seed": 7})
    plans = plan_members(training, MemberSettings(folds=2, seeds=2))
    assert [(one.fold, one.split_seed, one.settings.seed) for one in plans] == [
        ((0, 2), 7, 7),
        ((1, 2), 7, 8),
        ((0, 2), 7, 9),
        ((1, 2), 7, 10),
    ]
    alone = plan_members(training, MemberSettings(seeds=2))
    assert [(one.fold, one.split_seed, one.settings.seed) for one in alone] == [(None, 7, 7), (None, 7, 8)]
    with pytest.raises(InputError, match="leave out --val"):
        plan_members(plan_training(make_folder(), changes={**TINY, "val": "x"}), MemberSettings(folds=2))


def test_an_ensemble_of_folds(make_folder, tmp_path):
    data, out = make_folder(count=8), tmp_path / "run"
    metrics = train(data, out, folds=3)
    every = load_training_data(data)
    assert metrics["val_images"] == len(every.samples)
    assert sum(one["support"] for one in metrics["classes"].values()) == len(every.samples)
    assert metrics == json.loads((out / "metrics.json").read_text())
    assert {path.name for path in out.iterdir()} == {
        "classifier.json",
        "metrics.json",
        "members",
        "confusion.png",
        "reliability.png",
    }
    ensemble = load_classifier(out)
    assert len(ensemble.members) == 3
    assert {member.temperature for member in ensemble.members} == {metrics["temperature"]}
    # By hand: each image by the member that did not learn from it.
    right = 0
    for number, member in enumerate(ensemble.members):
        _, val = fold(every, number, 3, seed=0)
        x = member.preprocess([member.preprocessing.read(one.path) for one in val.samples])
        with torch.inference_mode():
            found = member.model(x).argmax(dim=1).tolist()
        right += sum(member.classes[index] == one.labels[0] for index, one in zip(found, val.samples, strict=True))
        assert read_training(out / f"members/{number}").fold == (number, 3)
    assert metrics["accuracy"] == pytest.approx(right / len(every.samples))
    agreement = set_agreement(replace(ensemble, shares=(1 / 3,) * 3), every.samples, silent)
    assert ensemble.shares == pytest.approx(agreement.shares)
    assert [one["share"] for one in metrics["members"]] == pytest.approx(agreement.shares)


def test_members_may_all_count_the_same(make_folder, tmp_path):
    prepared = prepare(make_folder(count=6), tmp_path / "run", folds=3)
    train_members(prepared, tmp_path / "run", weights="equal", device="cpu")
    assert load_classifier(tmp_path / "run").shares == pytest.approx((1 / 3,) * 3)


def test_members_from_seeds_share_their_split(make_folder, tmp_path):
    prepared = prepare(make_folder(count=8), tmp_path / "run", seeds=2, test_fraction=0.25)
    first, second = prepared
    assert [one.name for one in first.val.samples] == [one.name for one in second.val.samples]
    metrics = train_members(prepared, tmp_path / "run", device="cpu")
    assert metrics["val_images"] == len(first.val.samples)
    assert sum(one["support"] for one in metrics["test"]["classes"].values()) == len(first.test.samples)
    weights = [load_network(tmp_path / f"run/members/{n}").fingerprint() for n in range(2)]
    assert weights[0] != weights[1]


def test_a_training_that_was_stopped_goes_on_member_by_member(make_folder, tmp_path, monkeypatch):
    data = make_folder(count=6)
    whole = train(data, tmp_path / "whole", folds=2)
    train(data, tmp_path / "run", folds=2)
    shutil.rmtree(tmp_path / "run/members/1")
    (tmp_path / "run/classifier.json").unlink()
    before = (tmp_path / "run/members/0/history.csv").stat().st_mtime_ns
    said = []
    prepared = prepare(data, tmp_path / "run", folds=2)
    assert try_members(prepared, tmp_path / "run", device="cpu") == {}
    metrics = train_members(prepared, tmp_path / "run", device="cpu", say=said.append)
    assert said[0] == "member 1 of 2: is there"
    assert (tmp_path / "run/members/0/history.csv").stat().st_mtime_ns == before
    names = [{**one, "run": ""} for one in whole["members"]]
    assert [{**one, "run": ""} for one in metrics["members"]] == names
    for file in ("classifier.json", "members/0/model.safetensors", "members/1/model.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.processes
def test_members_side_by_side_are_those_of_one_process(make_folder, tmp_path):
    data, said = make_folder(count=6), []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker has
    try:
        whole = train(data, tmp_path / "whole", folds=3)
    finally:
        torch.set_num_threads(threads)
    prepared = prepare(data, tmp_path / "run", folds=3)
    assert try_members(prepared, tmp_path / "run", devices="cpu:2") == {}
    metrics = train_members(prepared, tmp_path / "run", devices="cpu:2", say=said.append)
    assert sum(line.endswith(", on cpu") for line in said) == 3
    assert metrics["confusion"] == whole["confusion"]
    for number in range(3):
        file = f"members/{number}/model.safetensors"
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.processes
def test_a_member_that_fails_ends_all_side_by_side(make_folder, tmp_path):
    prepared = prepare(make_folder(count=6), tmp_path / "run", folds=3)
    one = prepared[1]
    broken = replace(one, training=replace(one.training, settings=replace(one.training.settings, learning_rate=1e30)))
    with pytest.raises(InputError, match=r"lower (--|the )learning.rate"):
        train_members([prepared[0], broken, prepared[2]], tmp_path / "run", devices="cpu:1")
    assert (tmp_path / "run/members/0/metrics.json").exists()  # finished work stays
    assert not (tmp_path / "run/classifier.json").exists()
    with pytest.raises(InputError, match="device tpu cannot be used"):
        train_members(prepared, tmp_path / "run", devices="tpu")


def test_what_is_not_written_over(make_folder, tmp_path):
    data, out = make_folder(count=6), tmp_path / "run"
    train(data, out, folds=2)
    for call in (train_members, try_members):
        with pytest.raises(OutputError, match="holds a run already"):
            call(prepare(data, out, folds=2), out, device="cpu")
    (out / "classifier.json").unlink()
    for call in (train_members, try_members):
        with pytest.raises(OutputError, match=r"members/0 was trained otherwise"):
            call(prepare(data, out, folds=2, learning_rate=0.5), out, device="cpu")
    train_members(prepare(data, out, folds=2, learning_rate=0.5), out, device="cpu", overwrite=True)
    assert read_training(out / "members/1").settings.learning_rate == 0.5


def test_the_command(call, make_folder, tmp_path):
    data = make_folder(count=6)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    code, out, err = call(
        "train-cls", data, *options, "--folds", 2, "--device", "cpu", "-o", tmp_path / "run", "--json"
    )
    assert code == 0
    assert "2 times test_resnet from scratch" in err
    assert "member 2 of 2: fold 2 of 2 validates, seed 1" in err
    assert json.loads(out)["val_images"] == len(load_training_data(data).samples)
    code, _, err = call("train-cls", data, *options, "--devices", "cpu:2", "-o", tmp_path / "one")
    assert code == 2
    assert "give --folds or --seeds too" in err
    code, out, _ = call("train-cls", data, *options, "--folds", 2, "-o", tmp_path / "dry", "--json", "--dry-run")
    members = json.loads(out)["members"]
    assert [one["fold"] for one in members] == [[0, 2], [1, 2]]
    assert code == 0
    assert not (tmp_path / "dry").exists()
    # One member can be repeated by itself.
    code, _, err = call("train-cls", "--like", tmp_path / "run/members/1", "--device", "cpu", "-o", tmp_path / "again")
    assert code == 0, err
    assert to_json(read_training(tmp_path / "again")) == to_json(read_training(tmp_path / "run/members/1"))
    weights = [load_network(run).model.state_dict() for run in (tmp_path / "again", tmp_path / "run/members/1")]
    assert all(np.array_equal(a, b) for a, b in zip(*(one.values() for one in weights), strict=True))


def test_a_new_run_that_cannot_be_leaves_the_old_one(make_folder, tmp_path):
    data, out = make_folder(count=6), tmp_path / "run"
    train(data, out, folds=2)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="device tpu cannot be used"):
        train_members(prepare(data, out, folds=2), out, device="tpu", overwrite=True)
    with pytest.raises(InputError, match="device tpu cannot be used"):
        train_members(prepare(data, out, folds=2), out, devices="tpu", overwrite=True)
    with pytest.raises(InputError, match="features"):
        train_members(prepare(data, out, folds=2, feature_views=2), out, device="cpu", overwrite=True)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_members_go_on_whatever_warm_up_was_settled_on_and_with_other_workers(make_folder, tmp_path):
    data, out = make_folder(count=6), tmp_path / "run"
    train(data, out, folds=2, warmup_epochs=3)
    assert read_training(out / "members/0").settings.warmup_epochs == 0
    (out / "classifier.json").unlink()
    prepared = prepare(data, out, folds=2, warmup_epochs=3, workers=1)
    said = []
    train_members(prepared, out, device="cpu", say=said.append)
    assert said[:2] == ["member 1 of 2: is there", "member 2 of 2: is there"]


def test_images_that_are_in_training_alone_are_listed_where_they_fail(make_folder, tmp_path):
    data, out = make_folder(count=8), tmp_path / "run"
    broken = prepare(data, out, seeds=2)[0].train.samples[0].path
    broken.write_bytes(broken.read_bytes()[:60])
    metrics = train(data, out, seeds=2)
    assert list(metrics["failed"]) == [str(broken)]


def test_members_like_one_of_an_ensemble_split_as_it_did(make_folder, tmp_path):
    data, out = make_folder(count=6), tmp_path / "run"
    train(data, out, folds=3)
    like = plan_training(like=out / "members/1")
    again = plan_members(like, MemberSettings(seeds=2))
    assert [(one.fold, one.split_seed, one.settings.seed) for one in again] == [((1, 3), 0, 1), ((1, 3), 0, 2)]
    folds = plan_members(like, MemberSettings(folds=2))
    assert [(one.fold, one.split_seed) for one in folds] == [((0, 2), 0), ((1, 2), 0)]


def test_few_images_tell_no_temperature_however_many_members_saw_them(make_folder, tmp_path):
    data, said = make_folder(count=10), []
    prepared = prepare(data, tmp_path / "run", seeds=3)
    metrics = train_members(prepared, tmp_path / "run", device="cpu", say=said.append)
    assert metrics["val_images"] < 10 <= 3 * metrics["val_images"]
    assert metrics["temperature"] == 1.0
    assert any(line.startswith(f"{metrics['val_images']} validation images do not tell") for line in said[-2:])
