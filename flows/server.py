"""What the flows need on a server beside their deployments: work pools, and two automations.

The automations end runs that nobody else ends: killed while running, or stuck before they start.

python -m flows.server    # creates all of it on the server that Prefect's profile names
"""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import httpx
from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import get_current_settings

from flows import command
from flows.schedule import POOL, SEARCH, TAG
from mnist_pipeline.files import InputError

# Events are named after states. The name Refused is given by flows/stages.py.
ENDS = ("Completed", "Refused", "Failed", "Cancelled", "Crashed", "TimedOut")


def crash_after(name: str, event: str, expected: str, within: timedelta) -> AutomationCore:
    """Crash a run if neither the `expected` event nor an end follows `event` in time."""
    return AutomationCore(
        name=f"retrain: {name}",
        description="From flows/server.py. It may be switched off; other changes do not last.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": f"prefect.tag.{TAG}"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            after={f"prefect.flow-run.{event}"},
            expect={f"prefect.flow-run.{name}" for name in (expected, *ENDS)},
            threshold=1,
            within=within,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"Ended: {name}.")],
    )


AUTOMATIONS = [
    # A run sends a heartbeat every 30 s, see prefect.yaml.
    crash_after("no heartbeat for 90 s", "heartbeat", "heartbeat", timedelta(seconds=90)),
    crash_after("pending for 120 s", "Pending", "Running", timedelta(seconds=120)),
]


def main() -> None:
    """Create the pools and the automations, or bring the automations up to date.

    Raises InputError if no server is named, or if it does not answer.
    """
    if not (url := get_current_settings().api.url):
        raise InputError("PREFECT_API_URL: expected a server's address, found none")
    try:
        with get_client(sync_client=True) as client:
            for name in (POOL, SEARCH):
                pool = WorkPoolCreate(name=name, type="process")
                with suppress(ObjectAlreadyExists):  # perhaps as another type, such as docker
                    client.create_work_pool(pool)
            for wanted in AUTOMATIONS:
                automate(client, wanted)
    except httpx.HTTPError as error:
        raise InputError(f"PREFECT_API_URL: expected a server at {url}: {error}") from error


def automate(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """Create an automation, or bring it up to date.

    An unchanged one is left alone, because an update forgets the runs that it is watching.
    One that somebody has switched off stays off.
    """
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
    elif content(found[0]) != content(wanted):
        client.update_automation(found[0].id, wanted)


def content(automation: AutomationCore) -> dict[str, Any]:
    """What an automation does, without the ids that the server gives it."""
    return AutomationCore.model_dump(automation, exclude={"id": True, "trigger": {"id"}})


if __name__ == "__main__":
    with command(__doc__):
        main()
