"""Augmentations: what training does with the batches of a task beside taking their loss."""
