"""Labelled images -> a classifier run: warm-up, fine-tuning, early stopping, the best epoch kept, calibration.

Runs through accelerate: on one device as it is, on several with ``accelerate launch``. All randomness
follows from seed, epoch and image index, so an interrupted run that is started again ends where an
uninterrupted one would have.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from camseg.base.device import find_device
from camseg.base.errors import CheckpointError, InputError, OutputError
from camseg.base.files import remove_unfinished, write_bytes, write_csv, write_json
from camseg.base.progress import Progress, Say, silent, unheard
from camseg.base.settings import to_json
from camseg.base.tensors import tensor_bytes
from camseg.classify.checkpoint import clear_run
from camseg.classify.classifier import Classifier
from camseg.data.datasets import Dataset
from camseg.data.images import write_image
from camseg.data.settings import NONE
from camseg.measure.calibration import UNTOLD, fit_temperature
from camseg.measure.figures import plot_confusion, plot_history, plot_reliability
from camseg.measure.metrics import classification_metrics, expected_calibration_error, reliability
from camseg.models.weights import head_parameters
from camseg.train.batches import Batches, EpochSampler, Source, load_pixels, loader
from camseg.train.freezing import freeze_others, learning_parameters
from camseg.train.settings import TrainSettings

_STATE = "training.safetensors"
_PLATEAU = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
_OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


@dataclass
class _State:
    """What changes from epoch to epoch, beside the tensors."""

    epoch: int = 0
    step: int = 0
    best_f1: float = -1.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def train_classifier(
    classifier: Classifier,
    train: Dataset,
    val: Dataset,
    out: Path | str,
    settings: TrainSettings | None = None,
    *,
    test: Dataset | None = None,
    origin: Mapping[str, Any] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress = silent,
    say: Say = unheard,
) -> dict[str, Any]:
    """Train the network of ``classifier`` in place and write the run into ``out``; return its validation metrics.

    Writes ``model.safetensors`` and ``classifier.json`` of the epoch with the best validation macro-F1, calibrated on
    the validation images, with the ``settings`` and ``origin`` (JSON values) as its ``training``; ``metrics.json``,
    ``history.csv``, ``curves.png``, ``reliability.png`` and ``confusion.png``. The temperature is the run's: load it
    for calibrated probabilities. ``test`` images take no part in any choice; how the run does on them stands under
    ``test`` in the metrics. A run that was interrupted continues from its last whole epoch.

    Images that cannot be read are left out, and listed under ``failed`` in the metrics.

    Raises OutputError when ``out`` holds a finished run, or an unfinished one with other settings or starting weights;
    DatasetError when labels do not fit the classifier, or none of the images can be read.
    """
    settings = settings or TrainSettings()
    # A set may happen to give every image one label beside a multi-label classifier.
    parts = [replace(part, multi_label=classifier.multi_label) for part in (train, val, *([test] if test else ()))]
    out = Path(out)
    processes = Accelerator()
    state_file = out / _STATE
    if not processes.is_main_process:
        progress, say = silent, unheard
    if out.exists() and not out.is_dir():
        raise OutputError(f"expected a folder for the run; {out} is a file")
    # An ensemble need not have been measured.
    if not overwrite and ((out / "metrics.json").exists() or (out / "members").exists()):
        raise OutputError(f"{out} holds a finished run; choose another --out, or --overwrite it")
    sources: list[Source] = []
    failed: dict[Path, str] = {}
    for part, name in zip(parts, ("training", "validation", "test"), strict=False):
        readable, pixels, failures = load_pixels(classifier, part, progress, f"reading {name} images")
        sources.append(Source(readable, pixels))
        failed |= failures
    start = classifier.fingerprint()
    record = {**(origin or {}), "settings": to_json(settings), "start_sha256": start}
    classifier = replace(classifier, training=record, temperature=1.0)
    identity = _identity(start, sources, settings)
    # Moved first: the optimiser must see the parameters where they will be.
    classifier.model.to(processes.device if processes.num_processes > 1 else find_device(device))
    trainer = _Trainer(classifier, settings, processes, sources[0], sources[1])
    if overwrite and processes.is_main_process:  # only now that nothing speaks against the new run
        clear_run(out)
    if processes.is_main_process:
        remove_unfinished(out)
    processes.wait_for_everyone()
    if state_file.exists():
        trainer.restore(state_file, identity)
        say(f"continuing {out} after epoch {trainer.state.epoch}")
    while not trainer.finished():
        trainer.run_epoch(progress)
        last = trainer.state.history[-1]
        say(
            f"epoch {trainer.state.epoch}/{settings.epochs}: loss {last['train_loss']:.3f}, validation loss "
            f"{last['val_loss']:.3f}, accuracy {last['val_accuracy']:.3f}, macro-F1 {last['val_macro_f1']:.3f}"
        )
        if processes.is_main_process:
            # The best weights first: a kill between the two writes repeats an epoch and loses nothing.
            if trainer.state.best_epoch == trainer.state.epoch:
                classifier.save(out)
            trainer.save(state_file, identity)
    processes.wait_for_everyone()
    classifier.model.load_state_dict(safetensors.torch.load_file(out / "model.safetensors"))
    logits, _ = trainer.validate()
    temperature = fit_temperature(logits.numpy(), trainer.truth, classifier.multi_label)
    if temperature == 1.0:
        say(f"{len(trainer.truth)} {UNTOLD}")
    calibrated = replace(classifier, temperature=temperature)
    tables = {
        "uncalibrated": _reliability(classifier, logits, trainer.truth),
        "calibrated": _reliability(calibrated, logits, trainer.truth),
    }
    metrics = {
        **_scores(calibrated, logits, trainer.truth),
        "temperature": temperature,
        "expected_calibration_error": {name: expected_calibration_error(table) for name, table in tables.items()},
        "best_epoch": trainer.state.best_epoch,
        "epochs": trainer.state.epoch,
        "train_images": len(sources[0].dataset.samples),
        "val_images": len(sources[1].dataset.samples),
        "failed": {str(path): reason for path, reason in failed.items()},
        "training": to_json(settings),
    }
    for source in sources[2:]:
        truth = source.dataset.targets(classifier.classes)
        logits = trainer.predict(trainer.in_order(source))
        error = expected_calibration_error(_reliability(calibrated, logits, truth))
        metrics["test"] = {**_scores(calibrated, logits, truth), "expected_calibration_error": error}
    if processes.is_main_process:
        calibrated.save(out)
        _write_reports(out, classifier, metrics, trainer.state.history, tables)
        state_file.unlink(missing_ok=True)
    processes.wait_for_everyone()
    return metrics


class _Trainer:
    """The network under training with its optimiser, its data and its state.

    What learns is a copy, ``learner``; the classifier's own network is the running average of its weights, which on
    small sets both classifies and localises better, and varies less from seed to seed.
    """

    def __init__(
        self, classifier: Classifier, settings: TrainSettings, processes: Accelerator, train: Source, val: Source
    ) -> None:
        self.classifier, self.settings, self.processes = classifier, settings, processes
        self.state = _State()
        targets = train.dataset.targets(classifier.classes)
        shares = _sampling_shares(targets) if settings.balance == "sampling" else None
        self.sampler = EpochSampler(len(targets), settings.seed, processes, shares)
        self.batches = Batches(size=settings.batch_size, seed=settings.seed, workers=settings.workers)
        self.train_loader = loader(classifier, train, self.batches, self.sampler, settings.augmentation)
        self.val_loader = self.in_order(val)
        self.truth = val.dataset.targets(classifier.classes)
        device = classifier.device
        self.weights = _class_weights(targets, classifier).to(device) if settings.balance == "weights" else None
        self.learner = copy.deepcopy(classifier.model)
        self.head = head_parameters(self.learner)
        self.learning = learning_parameters(self.learner, settings.trainable)
        self.optimizer = _OPTIMIZERS[settings.optimizer](
            self.learner.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.scheduler = ReduceLROnPlateau(self.optimizer, factor=0.25, patience=settings.plateau_patience)
        self.autocast_type = _autocast_type(settings, processes, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.autocast_type == torch.float16)
        self.network: nn.Module | None = None

    def finished(self) -> bool:
        """Whether the last epoch has been, or patience has run out after the warm-up."""
        waited = self.state.epoch - max(self.state.best_epoch, self._warmup())
        return self.state.epoch >= self.settings.epochs or waited > self.settings.patience > 0

    def run_epoch(self, progress: Progress) -> None:
        """Train one epoch, validate, and let plateau and best epoch follow."""
        epoch = self.state.epoch
        warming = epoch < self._warmup()
        if self.network is None or epoch == self._warmup():
            freeze_others(self.learner, self.head if warming else self.learning)
            # Wrapped for several processes only now: what learns must be settled before.
            several = self.processes.num_processes > 1
            self.network = nn.parallel.DistributedDataParallel(self.learner) if several else self.learner
        self.sampler.epoch = epoch
        torch.manual_seed(hash((self.settings.seed, epoch, self.processes.process_index)) % 2**63)
        loss = self._train(progress, f"epoch {epoch + 1}/{self.settings.epochs}")
        logits, val_loss = self.validate()
        report = _scores(self.classifier, logits, self.truth)
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
        if (macro_f1, -val_loss) > (self.state.best_f1, -self.state.best_loss):
            self.state.best_f1, self.state.best_loss, self.state.best_epoch = macro_f1, val_loss, self.state.epoch
        if not np.isfinite(loss):
            raise InputError(f"the loss became {loss}; lower --learning-rate, or use --mixed-precision no")

    def in_order(self, source: Source) -> DataLoader:
        """The unchanged images of a source: every process takes them all, as they are few and nothing is gathered."""
        order = [(0, index) for index in range(len(source.dataset.samples))]
        return loader(self.classifier, source, self.batches, order, NONE)

    def validate(self) -> tuple[Tensor, float]:
        """Logits (N, classes) on the CPU, and the mean loss, of the validation images."""
        logits = self.predict(self.val_loader)
        weights = None if self.weights is None else self.weights.cpu()
        loss = _loss(logits, torch.from_numpy(self.truth), weights, self.classifier.multi_label)
        return logits, float(loss)

    def predict(self, images: DataLoader) -> Tensor:
        """The averaged network's logits (N, classes), float32 on the CPU."""
        self.classifier.model.eval()
        outputs = []
        with torch.inference_mode():
            for squares, _ in images:
                with self._autocast():
                    outputs.append(self.classifier.model(self.classifier.normalise(squares)).float().cpu())
        # Statistics of batch norm differ between processes; what is decided from the scores, when to stop among it,
        # must not, or one process waits for ever. So all take those of the first.
        return broadcast(torch.cat(outputs).to(self.processes.device)).cpu()

    def save(self, path: Path, identity: str) -> None:
        """Write weights, optimiser and state into one safetensors file, the state as JSON in its metadata."""
        tensors = {f"average.{name}": value for name, value in self.classifier.model.state_dict().items()}
        tensors |= {f"learner.{name}": value for name, value in self.learner.state_dict().items()}
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
        except Exception as error:  # whatever a damaged file provokes
            raise CheckpointError(f"{path}: damaged training state ({error}); start again with --overwrite") from None
        if facts["identity"] != identity:
            raise OutputError(
                f"{path.parent} holds an unfinished run with other data or settings, or from other starting weights; "
                "repeat its call to continue it, choose another --out, or --overwrite it"
            )
        for model, prefix in ((self.classifier.model, "average."), (self.learner, "learner.")):
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
        self.state = _State(**facts["state"])

    def _warmup(self) -> int:
        return min(self.settings.warmup_epochs, self.settings.epochs - 1) if self.head else 0

    def _train(self, progress: Progress, title: str) -> float:
        assert self.network is not None
        total, count = 0.0, 0
        for squares, targets in progress(self.train_loader, len(self.train_loader), title):
            self.optimizer.zero_grad(set_to_none=True)
            with self._autocast():
                logits = self.network(self.classifier.normalise(squares))
            loss = _loss(logits.float(), targets.to(logits.device), self.weights, self.classifier.multi_label)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self._average()
            total, count = total + loss.item() * len(targets), count + len(targets)
        sums = self.processes.reduce(torch.tensor([total, count], device=self.processes.device), "sum")
        return float(sums[0] / sums[1])

    @torch.no_grad()
    def _average(self) -> None:
        """Move the classifier's weights and statistics toward the learner's; in the first steps nearly all the way."""
        self.state.step += 1
        decay = min(self.settings.averaging, self.state.step / (10 + self.state.step))
        for average, value in zip(
            self.classifier.model.state_dict().values(), self.learner.state_dict().values(), strict=True
        ):
            if average.is_floating_point():
                average.lerp_(value, 1.0 - decay)
            else:
                average.copy_(value)

    def _autocast(self) -> torch.autocast:
        enabled = self.autocast_type != torch.float32
        return torch.autocast(
            self.classifier.device.type, dtype=self.autocast_type if enabled else None, enabled=enabled
        )


