"""FBA matting: alpha, foreground and background together, by Forte and Pitie's network.

Importing this package loads torch, which ``camseg.refinement.refine`` does without.
"""

from camseg.refinement.fba.inference import Fba, load_fba

__all__ = ["Fba", "load_fba"]
