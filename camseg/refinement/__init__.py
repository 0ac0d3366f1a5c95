"""Mask -> trimap, then (Image, Trimap) -> Alpha: the unknown band decided from the image."""
