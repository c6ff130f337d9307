"""Ends the runs that nobody else would: killed while running, or stuck before they start.

python -m flows.automations    # installs both on the server that Prefect's profile names
"""

from datetime import timedelta
from typing import Any

from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState

HEARTBEAT = "prefect.flow-run.heartbeat"  # every 30 s, see prefect.yaml
PENDING, RUNNING = "prefect.flow-run.Pending", "prefect.flow-run.Running"
# An event is named for the state's name, so the flow's own name is among them.
ENDED = {
    f"prefect.flow-run.{name}"
    for name in ("Completed", "Refused", "Failed", "Cancelled", "Crashed", "TimedOut")
}


def automation(name: str, after: str, expect: set[str], within: timedelta) -> AutomationCore:
    """Crash a run of this flow if, `within` a time `after` one event, none of others comes."""
    return AutomationCore(
        name=f"retrain: {name}",
        description="From flows/automations.py. It may be switched off; other changes do not last.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": "retrain"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            after={after},
            expect=expect | ENDED,
            threshold=1,
            within=within,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"Ended: {name}.")],
    )


AUTOMATIONS = [
    automation("no heartbeat for 90 s", HEARTBEAT, {HEARTBEAT}, timedelta(seconds=90)),
    automation("pending for 120 s", PENDING, {RUNNING}, timedelta(seconds=120)),
]


def install() -> None:
    """Create the automations, or bring them up to date.

    One that is as it should be is left alone: an update forgets the runs that it was watching.
    One that somebody has switched off stays off.
    """
    with get_client(sync_client=True) as client:
        for wanted in AUTOMATIONS:
            found = client.read_automations_by_name(wanted.name)
            if not found:
                client.create_automation(wanted)
            elif content(found[0]) != content(wanted):
                client.update_automation(found[0].id, wanted)


def content(automation: AutomationCore) -> dict[str, Any]:
    """What an automation does, without the identities that the server gives it."""
    return AutomationCore.model_dump(
        automation, exclude={"id": True, "enabled": True, "trigger": {"id"}}
    )


if __name__ == "__main__":
    install()
