"""Qualities fitted to what people said."""

import json

import pytest

from camseg.base.errors import InputError, OutputError
from camseg.exchange.corrections import Corrector
from camseg.review.calibrate import CALIBRATION, quality_folder
from camseg.review.settings import QualitySettings
from camseg.runs.manifest import read_manifest

NAMES = [f"{n:02}" for n in range(24)]
ASKED = QualitySettings(calibrate=True)


def corrected(out, names, limit=12):
    """People accept the masks of earlier names, which the fixture makes better, and reject later ones."""
    taker = Corrector(out)
    for name in names:
        taker.correct(f"{name}.png", "accepted" if int(name) < limit else "rejected", tool="test")


def test_qualities_become_probabilities(make_out):
    out = make_out(*NAMES)
    before = [record.quality for record in read_manifest(out)]
    assert quality_folder(out).fit is None
    corrected(out, NAMES[::2])
    found = quality_folder(out, ASKED)
    assert found.fit is not None
    assert found.fit.explained > 0.3
    assert found.applied
    after = [record.quality for record in read_manifest(out)]
    assert after != before
    assert max(after[12:]) < 0.5 < min(after[:12])
    assert found.risk is not None
    assert found.risk.spearman > 0.5
    # What is applied again is the same.
    manifest = (out / "manifest.jsonl").read_bytes()
    again = quality_folder(out)
    assert (again.applied, again.least_dice) == (True, 0.7)
    assert (out / "manifest.jsonl").read_bytes() == manifest


def test_what_explains_nothing_is_not_applied(make_out):
    out = make_out(*NAMES)
    taker = Corrector(out)
    for place, name in enumerate(NAMES):
        taker.correct(f"{name}.png", "accepted" if place % 2 else "rejected", tool="test")
    manifest = (out / "manifest.jsonl").read_bytes()
    found = quality_folder(out, ASKED)
    assert found.fit.explained <= 0
    assert not found.applied
    assert (out / "manifest.jsonl").read_bytes() == manifest
    assert not (out / CALIBRATION).exists()


def test_too_few_corrections_and_damage(make_out):
    out = make_out(*NAMES)
    corrected(out, NAMES[:4])
    with pytest.raises(InputError, match="correct more"):
        quality_folder(out, ASKED)
    for content in ("{}", "[]", '{"least_dice": 0.7, "trust": {"kind": "guess"}}'):
        (out / CALIBRATION).write_text(content)
        with pytest.raises(OutputError, match="no calibration"):
            quality_folder(out)


def test_the_command(make_out, call):
    out = make_out(*NAMES)
    assert "quality is agreement" in call("quality", out)[1]
    assert call("quality", out, "--calibrate")[0] == 2
    corrected(out, NAMES)
    code, told, said = call("quality", out, "--calibrate", "--json")
    assert (code, json.loads(told)["calibrated"]) == (0, True)
    assert "explains" in said
