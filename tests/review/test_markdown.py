"""The report's Markdown: readable, and inert whatever its data says."""

import json
import sys
import unicodedata

import pytest
from markdown_it import MarkdownIt

from mnist_pipeline.files import InputError
from mnist_pipeline.review import markdown
from mnist_pipeline.review.markdown import render
from mnist_pipeline.review.schema import (
    Change,
    Evidence,
    Flip,
    NewImages,
    Report,
    Side,
    Spread,
    Step,
)

COMMIT, OTHER = "a" * 40, "b" * 40
EVIL = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "`</code>` **bold** `",
    "``` fence",
    "[text](https://example.com) ![picture](https://example.com/x.png)",
    "https://example.com www.example.com somebody@example.com",
    "@octocat and @github/team, #1, GH-1, owner/name#1, 0123456789abcdef0123456789abcdef01234567",
    "a | b \\| c",
    "one\n\n# two\r\n- three\x0b\x0c\x85\u2028\u2029four",
    "\x1b[31mred\x00\x07",
    "\u202ereversed\u2066\u200b\ufeff",
    "Z̴̧̢͓̑̈a̶l̷g̸o̵" * 20,
    "",
    ":smile: $x^2$ &lt;b&gt; &#64;octocat",
]
ACTING = {"html_inline", "html_block", "link_open", "image", "fence", "code_block"}


def side(**changes) -> Side:
    """A side of a comparison whose result is of its code."""
    return Side(**{"name": "main", "commit": COMMIT, "stale": []} | changes)


def evidence(**changes) -> Evidence:
    """Forty images that differ, split just unevenly enough to be noticed."""
    counts = {"total": 10_000, "fixed": 13, "broken": 27, "p_value": 0.0385, "alpha": 0.05}
    return Evidence(**counts | {"interval": (-0.0025, -0.0001), "least": 27} | changes)


def spread(reach: float) -> Spread:
    """What five seeds do."""
    return Spread(runs=5, standard_deviation=0.0003, reach=reach, pairs=10, false_alarms=1)


def report(**changes) -> Report:
    """A small report."""
    fields = {"base": side(), "head": side(name="workspace"), "verdict": "regression"}
    return Report(**fields | {"evidence": evidence()} | changes)


def full(text: str) -> Report:
    """A report that has a text wherever it may have one, as often as it may."""
    odd = side(name=text, stale=[text] * 60)
    names = {"added": [text] * 1000, "removed": [text]}
    new = NewImages(verdict="too few to judge", evidence=evidence(), **names)
    return report(
        base=odd,
        head=odd,
        verdict="not comparable",
        reason=text,
        evidence=None,
        spread=spread(0.001),
        new=new,
        flips=[Flip(index=10**6, label=text, old=text, new=text)] * 1000,
        changes=[Change(file=text, name=text, old=text, new=text)] * 2000,
        stages=[Step(name=text, changed=[text] * 60, after=[text] * 60)] * 100,
        notes=[text] * 60,
    )


def tokens(text: str) -> list:
    """What a parser of CommonMark with tables makes of a text."""
    found = MarkdownIt("commonmark").enable("table").parse(text)
    return [*found, *(child for token in found for child in token.children or [])]


# A stranger's text


@pytest.mark.parametrize("text", EVIL)
def test_text_is_inert_everywhere(text):
    """A CommonMark parser finds no HTML, link, picture or fence, and each text inside a code span.

    GitHub makes mentions, references and links of plain text, never of code spans. These have no
    control, no bidirectional and no combining character.
    """
    found = tokens(render(full(text)))
    assert not ACTING & {token.type for token in found}
    plain = "".join(token.content for token in found if token.type == "text")
    assert not set("@#<>[]`$\\") & set(plain)
    assert "example" not in plain
    assert "octocat" not in plain
    assert len([token for token in found if token.type == "table_open"]) == 4
    shown = "".join(token.content for token in found if token.type == "code_inline")
    assert shown.isprintable()
    assert not any(unicodedata.combining(character) for character in shown)
    assert not {"`", "|"} & set(shown)  # they would end the span or the cell


def test_greatest_report_fits_a_comment():
    """GitHub takes 65,536 characters; a report with more of everything than is shown has fewer."""
    assert 20_000 < len(render(full("⟂" * 201))) < 60_000


# The file that a comment is made of

STOP = "::stop-commands::x ##[y]"


def altered(**changes: object) -> bytes:
    """The file of a report with something that no report has."""
    return json.dumps(report().model_dump(mode="json") | changes).encode()


