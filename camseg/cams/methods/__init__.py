"""The CAM methods, each a pure function of one Capture."""
