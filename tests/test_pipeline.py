"""The pipeline as a whole: what reruns, what dvc.yaml says, and the real thing on the digits."""

import ast
import gzip
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from benchmarks.classic import Net
from conftest import ROOT, copy_of_project, dvc, git
from ruamel.yaml import YAML

STAGES = ["download", "train", "evaluate", "save"]  # each one needs what the one before it wrote
FIRST_OF_SECTION = {
    "data": "download",
    "runtime": "train",
    "train": "train",
    "evaluate": "evaluate",
    "save": "save",
    "log": None,
}

PIPELINE = YAML(typ="safe").load(ROOT / "dvc.yaml")
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
KEYS = [f"{section}.{key}" for section, keys in PARAMS.items() for key in keys]
SOURCES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "src/mnist_pipeline").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
)
RAW = "data/MNIST/raw/"
TRAINING_DATA = [RAW + "train-images-idx3-ubyte.gz", RAW + "train-labels-idx1-ubyte.gz"]
TEST_DATA = [RAW + "t10k-images-idx3-ubyte.gz", RAW + "t10k-labels-idx1-ubyte.gz"]


# dvc.yaml against the source


def outputs(stage: str, kinds: tuple[str, ...] = ("outs", "metrics", "plots")) -> dict[str, Any]:
    """Paths of a stage's outputs → their options."""
    found: dict[str, Any] = {}
    for kind in kinds:
        for entry in PIPELINE["stages"][stage].get(kind, []):
            found |= entry if isinstance(entry, dict) else {entry: {}}
    return found


def modules() -> dict[str, str]:
    """Dotted names of the package's modules → their paths."""
    names = {}
    for source in SOURCES:
        parts = Path(source).relative_to("src").with_suffix("").parts
        if source.endswith(".py"):
            names[".".join(parts).removesuffix(".__init__")] = source
    return names


