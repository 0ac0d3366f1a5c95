"""A learner and a run folder -> epochs until it has finished: the best is kept, and what was stopped goes on."""

from collections.abc import Callable
from pathlib import Path

import safetensors.torch

from camseg.base.errors import OutputError
from camseg.base.files import check_can_write, remove_unfinished
from camseg.base.progress import Progress, Say
from camseg.train.learner import Learner

STATE = "training.safetensors"
"""The state of an unfinished training, in its run folder."""


def run_course(
    learner: Learner,
    out: Path,
    identity: str,
    *,
    clear: Callable[[Path], None] | None,
    progress: Progress,
    say: Say,
) -> None:
    """Train until the learner has finished, and give its network the weights of the best epoch.

    These are saved into ``out`` as they come, with the state from which an interrupted training of the same
    ``identity`` goes on; who reports the run removes the state. ``clear``: removes what an earlier run left, which
    stays until the new one has something to save. Raises OutputError where ``out`` holds an unfinished run of another
    identity.
    """
    processes, settings, state_file = learner.processes, learner.settings, out / STATE
    if processes.first:
        remove_unfinished(out)
    processes.wait()
    if clear is None and state_file.exists():
        learner.restore(state_file, identity)
        say(f"continuing {out} after epoch {learner.state.epoch}")
    while not learner.finished():
        learner.run_epoch(progress)
        last = learner.state.history[-1]
        say(
            f"epoch {learner.state.epoch}/{settings.epochs}: loss {last['train_loss']:.3f}, validation loss "
            f"{last['val_loss']:.3f}, {learner.words}"
        )
        if processes.first:
            if clear is not None and learner.state.epoch == 1:
                clear(out)
            # The best weights first: a kill between the two writes repeats an epoch and loses nothing.
            if learner.state.best_epoch == learner.state.epoch:
                learner.network.save(out)
            learner.save(state_file, identity)
    processes.wait()
    learner.network.model.load_state_dict(safetensors.torch.load_file(out / "model.safetensors"))


def check_run_folder(out: Path, *, overwrite: bool) -> None:
    """Raise OutputError where no run can be written, or a finished one is not to be overwritten."""
    check_can_write(out)
    # An ensemble need not have been measured.
    if not overwrite and ((out / "metrics.json").exists() or (out / "members").exists()):
        raise OutputError(f"{out} holds a finished run; choose another --out, or --overwrite it")
