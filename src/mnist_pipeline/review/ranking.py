"""What a search found: trials ranked by validation accuracy, as a table and as a picture.

Never by the test images: on them, the best of many would look better than it is.
"""

import io

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

SEED, SCORE, NAME, FAULT = "train.seed", "validation_accuracy", "experiment", "fault"


def last_accuracy(history: str) -> float:
    """The validation accuracy after the last epoch, 0 to 1, from the text of history.csv."""
    return float(pd.read_csv(io.StringIO(history))[SCORE].iloc[-1])


def searched(trials: pd.DataFrame) -> list[str]:
    """The parameters that the trials were given, apart from the seed."""
    return [str(key) for key in trials if key not in (SEED, SCORE, NAME, FAULT)]


def rank(trials: pd.DataFrame) -> pd.DataFrame:
    """One row for each point, the one with the best mean first, those with a failed trial last.

    `trials` has a row for each trial. Its columns are the parameters, SCORE (0 to 1; NaN if it
    failed), NAME and FAULT. A mean leaves failed trials out. The experiment named is that of the
    first seed that was trained, not of the best one.
    """
    keys = searched(trials)
    points = trials.groupby(keys or (lambda _: 0), sort=False)
    accuracies = points[SCORE].agg(["mean", "min", "max", "count"])
    names = trials[trials[FAULT] == ""].groupby(keys or (lambda _: 0))[NAME].first()
    table = accuracies.join(names).reset_index(drop=not keys)
    return table.sort_values(["count", "mean"], ascending=False, ignore_index=True)


def winner(ranking: pd.DataFrame) -> str:
    """The experiment of the best point; empty where no trial was trained."""
    best = ranking.loc[0, NAME]
    return best if isinstance(best, str) else ""


def describe(trials: pd.DataFrame, ranking: pd.DataFrame, base: str, here: bool) -> str:
    """The ranking, what failed, and the commands for the next step, in Markdown.

    `base`: the branch or commit that was searched, for the report. `here`: the experiments are in
    this checkout already.
    """
    failed = trials[trials[FAULT] != ""]
    faults = [f"- {name}: {fault}" for name, fault in zip(failed[NAME], failed[FAULT], strict=True)]
    lines = [to_markdown(ranking), "", *faults]
    if best := winner(ranking):
        steps = [
            *([] if here else [f"dvc exp pull origin {best}"]),
            "dvc exp show",
            f"python -m mnist_pipeline report --base {base} --head {best}",
            f"dvc exp apply {best}",
        ]
        lines += ["", "```", *steps, "```"]
    return "\n".join(lines)


def to_markdown(ranking: pd.DataFrame) -> str:
    """A ranking as a table in Markdown, accuracies in per cent."""
    shown = ranking.rename(columns={"mean": "validation accuracy", "count": "trained"})
    for name in ("validation accuracy", "min", "max"):
        shown[name] = shown[name].mul(100).map("{:.2f} %".format, na_action="ignore")
    return str(shown.astype(object).fillna("–").to_markdown(index=False, floatfmt=".4g"))


def draw(trials: pd.DataFrame, logarithmic: set[str]) -> Figure:
    """Validation accuracy against each parameter that varies: a dot a trial, a bar a mean."""
    found = trials.dropna(subset=[SCORE])
    keys = [key for key in searched(found) if found[key].nunique() > 1]
    keys = keys or [SEED if SEED in found else NAME]  # nothing else to tell them apart
    figure = Figure(figsize=(4.8 * len(keys), 3.8), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    axes[0].set_ylabel("validation accuracy, %")
    for axis, key in zip(axes, keys, strict=True):
        number = pd.api.types.is_numeric_dtype(found[key]) and found[key].dtype != bool
        values = found[key] if number else found[key].astype(str)
        axis.plot(values, 100 * found[SCORE], "o", color="tab:blue", alpha=0.5)
        means = 100 * found[SCORE].groupby(values).mean()
        if len(means) < len(found):
            axis.plot(means.index, means, "_", color="black", markersize=16)
        axis.set_xlabel(key)
        if key in logarithmic:
            axis.set_xscale("log")
            axis.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("{x:g}")
    return figure
