"""Facts of masks and outcomes -> probabilities, and what these are worth."""

import numpy as np
import pytest

from camseg.base.errors import InputError
from camseg.measure.trust import fit_trust


def material(count, seed=0):
    """A fact that decides, one that is noise, and one that is known of few."""
    random = np.random.default_rng(seed)
    told = random.random(count)
    right = random.random(count) < 1 / (1 + np.exp(-8 * (told - 0.5)))
    rare = [0.3 if n % 4 == 0 else None for n in range(count)]
    return {"told": told.tolist(), "noise": random.random(count).tolist(), "rare": rare}, right.tolist()


def test_what_decides_is_found_and_the_rest_is_not():
    facts, right = material(400)
    found = fit_trust(facts, right, "told")
    assert found.explained > 0.2
    assert set(found.tried) == {"logistic in told", "logistic in all facts", "isotonic in told"}
    assert found.brier == min(found.tried.values())
    assert "rare" not in found.trust.facts
    low, high = np.quantile(found.probabilities, (0.1, 0.9))
    assert low < 0.25 < 0.75 < high


@pytest.mark.parametrize("form", ["logistic in told", "isotonic in told"])
def test_probabilities_grow_with_what_tells(form, monkeypatch):
    facts, right = material(200)
    if form.startswith("isotonic"):
        monkeypatch.setattr("camseg.measure.trust._logistic", lambda *_: _Useless())
    found = fit_trust({"told": facts["told"]}, right, "told").trust
    assert found.kind == form.split()[0]
    values = found.probabilities(np.linspace(-1, 2, 31)[:, None])
    assert (np.diff(values) >= -1e-12).all()
    assert values[0] < 0.2
    assert values[-1] > 0.8
    assert found.probabilities(np.array([[np.nan]])) == pytest.approx(found.probabilities(np.array([found.centre])))


class _Useless:
    def probabilities(self, facts):
        return np.zeros(len(facts))


def test_noise_explains_nothing():
    random = np.random.default_rng(1)
    found = fit_trust({"noise": random.random(60).tolist()}, (random.random(60) < 0.5).tolist(), "noise")
    assert found.explained < 0.1


@pytest.mark.parametrize(
    ("told", "right"),
    [
        ([0.1] * 9, [True] * 4 + [False] * 5),
        ([n / 20 for n in range(20)], [True] * 18 + [False] * 2),
        ([0.5] * 20, [True, False] * 10),
    ],
)
def test_too_little_is_refused(told, right):
    with pytest.raises(InputError):
        fit_trust({"told": told}, right, "told")
