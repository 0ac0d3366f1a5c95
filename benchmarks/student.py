"""What a student learns from image labels: teacher, naive student, each part, true masks, and a few of them.

    python benchmarks/student.py DATA --weights FILE --out runs/student --set NAME=NEGATIVE ... [--only ROW ...]

DATA/NAME holds images/{train,test}/<class>/ and masks/{train,test}/<class>/; NAME= has no negative class. For every
set and seed a classifier is trained (or taken from --teachers FOLDER/NAME-SEED/classifier) and labels the images; the
rows are networks that learn from what it made of the training images. All are measured on the test images, by the
defaults of ``camseg segment`` and alone, without propagation: Dice and IoU are means per image, over those with an
object. No row but those with true masks sees any. Settings are to be chosen by the column of the training images, whose
true masks the others do not see either. Rows are kept in OUT/rows.jsonl, one JSON object each, and are not measured
twice with equal options; a training that was stopped continues. --table prints what is there.
"""

import argparse
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from camseg.base.errors import InputError
from camseg.base.files import read_json, write_json
from camseg.base.settings import from_json
from camseg.classify.checkpoint import load_classifier
from camseg.data.datasets import load_images
from camseg.label.folder import label_folder
from camseg.label.segmenting import segment_folder
from camseg.label.settings import LabelSettings, SegmentSettings
from camseg.measure.evaluate import evaluate_folder
from camseg.runs.manifest import MANIFEST
from camseg.runs.run import RUN
from camseg.runs.settings import FolderOptions
from camseg.segment.checkpoint import load_segmenter
from camseg.segment.segmenter import Segmenter
from camseg.train.members import plan_members, prepare_members, train_members
from camseg.train.plan import plan_training, prepare_training, run_training
from camseg.train.segmenter_plan import plan_segmenter_training, prepare_segmenter_training, run_segmenter_training
from camseg.train.settings import MemberSettings, StudentSettings
from camseg.train.student import find_pseudo_masks

PARTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "naive": {"student": {"weigh_by": "none"}},
    "agreement": {"student": {"weigh_by": "agreement"}},
    "quality": {"student": {"weigh_by": "quality"}},
    "levels": {"student": {"teach": "levels", "weigh_by": "none"}},
    "levels, agreement": {"student": {"teach": "levels", "weigh_by": "agreement"}},
    "consistency": {"student": {"weigh_by": "none", "consistency": 1.0}},
    "trusted first": {"student": {"weigh_by": "none", "trusted_epochs": 5}},
    "correction": {"student": {"weigh_by": "none", "correct_after": 0.9}},
    "CRF loss": {"student": {"weigh_by": "none", "crf": 0.1}},
    "all parts": {
        "student": {"weigh_by": "quality", "consistency": 1.0, "trusted_epochs": 5, "correct_after": 0.9, "crf": 0.1}
    },
}
"""Students of the pseudo masks by name: what differs from the defaults of ``train-seg``. Agreement is known of
ensembles (--folds) only."""
SECOND: Final[Mapping[str, Mapping[str, Any]]] = {
    "second round, spread": {},
    "second round, refined": {"propagation": {"method": "none"}, "refinement": {"method": "auto"}},
}
"""Networks that learn from the masks of the student ``--second-of``: what these differ in from the defaults of
``segment``."""
HALVES: Final = ("train", "test")
TEACHER: Final = "teacher"
TRUE: Final = "true masks"
ORDERS: Final = ("random", "worst first")
"""Which training images get true masks first: drawn at random, or those whose masks are trusted least."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One set and seed."""

    args: argparse.Namespace
    name: str
    negative: str
    seed: int

    @property
    def data(self) -> Path:
        """The set's folder."""
        return Path(self.args.data, self.name)

    @property
    def negatives(self) -> dict[str, Any]:
        """What trainings are told of the negative class."""
        return {"negative": [self.negative]} if self.negative else {}

    @property
    def teacher_options(self) -> dict[str, Any]:
        """What the teacher depends on."""
        kept = ("teacher_epochs", "teacher_image_size", "folds", "weights", "teachers")
        return {key: _plain(getattr(self.args, key)) for key in kept}

    def part(self, row: str) -> Mapping[str, Any]:
        """What a row's network differs in from the defaults of ``train-seg``."""
        if row in SECOND:
            return {"student": {"teach": "masks", "weigh_by": "none"}}
        return {} if row == TRUE else PARTS.get(row, PARTS[self.args.few_with])

    def options(self, row: str) -> dict[str, Any]:
        """What a row depends on."""
        if row == TEACHER:
            return self.teacher_options
        kept = ("model", "epochs", "image_size", "changes")
        first = {"second_of": self.args.second_of} if row in SECOND else {}
        options = {**self.teacher_options, **{key: getattr(self.args, key) for key in kept}, **first}
        return {**options, "part": self.part(row)}

    @property
    def taught(self) -> Path:
        """Where the teacher and what it labelled lie."""
        return self.args.out / f"{self.name}-{self.seed}" / f"teacher-{_short(self.teacher_options)}"

    def place(self, row: str) -> Path:
        """Where a row's training lies."""
        folder = row.replace(",", "").replace(" ", "_")
        return self.args.out / f"{self.name}-{self.seed}" / f"student-{_short(self.options(row))}" / folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not there yet, then print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", required=True, help="Of teachers and encoders: a file, imagenet or none.")
    parser.add_argument("--out", type=Path, default=Path("runs/student"))
    parser.add_argument("--set", dest="sets", action="append", required=True, metavar="NAME=NEGATIVE")
    parser.add_argument("--only", action="append", metavar="ROW", help="Rows by name; default: all.")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--model", default="unet+mobilenetv2_100")
    parser.add_argument("--epochs", type=int, default=60, help="Of the students.")
    parser.add_argument("--image-size", type=int, default=224, help="Of the students.")
    parser.add_argument("--change", dest="changes", action="append", default=[], metavar="KEY=JSON")
    parser.add_argument("--few", default="5,10,20,50", help="How many true masks a few are.")
    parser.add_argument("--few-with", default="naive", choices=PARTS, help="What learns from them beside the others.")
    parser.add_argument("--second-of", default="naive", choices=PARTS, help="Whose masks a second round learns from.")
    parser.add_argument("--teachers", type=Path, help="Folder with NAME-SEED/classifier.")
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.add_argument("--teacher-image-size", type=int, default=224)
    parser.add_argument("--folds", type=int, help="Teachers are ensembles of so many folds.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--table", action="store_true", help="Only print what is there.")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    few = [f"{count} true masks, {order}" for count in map(int, args.few.split(",")) for order in ORDERS]
    known = [TEACHER, *PARTS, *SECOND, *few, TRUE]
    if unknown := [row for row in args.only or () if row not in known]:
        parser.error(f"there is no row {unknown[0]!r}; choose among {', '.join(known)}")
    rows = [row for row in known if row in (args.only or known)]
    sets = dict(entry.partition("=")[::2] for entry in args.sets)
    jobs = [
        Job(args=args, name=name, negative=negative, seed=int(seed))
        for seed in args.seeds.split(",")
        for name, negative in sets.items()
    ]
    file = args.out / "rows.jsonl"
    for job in jobs:  # seed by seed, so that a run which is stopped has something of every set
        for row in rows if not args.table else ():
            if not found(file, job, row):
                _append(file, measure(job, row))
    for name in sets:
        table(name, {row: [one for job in jobs if job.name == name for one in found(file, job, row)] for row in known})


