"""What every test gets: no network beyond this machine, and repositories of its own to break."""

import atexit
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from warnings import catch_warnings

import psutil
import pytest
from filelock import FileLock
from ruamel.yaml import YAML

from mnist_pipeline import digits
from mnist_pipeline.__main__ import one_line_errors
from mnist_pipeline.files import inputs_at_start, write_atomically
from mnist_pipeline.mnist import RAW
from mnist_pipeline.review.git import copy_workspace

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = 6  # of the project that tests kill
# What tests rely on, so that they pass whatever somebody tries in params.yaml.
TRAIN = {
    "seed": 1,
    "epochs": 14,
    "batch_size": 64,
    "micro_batches": 4,
    "lr": 1.0,
    "gamma": 0.7,
    "validation_fraction": 0.1,
    "new_images_weight": 10,
    "precision": "float32",
    "dry_run": False,
}
PARAMS: dict[str, dict[str, Any]] = {
    "data": {"source": "mnist"},
    "runtime": {"device": "auto", "arithmetic": "portable"},
    "train": TRAIN,
    "evaluate": {"batch_size": 250},
    "save": {"min_accuracy": 0.95},
    "machine": {"threads": 0, "processes": 1},
    "log": {"interval": 10},
}
DEAD_PROXY = "http://127.0.0.1:9"
STRANGE_GIT = """
[checkout] guess = false
[clone] defaultRemoteName = upstream
[color] ui = always
[column] ui = always
[commit] gpgSign = true
[tag] gpgSign = true
[core] autocrlf = true
[core] excludesFile = {1}
[diff] external = false
[gpg] program = false
[init] templateDir = {0}
[push] gpgSign = true
[status] showUntrackedFiles = no
[user] useConfigOnly = true
"""


