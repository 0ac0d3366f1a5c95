"""How data sets are laid out in folders: which folder names the class, which are splits, and which files are masks.

Public data sets come with their splits, their masks and what file managers left in them. What can be told from the
classes is told apart here; nothing is opened but a few files that may be masks.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal, TypeAlias

import numpy as np

from camseg.base.errors import CamsegError, DatasetError
from camseg.data.images import read_image
from camseg.data.labels import label_key

Part: TypeAlias = Literal["train", "val", "test"]
"""Of a data set that comes divided."""

_PARTS: Final[Mapping[str, Part]] = {
    **dict.fromkeys(("train", "training", "trn", "learn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "holdout"), "test"),
}
_PART: Final = re.compile(rf"({'|'.join(_PARTS)})( ?(set|data|images|imgs|img|split|folder))?")
_FOLD: Final = re.compile(r"(fold|split) ?\d+")
_IMAGES: Final = frozenset(["images", "image", "imgs", "img", "jpegimages", "originals", "original", "inputs", "input"])
_MASKS: Final = re.compile(
    r"(ground ?truths?|gts?|(seg|binary|pixel|gt|lesion|segmentation)? ?masks?|(instance|semantic)? ?segmentations?|"
    r"segmentation ?(class|object)|segs?|annotations?|labels?|label ?(images|masks))"
)
_TAIL: Final = re.compile(
    r"(?P<stem>.+?)[ _.-]+(?P<word>masks?|labels?|gt|seg|segmentation|ground[ _-]?truth|annotation)([ _-]?\d+)?", re.I
)
_HEAD: Final = re.compile(r"(?P<word>masks?|labels?|gt|seg|segmentation|ground[ _-]?truth)[ _.-]+(?P<stem>.+)", re.I)
_LOOKED_AT: Final = 12
"""Files that are opened to see whether they are masks, of each kind."""
_FEW: Final = 8
"""Masks have no more colours."""


@dataclass(frozen=True, kw_only=True)
class Masks:
    """The files below a root that are no images of the data set, but masks of them."""

    files: frozenset[str]
    """By their relative paths, with ``/`` between."""
    remarks: tuple[str, ...]
    """What is to be said of them."""


def part_of(folder: str) -> Part | None:
    """The part of a divided data set that a folder's name stands for; None for other names."""
    found = _PART.fullmatch(label_key(folder))
    return _PARTS[found[1]] if found else None


def split_folders(folders: Iterable[str]) -> bool:
    """Whether folders beside each other are the parts of a data set, and cannot be meant as its classes."""
    names = list(folders)
    parts = [part_of(name) for name in names]
    folds = [_FOLD.fullmatch(label_key(name)) is not None for name in names]
    return len({part for part in parts if part}) > 1 or (
        bool(names) and ((all(folds) and len(names) > 1) or all(part is not None for part in parts))
    )


def check_classes(root: Path, classes: Sequence[str], inner: str = "") -> list[str]:
    """Lines on folders that may not have been meant as classes; raises DatasetError for such as cannot have been.

    classes: the names of all class folders, where they lie below ``root/inner``.
    """
    shown = ", ".join(classes[:6]) + (", ..." if len(classes) > 6 else "")
    place = root / inner
    if split_folders(classes):
        first = next((name for name in classes if part_of(name) == "train"), classes[0])
        raise DatasetError(
            f"{place}: its folders ({shown}) look like splits, not classes; expected {place}/{first}/<class>/<image>, "
            f"a folder of class folders for DATA and another for --val, or a CSV with the columns image,label"
        )
    images = [name for name in classes if label_key(name) in _IMAGES]
    if images and (len(images) == len(classes) or any(_MASKS.fullmatch(label_key(name)) for name in classes)):
        raise DatasetError(
            f"{place}: its folders ({shown}) hold images and what belongs to them, not classes; expected "
            "DATA/<class>/<image>, or a CSV with the columns image,label that names the images"
        )
    odd = [name for name in classes if _is_odd(label_key(name)) or part_of(name)]
    return [
        f"the folder {place / name} counts as a class, in spite of its name; move it away if it is none" for name in odd
    ]


def without_images(root: Path, paths: Iterable[Path]) -> list[str]:
    """The folders in ``root`` in or below which none of the paths lies, but hidden ones and folders of masks."""
    filled = {path.relative_to(root).parts[0] for path in paths}
    folders = [place.name for place in sorted(root.iterdir()) if place.is_dir() and place.name not in filled]
    return [name for name in folders if not name.startswith((".", "_", "@", "#")) and not _is_odd(label_key(name))]


def _is_odd(key: str) -> bool:
    return key in _IMAGES or any(pattern.fullmatch(key) for pattern in (_MASKS, _FOLD))


