"""What commands show: progress and messages on stderr, results on stdout."""

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from camseg.cams.scores import Decider
    from camseg.classify.checkpoint import AnyClassifier
    from camseg.data.datasets import Dataset
    from camseg.label.settings import ClassifierOptions, LookedIntoOptions
    from camseg.runs.loop import FolderReport
    from camseg.runs.settings import FolderOptions, Shard
    from camseg.train.plan import Prepared
    from camseg.train.segmenter_plan import PreparedSegmenter

_SHOWN: Final = 10
"""Failures that are said one by one."""


_NAMES: Final[dict[str, str]] = {}
"""What messages call folders of this machine that stand for something else."""
_FIRST: Final[list[Callable[[], None]]] = []
"""What is done before the result of a command is told."""


@contextmanager
def naming(names: Mapping[str, str]) -> Iterator[None]:
    """Within it, messages and results have other names for folders."""
    _NAMES.update(names)
    try:
        yield
    finally:
        for name in names:
            _NAMES.pop(name, None)


def named(text: str, names: Mapping[str, str]) -> str:
    """A text with these names for folders."""
    for folder, name in names.items():
        text = text.replace(folder, name)
    return text


@contextmanager
def told_after(work: Callable[[], None]) -> Iterator[None]:
    """Within it, ``settle`` does this work: what is told as done is done."""
    _FIRST.append(work)
    try:
        yield
    finally:
        _FIRST.remove(work)


def settle() -> None:
    """Do what has to be done before the result of a command is told."""
    for work in _FIRST:
        work()


def say(line: str) -> None:
    """One line on stderr, above a progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(named(line, _NAMES), file=sys.stderr)


def progress(items: Iterable[Any], total: int, title: str) -> Iterator[Any]:
    """The items behind a bar with rate and time left; no bar when stderr is no terminal."""
    from tqdm import tqdm

    return iter(tqdm(items, total=total, desc=title, unit="", file=sys.stderr, disable=not sys.stderr.isatty()))


def print_line(line: str) -> None:
    """One line of a result on stdout, at once."""
    print(line, flush=True)


def print_json(value: Any) -> None:
    """A result on stdout, as JSON."""
    # In ASCII, which every terminal and pipe can take, whatever file names hold.
    print(named(json.dumps(value, indent=2), _NAMES))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """A result on stdout, as a table: first column to the left, the others to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    # A file or a pipe has no width to fit into; brackets and colons in names are no markup.
    console = Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False, highlight=False)
    if title:
        console.print(title, soft_wrap=True)
    console.print(table)


def finish(report: "FolderReport", out: Path, as_json: bool, dry_run: bool, shard: "Shard | None" = None) -> None:
    """Say what became of a folder, or of a shard of it; exit with 1 when inputs failed."""
    settle()
    failed = [record.error for record in report.failed]
    kept = f", {report.kept} were there already" if report.kept else ""
    if as_json:
        facts = {"out": str(out), "planned": report.planned} if dry_run else {"out": str(out)}
        counts = {"done": report.done, "kept": report.kept, "failed": failed}
        counts |= {"empty": report.empty, "fallbacks": report.fallbacks, "agreement": report.agreement}
        print_json({**facts, **counts, "seconds": report.seconds})
    elif dry_run:
        fail = f", {len(failed)} would fail" if failed else ""
        say(f"would write the outputs of {report.planned} inputs{kept}{fail}: {out}")
    else:
        say(f"{report.done} done{kept}, {len(failed)} failed, in {report.seconds['total']:.1f} s: {out}")
        for reason, count in report.empty.items():
            say(f"{count} without an object: {reason}")
        for reason, count in report.fallbacks.items():
            say(f"{count} not refined: {reason}")
        if report.agreement is not None:
            say(f"agreement of the members' masks, mean over all maps: {report.agreement:.3f}")
    if failed and dry_run:
        raise typer.Exit(1)
    if failed:
        from camseg.runs.manifest import MANIFEST
        from camseg.runs.shards import shard_file

        listed = MANIFEST if shard is None else shard_file(MANIFEST, shard)
        say(f"the {len(failed)} failed inputs are listed in {out / listed}")
        raise typer.Exit(1)


def introduce_training(prepared: "Sequence[Prepared]") -> None:
    """Say what is trained from which images."""
    first = prepared[0]
    for line in first.remarks():
        say(f"note: {line}")
    weights = first.training.weights
    start = "from scratch" if weights == "none" else f"from {weights}"
    sizes = f"{len(first.train.samples)} training and {len(first.val.samples)} validation images"
    several = f"{len(prepared)} times " if len(prepared) > 1 else ""
    say(f"{several}{first.classifier.arch} {start}: {sizes} of {', '.join(first.classifier.classes)}")


