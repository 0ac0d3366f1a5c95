"""Labelled images -> a classifier run: recipes, plans, the training itself."""
