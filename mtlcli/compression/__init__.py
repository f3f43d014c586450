"""Compression: a smaller model out of a trained run, without training."""
