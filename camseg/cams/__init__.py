"""Scores -> capture -> CAM: which pixels speak for a class."""
