"""Inputs -> an output folder: records, manifest, resume, and the one folder loop."""
