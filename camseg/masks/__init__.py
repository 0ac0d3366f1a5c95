"""Cam -> Mask: thresholds, and the cleaning of masks."""
