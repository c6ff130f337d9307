"""Better, worse or no evidence: what two results say, or why they cannot be compared."""

from pathlib import Path
from typing import Any

from mnist_pipeline.compare import ALPHA, compare, interval, least, reach
from mnist_pipeline.noise_file import PATH as NOISE
from mnist_pipeline.noise_file import Noise, configuration
from mnist_pipeline.results import ERRORS, LOCK, PARAMS, Result, read, result
from mnist_pipeline.schema import Evidence, Flip, Spread
from mnist_pipeline.stage import InputError

MOST = 1000  # images in the data, fixed and broken each


def sound(folder: Path) -> Result | InputError:
    """The result of a folder, or what is wrong with it."""
    try:
        return result(folder)
    except InputError as error:
        return error


def judge(old: Result | InputError, new: Result | InputError) -> dict[str, Any]:
    """The verdict, and what it rests on; "not comparable" for whatever is missing or odd."""
    if isinstance(old, InputError):
        return refusal("no baseline", str(old))
    if isinstance(new, InputError):
        return refusal("no result", str(new))
    if old.metrics.dry_run or new.metrics.dry_run:
        return refusal("a dry run", "the head's" if new.metrics.dry_run else "the base's")
    if (old.test_set, old.metrics.total) != (new.test_set, new.metrics.total):
        return refusal("another test set", f"its MD5 in {LOCK} or its number of images differs")
    both = old.errors.keys() & new.errors.keys()
    if any(old.errors[index].label != new.errors[index].label for index in both):
        return refusal("another test set", f"the same images have other labels in {ERRORS}")
    found = compare(old, new)
    fixed, broken, total = len(found.fixed), len(found.broken), new.metrics.total
    verdict = "improvement" if fixed > broken else "regression"
    return {
        "verdict": verdict if found.p_value < ALPHA else "no evidence of a difference",
        "evidence": Evidence(
            total=total,
            fixed=fixed,
            broken=broken,
            p_value=found.p_value,
            alpha=ALPHA,
            interval=interval(fixed, broken, total, ALPHA),
            least=least(fixed + broken, ALPHA),
        ),
        "fixed": [
            Flip(index=index, label=label, old=predicted, new=label)
            for index in found.fixed[:MOST]
            for label, predicted in [old.errors[index]]
        ],
        "broken": [
            Flip(index=index, label=label, old=label, new=predicted)
            for index in found.broken[:MOST]
            for label, predicted in [new.errors[index]]
        ],
    }


def refusal(reason: str, detail: str) -> dict[str, Any]:
    """What is said instead of a verdict."""
    return {"verdict": "not comparable", "reason": reason, "detail": clip(detail)}


def spread(both: tuple[Path, Path], notes: list[str]) -> Spread | None:
    """The seed-to-seed spread, where it was measured for either side's configuration.

    The base's figures count before the head's; a file that cannot be read becomes a note.
    """
    found: Spread | None = None
    for folder in both:
        if not (folder / NOISE).exists():
            continue
        try:
            noise = Noise.model_validate_json(read(folder, str(NOISE)))
            texts = [[read(side, name) for name in (PARAMS, LOCK)] for side in both]
            fits = noise.configuration in [configuration(*pair) for pair in texts]
        except (InputError, ValueError) as error:
            notes.append(f"{NOISE}: {error}".replace("\n", " "))
            continue
        if fits and found is None:
            found = Spread(
                runs=len(noise.runs),
                standard_deviation=noise.standard_deviation,
                reach=reach(noise.standard_deviation, len(noise.runs), ALPHA),
                pairs=len(noise.pairs),
                false_alarms=noise.false_alarms,
            )
    return found


def clip(text: str) -> str:
    """A text as the report's data can have it: 200 characters that UTF-8 can encode."""
    return text[:200].encode("utf-8", "replace").decode()
