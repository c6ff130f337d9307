"""What a search found: the ranking, its table and its picture."""

import math

import pandas as pd

from mnist_pipeline.review.ranking import draw, last_accuracy, rank, to_markdown

HISTORY = (
    "epoch,lr,train_loss,validation_loss,validation_accuracy\n1,1,0.2,0.1,{}\n2,1,0.1,0.1,{}\n"
)


def trials(*rows) -> pd.DataFrame:
    """A table of lr, seed, validation accuracy (None: failed)."""
    columns = ["train.lr", "train.seed", "validation_accuracy"]
    table = pd.DataFrame(rows, columns=columns).astype({"validation_accuracy": float})
    faults = ["Refused: boom" if failed else "" for failed in table[columns[-1]].isna()]
    return table.assign(experiment=[f"trial-{n}" for n in range(len(rows))], fault=faults)


FOUND = trials((0.5, 1, 0.90), (0.5, 2, 0.96), (1.0, 1, 0.95), (1.0, 2, 0.93), (9.0, 1, None))


def test_best_mean_is_first():
    """With the spread over its seeds; a lucky seed does not decide, nor name the experiment."""
    table = rank(FOUND)
    assert table["train.lr"].tolist() == [1.0, 0.5, 9.0]
    assert table.loc[0].drop("train.lr").tolist() == [0.94, 0.93, 0.95, 2, "trial-2"]
    assert math.isnan(table.loc[2, "mean"])
    assert table.loc[2, "count"] == 0


def test_a_point_with_a_failed_seed_comes_later():
    """However good its other seeds are."""
    rows = (9.0, 1, None), (9.0, 2, 0.99), (1.0, 1, 0.95), (1.0, 2, 0.93)
    assert rank(trials(*rows))["train.lr"].tolist() == [1.0, 9.0]


def test_ranking_as_markdown():
    """Accuracies in per cent; a point whose trials all failed has none."""
    rows = [line.strip("| ").split("|") for line in to_markdown(rank(FOUND)).splitlines()]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells[0] == ["train.lr", "validation accuracy", "min", "max", "trained", "experiment"]
    assert cells[2:] == [
        ["1", "94.00 %", "93.00 %", "95.00 %", "2", "trial-2"],
        ["0.5", "93.00 %", "90.00 %", "96.00 %", "2", "trial-0"],
        ["9", "–", "–", "–", "0", "–"],
    ]


def test_seeds_alone_are_one_point():
    """Five seeds of the committed parameters: one row, and a picture over the seeds."""
    seeds = FOUND.drop(columns="train.lr")
    (row,) = rank(seeds).to_dict("records")
    assert (row["count"], row["experiment"]) == (4, "trial-0")
    assert draw(seeds, set()).axes[0].get_xlabel() == "train.seed"


def test_picture_of_one_trial():
    """Nothing varies, and no seed was asked for: its name tells which it is."""
    one = FOUND.head(1).drop(columns="train.seed")
    assert draw(one, set()).axes[0].get_xlabel() == "experiment"


def test_picture_has_a_panel_for_each_parameter_that_varies():
    """A dot for each trial that was trained, on a logarithmic axis if the range was logarithmic."""
    table = FOUND.assign(
        **{"train.precision": "float32", "train.dry_run": [True, False] * 2 + [True]}
    )
    axes = draw(table, {"train.lr"}).axes
    assert [axis.get_xlabel() for axis in axes] == ["train.lr", "train.dry_run"]
    assert [axis.get_xscale() for axis in axes] == ["log", "linear"]
    assert len(axes[0].lines[0].get_xdata()) == 4


def test_last_epoch_counts():
    """Not the best one."""
    assert last_accuracy(HISTORY.format(0.98, 0.97)) == 0.97
