"""Every true mask with the prediction of its name, and what a reader of scores must know about the rest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from camseg.base.errors import EvaluationError
from camseg.data.images import by_relative_name, passed_over_line, relative_name
from camseg.data.opening import count_frames
from camseg.runs.corrections import CORRECTIONS, Decided, decided_masks, find_machine_masks
from camseg.runs.lineage import lineage, network_records, records_by_file
from camseg.runs.output import prediction_root
from camseg.runs.record import Record


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A true mask and its prediction."""

    name: str
    """The relative path without suffix that both have."""
    class_name: str
    """The first folder of the name; "" for files directly in the root."""
    mask: Path
    """The true mask."""
    prediction: Path | None
    """None: the class was no target of the image, or a person says that it is not there."""
    decided: Decided | None = None
    """What a person said of it."""


def match_masks(predictions: Path, masks: Path, decided: Mapping[Path, Decided]) -> tuple[list[Pair], tuple[str, ...]]:
    """Every true mask with its prediction, and what the reader of the scores must know about the rest."""
    found, true = find_machine_masks(predictions), find_machine_masks(masks)
    if true.failures:
        raise EvaluationError(f"the folder of true masks {true.failures[0][0]} cannot be listed: {true.failures[0][1]}")
    truths, files = _vouched(masks) or by_relative_name(true), by_relative_name(found)
    root = found.root.absolute()
    said = {relative_name(path, root): one for path, one in decided.items() if path.is_relative_to(root)}
    files |= {name: one.file for name, one in said.items() if one.drawn and one.file is not None}
    processed, targets = _read_manifest(predictions)
    written = {path.relative_to(root).as_posix(): one for path, one in _written(root)}
    per_class = any(name == f"{one.class_name}/{one.name}" for name, one in written.items())
    pairs, missing = [], []
    gone = {name for name, one in said.items() if one.decision == "empty"}
    for name, mask in truths.items():
        class_name, _, image = name.partition("/") if "/" in name else ("", "", name)
        # A mask that a command wrote has been lost; one for each class says nothing of an image's one mask.
        lost = name in written or (per_class and not class_name)
        wanted = lost or image not in processed or (image, class_name) in targets
        if wanted and name not in files and name not in gone:
            missing.append(name)
        file = None if name in gone else files.get(name)
        pairs.append(Pair(name=name, class_name=class_name, mask=mask, prediction=file, decided=said.get(name)))
    if len(missing) == len(truths):
        raise EvaluationError(
            f"{predictions} and {masks} have nothing in common: expected predictions named like {missing[0]}; got "
            f"{first_names(list(files))}; name the folder of one method's maps, or of masks"
        )
    if missing:
        raise EvaluationError(
            f"expected a prediction in {predictions} for each of the {len(truths)} true masks; {len(missing)} "
            f"are missing: {first_names(missing)}; predict these images too, or evaluate against the masks of a part"
        )
    zero = sum(pair.prediction is None and pair.decided is None for pair in pairs)
    unused = len(files.keys() - truths.keys())
    notes = (
        _follow_labels(predictions, truths),
        (unused, "predictions have no true mask and were left out"),
        (zero, "true masks of classes that were not found in the image were counted against a map of zeros"),
        (len(found.failures), "folders of predictions could not be listed"),
        (_count_stacks(truths.values()), "true masks hold several pages, of which the first was taken"),
        (_count_stacks(files[name] for name in truths if name in files), "predictions hold several pages, likewise"),
    )
    passed_over = (
        f"{line}, in {folder}"
        for folder, files_found in ((predictions, found), (masks, true))
        if (line := passed_over_line(files_found.passed_over))
    )
    return pairs, (*(f"{count} {note}" for count, note in notes if count), *passed_over)


def _written(root: Path) -> list[tuple[Path, Record]]:
    """The files below a folder that a command wrote there, without suffix, with the manifest's lines of them."""
    return [(path, record) for path, record in records_by_file(root).items() if path.is_relative_to(root)]


def _vouched(masks: Path) -> dict[str, Path]:
    """The masks of an output folder that a person accepted, edited or emptied; {} where there are no corrections."""
    if not (masks / CORRECTIONS).is_file():
        return {}
    root = prediction_root(masks)
    found = {
        relative_name(path, root.absolute()): one.file
        for path, one in decided_masks(root).items()
        if one.vouched and one.file is not None
    }
    if not found:
        raise EvaluationError(f"nobody vouches for a mask of {masks}; name true masks, or accept and edit some there")
    return found


def _read_manifest(predictions: Path) -> tuple[set[str], set[tuple[str, str | None]]]:
    """The images that were processed, and the (image, class) targets, by the network's manifest; empty without one."""
    records = network_records(predictions)
    return (
        {record.name for record in records if not record.failed},
        {(record.name, record.class_name) for record in records},
    )


def _follow_labels(predictions: Path, truths: Iterable[str]) -> tuple[int, str]:
    """How many true masks are of images whose labels decided what is predicted of them, and what that means."""
    steps, records = lineage(predictions), network_records(predictions)
    step = steps[-1] if steps else None
    targets = [] if step is None else step.settings.get("targets", [])
    labelled: set[str] = set()
    segmented = step is not None and step.command == "segment"
    if targets in ([], ["label"]) and not segmented:
        labelled = {record.name for record in records if record.labels is not None}
    elif targets != ["predicted"]:  # classes by name: labels decide only where none of them can be
        labelled = {record.name for record in records if (record.empty or "").startswith("labelled")}
    count = sum(name in labelled or name.partition("/")[2] in labelled for name in truths)
    if segmented:
        return (
            count,
            "predictions follow the labels of their images, which exclude an object; --no-gate asks the network alone",
        )
    return count, (
        "predictions follow the labels of their images (class folders or a CSV), not the classifier: empty kept "
        "measures those labels; --target predicted asks the classifier"
    )


def _count_stacks(files: Iterable[Path]) -> int:
    """How many files hold several pages, of those whose suffix allows it."""
    several = (".apng", ".gif", ".tif", ".tiff", ".webp")
    return sum(count_frames(path) > 1 for path in files if path.suffix.lower() in several)


def first_names(names: Sequence[str], shown: int = 5) -> str:
    """The first of many names, for a message."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
