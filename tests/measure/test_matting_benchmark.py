import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from camseg.base.arrays import BACKGROUND, FOREGROUND, UNKNOWN


@pytest.fixture
def matting():
    spec = importlib.util.spec_from_file_location("matting", Path(__file__).parents[2] / "benchmarks" / "matting.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_composites_have_all_kinds_of_alpha_and_their_trimaps_are_true(matting):
    for draw in matting.ALPHAS.values():
        for seed in range(3):
            alpha = draw(np.random.default_rng(seed), 96)
            assert (alpha.dtype, alpha.shape) == (np.float32, (96, 96))
            assert (alpha.min(), alpha.max()) == (0, 1)
            assert ((alpha > 0) & (alpha < 1)).mean() > 0.01
            assert np.array_equal(alpha, draw(np.random.default_rng(seed), 96))
            for name, make in matting.TRIMAPS.items():
                trimap = make(alpha)
                assert set(np.unique(trimap)) == {BACKGROUND, UNKNOWN, FOREGROUND}
                if name != "shifted":
                    assert (alpha[trimap == FOREGROUND] == 1).all()
                    assert (alpha[trimap == BACKGROUND] == 0).all()


def test_the_tables_hold_every_method(matting, monkeypatch, capsys):
    monkeypatch.setattr(matting, "METHODS", {"grabcut": matting.METHODS["grabcut"]})
    monkeypatch.setattr(matting, "ALPHAS", {"blobs": matting.blobs})
    arguments = ["--size", "64", "--seeds", "1"]
    matting.main([*arguments, "--json"])
    rows = json.loads(capsys.readouterr().out)
    names = ["nearest known", "grabcut", "pymatting's closed-form"]
    assert [row["method"] for row in rows] == 3 * names
    assert all(0 < row["MSE"] < 1 and 0 < row["Dice"] <= 1 and row["seconds"] > 0 for row in rows)
    matting.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines if line.startswith("| ")] == 3 * ["method", *names]