def pytest_collection() -> None:
    """While the tests are imported, nothing becomes garbage."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What is imported stays: to look through it for garbage, again and again, takes seconds."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What this process and its children see: this machine, this checkout's code, the CPU.

    DVC has no configuration of this user, and leaves no traces outside tmp_path. Connections to
    other machines fail at a dead proxy. The environment may have been installed for another
    checkout. A GPU would compute other bytes. A shell that runs these tests in the background makes
    them ignore SIGINT.
    """
    for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
        os.environ[name] = str(tmp_path_factory.mktemp(name.lower()))
    os.environ["DVC_NO_ANALYTICS"] = "1"  # for which each dvc would start a process
    proxies = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    os.environ |= dict.fromkeys(proxies, DEAD_PROXY)
    os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
    if Path(mirror := os.environ.get("MNIST_MIRROR", "missing")).is_dir():
        os.environ["MNIST_MIRROR"] = str(Path(mirror).resolve())  # tests change folders
    os.environ |= {"PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _strange_git(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Git of a nameless user who signs, likes colours, ignores CSV, and whose hooks refuse."""
    folder = tmp_path_factory.mktemp("git")
    template, config, ignored = (folder / name for name in ("template", "config", "ignored"))
    ignored.write_text("*.csv\n")
    for name in ("pre-commit", "post-checkout", "pre-push"):
        hook = template / "hooks" / name
        hook.parent.mkdir(parents=True, exist_ok=True)
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
    config.write_text(STRANGE_GIT.format(template, ignored))
    os.environ["GIT_CONFIG_GLOBAL"] = str(config)


def git(repo: Path, *words: str) -> str:
    """Run git without the user's configuration in a repository; returns what it printed."""
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    done = subprocess.run(
        ["git", *identity, "-c", f"core.hooksPath={os.devnull}", *words],
        cwd=repo,
        env=os.environ | {"GIT_CONFIG_GLOBAL": os.devnull},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def dvc(repo: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run dvc in a repository, with stdout and stderr as one text."""
    return subprocess.run(
        ["dvc", *words],
        cwd=repo,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )


@contextmanager
def dvc_repo(folder: Path) -> Iterator[Any]:
    """DVC in this process, which saves a second: what it knows of a repository."""
    from dvc.repo import Repo  # noqa: PLC0415 (slow)

    with chdir(folder), catch_warnings(action="ignore"), Repo() as repo:
        yield repo


def reproduce(folder: Path, *targets: str) -> None:
    """Run dvc repro in this process."""
    with dvc_repo(folder) as repo:
        repo.reproduce(targets or None)


def push(folder: Path, _: str = "push", *targets: str) -> None:
    """What the flows' run_dvc(folder, "push") does, in this process."""
    with dvc_repo(folder) as repo:
        repo.push(targets or None)


def python(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this Python in a folder with these words, such as -m mnist_pipeline."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def make_run(project: Path) -> subprocess.CompletedProcess[str]:
    """Run what make run starts, as a user without a name in git, for which DVC looks in HOME."""
    own = {"PYTHONPATH": "src", "HOME": f"{project}-home"}
    return python("-m", "mnist_pipeline", "run", cwd=project, **own)


def copy_of_project(folder: Path) -> Path:
    """A git repository with this checkout's files, committed or not, and PARAMS; no data."""
    copy_workspace(ROOT, folder)
    (compiled := folder / "src/mnist_pipeline/__pycache__").mkdir()
    for path in (ROOT / "src/mnist_pipeline/__pycache__").glob("*.nb?"):  # by numba, for seconds
        shutil.copy(path, compiled)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)  # with hooks that refuse
    set_params(folder, **PARAMS)
    git(folder, "checkout", "--quiet", "-B", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=copy")
    return folder


def fresh_copy(folder: Path) -> Path:
    """A copy of the project in which no stage has run yet."""
    repo = copy_of_project(folder)
    (repo / "dvc.lock").unlink(missing_ok=True)
    shutil.rmtree(repo / "metrics", ignore_errors=True)
    return repo


def processes_in(folder: Path) -> list[psutil.Process]:
    """The processes whose working folder is inside a folder; a zombie has none."""
    everyone = psutil.process_iter(["cwd"])
    return [one for one in everyone if (one.info["cwd"] or "").startswith(str(folder))]


def exit_status(main: Callable[[], None], *words: str | Path) -> Any:
    """The exit status of a program that is called with these words."""
    with (
        patch.object(sys, "argv", ["", *map(str, words)]),
        pytest.raises(SystemExit) as end,
        one_line_errors(),
    ):
        main()
    return end.value.code


def refusal(main: Callable[[], None], capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr with which a program refuses bad input, and nothing else."""
    assert exit_status(main, *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("error: ")


@pytest.fixture(scope="session")
def digits_files() -> dict[str, bytes]:
    """The embedded digits as MNIST's four files, by name."""
    return digits.idx_files()


@pytest.fixture(autouse=True)
def a_start() -> None:
    """Each test starts a stage anew: what its inputs were is forgotten."""
    inputs_at_start.cache_clear()


@pytest.fixture
def workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits_files: dict[str, bytes]
) -> Path:
    """The working folder of a stage, with PARAMS, and the digits as its data."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    set_params(**PARAMS)
    for name, content in digits_files.items():
        write_atomically(RAW / name, content)
    return tmp_path


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project on the digits, with EPOCHS; nothing run yet. Not to be changed."""
    folder = fresh_copy(tmp_path_factory.mktemp("project"))
    few = {"epochs": EPOCHS, "validation_fraction": 0.5}
    set_params(folder, data={"source": "digits"}, train=few, save={"min_accuracy": 0.0})
    return folder


@pytest.fixture(scope="session")
def undisturbed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after a real repro by one process of one thread. Not to be changed.

    All processes that run tests share it: the first one makes it, the others wait. What the repro
    printed, also of its imports, lies beside it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            shutil.copytree(project, folder)
            set_params(folder, machine={"threads": 1})
            done = dvc(folder, "repro", PYTHONPROFILEIMPORTTIME="1")
            assert done.returncode == 0, done.stdout
            folder.with_suffix(".log").write_text(done.stdout)
    return folder


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository whose results can be published, and a place for its clones."""
    from flows import clones, publish  # noqa: PLC0415 (slow)
    from service import small_registry  # noqa: PLC0415

    monkeypatch.setattr(clones, "HOME", tmp_path / "home")
    monkeypatch.setattr(publish, "run_dvc", push)
    return small_registry(tmp_path)


def set_params(folder: Path = Path(), /, **sections: dict[str, Any]) -> None:
    """Change params.yaml of a folder, or of the working folder: set_params(train={"lr": 0.5})."""
    path, yaml = folder / "params.yaml", YAML()
    tree = yaml.load(path)
    for section, values in sections.items():
        tree[section].update(values)
    yaml.dump(tree, path)
