"""Loads a section of params.yaml. Its schema lives with the code that uses it."""

from pathlib import Path

from mnist_pipeline.files import InputError, Schema, parse_yaml, read_text, validate

PATH = Path("params.yaml")
SECTIONS = ("data", "runtime", "train", "evaluate", "save", "log", "machine", "app")


def load_params(section: str, schema: type[Schema], path: Path = PATH) -> Schema:
    """One section of params.yaml, as its schema.

    Raises InputError for malformed YAML, an unknown section, and an unknown, missing, mistyped
    or out-of-range key. It names all the section's faults in one line.
    """
    tree = parse_yaml(read_text(path), str(path))
    for name in tree:
        if name not in SECTIONS:
            raise InputError(f"{path}: {name}: expected one of {', '.join(SECTIONS)}")
    if section not in tree:
        raise InputError(f"{path}: {section}: expected a section of this name, found none")
    return validate(schema, tree[section], str(path), section)
