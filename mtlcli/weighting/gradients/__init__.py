"""Methods that weight gradients: one file for each."""