def measure(job: Job, row: str) -> dict[str, Any]:
    """The scores of one row, with how long an image took it."""
    facts = {"set": job.name, "seed": job.seed, "row": row, "options": job.options(row)}
    start = time.perf_counter()
    if row == TEACHER:
        facts |= dices(job, {half: labelled(job, half) for half in HALVES})
        facts |= read_json(job.taught / "test.json", InputError)
    else:
        run = trained_student(job, row)
        segmenter = load_segmenter(run, job.args.device)
        alone = from_json(SegmentSettings, {"propagation": {"method": "none"}})
        found, _ = segmented(job, row, segmenter, alone, "alone")
        facts["dice_alone"] = found["dice"]
        found, seconds = segmented(job, row, segmenter, SegmentSettings(), "spread")
        metrics = read_json(run / "metrics.json", InputError)
        facts |= {**found, "seconds": seconds}
        facts |= {key: metrics[key] for key in ("best_epoch", "epochs", "mean_dice_per_image")}
    print(f"{time.perf_counter() - start:.0f} s: {json.dumps(facts)}", flush=True)
    return facts


def segmented(
    job: Job, row: str, segmenter: Segmenter, settings: SegmentSettings, name: str
) -> tuple[dict[str, Any], float]:
    """The scores of a row's network with these settings, and its seconds per test image."""
    folders = {half: job.place(row) / name / half for half in HALVES}
    for half, folder in folders.items():
        options = FolderOptions(overwrite=folder.exists())
        report = segment_folder(job.data / "images" / half, segmenter, folder, settings, options=options)
    return dices(job, folders), report.seconds["total"] / report.done


def dices(job: Job, folders: Mapping[str, Path]) -> dict[str, Any]:
    """The scores of folders of masks by half."""
    taught, cut = (
        evaluate_folder(masks_in(job, folder, half), job.data / "masks" / half).overall.thresholds[0]
        for half, folder in folders.items()
    )
    return {"dice_training": taught.dice, "dice": cut.dice, "iou": cut.iou, "images": cut.images}


def masks_in(job: Job, folder: Path, half: str) -> Path:
    """A mask for each image of a half: where there is one for each class, that of its label."""
    samples = load_images(job.data / "images" / half).samples
    made = [folder / "masks" / (sample.labels or ("",))[0] / f"{sample.name}.png" for sample in samples]
    if not any(path.exists() for path in made):
        return folder / "masks"
    flat = folder / "of_label"
    shutil.rmtree(flat, ignore_errors=True)
    other = next(path.name for path in (folder / "masks").iterdir())
    for sample, path in zip(samples, made, strict=True):
        target = flat / f"{sample.name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        # Of a negative label there is none: all are empty then.
        target.symlink_to((path if path.exists() else folder / "masks" / other / f"{sample.name}.png").absolute())
    return flat


def labelled(job: Job, half: str) -> Path:
    """What the teacher makes of the images of one half, with maps, by the defaults of ``camseg label``."""
    out = job.taught / half
    if not (job.taught / f"{half}.json").exists():
        classifier = load_classifier(teacher(job), job.args.device)
        settings = from_json(LabelSettings, {"save": ["cams"]})
        # From the start: seconds are those of one run.
        report = label_folder(
            job.data / "images" / half, classifier, out, settings, options=FolderOptions(overwrite=out.exists())
        )
        write_json(job.taught / f"{half}.json", {"seconds": report.seconds["total"] / report.done})
    return out


def teacher(job: Job) -> Path:
    """The run of the classifier, trained by the defaults of ``camseg train-cls``."""
    args = job.args
    if args.teachers is not None:
        return Path(args.teachers, f"{job.name}-{job.seed}", "classifier")
    run = job.taught / "classifier"
    if not (run / "metrics.json").exists():
        size = {"epochs": args.teacher_epochs, "image_size": args.teacher_image_size}
        changes = {"seed": job.seed, "weights": args.weights, **size, **job.negatives}
        training = plan_training(job.data / "images" / "train", changes=changes)
        if args.folds:
            members = plan_members(training, MemberSettings(folds=args.folds))
            train_members(prepare_members(members, run), run, device=args.device)
        else:
            run_training(prepare_training(training, run), run, device=args.device)
    return run


