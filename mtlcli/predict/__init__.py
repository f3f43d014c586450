"""Predictions of a trained model for new rows: from Python, and for `mtl predict`."""
