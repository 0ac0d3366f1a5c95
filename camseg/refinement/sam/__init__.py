"""SAM and SAM 2 as a refiner: prompts from the mask and its map, and the most central of the answers.

Importing this package loads torch, which ``camseg.refinement.refine`` does without; transformers is loaded with the
first weights.
"""

from camseg.refinement.sam.inference import Sam, load_sam

__all__ = ["Sam", "load_sam"]
