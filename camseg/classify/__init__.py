"""Image -> scores: classifiers and ensembles, their run folders, and the classes that get maps."""
