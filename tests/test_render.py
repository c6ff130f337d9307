"""The report's Markdown: readable, and inert whatever its data says."""

import json
import unicodedata

import pytest
from markdown_it import MarkdownIt
from pydantic import ValidationError

from mnist_pipeline.render import code, markdown
from mnist_pipeline.schema import Change, Evidence, Flip, Report, Side, Spread, Stage

COMMIT = "0123456789abcdef" * 2 + "01234567"
EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
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
    "x" * 200,
    " ",
    "",
    ":smile: $x^2$ &lt;b&gt; &#64;octocat",
]
ACTING = {"html_inline", "html_block", "link_open", "image", "fence", "code_block"}


def side(**changes) -> Side:
    """A side of a comparison whose result is of its code."""
    return Side(**{"name": "main", "commit": COMMIT, "stale": []} | changes)


def evidence(**changes) -> Evidence:
    """Forty images that differ, as unevenly as is just noticed."""
    counts = {"total": 10_000, "fixed": 27, "broken": 13, "p_value": 0.0385, "alpha": 0.05}
    return Evidence(**counts | {"interval": (0.0001, 0.0025), "least": 27} | changes)


def report(**changes) -> Report:
    """A small report."""
    fields = {"base": side(), "head": side(name="workspace"), "verdict": "improvement"}
    return Report(**fields | changes)


def full(text: str) -> Report:
    """A report that has a text wherever it may have one, as often as it may."""
    odd = side(name=text, stale=[text] * 100)
    change = Change(name=text, old=text, new=text)
    return report(
        base=odd,
        head=odd,
        verdict="not comparable",
        reason="no baseline",
        detail=text,
        evidence=evidence(),
        spread=Spread(runs=5, standard_deviation=0.0003, reach=0.001, pairs=10, false_alarms=1),
        fixed=[Flip(index=10**6, label=1, old=2, new=1)] * 1000,
        broken=[Flip(index=10**6, label=1, old=1, new=2)] * 1000,
        metrics=[change] * 200,
        parameters=[change] * 200,
        environment=[change] * 200,
        stages=[Stage(name=text, changed=[text] * 100, after=[text] * 100)] * 20,
        notes=[text] * 10,
        pictures=[text] * 10,
    )


def tokens(text: str) -> list:
    """What a parser of CommonMark with tables makes of a text."""
    found = MarkdownIt("commonmark").enable("table").parse(text)
    return [*found, *(child for token in found for child in token.children or [])]


@pytest.mark.parametrize("text", EVIL)
def test_text_is_inert_everywhere(text):
    """A CommonMark parser finds no HTML, link, picture or fence, and each text inside a code span.

    GitHub makes mentions, references and links of plain text, never of code spans.
    """
    shown = markdown(full(text[:200]))
    found = tokens(shown)
    assert not ACTING & {token.type for token in found}
    plain = "".join(token.content for token in found if token.type == "text")
    assert not set("@#<>[]`$\\") & set(plain)
    assert "example" not in plain
    assert "octocat" not in plain
    tables = [token for token in found if token.type == "table_open"]
    assert len(tables) == 6


@pytest.mark.parametrize("text", EVIL)
def test_text_does_not_break_a_table(text):
    """Each row has the head's number of cells, and a text never ends its line."""
    shown = markdown(report(metrics=[Change(name=text[:200], old=text[:200], new=1)]))
    (row,) = [line for line in shown.splitlines() if line.startswith("| `")]
    assert row.count("|") == 5
    cells = [token for token in tokens(shown) if token.type == "td_open"]
    assert len(cells) == 4


@pytest.mark.parametrize("text", EVIL)
def test_code_shows_printable_characters_alone(text):
    """One line, no control, no bidirectional or combining character, 80 characters at most."""
    shown = code(text)
    assert shown[1:-1].isprintable()
    assert not any(unicodedata.combining(character) for character in shown)
    assert "`" not in shown[1:-1]
    assert len(shown) <= 82


def test_greatest_report_fits_a_comment():
    """GitHub takes 65,536 characters; one that the data's limits allow has fewer than 60,000."""
    assert 20_000 < len(markdown(full("⟂" * 200))) < 60_000


