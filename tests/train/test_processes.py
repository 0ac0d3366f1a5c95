import json
import os
import subprocess
import sys

import pytest
import torch

from camseg.base.errors import InputError
from camseg.classify.checkpoint import load_classifier, load_network
from camseg.train import processes
from camseg.train.processes import Processes, started_together

TINY = ("--model", "test_resnet", "--weights", "none", "--image-size", "32", "--epochs", "2", "--device", "cpu")

WATCHED = """
import hashlib
from pathlib import Path
from camseg.cli import main
from camseg.train.learner import Learner

run_epoch = Learner.run_epoch

def watched(learner, progress):
    run_epoch(learner, progress)
    weights = b"".join(p.detach().numpy().tobytes() for p in learner.network.model.parameters())
    told = f"{hashlib.sha256(weights).hexdigest()} {learner.state}"
    with Path("OUT", f"rank{learner.processes.rank}").open("a") as file:
        file.write(told + "\\n")

Learner.run_epoch = watched
main()
"""

TWICE = """
import sys
from camseg.data.datasets import load_training_data
from camseg.data.splits import split
from camseg.train.plan import plan_training, prepare_training, run_training

data, out = sys.argv[1:]
for seed in (0, 1):
    changes = {"model": "test_resnet", "weights": "none", "image_size": 32, "epochs": 1, "seed": seed}
    run_training(prepare_training(plan_training(data, changes=changes), f"{out}/{seed}"), f"{out}/{seed}", device="cpu")
"""


def torchrun(script, *arguments):
    """Run a Python file in two processes, as the console script torchrun does."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = [sys.executable, *launch, *map(str, (script, *arguments))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_alone_nothing_goes_between_processes():
    alone = started_together()
    assert alone == Processes()
    assert alone.first
    assert alone.join("cpu") == torch.device("cpu")
    tensor = torch.ones(2)
    assert alone.from_first(tensor) is tensor
    assert alone.total(tensor) is tensor
    alone.wait()
    alone.part()


def test_what_torchrun_says(monkeypatch):
    monkeypatch.setattr(processes.dist, "is_torchelastic_launched", lambda: True)
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    third = started_together()
    assert third == Processes(rank=3, count=4, place=1)
    assert not third.first
    with pytest.raises(InputError, match="auto, cpu or cuda for 4 processes; got cuda:0"):
        third.join("cuda:0")


@pytest.mark.slow
def test_two_processes_train_one_run(make_folder, tmp_path):
    script, run = tmp_path / "watched.py", tmp_path / "run"
    script.write_text(WATCHED.replace("OUT", str(tmp_path)))
    done = torchrun(script, "train-cls", make_folder(), "-o", run, *TINY, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["train_images"] == 19  # one of them speaks
    assert done.stderr.count("epoch 2/2") == 1
    first, second = ((tmp_path / f"rank{rank}").read_text().splitlines() for rank in range(2))
    assert len(first) == 2
    assert first == second  # weights, losses, best epoch
    assert load_network(run).classes == ("blue", "red")
    assert not list(run.glob("*.tmp"))


@pytest.mark.slow
def test_two_processes_train_one_run_after_another(make_folder, tmp_path):
    script = tmp_path / "twice.py"
    script.write_text(TWICE)
    done = torchrun(script, make_folder(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_network(tmp_path / "0").fingerprint() != load_network(tmp_path / "1").fingerprint()


@pytest.mark.slow
def test_a_process_that_fails_ends_all(make_folder, tmp_path):
    script = tmp_path / "watched.py"
    script.write_text(
        WATCHED.replace("OUT", str(tmp_path)).replace(
            "    run_epoch(learner, progress)\n",
            "    if learner.processes.rank == 1:\n        raise SystemExit(3)\n    run_epoch(learner, progress)\n",
        )
    )
    done = torchrun(script, "train-cls", make_folder(), "-o", tmp_path / "run", *TINY)
    assert done.returncode != 0
    assert not (tmp_path / "run/metrics.json").exists()


@pytest.mark.slow
def test_two_processes_train_members_together(make_folder, tmp_path):
    script, run = tmp_path / "main.py", tmp_path / "run"
    script.write_text("from camseg.cli import main\nmain()\n")
    for more in ((), ("--overwrite",)):
        done = torchrun(script, "train-cls", make_folder(), "-o", run, *TINY, "--seeds", "2", "--json", *more)
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["members"]) == 2
        assert done.stderr.count("member 2 of 2:") == 1
    assert len(load_classifier(run).members) == 2
