"""image -> class probabilities per pixel, by a segmentation network."""
