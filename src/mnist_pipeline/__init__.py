"""MNIST as a reproducible pipeline."""

import os
import sys

from mnist_pipeline import stage

# A stage is starting: python -m mnist_pipeline.<stage>, from dvc. Here, since a stage's own
# imports take seconds, in which dvc may be killed.
if sys.argv[0] == "-m" and "DVC_STAGE" in os.environ:
    stage.end_with_parent()