def find_masks(root: Path, files: Sequence[Path]) -> Masks:
    """The files that are masks of others among them: in folders of masks, or beside their images.

    ``ground_truth/scratch/000_mask.png``; ``masks`` beside ``images`` or in the folder of the images; ``x_mask.png``,
    ``x_mask_1.png`` or ``x_GT.png`` beside ``x.png``; ``x.png`` of two levels beside ``x.jpg``.
    """
    paths = [PurePosixPath(path.relative_to(root).as_posix()) for path in files]
    folders = _mask_folders(root, paths)
    inside = {str(path): folder for path in paths for folder in path.parents if folder in folders} if folders else {}
    remarks = [
        f"{count} files in folders {name} are masks of others, and left out"
        for name, count in sorted(Counter(folder.name for folder in inside.values()).items())
    ]
    rest = [path for path in paths if str(path) not in inside] if inside else paths
    beside = _beside(root, rest)
    if len(beside) == 1:
        remarks.append(f"1 file looks like the mask of an image beside it and is left out: {beside[0]}")
    elif beside:
        remarks.append(
            f"{len(beside)} files look like masks of the images beside them and are left out, as {beside[0]}"
        )
    return Masks(files=frozenset([*inside, *beside]), remarks=tuple(remarks))


def _mask_folders(root: Path, paths: Sequence[PurePosixPath]) -> set[PurePosixPath]:
    """The folders of masks: by their name, and by what lies beside or in them."""
    own_files: defaultdict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for path in paths:
        own_files[path.parent].append(path)
    held: defaultdict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for parent, files in own_files.items():
        for folder in [parent, *parent.parents][:-1]:
            held[folder] += files
    inner: defaultdict[PurePosixPath, set[PurePosixPath]] = defaultdict(set)
    for folder in held:
        inner[folder.parent].add(folder)
    found: set[PurePosixPath] = set()
    for folder, own in held.items():
        key = label_key(folder.name)
        if not _MASKS.fullmatch(key):
            continue
        siblings = {label_key(other.name) for other in inner[folder.parent] if other != folder}
        around = {path.stem for path in own_files.get(folder.parent, ())}
        if (
            siblings & _IMAGES
            or key.startswith(("ground", "gt"))
            or (around and len({_bare(path.stem) for path in own} & around) > len(own) // 2)
            or _all_masks(root, own)
        ):
            found.add(folder)
    return found


def _beside(root: Path, paths: Sequence[PurePosixPath]) -> list[str]:
    """Files whose names make them masks of others in the same folder."""
    by_folder: defaultdict[PurePosixPath, set[str]] = defaultdict(set)
    for path in paths:
        by_folder[path.parent].add(path.stem)
    sure: list[PurePosixPath] = []
    likely: list[PurePosixPath] = []
    for path in paths:
        for pattern in (_TAIL, _HEAD):
            found = pattern.fullmatch(path.stem)
            if found and found["stem"] in by_folder[path.parent]:
                (sure if found["word"].lower().startswith("mask") else likely).append(path)
                break
        else:
            alone = label_key(path.stem)
            if _MASKS.fullmatch(alone) and any(label_key(stem) in _IMAGES for stem in by_folder[path.parent]):
                (sure if "mask" in alone else likely).append(path)
    masks = [*sure, *(likely if _all_masks(root, likely) else ())]
    taken = set(masks)
    # x.jpg beside x.png: which of the two kinds are masks, their pixels tell.
    pairs: defaultdict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for path in paths:
        if path not in taken:
            pairs[path.with_suffix("")].append(path)
    kinds: defaultdict[str, list[PurePosixPath]] = defaultdict(list)
    for pair in pairs.values():
        if len(pair) == 2:
            for path in pair:
                kinds[path.suffix.lower()].append(path)
    flat = [kind for kind, own in kinds.items() if _all_masks(root, own)]
    if len(flat) == 1:
        masks += kinds[flat[0]]
    return sorted(map(str, masks))


def _bare(stem: str) -> str:
    """The name of the image that a mask's name tells of."""
    found = _TAIL.fullmatch(stem) or _HEAD.fullmatch(stem)
    return found["stem"] if found else stem


def _all_masks(root: Path, paths: Sequence[PurePosixPath]) -> bool:
    """Whether files are pictures of few flat colours, as masks are, by some of them; False for none."""
    return bool(paths) and all(_is_flat(root / path) for path in paths[:: max(1, len(paths) // _LOOKED_AT)])


def _is_flat(path: Path) -> bool:
    try:
        pixels = read_image(path, "percentile")
    except CamsegError:
        return False
    colors = pixels.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)  # (H, W)
    if len(np.unique(colors)) <= _FEW:
        return True
    grey = pixels.astype(int)
    noisy = np.minimum(grey, 255 - grey).max(axis=2)  # black and white after JPEG, or with soft edges
    return bool((noisy < 24).mean() > 0.95 and np.ptp(grey, axis=2).max() < 32)