def test_report_survives_its_json(tmp_path, monkeypatch, capsys):
    """Whole numbers, floats, booleans and texts are still what they were; NaN is a text."""
    values = [1, 1.0, True, False, "1", None, -3, 1e-300, 10**400, float("nan"), [1]]
    changes = [Change(file="x", name=str(at), old=each, new=0) for at, each in enumerate(values)]
    before = report(changes=changes)
    assert Report.model_validate_json(before.model_dump_json()) == before
    kinds = [type(change.old) for change in before.changes]
    assert kinds == [int, float, bool, bool, str, type(None), int, float, str, str, str]
    (file := tmp_path / "report.json").write_text(before.model_dump_json())
    monkeypatch.setattr(sys, "argv", ["markdown", str(file), "--head", COMMIT])
    markdown.main()
    assert capsys.readouterr().out == render(before)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"[" * 100_000, "expected a report, found json_invalid at the top"),
        (altered(verdict="<b>fine</b>"), "expected a report, found literal_error at verdict"),
        (
            altered(**{STOP: 1}),
            "expected a report, found extra_forbidden at ??stop?commands??x????y?",
        ),
        (
            report(head=side(commit=OTHER)).model_dump_json().encode(),  # of another pull request
            f"expected a report on {COMMIT}, found {OTHER}",
        ),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, found):
    """It says where, with letters alone: GitHub obeys commands in a log."""
    (file := tmp_path / "report.json").write_bytes(content)
    with pytest.raises(InputError) as refused:
        markdown.read_report(file, COMMIT)
    assert str(refused.value) == f"{file}: {found}"


# The words


def test_stale_lock_is_said_first():
    """Before the verdict; the head's before the base's; also that it is not known."""
    text = render(report(head=side(stale=["train: x"]), base=side(stale=["save: y"])))
    assert text.startswith("**Warning: dvc.lock is stale.**")
    order = ["`train: x`", "the base's dvc.lock is stale", "`save: y`", "**Regression"]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    text = render(report(head=side(stale=None)))
    assert text.startswith("**Warning: whether dvc.lock is stale is not known.**")


@pytest.mark.parametrize(
    ("verdict", "spread", "start", "words"),
    [
        ("regression", spread(0.0015), "Regression in", "within what another seed does"),
        ("regression", spread(0.0013), "Regression in", "beyond what another seed does"),
        (
            "no evidence of a difference",
            None,
            "No evidence of a difference between",
            "seed-to-seed spread of this configuration not measured (`make noise`)",
        ),
    ],
)
def test_first_line_says_both_things(verdict, spread, start, words):
    """What holds for these weights, and whether another seed would do as much."""
    line, *_ = render(report(verdict=verdict, spread=spread)).splitlines()
    assert line == f"**{start} these weights** (13 fixed, 27 broken, p = 0.0385), {words}"


def test_numbers_show_on_which_side_they_are():
    """A p just below 0.05, and an end of the interval that is not 0, are not rounded to it."""
    close = evidence(fixed=150, broken=117, p_value=0.04998, interval=(2e-5, 0.0065))
    text = render(report(verdict="improvement", evidence=close))
    assert text.startswith("**Improvement in these weights** (150 fixed, 117 broken, p = 0.04998)")
    assert "anything from +0.002 to +0.65" in text


@pytest.mark.parametrize(
    ("old", "new", "shift"),
    [
        (64, 256, "`+192`"),
        (9907, 8642, "`−1,265`"),
        (0.715, 0.56, "`−0.155`"),
        (False, True, "–"),
    ],
)
def test_changes_are_as_exact_as_the_values(old, new, shift):
    """Whole numbers to the last digit; a boolean has no difference."""
    change = Change(file="a", name="b", old=old, new=new)
    assert render(report(changes=[change])).strip().endswith(f"| {shift} |")


def test_sentences_need_no_statistics():
    """Counts, chance, interval, what would have counted, seeds; the term stands in brackets."""
    text = render(report(spread=spread(0.0015)))
    for sentence in [
        "The models disagree on 40 of 10,000 test images: this change fixes 13 and breaks 27.",
        "would come up 4 times in 100 (exact McNemar test, p = 0.0385).",
        "The accuracy changes by −0.14 percentage points on these images.",
        "On other images, if 40 differ as well, it may change by anything from −0.25 to −0.01 (95%",
        "To be evidence of a difference (p < 0.05), at least 27 of the 40 must go the same way.",
        "Another seed alone moves the accuracy by up to 0.15 points",
        "Of 10 pairs of seeds, the test calls 1 different.",
    ]:
        assert sentence in text
    assert "by up to 100.00 points (95" in render(report(spread=spread(2.36)))  # of two seeds, say
    same = evidence(fixed=0, broken=0, p_value=1.0, interval=None, least=None)
    assert "get exactly the same of the 10,000 test images wrong" in render(report(evidence=same))
    few = evidence(fixed=1, broken=2, p_value=1.0, least=None)
    assert "So few images differ that no split would be" in render(report(evidence=few))
