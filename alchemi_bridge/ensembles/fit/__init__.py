"""Fits of a model's parameters to targets, described by a file."""
