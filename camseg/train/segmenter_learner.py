"""A segmenter under training: what it learns from masks, and what validation images say of it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from camseg.data.settings import NONE
from camseg.data.truth import IGNORED
from camseg.measure.segmentation import SegmentationTally, headline
from camseg.models.segmenters.encoder import EncoderSegmenter
from camseg.segment.segmenter import Segmenter
from camseg.train.balance import sampling_shares
from camseg.train.batches import Batches, EpochSampler
from camseg.train.crf_loss import crf_loss
from camseg.train.early_learning import FitTally, bent, corrected
from camseg.train.learner import Exam, Learner, Pass
from camseg.train.losses import Criterion
from camseg.train.mask_batches import LoadedMasks, TrustedSampler, mask_loader
from camseg.train.processes import Processes
from camseg.train.registry import loss_terms
from camseg.train.settings import SegmenterSettings
from camseg.train.student import better_part, ramp

_LOGITS = 256
"""Pixels of each validation image that calibration looks at, at most."""


class SegmenterLearner(Learner):
    """A learner of masks."""

    def __init__(
        self,
        segmenter: Segmenter,
        settings: SegmenterSettings,
        processes: Processes,
        train: LoadedMasks,
        val: LoadedMasks,
    ) -> None:
        super().__init__(segmenter, settings, processes, decoder_parameters)
        self.segmenter, self.how = segmenter, settings
        self.batches = Batches(size=settings.batch_size, seed=settings.seed, workers=settings.workers)
        self.sampler = _sampler(train, settings, self.batches, processes)
        self.train_loader = mask_loader(
            train,
            segmenter.preprocessing,
            self.batches,
            self.sampler,
            settings.augmentation,
            recolored=settings.student.consistency > 0,
        )
        self.val_loader = self.in_order(val)
        balance = pixel_weights(train, segmenter.multi_label) if settings.balance == "weights" else None
        self.criterion = Criterion(
            loss_terms(settings.loss),
            segmenter.multi_label,
            None if balance is None else torch.from_numpy(balance).to(segmenter.device),
        )

    def in_order(self, images: LoadedMasks) -> DataLoader[Any]:
        """The unchanged images of a set: every process takes them all."""
        order = [(0, index) for index in range(len(images.images.data.samples))]
        return mask_loader(images, self.segmenter.preprocessing, self.batches, order, NONE)

    def loss(self, batch: Sequence[Tensor], student: Pass, teacher: Pass) -> Tensor:
        """The mean loss of the masks, those of classes whose fit has bent corrected by the teacher; and on request what
        recoloured images change in the probabilities, squared, and the disagreement of neighbours of like colour.

        Tarvainen and Valpola, "Mean teachers are better role models" (NeurIPS 2017): the teacher is the average.
        """
        squares, targets, weights, certain, *recolored = batch
        how, multi_label = self.how.student, self.segmenter.multi_label
        logits = student(squares)
        device = logits.device
        targets, weights, certain = (tensor.to(device) for tensor in (targets, weights, certain))
        taught = teacher(squares) if recolored or any(self.correcting) else None
        if how.correct_after:
            self.fit.add(self.segmenter.decided(logits.detach()), targets, certain)
        if taught is not None and any(self.correcting):
            targets = corrected(targets, taught, certain, self.correcting, how.correct_above, multi_label)
        loss = self.criterion(logits, targets, weights)
        if recolored and taught is not None:
            height = how.consistency * ramp(self.state.epoch, how.consistency_epochs)
            seen, wanted = (
                one.sigmoid() if multi_label else one.softmax(dim=1) for one in (student(recolored[0]), taught)
            )
            loss = loss + height * (seen - wanted).square().mean()
        if how.crf:
            loss = loss + how.crf * crf_loss(logits, squares.to(device), multi_label)
        return loss

    def begin_epoch(self) -> None:
        """See which classes' masks are corrected now, by the history alone."""
        self.fit = FitTally(len(self.segmenter.classes), self.segmenter.multi_label)
        fall, past = self.how.student.correct_after, self.state.history
        curves = [[row[name] for row in past] for name in self._fits] if fall else []
        self.correcting = [bent(curve, fall) is not None for curve in curves]

    def end_epoch(self) -> Mapping[str, float]:
        """How far the network fitted what it was taught, where that decides on corrections: a column per class."""
        if not self.how.student.correct_after:
            return {}
        place = self.network.device if self._can_double else torch.device("cpu")
        counts = torch.from_numpy(np.stack([self.fit.both, self.fit.either])).to(place)
        both, either = self.processes.total(counts).tolist()
        return {
            name: float(own / union) if union else 0.0
            for name, own, union in zip(self._fits, both, either, strict=True)
        }

    @property
    def _fits(self) -> list[str]:
        return [f"train_iou_{name}" for name in self.segmenter.classes]

    def examine(self) -> Exam:
        """The mean Dice per image, over the classes and the validation images that show them, decides."""
        tally, loss = self.measure(self.val_loader)
        found = tally.scores()
        values = [loss, headline(found), float(found["mean_iou_per_image"] or 0), float(found["dice_over_pixels"] or 0)]
        # Statistics of batch norm differ between processes; what is decided from the scores must not.
        place = torch.tensor(values, dtype=torch.float64, device=self.network.device if self._can_double else "cpu")
        loss, dice, iou, over = self.processes.from_first(place).tolist()
        return Exam(
            loss=loss,
            score=dice,
            columns={"val_dice": dice, "val_iou": iou, "val_dice_over_pixels": over},
            words=f"Dice {dice:.3f}, IoU {iou:.3f} per image",
        )

    def measure(self, images: DataLoader[Any], temperature: float = 1.0) -> tuple[SegmentationTally, float]:
        """What the average says of a set at the network's size, counted, and the mean loss."""
        tally = SegmentationTally(self.segmenter.classes, self.segmenter.multi_label)
        total, count = 0.0, 0
        for logits, targets, weights in self._seen(images):
            with torch.inference_mode():
                loss = self.criterion(logits, targets.to(logits.device), weights.to(logits.device))
            total, count = total + float(loss) * len(logits), count + len(logits)
            scaled = logits / temperature
            found = scaled.sigmoid() if self.segmenter.multi_label else scaled.softmax(dim=1)
            for probabilities, target in zip(found.cpu().numpy(), targets.numpy(), strict=True):
                tally.add(probabilities, target, IGNORED)
        return tally, total / count

    def known_logits(self, images: DataLoader[Any]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Logits and truth of at most ``_LOGITS`` pixels of each image, drawn at random, as a classifier's would be.

        (N, C) and float32 (N, C) for independent classes, else (N, 1 + C) and int64 (N,).
        """
        rows: list[NDArray[np.float32]] = []
        truths: list[NDArray[np.uint8]] = []
        for logits, targets, _ in self._seen(images):
            values = logits.permute(0, 2, 3, 1).flatten(1, 2).cpu().numpy()  # (N, pixels, channels)
            numbers = targets.flatten(1, 2).numpy()  # (N, pixels, K)
            for own, truth in zip(values, numbers, strict=True):
                known = np.flatnonzero((truth != IGNORED).all(axis=1))
                chosen = np.random.default_rng(len(rows)).permutation(known)[:_LOGITS]
                rows.append(own[chosen])
                truths.append(truth[chosen])
        truth = np.concatenate(truths)
        multi_label = self.segmenter.multi_label
        return np.concatenate(rows), truth.astype(np.float32) if multi_label else truth[:, 0].astype(np.int64)

    def _seen(self, images: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for squares, targets, weights, _ in images:
            yield self.see(squares), targets, weights

    @property
    def _can_double(self) -> bool:
        return self.network.device.type != "mps"


def decoder_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What of a network does not belong to an encoder of timm; nothing where there is no such encoder."""
    if not isinstance(model, EncoderSegmenter):
        return []
    known = {id(parameter) for parameter in model.backbone.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in known]


def pixel_weights(train: LoadedMasks, multi_label: bool) -> NDArray[np.float32]:
    """How much rare classes' pixels count: for each class absent / present within 1/10 to 10; of exclusive classes for
    the background and each pixels / (kinds * count), within the same bounds."""
    known, shown = float(train.known.sum()), train.shown.sum(axis=0).astype(np.float64)
    if multi_label:
        weights = (known - shown) / np.maximum(shown, 1)
    else:
        counts = np.array([known - shown.sum(), *shown])
        weights = known / (len(counts) * np.maximum(counts, 1))
    return np.clip(weights, 0.1, 10.0).astype(np.float32)


def _sampler(train: LoadedMasks, settings: SegmenterSettings, batches: Batches, processes: Processes) -> EpochSampler:
    samples, masks, how = train.images.data.samples, train.images.masks, settings.student
    shares = sampling_shares(train.shown > 0) if settings.balance == "sampling" else None
    certain = [masks.certain(sample) for sample in samples]
    if not how.trusted_epochs or all(certain):
        return EpochSampler(len(samples), batches, processes, shares)
    chosen = better_part([masks.trust(sample) for sample in samples], certain, how.trusted_share)
    return TrustedSampler(len(samples), batches, processes, shares, chosen, how.trusted_epochs)
