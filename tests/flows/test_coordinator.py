"""The runs of trials on a real server; the searches themselves are in test_search.py."""

from functools import partial
from types import SimpleNamespace

from flows import coordinator
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled


def test_deleted_runs_neither_answer_nor_are_waited_for(service, monkeypatch):
    """A run under way is found; after an end another is ordered, whatever people have deleted."""
    trials = SimpleNamespace(repository="", commit="")
    with temporary_settings({PREFECT_API_URL: service.url}), get_client(sync_client=True) as client:
        order = partial(coordinator.Trials.submit, trials, client, "trial-x", {}, delay=3600)
        first = order()
        assert order() == first
        client.set_flow_run_state(first, Cancelled())
        second = order()
        client.set_flow_run_state(second, Cancelled())
        client.delete_flow_run(first)
        third, ours = order(), SimpleNamespace(id=str(second))
        assert third not in {first, second}
        monkeypatch.setattr(coordinator, "flow_run", ours)
        assert [*coordinator.ended(client, [second, third])] == [second]
        client.delete_flow_run(third)
        assert coordinator.ended(client, [third])[third].message == "its run was deleted"
