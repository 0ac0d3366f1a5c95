"""(Image, Alpha) -> foreground and background colours, as a cut-out needs them."""

import numpy as np

from camseg.base.arrays import Alpha, Colors, Image

MARGIN = 16
"""Known pixels around the mixed ones, in pixels, from which their colours spread."""


def estimate_colors(image: Image, alpha: Alpha) -> tuple[Colors, Colors]:
    """The colours of the object and of what lies behind it, for the composite alpha F + (1 - alpha) B.

    ``image``: uint8 (H, W, 3), RGB; ``alpha``: float32 (H, W) in [0, 1]. Returns F and B, float32 (H, W, 3) in
    [0, 1]: F is the image where alpha is 1, B is the image where alpha is 0. Only the box around the mixed pixels,
    with a margin, is estimated; beyond it both are the image.

    Germer et al., Fast Multi-Level Foreground Estimation, ICPR 2020 (by pymatting), then ``fuse``.
    """
    observed = image.astype(np.float32)
    observed /= 255
    foreground, background = observed, observed.copy()
    mixed = (alpha > 0) & (alpha < 1)
    if not mixed.any():
        return foreground, background
    # numba compiles or loads for a second or more: only when needed
    from camseg.base.compiled import import_pymatting, one_thread

    estimate_foreground = import_pymatting().estimate_foreground_ml
    rows, columns = (np.flatnonzero(mixed.any(axis=axis)) for axis in (1, 0))
    crop = np.s_[
        max(0, rows[0] - MARGIN) : rows[-1] + 1 + MARGIN, max(0, columns[0] - MARGIN) : columns[-1] + 1 + MARGIN
    ]
    if alpha[crop].size == 1:  # a pyramid of no levels, over which pymatting divides by zero
        return foreground, background
    inside = observed[crop]
    with one_thread():
        near, far = estimate_foreground(inside, np.ascontiguousarray(alpha[crop]), return_background=True)
    foreground[crop], background[crop] = fuse(inside, near, far, alpha[crop])
    return foreground, background


def fuse(observed: Colors, foreground: Colors, background: Colors, alpha: Alpha) -> tuple[Colors, Colors]:
    """Move first the foreground, then the background towards colours that compose to the observed image.

    Colours float32 (H, W, 3) and alpha float32 (H, W), all in [0, 1]. With the residual
    R = I - a F - (1 - a) B each move is the unit step down the gradient of |R|^2 / 2, kept in [0, 1]:

        F' = F + a R           =      a I + (1 - a^2)   F - a (1 - a) B
        B' = B + (1 - a) R'    = (1 - a) I + (2 a - a^2) B - a (1 - a) F',   R' with F'

    It leaves (1 - a^2)(2 a - a^2) of the residual where no colour is clamped.
    Forte and Pitie, F, B, Alpha Matting, 2020: the fusion step.
    """
    a = alpha[..., None]  # (H, W, 1)
    foreground = np.clip(a * observed + (1 - a**2) * foreground - a * (1 - a) * background, 0, 1)
    background = np.clip((1 - a) * observed + (2 * a - a**2) * background - a * (1 - a) * foreground, 0, 1)
    return foreground, background
