"""What the repository says about itself is true: lock, README, parameters, tree, size."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT, git
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pipeline.test_params import KEYS, SCHEMAS

from mnist_pipeline.arithmetic import RuntimeParams
from mnist_pipeline.files import ENVIRONMENT, load_params

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


def test_checkout_has_the_bytes_of_the_commit():
    """Whatever the user's git does to line endings, since dvc.lock has the hashes of code."""
    files = git(ROOT, "ls-files", "--eol").splitlines()
    assert all("attr/-text" in file for file in files)


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.name)
def test_lock_agrees_with_pyproject(asked):
    """Each package asked for is pinned once for Linux and for macOS, within its range."""
    (version,) = pins(asked.name, "linux")
    assert pins(asked.name, "darwin") == [version]
    assert version in asked.specifier


def test_lock_pins_one_version_and_names_no_index():
    """Exact versions, one of a package for all platforms; no address, no path, no option."""
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in PINS)
    assert not re.search(r"://|^-|file:|/\w+/", LOCK, re.MULTILINE)
    names = [canonicalize_name(pin.name) for pin in PINS]
    assert len(names) == len(set(names))


def test_lock_knows_macos_needs_no_cuda():
    """The lock is universal: CUDA's packages are for Linux alone."""
    cuda = [pin.name for pin in PINS if pin.name.startswith("nvidia-")]
    assert cuda
    assert not any(pins(name, "darwin") for name in cuda)


def test_results_belong_to_the_locked_torch():
    """runtime.torch is the lock's version, so that an upgrade reruns what it affects."""
    params = load_params("runtime", RuntimeParams, ROOT)
    assert [params.torch] == pins("torch", "linux") == pins("torch", "darwin")


@pytest.mark.parametrize("name", ["numpy", "scikit-learn", "torch"])
def test_results_were_made_with_the_lock(name):
    """The versions in metrics/environment.json: with others, an audit would find other bytes."""
    assert [json.loads((ROOT / ENVIRONMENT).read_text())[name]] == pins(name, "linux")


def test_each_dependency_earns_its_place():
    """Every line of dependencies in pyproject.toml says what it is for."""
    text = (ROOT / "pyproject.toml").read_text()
    for asked in ASKED:
        assert re.search(rf'^    "{re.escape(asked.name)}[<>=].*",\s+# \S', text, re.MULTILINE)


def bounds(section: str, key: str) -> str:
    """A key's range or values in words, from its schema."""
    schema = SCHEMAS[section].model_json_schema()["properties"][key]
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        return ""
    if high is None:
        return f"above {low:g}" if "exclusiveMinimum" in schema else f"{low:g} or more"
    if "exclusiveMinimum" in schema:
        return f"above {low:g}, at most {high:,.0f}"
    return f"{low:g} to {'below ' if 'exclusiveMaximum' in schema else ''}{high:,.0f}"


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_parameter_is_documented(section, key):
    """README has its meaning, params.yaml its range, both as the schema has them."""
    meaning = SCHEMAS[section].model_fields[key].description
    assert f"| `{section}.{key}` | {meaning} |" in README
    lines = (ROOT / "params.yaml").read_text().partition(f"{section}:\n")[2].splitlines()
    comment = next(line for line in lines if line.startswith(f"  {key}: ")).partition("# ")[2]
    assert comment.startswith(bounds(section, key))


def test_readme_is_short():
    """One screen to the first result, 900 words in all."""
    assert len(README.split()) <= 900


def test_readme_names_every_room():
    """Each name in README's tree exists, and each top-level folder is in the tree."""
    (tree,) = re.findall(r"## Where things are\n.*?```\n(.*?)```", README, re.DOTALL)
    lines = re.findall(r"^[^\s,]+(?:, [^\s,]+)*", tree, re.MULTILINE)  # a comma between two names
    shown = {name for line in lines for name in line.split(", ")}
    assert all((ROOT / name).exists() for name in shown)
    tracked = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").split()
    folders = {name.split("/")[0] for name in tracked if "/" in name and name[0] != "."}
    assert folders <= {name.split("/")[0] for name in shown}
    assert {"dvc.yaml", "params.yaml", "src/mnist_pipeline/review/"} <= shown


def test_every_make_target_is_documented():
    """In README or on a page of docs."""
    pages = README + "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    pages += (ROOT / "benchmarks/README.md").read_text()
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert not [target for target in targets if f"make {target}" not in pages]


def test_make_leaves_every_command_to_the_shell(tmp_path):
    """macOS's make ignores the environment's PATH for commands that it starts without a shell.

    A container's user who has no name gets one, as DVC asks for it. PYTHONSAFEPATH, which may be
    set in somebody's shell and would hide this folder, does not reach the commands.
    """
    shell = tmp_path / "bash"
    shell.write_text(f'#!/bin/sh\necho "$USER$PYTHONSAFEPATH: $2" >>"{tmp_path}/commands"\n')
    shell.chmod(0o755)
    nameless = {name: value for name, value in os.environ.items() if name != "USER"}
    nameless |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONSAFEPATH": "1"}
    subprocess.run(["make", "report"], cwd=ROOT, env=nameless, check=True)
    assert "\nsomebody: python -m mnist_pipeline report " in (tmp_path / "commands").read_text()


def setup(*words: str) -> tuple[int, str]:
    """The exit status of make setup, and what it printed."""
    command = ["make", "--no-print-directory", "setup", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize("version", ["(3, 10, 9)", "(3, 15, 0)"])
def test_setup_refuses_a_python_that_the_lock_does_not_fit(tmp_path, version):
    """One line says which versions fit, and no environment is begun."""
    python = tmp_path / "python"
    code = f"import sys; sys.version_info = {version}; $2"
    python.write_text(f'#!/bin/sh\n"{sys.executable}" -c "{code}"\n')
    python.chmod(0o755)
    said = f"error: {python}: expected Python 3.11 to 3.14: make setup PYTHON=python3.12\n"
    assert setup(f"PYTHON={python}", f"VENV={tmp_path}/new") == (2, said)
    assert not (tmp_path / "new").exists()


def test_setup_says_that_an_environments_python_is_gone(tmp_path):
    """As after an upgrade of the system, or where a container sees another machine's checkout."""
    (tmp_path / "requirements.lock").touch()  # it was set up once
    said = f"error: {tmp_path}: its Python is gone: remove this folder, or name another by VENV=\n"
    assert setup(f"VENV={tmp_path}") == (2, said)


def test_setup_goes_on_with_an_environment_that_was_begun(tmp_path):
    """As after Ctrl-C, or if Debian's python3-venv was missing: setup comes to its next step."""
    (tmp_path / "pyvenv.cfg").touch()
    said = setup(f"VENV={tmp_path}", "PYTHON=false")[1]
    assert said.startswith("error: false: expected Python 3.11 to 3.14")


def test_links_lead_somewhere():
    """Each relative link of README and of the pages in docs."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks/README.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_tracked_files_name_no_machine():
    """No path of somebody's machine and no registry's host in any tracked text."""
    hosts = "|".join(("pypi" + r"\.org", "python" + "hosted", "registry" + r"\.npmjs"))
    paths = "|".join(("/ro" + "ot/", "/ho" + "me/", "/wo" + "rk/", "/Us" + "ers/"))
    for name in git(ROOT, "ls-files").split():
        path = ROOT / name
        if path.is_file() and path.suffix not in (".png", ".jpg"):
            found = re.search(f"{hosts}|{paths}", path.read_text())
            assert found is None, f"{name}: {found}"
