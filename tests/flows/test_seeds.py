"""make noise on a pool: its search as the server sees it."""

import pytest
from conftest import git
from flows import search, seeds
from flows.schedule import TAG
from prefect.context import TagsContext
from prefect.settings import get_current_settings
from prefect.states import Failed
from service import repository

from mnist_pipeline.files import InputError


def test_its_search_lives_to_the_automations(tmp_path, monkeypatch):
    """They end a run without a heartbeat for 90 s; by default, Prefect sends one every 180 s.

    The tag tells them which runs are this project's.
    """
    found = []

    def stands_in(*_, **__):
        found.append(
            (get_current_settings().flows.heartbeat_frequency, TagsContext.get().current_tags)
        )
        return Failed(message="enough")

    monkeypatch.setattr(search, "search", stands_in)
    monkeypatch.setattr(seeds, "online", lambda: 1)
    git(repository(tmp_path, {}), "commit", "--quiet", "--allow-empty", "--message=x")
    with pytest.raises(InputError, match="search: enough"):
        seeds.train(tmp_path, [1, 2])
    assert found == [(30, {TAG})]
