"""Gradient balancing: one file per method."""