def _class_weights(targets: NDArray, classifier: Classifier) -> Tensor:
    """Per class: single-label N / (classes * count), multi-label absent / present within 1/10 to 10."""
    if classifier.multi_label:
        present = targets.sum(axis=0)
        return torch.from_numpy(np.clip((len(targets) - present) / np.maximum(present, 1), 0.1, 10.0)).float()
    counts = np.bincount(targets, minlength=len(classifier.classes))
    return torch.from_numpy(len(targets) / (len(classifier.classes) * np.maximum(counts, 1))).float()


def _sampling_shares(targets: NDArray) -> NDArray[np.float64]:
    """How often each image is drawn, as shares of 1: in proportion to 1 / count of its rarest label.

    Single-label classes then come up equally often; in multi-label sets "none of the classes" counts as a label.
    """
    if targets.ndim == 1:
        labels = targets[:, None] == np.arange(targets.max() + 1)
    else:
        labels = np.concatenate((targets > 0, ~(targets > 0).any(axis=1, keepdims=True)), axis=1)
    rarity = (labels / np.maximum(labels.sum(axis=0), 1)).max(axis=1)
    return rarity / rarity.sum()


def _scores(classifier: Classifier, logits: Tensor, truth: NDArray) -> dict[str, Any]:
    probabilities = classifier.probabilities(logits).numpy()
    return classification_metrics(truth, probabilities, classifier.classes, classifier.multi_label)


