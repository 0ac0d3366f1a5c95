"""The stages joined: the chain over one image (``chain``), and over folders of them (``labelling``).

Between two stages a map is always the 8-bit map that a file would hold, so that ``label`` gives byte for
byte what the single commands give one after the other.
"""

from camseg.pipeline.chain import Labelled, classifier_features, label_image
from camseg.pipeline.labelling import KINDS, cams_folder, label_folder
from camseg.pipeline.settings import LabelSettings, TrimapSettings

__all__ = ["KINDS", "LabelSettings", "Labelled", "TrimapSettings", "cams_folder", "classifier_features"]
__all__ += ["label_folder", "label_image"]
