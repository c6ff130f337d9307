"""May this result be published? Whatever is missing or odd is a reason not to."""

from pathlib import Path
from tempfile import TemporaryDirectory

from mnist_pipeline.files import InputError, read_params
from mnist_pipeline.review.git import check_out, git
from mnist_pipeline.review.markdown import describe
from mnist_pipeline.review.result import LOCK, check_answers, read_result
from mnist_pipeline.review.statistics import compare, compare_new, weigh
from mnist_pipeline.use.versions import PROD, read_tags


def approve(folder: Path, publish: str, alpha: float) -> str:
    """Compare a clone's result with the one in production, or else its tip's; returns the verdict.

    Raises InputError if either result is incomplete, if the new one is a dry run, below
    save.min_accuracy or significantly worse at the level `alpha`, and, if `publish` is main, if
    they were tested on other images.
    """
    new = read_result(folder)
    if new.metrics.dry_run:
        raise InputError("this is the result of a dry run")
    accuracy, floor = new.metrics.accuracy, read_params(folder)["save"]["min_accuracy"]
    if accuracy < floor:
        raise InputError(f"the accuracy {accuracy} is below save.min_accuracy = {floor}")
    prod = read_tags(str(folder)).in_stage(PROD)
    published = prod.commit if prod else "HEAD"
    if not git(folder, "ls-tree", published, LOCK):
        return "the first publication: nothing to compare with"
    try:
        with TemporaryDirectory() as name:
            check_out(folder, published, before := Path(name) / "published")
            old = read_result(before)
    except InputError as error:
        raise InputError(f"the published result is incomplete or malformed: {error}") from error
    if old.test_set != new.test_set:
        reason = "not comparable: the published model was tested on other images"
        if publish == "main":
            raise InputError(f"{reason}; see docs/deployment.md: By hand")
        return reason
    check_answers(folder, old, new)
    plain = compare(old, new)
    for what, found in (("", plain), ("on new images: ", compare_new(old, new))):
        if found.verdict(alpha) == "regression":
            reason = f"significantly worse than the published model: {what}{describe(weigh(found))}"
            raise InputError(f"{reason}; revert the change, or see docs/deployment.md: By hand")
    return f"not significantly worse than the published model: {describe(weigh(plain))}"
