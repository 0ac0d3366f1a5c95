"""The network under training: epochs of steps, validation, and a state on disk from which it goes on."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from camseg.base.errors import CheckpointError, InputError, OutputError
from camseg.base.files import write_bytes
from camseg.base.progress import Progress
from camseg.base.tensors import tensor_bytes
from camseg.classify.classifier import Classifier
from camseg.data.settings import NONE
from camseg.models.weights import head_parameters
from camseg.train.balance import class_weights, sampling_shares
from camseg.train.batches import Batches, EpochSampler, LoadedSet, Loader, loader
from camseg.train.features import FeatureCache, Head, check_can_keep, feature_loader, keep_features
from camseg.train.freezing import freeze_others, learning_parameters, possible_warmup
from camseg.train.processes import Processes
from camseg.train.report import scores
from camseg.train.settings import MixedPrecision, TrainSettings

_PLATEAU = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
_OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


@dataclass
class State:
    """What changes from epoch to epoch, beside the tensors."""

    epoch: int = 0
    best_f1: float = -1.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Learner:
    """The network under training with its optimiser, its data and its state.

    What learns is a copy, ``model``; the classifier's own network is the running average of its weights, which on
    small sets both classifies and localises better, and varies less from seed to seed.
    """

    def __init__(
        self,
        classifier: Classifier,
        settings: TrainSettings,
        processes: Processes,
        train: LoadedSet,
        val: LoadedSet,
        cache: FeatureCache,
        progress: Progress,
    ) -> None:
        self.classifier, self.settings, self.processes = classifier, settings, processes
        self.cache, self.progress = cache, progress
        if settings.feature_views:
            check_can_keep(classifier.model, settings.trainable)
        self.state = State()
        targets = train.dataset.targets(classifier.classes)
        shares = sampling_shares(targets) if settings.balance == "sampling" else None
        self.sampler = EpochSampler(len(targets), settings.seed, processes, shares)
        self.batches = Batches(size=settings.batch_size, seed=settings.seed, workers=settings.workers)
        self.train_loader = self._loader(train, self.sampler, settings.feature_views)
        self.val_loader = self.in_order(val)
        self.truth = val.dataset.targets(classifier.classes)
        device = classifier.device
        self.weights = class_weights(targets, classifier).to(device) if settings.balance == "weights" else None
        self.average = AveragedModel(classifier.model, multi_avg_fn=_decaying(settings.averaging), use_buffers=True)
        # It copies what it is given: let the copy learn, and the classifier's own network be the average.
        self.model: nn.Module = self.average.module
        self.average.module = classifier.model
        self.average.n_averaged.fill_(1)  # the weights at the start, which the first step moves and does not replace
        self.head = head_parameters(self.model)
        self.warmup = possible_warmup(self.model, settings)
        self.learning = learning_parameters(self.model, settings.trainable)
        self.optimizer = _OPTIMIZERS[settings.optimizer](
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.scheduler = ReduceLROnPlateau(self.optimizer, factor=0.25, patience=settings.plateau_patience)
        self.autocast_type = _autocast_type(settings.mixed_precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.autocast_type == torch.float16)
        self.parallel: nn.Module | None = None

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
            network = self._network(self.model)
            self.parallel = nn.parallel.DistributedDataParallel(network) if several else network
        self.sampler.epoch = epoch
        torch.manual_seed(hash((self.settings.seed, epoch, self.processes.rank)) % 2**63)
        loss = self._train(progress, f"epoch {epoch + 1}/{self.settings.epochs}")
        logits, val_loss = self.validate()
        report = scores(self.classifier, logits, self.truth)
        rate = self.optimizer.param_groups[0]["lr"]
        if not warming and self.settings.plateau_patience:
            self.scheduler.step(val_loss)
        self.state.epoch += 1
        self.state.history.append(
            {
                "epoch": self.state.epoch,
                "learning_rate": rate,
                "train_loss": loss,
                "val_loss": val_loss,
                "val_accuracy": float(report["accuracy"]),
                "val_macro_f1": float(report["macro_f1"]),
            }
        )
        macro_f1 = self.state.history[-1]["val_macro_f1"]
        better = (macro_f1, -val_loss) > (self.state.best_f1, -self.state.best_loss)
        if better or self.settings.keep == "last":
            self.state.best_f1, self.state.best_loss, self.state.best_epoch = macro_f1, val_loss, self.state.epoch
        if not np.isfinite(loss):
            raise InputError(f"the loss became {loss}; lower --learning-rate, or use --mixed-precision no")

    def in_order(self, images: LoadedSet) -> Loader:
        """The unchanged images of a set: every process takes them all, as they are few and nothing is gathered."""
        order = [(0, index) for index in range(len(images.dataset.samples))]
        return self._loader(images, order, 1)

    def validate(self) -> tuple[Tensor, float]:
        """Logits (N, classes) on the CPU, and the mean loss, of the validation images."""
        logits = self.predict(self.val_loader)
        weights = None if self.weights is None else self.weights.cpu()
        loss = _loss(logits, torch.from_numpy(self.truth), weights, self.classifier.multi_label)
        return logits, float(loss)

    def predict(self, images: Loader) -> Tensor:
        """The averaged network's logits (N, classes), float32 on the CPU."""
        network = self._network(self.classifier.model).eval()
        outputs = []
        with torch.inference_mode():
            for batch, _ in images:
                with self._autocast():
                    outputs.append(network(self._inputs(batch)).float().cpu())
        # Statistics of batch norm differ between processes; what is decided from the scores, when to stop among it,
        # must not, or one process waits for ever. So all take those of the first.
        return self.processes.from_first(torch.cat(outputs).to(self.classifier.device)).cpu()

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
            with safe_open(path, framework="pt", device=str(self.classifier.device)) as file:
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
        total, count = 0.0, 0
        for batch, targets in progress(self.train_loader, len(self.train_loader), title):
            self.optimizer.zero_grad(set_to_none=True)
            with self._autocast():
                logits = self.parallel(self._inputs(batch))
            loss = _loss(logits.float(), targets.to(logits.device), self.weights, self.classifier.multi_label)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.average.update_parameters(self.model)
            total, count = total + loss.item() * len(targets), count + len(targets)
        sums = self.processes.total(torch.tensor([total, count], device=self.classifier.device))
        return float(sums[0] / sums[1])

    def _loader(self, images: LoadedSet, order: EpochSampler | Sequence[tuple[int, ...]], views: int) -> Loader:
        """Batches of squares, or of their features where those are kept; ``views`` above 1 are augmented."""
        changes = self.settings.augmentation
        if not self.settings.feature_views:
            return loader(self.classifier, images, self.batches, order, changes if order is self.sampler else NONE)
        features = keep_features(
            self.classifier, images, changes, views, self.cache, self.batches.size, self.progress, "features"
        )
        targets = torch.from_numpy(images.dataset.targets(self.classifier.classes))
        return feature_loader(features, targets, self.batches, order)

    def _network(self, model: nn.Module) -> nn.Module:
        """What batches go through: the whole network, or the part behind the features that are kept."""
        return Head(model) if self.settings.feature_views else model

    def _inputs(self, batch: Tensor) -> Tensor:
        return batch.to(self.classifier.device) if self.settings.feature_views else self.classifier.normalise(batch)

    def _autocast(self) -> torch.autocast:
        enabled = self.autocast_type != torch.float32
        return torch.autocast(
            self.classifier.device.type, dtype=self.autocast_type if enabled else None, enabled=enabled
        )


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


def _loss(logits: Tensor, targets: Tensor, weights: Tensor | None, multi_label: bool) -> Tensor:
    if multi_label:
        return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    return functional.cross_entropy(logits, targets, weight=weights)


def _autocast_type(precision: MixedPrecision, device: torch.device) -> torch.dtype:
    """float32, unless half precision is asked for, or ``auto`` on a GPU."""
    if precision != "auto":
        return {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
