"""Predictions and truth -> figures: metrics, evaluation, calibration, faithfulness, plots."""
