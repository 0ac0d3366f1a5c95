"""Labels as people spell them -> classes: one spelling for each, whatever typed, unpacked or copied the names."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

MISSING: Final = frozenset(["nan", "na", "n/a", "null", "nil", "?", "-", "#n/a", "<na>"])
"""What tables write into cells that hold nothing, in small letters."""
_BACKGROUND: Final = frozenset(
    [
        "background", "bg", "clean", "control", "controls", "defect free", "defectfree", "empty", "good", "health",
        "healthy", "intact", "neg", "negative", "negatives", "none", "normal", "nothing", "ok", "other", "others",
        "regular", "undamaged", "unaffected",
    ]
)  # fmt: skip
_BACKGROUND_START: Final = ("no ", "non ", "not ", "without ", "normal ", "healthy ", "free of ")
_BACKGROUND_END: Final = (" free", " negative", " normal", " none", " healthy")


def spelled(label: str) -> str:
    """A label as classes spell it: composed Unicode (NFC; macOS decomposes the names of folders), single spaces."""
    return " ".join(unicodedata.normalize("NFC", label).split())


def label_key(label: str) -> str:
    """What labels share that differ only in case, Unicode form, spaces, hyphens and underscores."""
    words = re.split(r"[\s_-]+", unicodedata.normalize("NFKC", label).casefold())
    return unicodedata.normalize("NFKC", " ".join(word for word in words if word)) or label


def near_pairs(labels: Iterable[str]) -> list[tuple[str, ...]]:
    """The labels that have a key in common, as far as there are several of one; sorted."""
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for label in labels:
        groups[label_key(label)].add(label)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def as_classes(labels: Iterable[str], classes: Sequence[str]) -> Mapping[str, str]:
    """Label -> the class that it means: of the same letters, else the only one with the same ``label_key``.

    Labels that mean none of the classes are left out.
    """
    found = {}
    exact = {spelled(name): name for name in classes}
    near: defaultdict[str, list[str]] = defaultdict(list)
    for name in classes:
        near[label_key(name)].append(name)
    for label in labels:
        alike = near.get(label_key(label), [])
        if same := exact.get(spelled(label)):
            found[label] = same
        elif len(alike) == 1:
            found[label] = alike[0]
    return found


def looks_negative(name: str) -> bool:
    """Whether a class is named like one whose images contain no object: ``clean``, ``no_tumour``, ``normal``, ..."""
    key = label_key(name)
    return key in _BACKGROUND or key.startswith(_BACKGROUND_START) or key.endswith(_BACKGROUND_END)


def negative_hint(classes: Sequence[str], negative: Sequence[str]) -> str | None:
    """A line where no class is said to be negative, but one is named so; None where there is nothing to say."""
    if negative or len(classes) < 2:
        return None
    likely = [name for name in classes if looks_negative(name)]
    if not likely or len(likely) == len(classes):
        return None
    options = " ".join(f"--negative {_quoted(name)}" for name in likely)
    names = " and ".join(map(repr, likely))
    return (
        f"{names} {'looks' if len(likely) == 1 else 'look'} like images without an object; {options} says so: maps and "
        "masks of such images then are empty"
    )


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w.+-]+", name) else f"'{name}'"
