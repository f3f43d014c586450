"""Merging: the models of several runs become one model, without training together."""