def imports(module: str) -> set[str]:
    """Modules of the package which a module imports itself, wherever in it, in any form."""
    known = modules()
    package = module if known[module].endswith("__init__.py") else module.rpartition(".")[0]
    names = {package}
    for node in ast.walk(ast.parse((ROOT / known[module]).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, package)
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names & known.keys()


def closure(stage: str) -> set[str]:
    """Modules that a stage runs with: itself, and what it imports, and what that imports."""
    found: set[str] = set()
    new = {f"mnist_pipeline.{stage}"}
    while new:
        found |= new
        new = set().union(*map(imports, new)) - found
    return found


def closure_files(stage: str) -> set[str]:
    """The files of a stage's modules."""
    return {modules()[name] for name in closure(stage)}


def sections_loaded(stage: str) -> set[str]:
    """Sections of params.yaml that a stage asks for: its modules' calls of load("section", ...)."""
    return {
        ast.literal_eval(node.args[0])
        for path in closure_files(stage)
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "load"
    }


def test_stages_are_the_four() -> None:
    """The stages that these tests speak of are the stages there are."""
    assert list(PIPELINE["stages"]) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_source_deps_are_the_import_closure(stage: str) -> None:
    """A stage depends on each module it runs with, and on no other."""
    deps = {dep for dep in PIPELINE["stages"][stage]["deps"] if dep.startswith("src/")}
    missing, needless = closure_files(stage) - deps, deps - closure_files(stage)
    assert not missing, f"dvc.yaml: {stage}: deps lack what it imports: {sorted(missing)}"
    assert not needless, f"dvc.yaml: {stage}: deps name what it never imports: {sorted(needless)}"


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_another(stage: str) -> None:
    """What two stages share lives in a module that is no stage."""
    others = {f"mnist_pipeline.{other}" for other in STAGES} - {f"mnist_pipeline.{stage}"}
    assert not closure(stage) & others


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_sections_loaded(stage: str) -> None:
    """A stage depends on each section it loads; only log, which changes no result, is left out."""
    assert set(PIPELINE["stages"][stage]["params"]) == sections_loaded(stage) - {"log"}


@pytest.mark.parametrize("stage", STAGES)
def test_cmd_is_one_simple_command(stage: str) -> None:
    """Every stage runs this checkout's code, with no shell left between dvc and python."""
    expected = f"env PYTHONPATH=src python -m mnist_pipeline.{stage}"
    assert PIPELINE["stages"][stage]["cmd"] == expected


@pytest.mark.parametrize("stage", STAGES)
def test_everything_has_a_description(stage: str) -> None:
    """Every stage and every output says what it is."""
    undescribed = [path for path, options in outputs(stage).items() if not options.get("desc")]
    assert not undescribed
    assert PIPELINE["stages"][stage].get("desc")


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_switches_the_run_cache_off(stage: str) -> None:
    """No persist, no always_changed; cache: false for metrics and plots alone."""
    assert not PIPELINE["stages"][stage].get("always_changed")
    assert not [path for path, options in outputs(stage).items() if options.get("persist")]
    cached = outputs(stage, kinds=("outs",))
    assert not [path for path, options in cached.items() if options.get("cache") is False]


@pytest.mark.parametrize("stage", STAGES)
def test_metrics_and_plots_are_kept_in_git(stage: str) -> None:
    """What a reviewer reads is committed, not cached, and lies in metrics/."""
    for path, options in outputs(stage, kinds=("metrics", "plots")).items():
        assert options["cache"] is False, path
        assert path.startswith("metrics/")


def test_outputs_are_distinct() -> None:
    """No file is written by two stages, or listed twice."""
    kinds = [outputs(stage, (kind,)) for stage in STAGES for kind in ("outs", "metrics", "plots")]
    paths = [path for found in kinds for path in found]
    assert sorted(paths) == sorted(set(paths))


def test_plots_are_declared() -> None:
    """The curve, the confusions and both losses are drawn as such."""
    history = outputs("train", ("plots",))["metrics/history.csv"]
    assert (history["x"], history["y"]) == ("epoch", "validation_accuracy")
    errors = outputs("evaluate", ("plots",))["metrics/errors.csv"]
    assert (errors["template"], errors["x"], errors["y"]) == ("confusion", "predicted", "label")
    (losses,) = [plot for entry in PIPELINE["plots"] for plot in entry.values()]
    assert losses["y"] == {"metrics/history.csv": ["train_loss", "validation_loss"]}
    assert losses["x"] == "epoch"


def test_the_model_is_an_artifact() -> None:
    """The model registry finds the exported model, with a description."""
    (artifact,) = PIPELINE["artifacts"].values()
    assert artifact["path"] == "models/mnist_cnn.pt"
    assert artifact["path"] in outputs("save")
    assert artifact["type"] == "model"
    assert artifact["desc"]


# What reruns: the real dvc and the real dvc.yaml, with a python that only plays the stages

STUB = """#!/bin/sh
# In place of python -m mnist_pipeline.<stage>: log the stage, and write all its outputs,
# with a new content unless there is one to keep.
set -eu
stage=${{2#mnist_pipeline.}}
echo "$stage" >> {log}
run=$(wc -l < {log})
case $stage in
{cases}
*) exit 1 ;;
esac
for out in $outs; do
    mkdir -p "${{out%/*}}"
    if [ -e {kept}/"${{out##*/}}" ]; then
        cp {kept}/"${{out##*/}}" "$out"
    else
        echo "$out, by run" $run > "$out"
    fi
done
"""


class Played(NamedTuple):
    """A copy of the project whose stages are played by a stub."""

    repo: Path
    bin: Path
    log: Path
    kept: Path

    def repro(self, kept: Iterable[str] = ()) -> list[str]:
        """Bring the copy up to date; the stages that ran. Kept outputs get no new content."""
        before = len(self.runs())
        shutil.rmtree(self.kept, ignore_errors=True)
        self.kept.mkdir()
        for name in kept:
            shutil.copy(self.repo / name, self.kept)
        result = dvc(self.repo, "repro", "-q", PATH=f"{self.bin}{os.pathsep}{os.environ['PATH']}")
        assert result.returncode == 0, result.stdout
        return self.runs()[before:]

    def runs(self) -> list[str]:
        """All stages that ever ran here."""
        return self.log.read_text().split()

    def touch(self, name: str) -> None:
        """Append a comment to a file, or begin a new one with it."""
        (self.repo / name).parent.mkdir(exist_ok=True)
        with (self.repo / name).open("a") as file:
            file.write("# changed\n")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """One such copy for all tests, up to date. Each test leaves it so, in a new state."""
    folder = tmp_path_factory.mktemp("played")
    copy = Played(fresh_copy(folder / "repo"), folder / "bin", folder / "log", folder / "kept")
    cases = [f"{stage}) outs={shlex.quote(' '.join(outputs(stage)))} ;;" for stage in STAGES]
    log, kept = shlex.quote(str(copy.log)), shlex.quote(str(copy.kept))
    copy.bin.mkdir()
    (copy.bin / "python").write_text(STUB.format(log=log, kept=kept, cases="\n".join(cases)))
    (copy.bin / "python").chmod(0o755)
    copy.log.touch()
    assert copy.repro() == STAGES
    return copy


def fresh_copy(folder: Path) -> Path:
    """A copy of the project in which no stage has run yet."""
    repo = copy_of_project(folder)
    (repo / "dvc.lock").unlink(missing_ok=True)
    shutil.rmtree(repo / "metrics", ignore_errors=True)
    return repo


def edit_params(repo: Path, values: dict[str, object]) -> None:
    """Replace values in a copy's params.yaml: "section.key" → value."""
    yaml = YAML()
    tree = yaml.load(repo / "params.yaml")
    for name, value in values.items():
        section, key = name.split(".")
        tree[section][key] = value
    yaml.dump(tree, repo / "params.yaml")


def another(value: object) -> object:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.9 or 0.1
    assert isinstance(value, str), f"no rule to change {value!r}"
    return value + "-other"


def from_stage_on(stage: str | None) -> list[str]:
    """The stage and all that come after it; none for none."""
    return STAGES[STAGES.index(stage) :] if stage else []


def test_every_section_has_a_first_stage() -> None:
    """Whoever adds a section to params.yaml says which stages it reruns."""
    assert PARAMS.keys() == FIRST_OF_SECTION.keys()


@pytest.mark.parametrize("key", KEYS)
def test_a_changed_key_reruns(played: Played, key: str) -> None:
    """Each key of params.yaml reruns the stages that its section concerns, and no other."""
    section, name = key.split(".")
    edit_params(played.repo, {key: another(PARAMS[section][name])})
    assert played.repro() == from_stage_on(FIRST_OF_SECTION[section])


@pytest.mark.parametrize("source", SOURCES)
def test_a_changed_module_reruns(played: Played, source: str) -> None:
    """Each module reruns the stages that run with it, and all after them."""
    users = [stage for stage in STAGES if source in closure_files(stage)]
    played.touch(source)
    assert played.repro() == from_stage_on(users[0] if users else None)


@pytest.mark.parametrize("name", ["README.md", "tests/test_pipeline.py", "flows/new.py"])
def test_other_files_rerun_nothing(played: Played, name: str) -> None:
    """Documentation, tests and flows concern no stage."""
    played.touch(name)
    assert played.repro() == []


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (TRAINING_DATA, ["download", "evaluate", "save"]),
        (TEST_DATA, STAGES),
        (
            [*TEST_DATA, "models/weights.safetensors", "metrics/environment.json"],
            ["download", "train"],
        ),
        (TRAINING_DATA + TEST_DATA, ["download"]),
    ],
    ids=["new test data", "new training data", "new training data, same weights", "same data"],
)
def test_changed_data_reruns(played: Played, kept: list[str], expected: list[str]) -> None:
    """Nothing is trained anew for new test data, nor tested anew for training data alone."""
    played.touch("src/mnist_pipeline/digits.py")
    assert played.repro(kept) == expected


