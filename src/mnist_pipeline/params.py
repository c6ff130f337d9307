"""Loads a section of params.yaml. Its schema lives with the code that uses it."""

from pathlib import Path

from mnist_pipeline.files import Schema, parse_yaml, read_text, validate

PATH = Path("params.yaml")


def load_params(section: str, schema: type[Schema], path: Path = PATH) -> Schema:
    """One section of params.yaml, as its schema.

    Raises InputError for malformed YAML, a missing section, and an unknown, missing, mistyped or
    out-of-range key. It names all the section's faults in one line.
    """
    tree = parse_yaml(read_text(path), str(path))
    return validate(schema, tree.get(section), str(path), section)
