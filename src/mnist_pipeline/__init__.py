"""MNIST as a reproducible pipeline."""
