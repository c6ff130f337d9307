"""The versions of the model in a git repository, and which one a stage has: GTO's tags.

mnist-cnn@v1.0.0 is a version, mnist-cnn#prod#2 the second assignment of the stage prod.
Source: https://dvc.org/doc/gto
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from mnist_pipeline.files import InputError
from mnist_pipeline.leash import leashed
from mnist_pipeline.review.git import git

ARTIFACT, PROD = "mnist-cnn", "prod"  # of dvc.yaml; the stage of the version in production
PATIENCE = 120  # seconds for the tags, and for a version's five megabytes
# A line of git ls-remote. Only an annotated tag has a line that ends with ^{}, for its commit.
TAG = re.compile(rf"(\w+)\trefs/tags/{ARTIFACT}(?:@(v\d+\.\d+\.\d+)|#([\w-]+)#\d+)\^{{}}")


class Version(NamedTuple):
    """A registered version of the model."""

    name: str  # v1.0.0
    commit: str


class Tags(NamedTuple):
    """What a repository's tags say."""

    versions: list[Version]  # the lowest first
    stages: dict[str, list[str]]  # the commits that each has had, the present one last

    def in_stage(self, stage: str) -> Version | None:
        """The version that a stage has; None where it has none."""
        commit = self.stages.get(stage, [""])[-1]
        return next((each for each in self.versions if each.commit == commit), None)


def read_tags(repository: str) -> Tags:
    """The versions and stages of a repository, a folder or a URL; InputError if it is none."""
    tags = Tags([], {})
    words = ("ls-remote", "--tags", "--sort=version:refname", repository)
    listed = git(Path(), *words, timeout=PATIENCE)
    for commit, version, stage in TAG.findall(listed):
        if stage:
            tags.stages.setdefault(stage, []).append(commit)
        else:
            tags.versions.append(Version(version, commit))
    return tags


def find(tags: Tags, stage: str | None, name: str | None) -> Version:
    """The version of this name or else in this stage; InputError where there is none."""
    named = {each.name: each for each in tags.versions}
    found = named.get(name) if name else tags.in_stage(stage or "")
    if found is None:
        known = ", ".join(named) or "none yet"
        expected = f"expected a version of {ARTIFACT}, or a stage that has one; versions: {known}"
        raise InputError(f"{name or stage}: {expected}")
    return found


def fetch(repository: str, version: Version) -> bytes:
    """A version's file; InputError with DVC's reason if its data cannot be had."""
    with tempfile.TemporaryDirectory(prefix="mnist_pipeline-version-") as folder:
        file = Path(folder) / ARTIFACT
        words = ("dvc", "artifacts", "get", "--rev", version.name, "--out", str(file))
        command = leashed(*words, repository, ARTIFACT)
        # For dvc's clone, also if dvc is killed; DVC Studio would make `file` a folder.
        own = os.environ | {"TMPDIR": folder, "DVC_STUDIO_OFFLINE": "true"}
        try:
            done = subprocess.run(
                command, env=own, capture_output=True, text=True, check=False, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(f"{version.name}: no data within {PATIENCE} seconds") from error
        if done.returncode != 0:
            raise InputError(f"{version.name}: its data cannot be had: {done.stderr.strip()}")
        return file.read_bytes()
