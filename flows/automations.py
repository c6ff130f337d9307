"""Ends the runs that nobody else ends: killed while running, or stuck before they start.

python -m flows.automations    # installs both on the server that Prefect's profile names
"""

from datetime import timedelta
from typing import Any

from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState

FLOWS = ["retrain", "trial", "search"]
# Events are named after states, by the states' own names: Refused is one of flows/stages.py.
ENDS = ("Completed", "Refused", "Failed", "Cancelled", "Crashed", "TimedOut")


def crash_after(name: str, event: str, expected: str, within: timedelta) -> AutomationCore:
    """Crash a run that, `within` a time after one event, has not the expected one and no end."""
    return AutomationCore(
        name=f"retrain: {name}",
        description="From flows/automations.py. It may be switched off; other changes do not last.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
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
    """Create the automations, or bring them up to date.

    An unchanged one is left alone, because an update forgets the runs that it is watching.
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
    return AutomationCore.model_dump(automation, exclude={"id": True, "trigger": {"id"}})


if __name__ == "__main__":
    main()
