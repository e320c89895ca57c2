"""What a command says that finds nothing to do, or that is given something else than a machine's name."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from qmesh.agent.commands.confirm import confirm
from qmesh.agent.commands.handover import cancel_handover, handover
from qmesh.agent.commands.invite import InviteOptions, invite, withdraw_invitation
from qmesh.agent.commands.pause import pause
from qmesh.agent.commands.remove import remove
from qmesh.agent.commands.render_config import render_node_config
from qmesh.agent.commands.resume import resume
from qmesh.agent.commands.set import set_machine
from qmesh.agent.commands.undo import has_pending_rollback, roll_back_now
from qmesh.agent.local import load_local
from qmesh.errors import BadInput
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.mesh.protocol.enrolment import build_redemption, derive_invitation_keys
from tests.support.control_node import make_control_node

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

NOW = int(time.time())
KEY = base64.b64encode(bytes([9]) * 32).decode()


def make_state(tmp_path: Path) -> State:
    """A control node whose mesh has one more machine, hel-2 at 10.77.0.2; its tunnel is never up."""
    made = State(tmp_path / "state")
    make_control_node(made)
    with Registry(made.registry_file) as registry:
        issued = registry.invite("hel-2", workers=4, endpoint=None, expires_at=NOW + 3600, now=NOW)
        keys = derive_invitation_keys(issued.secret)
        redemption = build_redemption(keys, public_key=KEY, workers=4, endpoint=None)
        registry.redeem(redemption, sender=issued.machine.address, now=NOW)
    return made


def refusal(call: Callable[[], object]) -> BadInput:
    with pytest.raises(BadInput) as raised:
        call()
    return raised.value


def test_pause_and_resume_say_that_there_is_nothing_to_do(tmp_path):
    state = make_state(tmp_path)
    assert refusal(lambda: resume(state, "hel-2")).message == "nothing to do: hel-2 is active already"
    pause(state, "hel-2")
    before = load_local(state).inventory
    assert refusal(lambda: pause(state, "hel-2")).message == "nothing to do: hel-2 is paused already"
    assert load_local(state).inventory == before


def test_confirm_and_undo_say_that_there_is_nothing_to_do(tmp_path):
    state = make_state(tmp_path)
    assert confirm(state).found == "nothing to confirm: no change waits for it"
    assert not has_pending_rollback(state)
    assert not roll_back_now(state)


def test_what_cannot_be_ended_is_not_there(tmp_path):
    state = make_state(tmp_path)
    assert refusal(lambda: cancel_handover(state)).message == "nothing to cancel: no handover is under way"
    gone = refusal(lambda: withdraw_invitation(state, "ash-4"))
    assert gone.message == "nothing to withdraw: there is no invitation for ash-4"


def invite_again(state: State, name: str) -> None:
    invite(state, InviteOptions(name=name, workers=None, endpoint=None, expires="24h", replace=True))


def begin_handover(state: State, name: str) -> None:
    state.save_settings(msgspec.structs.replace(state.settings(), up=True))  # it has to tell the members
    handover(state, name, wait_s=1, leave_behind=False)


@pytest.mark.parametrize(
    "command",
    [
        pause,
        resume,
        remove,
        invite_again,
        withdraw_invitation,
        lambda state, name: set_machine(state, name, workers=2, endpoints=None),
        begin_handover,
        lambda state, name: render_node_config(state, config=None, for_name=name),
    ],
    ids=[
        "pause",
        "resume",
        "remove",
        "invite --replace",
        "invite --withdraw",
        "set",
        "handover",
        "render-config",
    ],
)
@pytest.mark.parametrize("address", ["10.77.0.2", "10.77.0.2:40003"])
def test_an_address_in_place_of_a_name_is_named(tmp_path, command, address):
    state = make_state(tmp_path)
    said = refusal(lambda: command(state, address))
    assert said.message == f"'{address}' is hel-2, but a machine's name is needed"
    assert said.hint == "use hel-2 in its place"