def trained_student(job: Job, row: str) -> Path:
    """The run of one row's network."""
    run = job.place(row) / "run"
    if not (run / "metrics.json").exists():
        args = job.args
        changes: dict[str, Any] = {"model": args.model, "weights": args.weights, "epochs": args.epochs}
        changes |= {"image_size": args.image_size, "seed": job.seed, **job.negatives}
        changes |= {key: json.loads(value) for key, _, value in (text.partition("=") for text in args.changes)}
        part = job.part(row)
        student = {**changes.get("student", {}), **part.get("student", {})}
        changes |= {**part, "student": student, "masks": masks_of(job, row)}
        training = plan_segmenter_training(job.data / "images" / "train", changes=changes)
        run_segmenter_training(prepare_segmenter_training(training, run), run, device=args.device)
    return run


def masks_of(job: Job, row: str) -> Path:
    """What a row learns from: true masks, the teacher's, or the teacher's with a few true ones as corrections."""
    if row == TRUE:
        return job.data / "masks" / "train"
    if row in SECOND:
        return second_masks(job, row)
    made = labelled(job, "train")
    if row in PARTS:
        return made
    count, order = row.split(" true masks, ")
    folder = job.place(row) / "masks"
    shutil.rmtree(folder, ignore_errors=True)
    for path in made.iterdir():
        if path.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).symlink_to(path.absolute())
    for name in (RUN, MANIFEST):
        shutil.copy(made / name, folder / name)
    for name in corrected_names(job, made, order)[: int(count)]:
        target = folder / "corrected" / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to((job.data / "masks" / "train" / f"{name}.png").absolute())
    return folder


def second_masks(job: Job, row: str) -> Path:
    """The masks that a student makes of the training images, its probabilities spread or its masks refined."""
    segmenter = load_segmenter(trained_student(job, job.args.second_of), job.args.device)
    settings = from_json(SegmentSettings, SECOND[row])
    segment_folder(job.data / "images" / "train", segmenter, job.place(row) / "first", settings)
    return job.place(row) / "first"


def corrected_names(job: Job, made: Path, order: str) -> list[str]:
    """The training images with an object, in the order in which a person would correct their masks."""
    images = load_images(job.data / "images" / "train")
    masks = find_pseudo_masks(made, StudentSettings(teach="masks"), negative=[job.negative] if job.negative else [])
    samples = [sample for sample in images.samples if job.negative not in (sample.labels or ())]
    if order == "random":
        chosen = np.random.default_rng(job.seed).permutation(len(samples)).tolist()
    else:
        chosen = sorted(range(len(samples)), key=lambda place: masks.trust(samples[place]))
    return [samples[place].name for place in chosen]


def found(file: Path, job: Job, row: str) -> list[dict[str, Any]]:
    """What has been measured of a row with these options: one object, or none."""
    wanted = {"set": job.name, "seed": job.seed, "row": row, "options": job.options(row)}
    return [one for one in _read(file) if wanted.items() <= one.items()][-1:]


def table(name: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print one set's rows: means over the seeds with the lowest and the highest, beside teacher and true masks."""
    means = {row: float(np.mean([one["dice"] for one in seen])) for row, seen in rows.items() if seen}
    columns = ["row", "seeds", "Dice, training", "Dice", "IoU", "to the teacher", "of true masks'", "network alone"]
    print(f"\n### {name}\n\n| {' | '.join(columns)} | s per image |\n|{'---|' * (len(columns) + 1)}")
    for row in means:
        seen = rows[row]
        gained = f"{means[row] - means[TEACHER]:+.3f}" if TEACHER in means else "-"
        share = f"{means[row] / means[TRUE]:.2f}" if TRUE in means else "-"
        scores = [_spread([one[key] for one in seen]) for key in ("dice_training", "dice", "iou")]
        alone = "-" if row == TEACHER else _spread([one["dice_alone"] for one in seen])
        cells = [row, str(len(seen)), *scores, gained, share, alone]
        print(f"| {' | '.join(cells)} | {min(one['seconds'] for one in seen):.3f} |")


def _read(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def _append(file: Path, row: Mapping[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _short(options: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
