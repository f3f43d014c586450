"""One method of each kind for mtl."""
