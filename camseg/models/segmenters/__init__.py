"""Segmentation networks by name: those of the papers, and decoders of segmentation_models_pytorch on timm's encoders.

``building.build_segmenter`` builds them; ``registry`` lists them without loading anything.
"""
