"""A classifier under training: what it learns from labels, and what validation images say of it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from camseg.base.progress import Progress
from camseg.classify.classifier import Classifier
from camseg.data.settings import NONE
from camseg.train.balance import class_weights, sampling_shares
from camseg.train.batches import Batches, EpochSampler, LoadedSet, Loader, loader
from camseg.train.features import FeatureCache, Head, check_can_keep, feature_loader, keep_features
from camseg.train.learner import Exam, Learner, Pass
from camseg.train.processes import Processes
from camseg.train.report import scores
from camseg.train.settings import TrainSettings


class ClassifierLearner(Learner):
    """A learner of the cross-entropy with images' labels."""

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
        super().__init__(classifier, settings, processes)
        self.classifier, self.cache, self.progress = classifier, cache, progress
        if settings.feature_views:
            check_can_keep(classifier.model, settings.trainable)
        targets = train.dataset.targets(classifier.classes)
        shares = sampling_shares(targets) if settings.balance == "sampling" else None
        self.batches = Batches(size=settings.batch_size, seed=settings.seed, workers=settings.workers)
        self.sampler = EpochSampler(len(targets), self.batches, processes, shares)
        self.train_loader = self._loader(train, self.sampler, settings.feature_views)
        self.val_loader = self.in_order(val)
        self.truth = val.dataset.targets(classifier.classes)
        weighted = settings.balance == "weights"
        self.weights = class_weights(targets, classifier).to(classifier.device) if weighted else None

    def in_order(self, images: LoadedSet) -> Loader:
        """The unchanged images of a set: every process takes them all, as they are few and nothing is gathered."""
        order = [(0, index) for index in range(len(images.dataset.samples))]
        return self._loader(images, order, 1)

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

    def fed(self, model: nn.Module) -> nn.Module:
        """The part behind the features, where they are kept."""
        return Head(model) if self.settings.feature_views else model

    def inputs(self, batch: Tensor) -> Tensor:
        """Features as they are; squares normalised."""
        return batch.to(self.classifier.device) if self.settings.feature_views else super().inputs(batch)

    def loss(self, batch: Sequence[Tensor], student: Pass, _teacher: Pass) -> Tensor:
        """The mean cross-entropy; single-label by softmax, multi-label by sigmoid."""
        squares, targets = batch
        logits = student(squares)
        targets = targets.to(logits.device)
        return _loss(logits, targets, self.weights, self.classifier.multi_label, self.settings.label_smoothing)

    def examine(self) -> Exam:
        """The macro-F1 of the validation images decides."""
        logits, loss = self.validate()
        report = scores(self.classifier, logits, self.truth)
        accuracy, macro_f1 = float(report["accuracy"]), float(report["macro_f1"])
        return Exam(
            loss=loss,
            score=macro_f1,
            columns={"val_accuracy": accuracy, "val_macro_f1": macro_f1},
            words=f"accuracy {accuracy:.3f}, macro-F1 {macro_f1:.3f}",
        )

    def validate(self) -> tuple[Tensor, float]:
        """Logits (N, classes) on the CPU, and the mean loss, of the validation images."""
        logits = self.predict(self.val_loader)
        weights = None if self.weights is None else self.weights.cpu()
        loss = _loss(logits, torch.from_numpy(self.truth), weights, self.classifier.multi_label)
        return logits, float(loss)

    def predict(self, images: Loader) -> Tensor:
        """The averaged network's logits (N, classes), float32 on the CPU."""
        outputs = [self.see(squares).cpu() for squares, _ in images]
        # Statistics of batch norm differ between processes; what is decided from the scores, when to stop among it,
        # must not, or one process waits for ever. So all take those of the first.
        return self.processes.from_first(torch.cat(outputs).to(self.classifier.device)).cpu()


def _loss(logits: Tensor, targets: Tensor, weights: Tensor | None, multi_label: bool, smoothing: float = 0.0) -> Tensor:
    """``smoothing``: Szegedy et al.: Rethinking the Inception Architecture for Computer Vision, section 7; of labels
    that may be several, each is a choice of its own between two."""
    if multi_label:
        smoothed = targets * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=weights)
    return functional.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)