def test_a_change_taken_back_runs_nothing(played: Played) -> None:
    """DVC's run-cache still knows the earlier results: nothing is trained twice."""
    weights = played.repo / "models/weights.safetensors"
    before, params = weights.read_text(), (played.repo / "params.yaml").read_text()
    edit_params(played.repo, {"train.lr": 0.123})
    assert "train" in played.repro()
    assert weights.read_text() != before
    (played.repo / "params.yaml").write_text(params)
    assert played.repro() == []
    assert weights.read_text() == before


# The real thing, on the digits

QUICK = {"data.source": "digits", "train.epochs": 2, "save.min_accuracy": 0.0}


def idx(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """The data of an IDX file, after a header of four bytes and four for each dimension."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    return torch.frombuffer(content, dtype=torch.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def repro_all(repos: list[Path]) -> list[subprocess.CompletedProcess[str]]:
    """Real repros, side by side, as most of a stage's time is one core's work: its imports."""
    with ThreadPoolExecutor() as pool:
        # passive: threads that wait leave the cores to the others
        return list(pool.map(lambda repo: dvc(repo, "repro", OMP_WAIT_POLICY="passive"), repos))


def make_twins(folder: Path) -> list[Path]:
    """Two copies of the project, each with its own cache, after a real repro."""
    repos = [fresh_copy(folder / name) for name in ("one", "two")]
    for repo in repos:
        edit_params(repo, QUICK)
    for result in repro_all(repos):
        assert result.returncode == 0, result.stdout
    return repos


@pytest.fixture(scope="module", autouse=True)
def begun(
    _no_dvc_of_ours: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Future[list[Path]] | None]:
    """The twins in the making, beside the quick tests; none where no test asks for them."""
    wanted = any("twins" in getattr(test, "fixturenames", ()) for test in request.session.items)
    with ThreadPoolExecutor() as pool:
        yield pool.submit(make_twins, tmp_path_factory.mktemp("twins")) if wanted else None


@pytest.fixture(scope="module")
def twins(begun: Future[list[Path]]) -> list[Path]:
    """The twins, finished. Not to be changed."""
    return begun.result()


class Sequel(NamedTuple):
    """What became of two copies of the first twin: one run dry, one with a wrong parameter."""

    dry: Path
    dry_result: subprocess.CompletedProcess[str]
    wrong_result: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def sequel(twins: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Sequel:
    """The first twin's results committed, then a dry run on ten test images fewer; and lr -1."""
    folder = tmp_path_factory.mktemp("sequel")
    dry, wrong = [shutil.copytree(twins[0], folder / name) for name in ("dry", "wrong")]
    git(dry, "add", "--all")
    git(dry, "commit", "--quiet", "--message=results")
    shrink_test_set(dry)
    edit_params(dry, {"train.dry_run": True, "save.min_accuracy": 1.0})
    edit_params(wrong, {"train.lr": -1})
    return Sequel(dry, *repro_all([dry, wrong]))


def locked_outputs(repo: Path) -> dict[str, dict[str, Any]]:
    """Outputs in dvc.lock: path → hash and size."""
    stages = YAML(typ="safe").load(repo / "dvc.lock")["stages"]
    return {out["path"]: out for stage in stages.values() for out in stage["outs"]}


def shrink_test_set(repo: Path) -> None:
    """Change the code: 350 of the embedded digits for testing, not 360."""
    path = repo / "src/mnist_pipeline/digits.py"
    assert path.read_text().count("TEST_SIZE = 360") == 1
    path.write_text(path.read_text().replace("TEST_SIZE = 360", "TEST_SIZE = 350"))


def test_two_runs_give_the_same_bytes(twins: list[Path]) -> None:
    """Every output of every stage is the same, byte for byte, in both copies."""
    one, two = map(locked_outputs, twins)
    assert one == two
    assert sorted(one) == sorted(path for stage in STAGES for path in outputs(stage))


def test_a_second_repro_does_nothing(twins: list[Path]) -> None:
    """What was reproduced is up to date."""
    result = dvc(twins[0], "repro")
    assert result.returncode == 0
    assert "Data and pipelines are up to date." in result.stdout
    assert "Running stage" not in result.stdout


def test_repro_leaves_nothing_lying_about(twins: list[Path]) -> None:
    """Files new to git after a repro: dvc.lock and the metrics, nothing else."""
    status = git(twins[0], "status", "--porcelain", "--untracked-files=all")
    untracked = {line[3:] for line in status.splitlines() if line.startswith("??")}
    in_git = [outputs(stage, ("metrics", "plots")) for stage in STAGES]
    assert untracked <= {"dvc.lock"}.union(*in_git)


def test_the_classic_program_can_use_the_model(twins: list[Path]) -> None:
    """mnist_cnn.pt is a plain state_dict; the classic network scores what metrics.json says."""
    state = torch.load(twins[0] / "models/mnist_cnn.pt", weights_only=True)
    net = Net()
    net.load_state_dict(state)
    net.eval()
    assert {name.split(".")[0] for name in state} == {"conv1", "conv2", "fc1", "fc2"}
    metrics = json.loads((twins[0] / "metrics/metrics.json").read_text())
    labels = idx(twins[0] / TEST_DATA[1], (metrics["total"],))
    images = idx(twins[0] / TEST_DATA[0], (metrics["total"], 28, 28)).unsqueeze(1)
    with torch.no_grad():
        predicted = net((images / 255 - 0.1307) / 0.3081).argmax(1)
    assert int((predicted == labels).sum()) == metrics["correct"]


def test_dvc_shows_the_metrics(twins: list[Path]) -> None:
    """dvc metrics show prints what the file holds."""
    result = dvc(twins[0], "metrics", "show", "--json")
    assert result.returncode == 0, result.stdout
    shown = json.loads(result.stdout)[""]["data"]["metrics/metrics.json"]["data"]
    assert shown == json.loads((twins[0] / "metrics/metrics.json").read_text())
    assert not shown["dry_run"]


def test_dvc_draws_the_plots(twins: list[Path], tmp_path: Path) -> None:
    """dvc plots show writes a page with every plot on it."""
    result = dvc(twins[0], "plots", "show", "--out", str(tmp_path))
    assert result.returncode == 0, result.stdout
    assert "WARNING" not in result.stdout
    assert "ERROR" not in result.stdout
    page = (tmp_path / "index.html").read_text()
    for expected in ("Validation accuracy by epoch", "What is taken for what", "Losses by epoch"):
        assert expected in page
    assert "misclassified.png" in page


def test_a_dry_run_is_marked_as_such(sequel: Sequel) -> None:
    """A dry run takes all four stages and passes the gate; metrics and card say what it is."""
    result = sequel.dry_result
    assert result.returncode == 0, result.stdout
    assert [stage for stage in STAGES if f"Running stage '{stage}'" in result.stdout] == STAGES
    assert json.loads((sequel.dry / "metrics/metrics.json").read_text())["dry_run"] is True
    assert "A dry run" in (sequel.dry / "models/model_card.md").read_text()


def test_dvc_compares_with_the_last_commit(sequel: Sequel, tmp_path: Path) -> None:
    """dvc metrics diff and dvc plots diff tell the results from the committed ones."""
    result = dvc(sequel.dry, "metrics", "diff", "--json", "HEAD")
    assert result.returncode == 0, result.stdout
    changes = json.loads(result.stdout)["metrics/metrics.json"]
    assert (changes["total"]["old"], changes["total"]["new"]) == (360, 350)
    assert changes["accuracy"]["diff"] < 0
    result = dvc(sequel.dry, "plots", "diff", "--out", str(tmp_path), "HEAD")
    assert result.returncode == 0, result.stdout
    pictures = {path.name for path in (tmp_path / "static").iterdir()}
    name = "metrics_misclassified.png"
    assert pictures == {f"HEAD_{name}", f"workspace_{name}"}


def test_a_wrong_parameter_is_one_line(sequel: Sequel) -> None:
    """dvc repro stops at a learning rate below zero: one line says what is wrong, no traceback."""
    result = sequel.wrong_result
    assert result.returncode != 0
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: params.yaml: train.lr: expected")
    assert "Traceback" not in result.stdout
    assert "Running stage 'evaluate'" not in result.stdout


# Experiments, as README shows them


class Experiments(NamedTuple):
    """A copy of the first twin, its results committed; what dvc said of two experiments there."""

    repo: Path
    temporary: subprocess.CompletedProcess[str]  # half: train.lr=0.5, with --temp
    status: str  # of git, after it
    here: subprocess.CompletedProcess[str]  # again: the same, in the workspace


@pytest.fixture(scope="module")
def experiments(twins: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Experiments:
    """Two experiments with the same change, one after the other."""
    repo = shutil.copytree(twins[0], tmp_path_factory.mktemp("experiments") / "repo")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message=results")
    change = ["--set-param", "train.lr=0.5"]
    temporary = dvc(repo, "exp", "run", "--temp", "--name", "half", *change)
    status = git(repo, "status", "--porcelain")
    here = dvc(repo, "exp", "run", "--name", "again", *change)
    return Experiments(repo, temporary, status, here)


def test_a_temporary_experiment_leaves_the_checkout(experiments: Experiments) -> None:
    """dvc exp run --temp trains elsewhere."""
    assert experiments.temporary.returncode == 0, experiments.temporary.stdout
    assert "Running stage 'train'" in experiments.temporary.stdout
    assert experiments.status == ""


def test_an_experiment_changes_the_workspace(experiments: Experiments) -> None:
    """Without --temp its parameters and results are here; what was tried is not trained again."""
    assert experiments.here.returncode == 0, experiments.here.stdout
    assert "Running stage" not in experiments.here.stdout
    changed = {line[3:] for line in git(experiments.repo, "status", "--porcelain").splitlines()}
    assert {"params.yaml", "dvc.lock", "metrics/metrics.json"} <= changed
    assert "up to date" in dvc(experiments.repo, "status").stdout


def test_experiments_are_shown_and_compared(experiments: Experiments, tmp_path: Path) -> None:
    """dvc exp show, exp diff and plots diff know both, with what they changed."""
    shown = json.loads(dvc(experiments.repo, "exp", "show", "--json").stdout)
    (baseline,) = [each for each in shown if each["rev"] != "workspace"]
    found = {run["revs"][0]["name"]: run["revs"][0]["data"] for run in baseline["experiments"]}
    accuracies = {
        data["metrics"]["metrics/metrics.json"]["data"]["accuracy"] for data in found.values()
    }
    rates = [data["params"]["params.yaml"]["data"]["train"]["lr"] for data in found.values()]
    assert found.keys() == {"half", "again"}
    assert rates == [0.5, 0.5]
    assert len(accuracies) == 1

    result = dvc(experiments.repo, "exp", "diff", "--json", "main", "half")
    assert result.returncode == 0, result.stdout
    difference = json.loads(result.stdout)
    assert difference["params"]["params.yaml"]["train.lr"]["new"] == 0.5
    assert {difference["metrics"]["metrics/metrics.json"]["accuracy"]["new"]} == accuracies

    result = dvc(experiments.repo, "plots", "diff", "--out", str(tmp_path), "main", "half")
    assert result.returncode == 0, result.stdout
    pictures = {path.name for path in (tmp_path / "static").iterdir()}
    assert pictures == {f"{rev}_metrics_misclassified.png" for rev in ("main", "half")}
    page = (tmp_path / "index.html").read_text()
    assert all(f'"rev": "{rev}"' in page for rev in ("main", "half"))


def test_an_experiment_is_applied_and_removed(experiments: Experiments) -> None:
    """dvc exp apply brings parameters, results and model; git and dvc checkout take them back."""
    for command in (["git", "checkout", "--quiet", "."], ["dvc", "checkout", "--quiet"]):
        subprocess.run(command, cwd=experiments.repo, check=True)
    weights = experiments.repo / "models/weights.safetensors"
    before = weights.read_bytes()
    assert dvc(experiments.repo, "exp", "apply", "half").returncode == 0
    assert YAML().load(experiments.repo / "params.yaml")["train"]["lr"] == 0.5
    assert weights.read_bytes() != before
    assert "up to date" in dvc(experiments.repo, "status").stdout
    assert dvc(experiments.repo, "exp", "remove", "half", "again").returncode == 0
    assert "half" not in dvc(experiments.repo, "exp", "list").stdout


# A checkout's own code, though another checkout is the one installed


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    """A copy of the project with a committed change to the code."""
    repo = fresh_copy(tmp_path / "edited")
    shrink_test_set(repo)
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message=350 test images")
    return repo


def count_labels(path: Path) -> int:
    """How many labels an IDX file holds, by its header."""
    return int.from_bytes(gzip.decompress(path.read_bytes())[4:8], "big")


@pytest.mark.parametrize(
    "how", [["clone", "--quiet", "."], ["worktree", "add", "--quiet"]], ids=" ".join
)
def test_a_checkout_runs_its_own_code(edited: Path, tmp_path: Path, how: list[str]) -> None:
    """A clone and a worktree run the code they contain."""
    git(edited, *how, str(tmp_path / "other"))
    edit_params(tmp_path / "other", {"data.source": "digits"})
    result = dvc(tmp_path / "other", "repro", "download")
    assert result.returncode == 0, result.stdout
    assert count_labels(tmp_path / "other" / TEST_DATA[1]) == 350


def test_an_experiment_runs_its_own_code(edited: Path) -> None:
    """dvc exp run --temp runs the commit's code, and leaves the checkout as it was."""
    result = dvc(
        edited, "exp", "run", "--temp", "-n", "own", "-S", "data.source=digits", "download"
    )
    assert result.returncode == 0, result.stdout
    (ref,) = git(edited, "for-each-ref", "--format=%(refname)", "refs/exps/*/*/own").split()
    lock = YAML(typ="safe").load(git(edited, "show", f"{ref}:dvc.lock"))
    (out,) = [out for out in lock["stages"]["download"]["outs"] if out["path"] == TEST_DATA[1]]
    assert count_labels(edited / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]) == 350
    assert git(edited, "status", "--porcelain") == ""
