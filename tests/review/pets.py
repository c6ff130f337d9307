"""A small project of another kind, cats and dogs, that the review treats as it treats MNIST's.

Its stages run in no time: what the model gets wrong follows from its seed.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from conftest import git
from PIL import Image
from ruamel.yaml import YAML

STAGES: dict[str, dict[str, Any]] = {
    "prepare": {"params": ["data"], "deps": [], "outs": ["data/train.csv", "data/test.csv"]},
    "train": {
        "params": ["runtime", "train"],
        "deps": ["data/train.csv", "src/model.py"],
        "outs": ["models/weights"],
        "metrics": [{"metrics/environment.json": {"cache": False}}],
        "plots": [{"metrics/history.csv": {"cache": False}}],
    },
    "evaluate": {
        "params": ["evaluate"],
        "deps": ["data/test.csv", "models/weights", "src/model.py"],
        "metrics": [{"metrics/metrics.json": {"cache": False}}],
        "plots": [{"metrics/errors.csv": {"cache": False}}],
    },
    "save": {
        "deps": ["models/weights", "metrics/metrics.json"],
        "outs": ["models/final"],
    },
}
SCRIPTS = {
    "prepare": """
from pathlib import Path
Path("data").mkdir(exist_ok=True)
for name in ("train", "test"):
    Path(f"data/{name}.csv").write_text(name)
""",
    "train": """
from pathlib import Path
from ruamel.yaml import YAML
params = YAML(typ="safe").load(Path("params.yaml"))
Path("models").mkdir(exist_ok=True)
Path("models/weights").write_text(str(params["train"]["seed"]))
Path("metrics/history.csv").write_text("epoch")
Path("metrics/environment.json").write_text("{}")
""",
    "evaluate": """
import json
from pathlib import Path
seed = int(Path("models/weights").read_text())
rows = [f"{index},cat,owl,0.7\\n" for index in range(seed, 3 * seed)]
Path("metrics/errors.csv").write_text("index,label,predicted,confidence\\n" + "".join(rows))
numbers = {"accuracy": 1 - len(rows) / 1000, "correct": 1000 - len(rows), "total": 1000}
rest = {"loss": 0.25, "recall": {"cat": 1.0, "owl": 1.0}, "dry_run": False}
Path("metrics/metrics.json").write_text(json.dumps(numbers | rest))
""",
    "save": """
import shutil
shutil.copy("models/weights", "models/final")
""",
}
PARAMS = {
    "data": {"source": "shelter"},
    "runtime": {"threads": 2},
    "train": {"seed": 1, "lr": 0.5, "epochs": 3, "dry_run": False},
    "evaluate": {"batch_size": 10},
    "save": {"min_accuracy": 0.5},
}
HISTORY = "epoch,train_loss,validation_loss,validation_accuracy\n1,0.5,,\n2,0.25,,\n"
TOTAL, WRONG = 1000, 50  # test images, errors of the first result


def write(repo: Path, name: str, content: Any) -> None:
    """A file of a project: a text as it is, other values as JSON or YAML."""
    path = repo / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".yaml") or name == "dvc.lock":
        YAML().dump(content, path)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def make_project(folder: Path) -> Path:
    """A repository whose one commit has a result, and neither data nor a cache."""
    git(folder, "init", "--quiet", "--initial-branch=main")
    write(folder, ".gitignore", "/data/*\n!/data/new/\nmodels/\n")
    write(folder, ".dvc/.gitignore", "/config.local\n/tmp\n/cache\n")
    write(folder, ".dvc/config", "")
    for name, script in SCRIPTS.items():
        write(folder, f"src/{name}.py", script)
    write(folder, "src/model.py", "LAYERS = 2\n")
    stages = {
        name: {"cmd": f"python src/{name}.py", **each, "deps": [*each["deps"], f"src/{name}.py"]}
        for name, each in STAGES.items()
    }
    write(folder, "dvc.yaml", {"stages": stages})
    write(folder, "params.yaml", PARAMS)
    write(folder, "metrics/environment.json", {"device": "cpu", "threads": 2})
    write(folder, "metrics/history.csv", HISTORY)
    plant(folder)
    commit(folder)
    return folder


def plant(repo: Path, fixed: int = 0, broken: int = 0, **metrics: Any) -> None:
    """Write a result with `fixed` of the first errors fixed and `broken` new ones, and its lock."""
    wrong = range(fixed, WRONG + broken)
    rows = [f"{index},{'cat' if index % 2 else 'dog'},owl,0.7\n" for index in wrong]
    write(repo, "metrics/errors.csv", "index,label,predicted,confidence\n" + "".join(rows))
    correct = TOTAL - len(wrong)
    numbers = {"accuracy": correct / TOTAL, "loss": 0.25, "correct": correct, "total": TOTAL}
    recall = {"cat": 0.9, "dog": 0.8, "owl": 1.0}
    write(repo, "metrics/metrics.json", {**numbers, "recall": recall, "dry_run": False, **metrics})
    lock(repo)


def plant_new(repo: Path, answers: dict[str, str]) -> None:
    """New test images by name and what the model takes them for, and their lock."""
    stages = YAML(typ="safe").load(repo / "dvc.yaml")
    plots = stages["stages"]["evaluate"]["plots"]
    if len(plots) == 1:
        plots.append({"metrics/new.csv": {"cache": False}})
        write(repo, "dvc.yaml", stages)
    rows = [f"{name},{name[0]},{answer},0.7\n" for name, answer in answers.items()]
    write(repo, "metrics/new.csv", "name,label,predicted,confidence\n" + "".join(rows))
    (repo / "data/new/test").mkdir(parents=True, exist_ok=True)
    for name in answers:
        Image.new("L", (28, 28)).save(repo / "data/new/test" / name)
    lock(repo)


def lock(repo: Path) -> None:
    """Write dvc.lock anew, as if all stages had just been run."""
    yaml = YAML(typ="safe")
    params = yaml.load(repo / "params.yaml")
    tree: dict[str, Any] = {"schema": "2.0", "stages": {}}
    for name, stage in yaml.load(repo / "dvc.yaml")["stages"].items():
        outs = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
        tree["stages"][name] = {
            "cmd": stage["cmd"],
            "deps": [entry(repo, path) for path in stage["deps"]],
            "params": {"params.yaml": {key: params[key] for key in stage.get("params", [])}},
            "outs": [entry(repo, out if isinstance(out, str) else next(iter(out))) for out in outs],
        }
    write(repo, "dvc.lock", tree)


def entry(repo: Path, path: str) -> dict[str, Any]:
    """A file's entry in dvc.lock; a missing file, such as data, is hashed by its name."""
    content = (repo / path).read_bytes() if (repo / path).exists() else path.encode()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return {"path": path, "hash": "md5", "md5": md5, "size": len(content)}


def edit(repo: Path, name: str, old: str, new: str) -> None:
    """Replace a text that a file has."""
    text = (repo / name).read_text()
    assert old in text
    (repo / name).write_text(text.replace(old, new, 1))


def commit(repo: Path) -> str:
    """Commit everything, even if nothing changed; returns the commit."""
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--allow-empty", "--message=change")
    return git(repo, "rev-parse", "HEAD").strip()