def introduce_segmenter(prepared: "PreparedSegmenter") -> None:
    """Say what is trained from which images and masks."""
    for line in prepared.remarks:
        say(f"note: {line}")
    weights, segmenter = prepared.training.weights, prepared.segmenter
    start = "from scratch" if weights == "none" else f"from {weights}"
    sizes = f"{len(prepared.train.data.samples)} training and {len(prepared.val.data.samples)} validation images"
    say(f"{segmenter.arch} {start}: {sizes} with masks of {', '.join(segmenter.classes)}")


def finish_segmenter(metrics: dict[str, Any], out: Path, as_json: bool) -> None:
    """Show the validation metrics of a segmentation network; exit with 1 when images could not be read."""
    if as_json:
        print_json({"out": str(out), **metrics})
    else:
        columns = ("class", "precision", "recall", "IoU", "Dice", "Dice over pixels", "images")
        for title, found in (("validation", metrics), ("test", metrics.get("test"))):
            if found is not None:
                dice = found["mean_dice_per_image"]
                words = f"{out}: {title} Dice per image {'-' if dice is None else f'{dice:.3f}'}"
                print_table(columns, _mask_rows(found), f"{words}, at {metrics['image_size']} pixels")
    _finish_failures(metrics["failed"])


def _mask_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    names = [f"mean_{name}_per_image" for name in ("precision", "recall", "iou", "dice")]
    names.append("dice_over_pixels")
    return [
        (
            name,
            *("-" if one.get(column) is None else f"{one[column]:.3f}" for column in names),
            str(one["images"]),
        )
        for name, one in metrics["classes"].items()
    ]


def finish_training(metrics: dict[str, Any], out: Path, as_json: bool) -> None:
    """Show a training's validation metrics; exit with 1 when images could not be read."""
    if as_json:
        print_json({"out": str(out), **metrics})
    else:
        rows = _class_rows(metrics)
        # Its confusions are tables of their own for each class.
        kind = "multi-label, " if isinstance(metrics["confusion"][0][0], list) else ""
        title = f"{out}: {kind}validation accuracy {metrics['accuracy']:.3f}, macro-F1 {metrics['macro_f1']:.3f}"
        print_table(("class", "precision", "recall", "F1", "images"), rows, title)
        if (test := metrics.get("test")) is not None:
            title = f"{out}: test accuracy {test['accuracy']:.3f}, macro-F1 {test['macro_f1']:.3f}"
            print_table(("class", "precision", "recall", "F1", "images"), _class_rows(test), title)
    _finish_failures(metrics["failed"])


def _finish_failures(failed: Mapping[str, str]) -> None:
    for reason in failed.values():
        say(f"failed: {reason}")
    if failed:
        raise typer.Exit(1)


def _class_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (name, f"{one['precision']:.3f}", f"{one['recall']:.3f}", f"{one['f1']:.3f}", str(one["support"]))
        for name, one in metrics["classes"].items()
    ]


def finish_dry_training(unreadable: Mapping[Path, str]) -> None:
    """Say which images a training would leave out; exit with 1, as it would, where there are such."""
    for reason in list(unreadable.values())[:_SHOWN]:
        say(f"would fail: {reason}")
    if len(unreadable) > _SHOWN:
        say(f"would fail: {len(unreadable) - _SHOWN} more")
    if unreadable:
        raise typer.Exit(1)


def attached(options: "FolderOptions") -> "FolderOptions":
    """How a folder is worked through, with this terminal's bar and messages."""
    # Libraries' warnings about single files stay off the terminal: what goes wrong is reported per input.
    for library in ("PIL", "pydicom", "nibabel"):
        warnings.filterwarnings("ignore", module=library)
    return replace(options, progress=progress, say=say)


def open_run(run: "ClassifierOptions", images: Path, device: str) -> tuple["AnyClassifier", "Dataset"]:
    """The classifier of a run, with what is said here instead of its own, and the images with the labels it knows."""
    from camseg.data.datasets import load_images

    classifier = _open_classifier(run, device)
    return classifier, load_images(images, classifier.classes)


def open_network(run: "LookedIntoOptions", device: str) -> "Decider":
    """The classifier or segmenter of a run, with what is said here instead of its own."""
    from camseg.segment.checkpoint import load_segmenter

    if run.segmenter is None:
        return _open_classifier(run, device)
    segmenter = load_segmenter(run.segmenter, device)
    return segmenter.with_negative(run.negative) if run.negative else segmenter


def _open_classifier(run: "ClassifierOptions", device: str) -> "AnyClassifier":
    from camseg.classify.checkpoint import load_classifier

    classifier = load_classifier(run.classifier, device)
    if run.output_stride is not None:
        classifier = classifier.with_output_stride(run.output_stride)
    return classifier.with_negative(run.negative) if run.negative else classifier
