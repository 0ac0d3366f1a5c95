"""A network under training, whatever it learns: epochs of steps, and a state on disk from which it goes on."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from camseg.base.errors import CheckpointError, InputError, OutputError
from camseg.base.files import write_bytes
from camseg.base.progress import Progress
from camseg.base.tensors import tensor_bytes
from camseg.classify.network import FedNetwork
from camseg.models.weights import head_parameters
from camseg.train.batches import EpochSampler
from camseg.train.freezing import HeadOf, freeze_others, learning_parameters, possible_warmup
from camseg.train.processes import Processes
from camseg.train.settings import MixedPrecision, TrainSettings

_PLATEAU = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
_OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


Pass: TypeAlias = Callable[[Tensor], Tensor]
"""Images as they are read, uint8 (N, S, S, 3), -> logits, float32 on the network's device."""


@dataclass(frozen=True, kw_only=True)
class Exam:
    """What the validation images say of an epoch."""

    loss: float
    """The mean loss, which the plateau is judged by."""
    score: float
    """What the best epoch has most of; of equal ones that of the lower loss is the best."""
    columns: Mapping[str, float]
    """Of the history, behind the losses."""
    words: str
    """The same in words."""


@dataclass
class State:
    """What changes from epoch to epoch, beside the tensors."""

    epoch: int = 0
    best_score: float = -1.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Learner(ABC):
    """The network under training with its optimiser, its data and its state.

    What learns is a copy, ``model``; the given network itself is the running average of its weights, which on
    small sets both classifies and localises better, and varies less from seed to seed.
    """

    sampler: EpochSampler
    """In which order the training images come."""
    train_loader: DataLoader[Any]
    """Their batches: the images first, uint8 (N, S, S, 3), then what ``loss`` wants of them."""

    def __init__(
        self, network: FedNetwork, settings: TrainSettings, processes: Processes, head_of: HeadOf = head_parameters
    ) -> None:
        self.network, self.settings, self.processes = network, settings, processes
        self.state = State()
        device = network.device
        self.average = AveragedModel(network.model, multi_avg_fn=_decaying(settings.averaging), use_buffers=True)
        # It copies what it is given: let the copy learn, and the given network be the average.
        self.model: nn.Module = self.average.module
        self.average.module = network.model
        self.average.n_averaged.fill_(1)  # the weights at the start, which the first step moves and does not replace
        self.head = head_of(self.model)
        self.warmup = possible_warmup(self.model, settings, head_of)
        self.learning = learning_parameters(self.model, settings.trainable, head_of)
        self.optimizer = _OPTIMIZERS[settings.optimizer](
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.scheduler = ReduceLROnPlateau(self.optimizer, factor=0.25, patience=settings.plateau_patience)
        self.autocast_type = _autocast_type(settings.mixed_precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.autocast_type == torch.float16)
        self.parallel: nn.Module | None = None
        self.words = ""

    @abstractmethod
    def loss(self, batch: Sequence[Tensor], student: Pass, teacher: Pass) -> Tensor:
        """The mean loss of a batch of the train loader; ``student`` learns, ``teacher`` is the average."""

    @abstractmethod
    def examine(self) -> Exam:
        """What the validation images say of the average; the same in every process."""

    def begin_epoch(self) -> None:  # noqa: B027 (most have nothing to do)
        """Make ready for the batches of an epoch."""

    def end_epoch(self) -> Mapping[str, float]:
        """What the batches of an epoch said: further columns of the history, the same in every process."""
        return {}

    def finished(self) -> bool:
        """Whether the last epoch has been, or patience has run out after the warm-up."""
        waited = self.state.epoch - max(self.state.best_epoch, self.warmup)
        return self.state.epoch >= self.settings.epochs or waited > self.settings.patience > 0

    def run_epoch(self, progress: Progress) -> None:
        """Train one epoch, validate, and let plateau and best epoch follow."""
        epoch = self.state.epoch
        warming = epoch < self.warmup
        if self.parallel is None or epoch == self.warmup:
            freeze_others(self.model, self.head if warming else self.learning)
            # Only now, as what learns must be settled before.
            several = self.processes.count > 1
            fed = self.fed(self.model)
            self.parallel = nn.parallel.DistributedDataParallel(fed) if several else fed
        self.begin_epoch()
        self.sampler.epoch = epoch
        torch.manual_seed(hash((self.settings.seed, epoch, self.processes.rank)) % 2**63)
        loss = self._train(progress, f"epoch {epoch + 1}/{self.settings.epochs}")
        exam = self.examine()
        rate = self.optimizer.param_groups[0]["lr"]
        if not warming and self.settings.plateau_patience:
            self.scheduler.step(exam.loss)
        self.state.epoch += 1
        self.state.history.append(
            {
                "epoch": self.state.epoch,
                "learning_rate": rate,
                "train_loss": loss,
                "val_loss": exam.loss,
                **exam.columns,
                **self.end_epoch(),
            }
        )
        better = (exam.score, -exam.loss) > (self.state.best_score, -self.state.best_loss)
        if better or self.settings.keep == "last":
            self.state.best_score, self.state.best_loss = exam.score, exam.loss
            self.state.best_epoch = self.state.epoch
        self.words = exam.words
        if not np.isfinite(loss):
            raise InputError(f"the loss became {loss}; lower --learning-rate, or use --mixed-precision no")

    def save(self, path: Path, identity: str) -> None:
        """Write weights, optimiser and state into one safetensors file, the state as JSON in its metadata."""
        tensors = {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= {f"model.{name}": value for name, value in self.model.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        for index, slots in optimizer["state"].items():
            tensors |= {f"optimizer.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
        facts = {
            "identity": identity,
            "state": asdict(self.state),
            "groups": optimizer["param_groups"],
            "plateau": {key: value for key, value in self.scheduler.state_dict().items() if key in _PLATEAU},
            "scaler": self.scaler.state_dict(),
        }
        write_bytes(path, tensor_bytes(tensors, {"state": json.dumps(facts)}))

    def restore(self, path: Path, identity: str) -> None:
        """Take up what ``save`` wrote; OutputError when it was written by another training."""
        try:
            with safe_open(path, framework="pt", device=str(self.network.device)) as file:
                facts = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            same = facts["identity"] == identity
            if same:
                self._take_up(facts, tensors)
        except Exception as error:  # whatever a damaged file provokes
            raise CheckpointError(f"{path}: damaged training state ({error}); start again with --overwrite") from None
        if not same:
            raise OutputError(
                f"{path.parent} holds an unfinished run with other data or settings, or from other starting weights; "
                "repeat its call to continue it, choose another --out, or --overwrite it"
            )

    def _take_up(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        for model, prefix in ((self.average, "average."), (self.model, "model.")):
            model.load_state_dict(
                {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            )
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, slot = name.split(".", 2)
                slots.setdefault(int(index), {})[slot] = value
        self.optimizer.load_state_dict({"state": slots, "param_groups": facts["groups"]})
        self.scheduler.load_state_dict(facts["plateau"])
        self.scaler.load_state_dict(facts["scaler"])
        self.state = State(**facts["state"])

    def _train(self, progress: Progress, title: str) -> float:
        assert self.parallel is not None
        total, images = 0.0, 0
        for batch in progress(self.train_loader, len(self.train_loader), title):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss(batch, self._learn, self._teach)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.average.update_parameters(self.model)
            count = len(batch[0])
            total, images = total + loss.item() * count, images + count
        sums = self.processes.total(torch.tensor([total, images], device=self.network.device))
        return float(sums[0] / sums[1])

    def see(self, squares: Tensor) -> Tensor:
        """The average's logits, float32 on the network's device, in inference mode: for validation."""
        with torch.inference_mode():
            return self._logits(self.fed(self.network.model).eval(), squares)

    def fed(self, model: nn.Module) -> nn.Module:
        """The part of the network that batches go through: all of it, where nothing is computed beforehand."""
        return model

    def inputs(self, batch: Tensor) -> Tensor:
        """What a loader gives, as that part takes it."""
        return self.network.normalise(batch)

    def _learn(self, squares: Tensor) -> Tensor:
        assert self.parallel is not None
        return self._logits(self.parallel, squares)

    def _teach(self, squares: Tensor) -> Tensor:
        with torch.no_grad():
            return self._logits(self.fed(self.network.model).eval(), squares)

    def _logits(self, model: nn.Module, squares: Tensor) -> Tensor:
        with self._autocast():
            logits: Tensor = model(self.inputs(squares))
        return logits.float()

    def _autocast(self) -> torch.autocast:
        enabled = self.autocast_type != torch.float32
        return torch.autocast(self.network.device.type, dtype=self.autocast_type if enabled else None, enabled=enabled)


def _decaying(most: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """How averages move toward new values: with a decay of ``most``, and less in the first steps, nearly all the way.

    Counts, such as those of batch norm's batches, are taken over.
    """

    def move(averages: Sequence[Tensor], values: Sequence[Tensor], steps: Tensor | int) -> None:
        if averages[0].is_floating_point():
            decay = min(most, int(steps) / (10 + int(steps)))
            get_ema_multi_avg_fn(decay)(averages, values, steps)
        else:
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)

    return move


def _autocast_type(precision: MixedPrecision, device: torch.device) -> torch.dtype:
    """float32, unless half precision is asked for, or ``auto`` on a GPU."""
    if precision != "auto":
        return {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
