"""Keeps one comment with the report on its pull request; .github/workflows/pr-comment.yml runs it.

python -m mnist_pipeline.comment report.json

The file comes from a workflow that ran the pull request's code: nothing in it is trusted, not even
which pull request it is about. The environment is: GITHUB_API_URL, GITHUB_REPOSITORY,
GITHUB_SERVER_URL and GITHUB_TOKEN as GitHub has them; RUN, that workflow's run, and HEAD_SHA, the
commit that it ran on.
"""

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from pydantic import ValidationError

from mnist_pipeline.render import markdown
from mnist_pipeline.schema import Report
from mnist_pipeline.stage import InputError, run

LIMIT = 1_000_000  # bytes of the file
BASE = "main"  # of the pull requests that pr-report.yml runs on
MARKER = "<!-- mnist_pipeline: report -->"
BOT = "github-actions[bot]"  # who comments with GITHUB_TOKEN


def main() -> None:
    parser = argparse.ArgumentParser(description="Put the report on its pull request.")
    parser.add_argument("file", type=Path, help="what mnist_pipeline.report --json printed")
    path = parser.parse_args().file
    head = variable("HEAD_SHA")
    body = f"{MARKER}\n{markdown(read(path, head))}\n[Summary and pictures]({page()})\n"
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {variable('GITHUB_TOKEN')}"
        session.headers["Accept"] = "application/vnd.github+json"
        numbers = pull_requests(session, head)
        for number in numbers:
            print(f"#{number}: comment {comment(session, number, body)}")
    if not numbers:
        print(f"No open pull request to {BASE} has {head}: nothing to comment on")


def variable(name: str) -> str:
    """A variable of the environment; InputError where it is not set."""
    if value := os.environ.get(name):
        return value
    raise InputError(f"{name}: expected a value in the environment, found none")


def read(path: Path, head: str) -> Report:
    """The report in a file; InputError where it is too large, malformed or of another commit."""
    with path.open("rb") as file:
        content = file.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise InputError(f"{path}: expected at most {LIMIT:,} bytes, found more")
    try:
        report = Report.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # The log must not say what a stranger wrote: GitHub obeys commands in it.
        where = re.sub(r"[^\w.]", "?", ".".join(map(str, fault["loc"])), flags=re.ASCII)[:80]
        what = f"{fault['type']} at {where or 'the top'}"
        raise InputError(f"{path}: expected a report, found {what}") from error
    if report.head.commit != head:
        raise InputError(f"{path}: expected a report on {head}, found {report.head.commit}")
    return report


def pull_requests(session: requests.Session, head: str) -> list[int]:
    """Numbers of the open pull requests whose head is this commit: GitHub's word, not the file's.

    workflow_run.pull_requests would be empty for a fork's.
    """
    query = {"state": "open", "base": BASE, "sort": "updated", "direction": "desc"}
    found = pages(session, "pulls", **query)
    return [pull["number"] for pull in found if pull["head"]["sha"] == head]


def comment(session: requests.Session, number: int, body: str) -> str:
    """Write the comment, or write it anew where it is there; which of both."""
    method, path = "POST", f"issues/{number}/comments"
    for old in pages(session, path):
        own = old["user"] is not None and old["user"]["login"] == BOT
        if own and (old["body"] or "").startswith(MARKER):
            method, path = "PATCH", f"issues/comments/{old['id']}"
            break
    session.request(method, url(path), json={"body": body}, timeout=30).raise_for_status()
    return "updated" if method == "PATCH" else "created"


def pages(session: requests.Session, path: str, **query: str) -> Iterator[dict[str, Any]]:
    """Everything that GitHub lists under a path of the repository."""
    address, query = url(path), query | {"per_page": "100"}
    while address:
        response = session.get(address, params=query, timeout=30)
        response.raise_for_status()
        yield from response.json()
        address, query = response.links.get("next", {}).get("url", ""), {}  # has the query in it


def page() -> str:
    """The page of the run that made the report."""
    where = variable("GITHUB_SERVER_URL"), variable("GITHUB_REPOSITORY"), variable("RUN")
    return "{}/{}/actions/runs/{}".format(*where)


def url(path: str) -> str:
    """The address of a path of this repository in GitHub's API."""
    return f"{variable('GITHUB_API_URL')}/repos/{variable('GITHUB_REPOSITORY')}/{path}"


if __name__ == "__main__":
    run(main)
