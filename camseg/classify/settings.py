"""The words by which a classifier's way of working is chosen; nothing here loads a network."""

from typing import Literal

Resize = Literal["stretch", "pad"]
"""How an image becomes the square input: stretched, or scaled and padded with the mean colour."""
Voting = Literal["soft", "logistic", "svm"]
"""How an ensemble decides. ``soft``: the weighted mean of the members' calibrated probabilities, which is not itself
calibrated; the others: a linear rule over the members' features."""
