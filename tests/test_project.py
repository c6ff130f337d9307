"""What the repository says of itself is so: lock, README, table of parameters, tree."""

import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT, git
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_params import KEYS, SCHEMAS

from mnist_pipeline.params import load
from mnist_pipeline.runtime import RuntimeParams

README = (ROOT / "README.md").read_text()
LOCK = (ROOT / "requirements.lock").read_text()
PINS = [Requirement(line) for line in LOCK.splitlines() if line and line.lstrip()[0] != "#"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED = [
    Requirement(text)
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
]


def pins(name: str, platform: str) -> list[str]:
    """The versions that the lock pins for a package on a platform."""
    environment = {"sys_platform": platform, "platform_machine": "x86_64"}
    return [
        str(pin.specifier).removeprefix("==")
        for pin in PINS
        if canonicalize_name(pin.name) == canonicalize_name(name)
        and (pin.marker is None or pin.marker.evaluate(environment))
    ]


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.name)
def test_lock_agrees_with_pyproject(asked, platform):
    """Each package asked for is pinned once for Linux and for macOS, within its range."""
    (version,) = pins(asked.name, platform)
    assert version in asked.specifier


def test_lock_pins_and_names_no_index():
    """Exact versions alone: no address, no link folder, no path, no option."""
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in PINS)
    assert not any(pin.url for pin in PINS)
    assert not re.search(r"://|^-|file:|/\w+/", LOCK, re.MULTILINE)


def test_lock_knows_macos_needs_no_cuda():
    """The lock is universal: CUDA's packages are for Linux alone."""
    cuda = [pin.name for pin in PINS if pin.name.startswith("nvidia-")]
    assert cuda
    assert not any(pins(name, "darwin") for name in cuda)


def test_results_belong_to_the_locked_torch():
    """runtime.torch is the lock's version, so that an upgrade reruns what it affects."""
    params = load("runtime", RuntimeParams, ROOT / "params.yaml")
    assert [params.torch] == pins("torch", "linux") == pins("torch", "darwin")


def test_each_dependency_earns_its_place():
    """Every line of dependencies in pyproject.toml says what it is for."""
    text = (ROOT / "pyproject.toml").read_text()
    for asked in ASKED:
        assert re.search(rf'^    "{re.escape(asked.name)}[<>=].*",\s+# \S', text, re.MULTILINE)


def bounds(section: str, key: str) -> str:
    """A key's type and range in words, from its schema."""
    schema = SCHEMAS[section].model_json_schema()["properties"][key]
    if "enum" in schema:
        return ", ".join(schema["enum"])
    words = [{"boolean": "true, false", "string": "version"}.get(schema["type"], schema["type"])]
    signs = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
    }
    words += [f"{sign} {schema[name]:,.0f}" for name, sign in signs.items() if name in schema]
    return words[0] + (" " + ", ".join(words[1:]) if words[1:] else "")


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_readme_documents_every_parameter(section, key):
    """README's row is the schema's: committed value, type, range, meaning."""
    value = getattr(load(section, SCHEMAS[section], ROOT / "params.yaml"), key)
    shown = str(value).lower() if isinstance(value, bool) else value
    meaning = SCHEMAS[section].model_fields[key].description
    assert f"| `{section}.{key}` | {shown} | {bounds(section, key)} | {meaning} |" in README


def test_readme_has_no_other_parameter():
    """No row for a key that is gone."""
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \|", README, re.MULTILINE)
    assert rows == KEYS


def test_readme_tree_names_every_file():
    """Each tracked file or its folder stands in README's tree, and nothing else does."""
    (tree,) = re.findall(r"## Layout\n.*?```\n(.*?)```", README, re.DOTALL)
    shown, folder = set(), ""
    for line in tree.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name if name.endswith("/") else ""
        shown.add(folder + name if line.startswith(" ") else name)
    tracked = set(git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").split())
    for entry in shown:
        assert any(name == entry or name.startswith(entry) for name in tracked), entry
    detailed = {entry.rpartition("/")[0] for entry in shown if not entry.endswith("/")} - {""}
    for name in tracked:
        inside = any(name.startswith(f"{folder}/") for folder in detailed)
        assert name in shown if inside else {name, name.split("/")[0] + "/"} & shown, name


def test_readme_shows_every_make_target():
    """Every target of the Makefile is documented."""
    for target in re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE):
        assert f"make {target}" in README


def test_tracked_files_name_no_machine():
    """No path of somebody's machine and no registry's host in any tracked text."""
    hosts = "|".join(("pypi" + r"\.org", "python" + "hosted", "registry" + r"\.npmjs"))
    paths = "|".join(("/ro" + "ot/", "/ho" + "me/", "/wo" + "rk/", "/Us" + "ers/"))
    for name in git(ROOT, "ls-files").split():
        path = ROOT / name
        if path.is_file() and path.suffix != ".png":
            found = re.search(f"{hosts}|{paths}", path.read_text())
            assert found is None, f"{name}: {found}"


def test_children_run_the_code_of_this_checkout(tmp_path):
    """From any folder, and whichever checkout the environment was installed for."""
    command = [sys.executable, "-c", "import sys; print(sys.path[1])"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{ROOT / 'src'}\n"
