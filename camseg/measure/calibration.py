"""Validation logits -> the temperature that makes a classifier as sure as it is right."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camseg.base.errors import InputError

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are looked through, as multiples of the logits' deviation."""
FEWEST = 10
"""Images that tell a temperature; of fewer a single one decides it."""
COLDEST, HOTTEST = 0.05, 20.0
"""Temperatures of a classifier: beyond them its logits, and not how sure it is, went astray."""
_UNTOLD = "do not tell how sure to be (all right, or too few): the temperature stays 1"
UNTOLD = f"validation images {_UNTOLD}"
"""What is said, after their number, where the temperature is 1."""


def fit_temperature(
    logits: NDArray[np.floating],
    truth: NDArray[np.integer] | NDArray[np.floating],
    multi_label: bool,
    *,
    least: int = FEWEST,
) -> float:
    """The temperature T > 0 whose probabilities, softmax(z / T) or sigmoid(z / T), have the least cross-entropy.

    logits: (N, C); truth: class indices, int (N,), or for multi-label 0 or 1 (N, C). The cross-entropy is convex in
    1 / T, so a bounded search finds its one minimum. Where every decision is right it falls for ever as T does, and
    where logits tell less than nothing as T grows; such images, often too few, cannot say how sure to be, and T is 1,
    as it is for fewer than ``least`` images, and wherever the search ends at ``LOWEST`` or ``HIGHEST``. Raises
    InputError for logits that are not finite.

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks" (ICML 2017), section 4.2.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.astype(np.float64)
    if not np.isfinite(logits).all():
        raise InputError("expected finite logits to calibrate; lower the learning rate, or train in float32")
    if len(logits) < least:
        return 1.0
    if multi_label:
        all_right = bool(((logits > 0) == (truth > 0)).all())
    else:
        own = logits[np.arange(len(logits)), truth.astype(np.int64)]
        others = np.where(np.eye(logits.shape[1], dtype=bool)[truth.astype(np.int64)], -np.inf, logits)
        all_right = bool((own > others.max(axis=1)).all())
    if all_right:
        return 1.0
    if not multi_label:
        logits = logits - logits.mean(axis=1, keepdims=True)  # what a row has in common says nothing
    unit = float(logits.std()) or 1.0
    found: Any = minimize_scalar(
        lambda log_t: _cross_entropy(logits / (unit * math.exp(log_t)), truth, multi_label),
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    multiple = math.exp(found.x)
    # Six digits, as many as the search finds: the last bits of logits depend on the device.
    return float(f"{unit * multiple:.6g}") if LOWEST * 1.01 < multiple < HIGHEST / 1.01 else 1.0


def classifier_temperature(
    logits: NDArray[np.floating],
    truth: NDArray[np.integer] | NDArray[np.floating],
    multi_label: bool,
    what: str = "validation images",
    count: int | None = None,
) -> tuple[float, str | None]:
    """``fit_temperature`` of a network's logits, from ``COLDEST`` to ``HOTTEST``; and a line where it is not the best.

    ``what``: of what the logits are, for that line; ``count``: of how many, where there are several rows of each.

    Raises what ``fit_temperature`` does.
    """
    count = len(truth) if count is None else count
    best = fit_temperature(logits, truth, multi_label, least=math.ceil(FEWEST * len(truth) / max(1, count)))
    temperature = min(max(best, COLDEST), HOTTEST)
    if temperature != best:
        return temperature, (
            f"{count} {what} want a temperature of {best:g}, as logits that went astray do; it is "
            f"held at {temperature:g}"
        )
    return temperature, f"{count} {what} {_UNTOLD}" if temperature == 1.0 else None


def _cross_entropy(
    logits: NDArray[np.floating], truth: NDArray[np.integer] | NDArray[np.floating], multi_label: bool
) -> float:
    """The mean of -log(p of what is true), in nats: over images, or for multi-label over images and classes."""
    if multi_label:
        return float(np.logaddexp(0.0, np.where(truth > 0, -logits, logits)).mean())
    top = logits.max(axis=1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return float((total - logits[np.arange(len(logits)), truth.astype(np.int64)]).mean())