def test_round_trip():
    """A report survives its JSON, as whole numbers, floats, truths and texts."""
    values = [1, 1.0, True, False, "1", None, -3, 1e-300]
    changes = [Change(name=f"v{at}", old=each, new=each) for at, each in enumerate(values)]
    before = report(parameters=changes, evidence=evidence())
    after = Report.model_validate_json(before.model_dump_json())
    assert after == before
    kinds = [type(change.old) for change in after.parameters or []]
    assert kinds == [type(each) for each in values]
    assert markdown(after) == markdown(before)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "fine"},
        {"reason": "because"},
        {"unknown": 1},
        {"detail": "x" * 201},
        {"base": {"name": "x", "commit": "main\n", "stale": []}},
        {"base": {"name": "x", "commit": COMMIT + "\n", "stale": []}},
        {"notes": ["x"] * 11},
        {"notes": "x"},
        {"fixed": [{"index": 1, "label": 10, "old": 1, "new": 2}]},
        {"fixed": [{"index": 1, "label": 1, "old": 1, "new": 2}] * 1001},
        {"metrics": [{"name": "x", "old": 1e16, "new": 1}]},
        {"metrics": [{"name": "x", "old": 10**16, "new": 1}]},
        {"metrics": [{"name": "x", "old": float("nan"), "new": 1}]},
        {"metrics": [{"name": "x", "old": float("-inf"), "new": 1}]},
        {"metrics": [{"name": "x", "old": {}, "new": 1}]},
        {"metrics": [{"name": "x", "old": 1, "new": 1}] * 201},
        {"stages": [{"name": "x", "changed": [], "after": []}] * 21},
        {"evidence": {"total": -1}},
    ],
)
def test_schema_refuses(change):
    """Unknown keys and words, what is too long, too many or too large, NaN and infinity."""
    good = json.loads(report().model_dump_json())
    Report.model_validate_json(json.dumps(good))
    with pytest.raises(ValidationError):
        Report.model_validate_json(json.dumps(good | change))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"base": 1e999}'])
def test_schema_refuses_other_json(text):
    """Nothing, something else, halves, and what nests too deep."""
    with pytest.raises(ValidationError):
        Report.model_validate_json(text)


def test_stale_lock_is_said_first():
    """Before the verdict; the head's before the base's; also that it is not known."""
    text = markdown(report(head=side(stale=["train: x"]), base=side(stale=["save: y"])))
    assert text.startswith("**Warning: dvc.lock is stale.**")
    order = ["`train: x`", "the base's dvc.lock is stale", "`save: y`", "**Improvement**"]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    text = markdown(report(head=side(stale=None)))
    assert text.startswith("**Warning: whether dvc.lock is stale is not known.**")


def test_numbers_are_for_people():
    """Rounded, with the direction; parameters as they are."""
    text = markdown(
        report(
            evidence=evidence(),
            metrics=[
                Change(name="accuracy", old=0.991712, new=0.9921, better=True),
                Change(name="loss", old=0.0276041, new=0.0291, better=False),
                Change(name="correct", old=9917, new=10_021, better=True),
                Change(name="odd", old=1.0, new=0.5),
                Change(name="gone", old=1.0, new=None),
            ],
            parameters=[Change(name="train.lr", old=0.123456789, new=True)],
        )
    )
    for line in [
        "**Improvement**: 27 images fixed, 13 broken of 10,000 (+0.14 points), p = 0.038",
        "95% interval of the difference: +0.01 to +0.25 points.",
        "27 to 13 is the least that counts: 14 images, 0.14 points.",
        "| `accuracy` | 0.9917 | 0.9921 | +0.00039, better |",
        "| `loss` | 0.0276 | 0.0291 | +0.0015, worse |",
        "| `correct` | 9,917 | 10,021 | +104, better |",
        "| `odd` | 1 | 0.5 | −0.5 |",
        "| `gone` | 1 | – |  |",
        "| `train.lr` | 0.123456789 | true |",
    ]:
        assert line in text


def test_spread_is_compared_with_the_difference():
    """Within what seeds do, beyond it, or not known."""
    seeds = {"runs": 5, "standard_deviation": 0.0003, "pairs": 10, "false_alarms": 1}
    small = Spread(reach=0.0013, **seeds)
    assert "exceeds the seed-to-seed spread" in markdown(report(evidence=evidence(), spread=small))
    large = Spread(reach=0.0015, **seeds)
    text = markdown(report(evidence=evidence(), spread=large))
    assert "does not exceed the seed-to-seed spread" in text
    assert "0.15 points" in text
    assert "1 of 10 such pairs" in text
    assert "not measured for this configuration" in markdown(report(evidence=evidence()))


def test_empty_is_not_unreadable():
    """Tables without a row are named in one line; a file that could not be read is not."""
    text = markdown(report(metrics=[], parameters=None, notes=["head: params.yaml: odd"]))
    assert "Nothing to show for: metrics." in text
    assert "Could not be read: `head: params.yaml: odd`" in text
