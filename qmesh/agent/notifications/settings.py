"""`set --notify`: who is told of this machine's changes. Kept in a file that no other machine gets."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from qmesh.agent.agent_start import warn_without_agent
from qmesh.agent.preconditions import check_user, lock_member
from qmesh.errors import BadInput, MachineRefused
from qmesh.host.notifications.delivery import find_program_file
from qmesh.host.notifications.notify_socket import ReceiverResults, request_test
from qmesh.host.state.directory import State
from qmesh.host.system import background
from qmesh.mesh.notifications.targets import (
    NotifyFacts,
    NotifySettings,
    describe_settings,
    parse_target,
    replace_targets,
    validate_program_path,
)

TEST_S = 90.0
"""Seconds for a test: a program has 30, the agent may just be at a look, and another test under way."""


def set_notifications(
    state: State, *, urls: Sequence[str] | None, program: str | None, after_s: int | None
) -> NotifyFacts:
    """Other receivers of what changes on this machine; None leaves them as they are.

    urls: all of them, as typed, or only `none`. program: an absolute path, or `none`.
    after_s: seconds that something has to last.
    Raises BadInput for what is no URL, and a program that others than root can change.
    """
    check_user("set --notify")
    wanted = () if urls is not None and list(urls) == ["none"] else urls
    for each in wanted or ():
        if each == "none":
            raise BadInput(
                "--notify none means no receiver, and another --notify names one",
                hint="leave one of the two out",
            )
        parse_target(each)
    if program is not None and program != "none":
        find_program_file(validate_program_path(program))
    ends = not wanted and program in {None, "none"} and after_s is None
    with lock_member(state, "set --notify none" if ends else "set --notify"):
        old = settings = state.notify_settings.read() or NotifySettings()
        if wanted is not None:
            settings = replace_targets(settings, wanted, [secrets.token_hex(8) for _ in wanted])
        if program is not None and program != (settings.program or "none"):
            path = None if program == "none" else program
            settings = msgspec.structs.replace(
                settings, program=path, program_identifier=secrets.token_hex(8) if path else ""
            )
        if after_s is not None:
            settings = msgspec.structs.replace(settings, after_s=after_s)
        if not settings.receivers:
            if after_s is not None and urls is None and program is None:
                raise BadInput(
                    "this machine has no receiver of notifications, so --notify-after changes nothing",
                    hint="pass one as well: `qmesh set --notify - --notify-after SECONDS`",
                )
            # First what was told: a receiver of next month is not told that it is over.
            state.notification_record.remove()
            state.notify_settings.remove()
        elif settings != old:
            state.notify_settings.write(settings)
    return _report_settings(state, settings, is_another=settings != old)


def _report_settings(state: State, settings: NotifySettings, *, is_another: bool) -> NotifyFacts:
    if settings.receivers:
        warn_without_agent(state, "to send notifications")
    return describe_settings(settings, is_another=is_another)


def send_test_notification(state: State) -> ReceiverResults:
    """Have this machine's agent send a test to all receivers, and say what came of it.

    Raises BadInput where there is none, MachineRefused where no agent runs.
    """
    check_user("set --notify")
    settings = state.notify_settings.read()
    if settings is None or not settings.receivers:
        raise BadInput(
            "this machine has no receiver of notifications, so there is nothing to test",
            hint="pass one: `qmesh set --notify -`, or `qmesh set --notify-command PROGRAM`",
        )
    if not background.is_agent_running(state):
        raise MachineRefused(
            "no agent runs on this machine to send notifications", hint="run `qmesh apply`: it starts one"
        )
    return request_test(state.directory, wait_s=TEST_S)
