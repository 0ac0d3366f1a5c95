"""The whole chain on the sample data: train from scratch, run every stage, score each, draw a contact sheet."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from camseg.base.arrays import Image
from camseg.base.files import write_csv
from camseg.cams.settings import CamSettings
from camseg.classify.checkpoint import load_network
from camseg.classify.classifier import Classifier
from camseg.data.datasets import Sample, load_images, load_training_data
from camseg.data.images import read_cam, read_image, read_mask, read_trimap, write_image, write_mask
from camseg.data.splits import split
from camseg.label.folder import cams_folder
from camseg.label.steps import masks_folder, propagate_folder, refine_folder, trimap_folder
from camseg.masks.settings import MaskSettings, parse_threshold
from camseg.measure.evaluate import evaluate_folder
from camseg.measure.evaluate_report import Evaluation
from camseg.measure.overlays import contact_sheet, overlay_cam, overlay_mask
from camseg.propagation.settings import PropagateSettings
from camseg.refinement.settings import RefineSettings
from camseg.runs.settings import FolderOptions
from camseg.studies.samples import NEGATIVE_CLASS, OBJECT_CLASS, generate_samples
from camseg.studies.tables import Table
from camseg.train.settings import TrainSettings
from camseg.train.trainer import train_classifier

ARCH: Final = "test_resnet"
"""timm's smallest ResNet, 0.5 M parameters: trained from scratch in under a minute on two cores."""
SEED: Final = 0
CAMS: Final = CamSettings(score="auto", layers=("layer3",), effort="best")
PROPAGATION: Final = PropagateSettings(args={"rounds": 10})
MASKS: Final = MaskSettings(threshold=parse_threshold("max:0.4"))
"""An input of 128 pixels leaves the last layer 4 x 4 positions; one stage earlier there are 8 x 8, whose maps are
narrower and cut lower: chosen on the training masks of the sample data. Fewer rounds go as far on so small a grid."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo measured on the test images of the sample data."""

    accuracy: float
    """Share of test images that the classifier gets right."""
    stages: dict[str, Evaluation]
    """By stage, in the order of the chain."""
    contact_sheet: str
    """The picture's path."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-ready dicts and lists."""
        return {**asdict(self), "stages": {name: stage.to_dict() for name, stage in self.stages.items()}}

    def table(self) -> Table:
        """Columns, and a row of strings per stage."""
        rows = []
        for name, stage in self.stages.items():
            scores = stage.overall.thresholds[0]
            numbers = (stage.overall.mean_dice, scores.dice, scores.iou)
            rows.append((name, *("-" if number is None else f"{number:.3f}" for number in numbers)))
        return ("stage", "mean-Dice", "Dice", "IoU"), rows


def run_demo(out: Path | str, *, device: str = "auto", options: FolderOptions | None = None) -> DemoResult:
    """Run the demo in the folder ``out``; what an earlier run finished there is kept.

    Writes the sample data, the classifier, every stage's output and ``contact_sheet.png``.
    """
    options = options or FolderOptions()
    out = Path(out)
    data = out / "data"
    if options.overwrite or not (data / "labels.csv").exists():
        write_samples(data)
    classifier = _classifier(data, out / "classifier", device, options)
    test = load_images(data / "images" / "test", classifier.classes)
    truth = data / "masks" / "test"
    maps, spread = out / "cams" / CAMS.methods[0], out / "propagated" / PROPAGATION.method
    cams_folder(test, classifier, out / "cams", CAMS, options=options)
    propagate_folder(test, maps, spread.parent, PROPAGATION, device=str(classifier.device), options=options)
    masks_folder(spread, out / "masks", MASKS, options=options)
    trimap_folder(out / "masks", out / "trimaps", cams=spread, options=options)
    refine_folder(test, out / "trimaps", out / "refined", masks=out / "masks", options=options)
    folders = {
        f"CAM ({maps.name})": maps,
        f"propagated CAM ({spread.name})": spread,
        f"mask ({MASKS.threshold})": out / "masks",
        f"refined mask ({RefineSettings.method})": out / "refined" / "masks",
    }
    stages = {name: evaluate_folder(folder, truth, thresholds=(MASKS.threshold,)) for name, folder in folders.items()}
    sheet = out / "contact_sheet.png"
    write_image(sheet, _contact_sheet(out, spread, list(stages.values())[-1]))
    return DemoResult(accuracy=_accuracy(classifier, test.samples), stages=stages, contact_sheet=str(sheet))


def write_samples(folder: Path | str) -> None:
    """Write the sample data: ``images`` and ``masks``/{train,test}/<class>/<name>, and ``labels.csv``."""
    folder = Path(folder)
    rows = []
    for sample in generate_samples():
        place = f"{sample.split}/{sample.label}/{sample.name}"
        write_image(folder / f"images/{place}.jpg", sample.image)
        write_mask(folder / f"masks/{place}.png", sample.mask)
        rows.append((f"images/{place}.jpg", sample.label, sample.group))
    # Last: where it stands, the data are whole.
    write_csv(folder / "labels.csv", ("image", "label", "group"), rows)


def _classifier(data: Path, run: Path, device: str, options: FolderOptions) -> Classifier:
    """Train on the training images from scratch, or take the run that an earlier demo finished."""
    if options.overwrite or not (run / "metrics.json").exists():
        train, val = split(load_training_data(data / "images" / "train"), 0.2, SEED)
        torch.manual_seed(SEED)
        untrained = Classifier.create(
            ARCH, classes=(NEGATIVE_CLASS, OBJECT_CLASS), negative=(NEGATIVE_CLASS,), image_size=128
        )
        settings = TrainSettings(epochs=30, learning_rate=3e-3, warmup_epochs=0, seed=SEED)
        train_classifier(
            untrained,
            train,
            val,
            run,
            settings,
            device=device,
            overwrite=options.overwrite,
            progress=options.progress,
            say=options.say,
        )
    return load_network(run, device)


def _accuracy(classifier: Classifier, samples: Sequence[Sample]) -> float:
    images = [read_image(sample.path) for sample in samples]
    with torch.inference_mode():
        predicted = classifier.model(classifier.preprocess(images)).argmax(dim=1).tolist()
    right = [(classifier.classes[index],) == sample.labels for index, sample in zip(predicted, samples, strict=True)]
    return float(np.mean(right))


def _contact_sheet(out: Path, propagated: Path, refined: Evaluation) -> Image:
    """Test images from good to bad, at fixed ranks of the refined masks' Dice."""
    column = next(name for name in refined.images[0] if name.startswith("dice at"))
    scored = sorted(
        ((float(str(row[column])), str(row["name"])) for row in refined.images if row["class"] == OBJECT_CLASS),
        reverse=True,
    )
    chosen = [scored[round(rank * (len(scored) - 1))] for rank in (0.05, 0.2, 0.4, 0.6, 0.8)]
    rows = []
    for _, name in chosen:
        image = read_image(out / f"data/images/test/{name}.jpg")
        mask = read_mask(out / f"refined/masks/{name}.png")
        truth = read_mask(out / f"data/masks/test/{name}.png")
        cam = read_cam(propagated / f"{name}.png")
        trimap = read_trimap(out / f"trimaps/{name}.png")
        rows.append([image, overlay_cam(image, cam), trimap, overlay_mask(image, mask), overlay_mask(image, truth)])
    titles = ("image", "activation map", "trimap", "refined mask", "truth")
    return contact_sheet(
        rows, titles, captions=[f"{name.rpartition('/')[2]}: Dice {dice:.2f}" for dice, name in chosen]
    )
