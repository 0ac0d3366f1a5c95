"""``corrections.jsonl`` and ``corrected/``: the last word counts, and only of the mask that lies there."""

import numpy as np
import pytest

from camseg.base.errors import OutputError
from camseg.base.files import sha256, write_text
from camseg.data.images import write_mask
from camseg.runs.corrections import (
    Correction,
    Corrections,
    correction_to_line,
    decided_masks,
    find_machine_masks,
    read_corrections,
    summarise,
)
from camseg.runs.record import Record, to_line

MASK = np.eye(4, dtype=bool)
KEY = {"input": "a.jpg", "class_name": "cat", "file": "masks/a.png", "place": "a"}


@pytest.fixture
def out(tmp_path):
    """A folder with one mask per image."""
    write_mask(tmp_path / "masks/a.png", MASK)
    record = Record(input="a.jpg", name="a", class_name="cat", files={"mask": "masks/a.png"})
    write_text(tmp_path / "manifest.jsonl", to_line(record))
    return tmp_path


def said(decision, **facts):
    return Correction(
        **{"input": "a.jpg", "class_name": "cat", "decision": decision, "tool": "review", "time": "2026-01-01", **facts}
    )


def test_the_last_word_counts(out):
    corrections = Corrections(out)
    assert (corrections.decide(**KEY).file, corrections.decide(**KEY).decision) == (out / "masks/a.png", None)
    line = corrections.add(said("edited", corrected="corrected/a.png", file="masks/a.png"), ~MASK)
    assert line.corrected_sha256 == sha256(out / "corrected/a.png")
    for known in (corrections, Corrections(out)):
        decided = known.decide(**KEY)
        assert (decided.file, decided.decision, decided.drawn) == (out / "corrected/a.png", "edited", True)
        assert decided.correction == line
    corrections.add(said("rejected"))
    decided = Corrections(out).decide(**KEY)
    assert (decided.file, decided.decision, decided.vouched) == (out / "masks/a.png", "rejected", False)


def test_a_mask_without_a_word_is_a_persons_too(out):
    write_mask(out / "corrected/a.png", ~MASK)
    assert Corrections(out).decide(**KEY).drawn
    Corrections(out).add(said("accepted"))
    assert Corrections(out).decide(**KEY).file == out / "masks/a.png"


def test_a_word_on_another_mask_does_not_count(out):
    Corrections(out).add(said("edited", corrected="corrected/a.png", mask_sha256=sha256(out / "masks/a.png")), ~MASK)
    corrections = Corrections(out)
    assert corrections.decide(**KEY).drawn
    write_mask(out / "masks/a.png", ~MASK)  # the same object, and so no answer that it remembers
    decided = corrections.decide(**KEY)
    assert (decided.file, decided.decision, decided.stale) == (out / "masks/a.png", None, True)


def test_half_a_line_is_left_out_and_taken_away_before_the_next(out):
    whole = correction_to_line(said("accepted"))
    write_text(out / "corrections.jsonl", whole + whole[:40])
    assert len(read_corrections(out)) == 1
    Corrections(out).add(said("rejected"))
    assert [line.decision for line in read_corrections(out)] == ["accepted", "rejected"]


def test_a_last_line_without_a_line_break_counts_and_stays(out):
    write_text(out / "corrections.jsonl", (correction_to_line(said("accepted")) * 2).rstrip("\n"))
    assert len(read_corrections(out)) == 2
    Corrections(out).add(said("rejected"))
    assert [line.decision for line in read_corrections(out)] == ["accepted", "accepted", "rejected"]


@pytest.mark.parametrize(
    "line",
    ["{}", "[" * 5000, '{"input": 3}', correction_to_line(said("accepted")).replace('"accepted"', '"fine"'),
     correction_to_line(said("edited", corrected="../../evil.png")), correction_to_line(said("edited", file="/etc/a"))],
)  # fmt: skip
def test_damaged_lines_are_refused_by_their_number(out, line):
    write_text(out / "corrections.jsonl", correction_to_line(said("accepted")) + line.rstrip("\n") + "\n")
    with pytest.raises(OutputError, match="line 2 is damaged; remove that line"):
        Corrections(out)


def test_what_was_said_of_a_folder_stands_at_its_masks(out):
    assert decided_masks(out / "masks") == {}
    Corrections(out).add(said("accepted", file="masks/a.png"))
    dog = said("edited", class_name="dog", corrected="corrected/dog/a.png")
    Corrections(out).add(dog, ~MASK)
    found = decided_masks(out / "masks")
    assert {path.relative_to(out).as_posix(): one.decision for path, one in found.items()} == {
        "masks/a.png": "accepted", "masks/dog/a.png": "edited"
    }  # fmt: skip
    assert found[out / "masks/dog/a.png"].file == out / "corrected/dog/a.png"


def test_corrected_masks_are_no_masks_of_the_machine(tmp_path):
    for name in ("a.png", "corrected/a.png"):
        write_mask(tmp_path / name, MASK)
    assert len(find_machine_masks(tmp_path).files) == 2  # nothing says that it is no class's name
    write_text(tmp_path / "corrections.jsonl", "")
    assert find_machine_masks(tmp_path).files == (tmp_path / "a.png",)
    found = decided_masks(tmp_path)
    assert {path.name: one.file for path, one in found.items()} == {"a.png": tmp_path / "corrected/a.png"}


def test_a_summary_counts_what_was_said_and_the_time_it_took(out):
    lines = [said("edited", iou=0.5, seconds=4.0), said("empty", iou=0.0, seconds=5.0), said("accepted", iou=1.0)]
    folders = [out / str(number) for number in range(4)]
    for folder, line in zip(folders, [*lines, said("rejected", seconds=12.0)], strict=True):
        folder.mkdir()
        Corrections(folder).add(line)
    decided = [Corrections(folder).decide(**KEY) for folder in folders]
    assert summarise([]) is None
    summary = summarise(decided)
    assert (summary.masks, summary.timed, summary.median_seconds, summary.mean_seconds) == (4, 3, 5.0, 7.0)
    assert summary.decisions == {"accepted": 1, "edited": 1, "empty": 1, "rejected": 1}
    assert summary.mean_iou == 0.5
    assert "4 of these masks (1 accepted, 1 edited, 1 empty, 1 rejected)" in summary.line()
    assert "3 of them took 5.0 s at the median, 7.0 s on average (Laptev and Gerget state 54.5 s" in summary.line()