def _reliability(classifier: Classifier, logits: Tensor, truth: NDArray) -> NDArray[np.float64]:
    return reliability(truth, classifier.probabilities(logits).numpy(), classifier.multi_label)


def _loss(logits: Tensor, targets: Tensor, weights: Tensor | None, multi_label: bool) -> Tensor:
    if multi_label:
        return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    return functional.cross_entropy(logits, targets, weight=weights)


def _autocast_type(settings: TrainSettings, processes: Accelerator, device: torch.device) -> torch.dtype:
    """float32, unless half precision is asked for, set for ``accelerate launch``, or ``auto`` on a GPU."""
    named = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if settings.mixed_precision != "auto":
        return named[settings.mixed_precision]
    if processes.mixed_precision in ("fp16", "bf16"):
        return named[processes.mixed_precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _identity(start: str, sources: Sequence[Source], settings: TrainSettings) -> str:
    """What must be equal for an interrupted training to go on: settings, the classifier at the start, and data."""
    chosen = {key: value for key, value in to_json(settings).items() if key != "workers"}
    data = [[(sample.name, sample.labels) for sample in source.dataset.samples] for source in sources]
    return hashlib.sha256(json.dumps([chosen, start, data], sort_keys=True).encode()).hexdigest()


def _write_reports(
    out: Path,
    classifier: Classifier,
    metrics: dict[str, Any],
    history: Sequence[dict[str, float]],
    tables: Mapping[str, NDArray[np.float64]],
) -> None:
    write_csv(out / "history.csv", list(history[0]), [list(row.values()) for row in history])
    write_image(out / "curves.png", plot_history(history))
    write_image(out / "reliability.png", plot_reliability(tables))
    if not classifier.multi_label:
        write_image(out / "confusion.png", plot_confusion(np.array(metrics["confusion"]), classifier.classes))
    # Last: a run is finished when its metrics are there.
    write_json(out / "metrics.json", metrics)
