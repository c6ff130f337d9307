"""What a search tries: the points of lists and ranges, and what is refused before any trial."""

from contextlib import nullcontext

import pytest
from flows.points import Grid, check, create_study, explore, to_seeds, to_space
from optuna.distributions import FloatDistribution
from pydantic import TypeAdapter, ValidationError

from mnist_pipeline.files import InputError, write_atomically

LISTS = {"train.lr": [0.5, 1.0], "train.gamma": [0.6, 0.7, 0.8], "data.source": ["digits"]}
RANGES = {"train.lr": {"low": 0.1, "high": 2, "log": True}, "train.epochs": {"low": 1, "high": 3}}
ENDS = {"train.lr": [0.1, 2.0], "train.epochs": [1, 3]}  # as the schemas have them


def points(grid, sampler, trials=None, seed=1, together=3):
    """The batches of points that a sampler has scored; the best learning rate is 0.7."""
    checked = ENDS | {key: values for key, values in grid.items() if isinstance(values, list)}
    space = to_space(TypeAdapter(Grid).validate_python(grid), checked)
    (study, number), batches = create_study(space, sampler, seed, trials), []

    def score(batch):
        batches.append(batch)
        return [-abs(point["train.lr"] - 0.7) for point in batch]

    explore(study, space, number, together, score)
    return batches


def test_grid_has_every_point_once():
    """All at once, since none depends on another; trials cuts it short."""
    (batch,) = points(LISTS, "grid")
    assert len(batch) == len({tuple(point.items()) for point in batch}) == 6
    assert {point["train.gamma"] for point in batch} == {0.6, 0.7, 0.8}
    assert points(LISTS, "grid", trials=4) == [batch[:4]]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_ranges_are_kept_and_reproduced(sampler):
    """Values within the range, whole where params.yaml has a whole number; a seed decides them."""
    batches = points(RANGES, sampler, trials=20)
    found = [point for batch in batches for point in batch]
    assert len(found) == 20
    assert all(0.1 <= point["train.lr"] <= 2 for point in found)
    assert {point["train.epochs"] for point in found} == {1, 2, 3}
    assert points(RANGES, sampler, trials=20) == batches
    assert points(RANGES, sampler, trials=20, seed=2) != batches


def test_range_is_whole_only_where_the_parameter_is():
    """From 1 to 4, a learning rate may be 1.5: that decides its schema, not how it is written."""
    grid = TypeAdapter(Grid).validate_python({"train.lr": {"low": 1, "high": 4}})
    assert to_space(grid, {"train.lr": [1.0, 4.0]}) == {"train.lr": FloatDistribution(1, 4)}


def test_values_of_a_list_are_written_as_the_parameter_is():
    """1, 1.0 and 1 again are one learning rate, and one trial: its name depends on how it looks."""
    grid = TypeAdapter(Grid).validate_python({"train.lr": [1, 1.0, 1]})
    space = to_space(grid, {"train.lr": [1.0, 1.0, 1.0]})
    assert repr(space["train.lr"].choices) == "(1.0,)"


def test_tpe_learns_from_what_it_is_told():
    """In batches; the last points lie closer to the best than those taken at random."""
    batches = points(RANGES, "tpe", trials=40)
    assert [len(batch) for batch in batches] == [3] * 13 + [1]
    far = [abs(point["train.lr"] - 0.7) for batch in batches for point in batch]
    assert sum(far[-10:]) < sum(far[:10]) / 2


@pytest.mark.parametrize(
    ("grid", "sampler", "message"),
    [
        ({"train.lr": {"low": 2, "high": 1}}, "tpe", "grid: train.lr: `low <= high` must hold"),
        (RANGES, "grid", "sampler: expected random or tpe for a range, found grid"),
        (RANGES, "random", "trials: expected a number, such as trials=20"),
    ],
)
def test_refused_before_any_trial(grid, sampler, message):
    """One line that names the key, what was expected and what was found."""
    with pytest.raises(InputError, match=f"^{message}"):
        points(grid, sampler)


def test_values_are_those_of_the_clone(tmp_path):
    """The clone's own code says what its params.yaml may hold, also at both ends of a range."""
    code = "import sys; print('fine', sys.argv[2], sep='\\n'); sys.exit({})"
    write_atomically(tmp_path / "src/mnist_pipeline/__init__.py", b"")
    grid = {"train.seed": [1], "train.lr": {"low": -1, "high": 2}}
    ends = {"train.seed": [1], "train.lr": [-1, 2]}
    refusals = {
        code.format(""): None,
        code.format("'warning: a\\nerror: boom'"): "^boom$",
        "print('fine')": "^the check of this commit's code: expected JSON",
    }
    for module, refusal in refusals.items():
        write_atomically(tmp_path / "src/mnist_pipeline/__main__.py", module.encode())
        with pytest.raises(InputError, match=refusal) if refusal else nullcontext():
            assert check(tmp_path, TypeAdapter(Grid).validate_python(grid)) == ends


@pytest.mark.parametrize("grid", [{}, {"train.lr": []}, {"train.lr": {"low": 1}}, {"lr": [1]}])
def test_refused_by_the_type(grid):
    """What Prefect refuses before there is a run: the flow's parameters have this schema."""
    with pytest.raises(ValidationError):
        TypeAdapter(Grid).validate_python(grid)


def test_seeds_are_a_list():
    """They are crossed with each point; a sampler would choose between them."""
    assert to_seeds([3, 4]) == [{"train.seed": 3}, {"train.seed": 4}]
    assert to_seeds(None) == [{}]
