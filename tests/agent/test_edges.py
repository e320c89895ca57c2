"""The edges of the program: what is refused leaves nothing, and what is done is said."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from qmesh import __file__ as qmesh_file
from qmesh.agent.commands.invite import InviteOptions, invite
from qmesh.agent.commands.join.online import join
from qmesh.agent.commands.join.steps import JoinOptions
from qmesh.agent.leftovers import make_state_directory
from qmesh.errors import BadInput, EnrolmentRefused, MachineRefused
from qmesh.host.firewall import held_table, nftables
from qmesh.host.network import links
from qmesh.host.state.directory import State
from qmesh.host.wireguard import kernel
from qmesh.mesh.guard.tables import TABLE
from tests.support.control_node import make_control_node
from tests.support.skips import CANNOT
from tests.support.waiting import comes_true, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

PAGE = Path(qmesh_file).parents[1] / "docs/recovery.md"
RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
INIT = ("--name", "fra-1", "--endpoint", "192.0.2.1", "--workers", "2", "--node", "2.0")


def run(
    state: Path, *words: str, code: int = 0, stdout: str | None = None, under: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """A command as it is typed. stdout: a file in place of what is read. under: what it is started by."""
    command_line = [*under, sys.executable, "-m", "qmesh", *words, "--state", str(state)]
    output = subprocess.PIPE if stdout is None else os.open(stdout, os.O_WRONLY)
    done = subprocess.run(
        command_line,
        stdout=output,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "qmesh itself failed" not in done.stderr
    return done


def list_machine() -> tuple[object, ...]:
    """What a refused command must leave as it was."""
    tables = subprocess.run(["nft", "list", "ruleset"], capture_output=True, check=True).stdout
    devices = subprocess.run(["ip", "-o", "link"], capture_output=True, check=True).stdout
    return tables, devices, RESERVED.read_text()


def has_tunnel_and_guard() -> bool:
    return links.read("qmesh0") is not None and nftables.read_table(TABLE) is not None


WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")


def test_a_refused_init_leaves_nothing(tmp_path):
    state, before = tmp_path / "state", list_machine()
    assert "hint: " in run(state, "init", *INIT, code=3, under=WITHOUT_RIGHTS).stderr
    assert not state.exists()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 51820))  # noqa: S104 - as WireGuard does
        run(state, "init", *INIT, code=2)
    assert not state.exists()
    assert list_machine() == before


def hide_tun() -> None:
    if kernel.is_available():
        pytest.skip(f"{CANNOT}the kernel's WireGuard needs no /dev/net/tun")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/net"], check=True)


def test_one_that_is_refused_after_the_guard_was_loaded_leaves_nothing(tmp_path):
    """No tunnel can be made, which shows at the last moment."""
    hide_tun()
    made = State(tmp_path / "control")
    make_control_node(made)
    invitation = invite(made, InviteOptions(name="hel-2", workers=1, endpoint=None, expires="1h")).text()
    state, before = tmp_path / "state", list_machine()
    run(state, "init", *INIT, code=3)
    assert not state.exists()
    wish = JoinOptions(endpoint=None, config=None, listen_port=51999, interface="qmesh7")
    with pytest.raises(MachineRefused):
        join(State(state), invitation, wish, apply=True)
    assert not state.exists()
    assert list_machine() == before


def test_a_join_leaves_its_key_only_once_that_may_be_known(tmp_path, monkeypatch):
    made = State(tmp_path / "control")
    make_control_node(made, endpoint="127.0.0.1")
    invitation = invite(made, InviteOptions(name="hel-2", workers=1, endpoint=None, expires="1h")).text()
    state, before = tmp_path / "state", list_machine()
    wish = JoinOptions(endpoint=None, config=None, listen_port=51999, interface=None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 51999))  # noqa: S104 - as WireGuard does
        with pytest.raises(BadInput, match="51999"):
            join(State(state), invitation, wish, apply=True)
    assert not state.exists()

    monkeypatch.setattr("qmesh.agent.commands.join.redeem.attempt_wait_s", lambda *_: 0.05)
    with pytest.raises(EnrolmentRefused, match="does not answer"):
        join(State(state), invitation, wish, apply=True)
    assert [each.name for each in state.iterdir()] == ["private.key"]
    assert list_machine() == before


def test_a_machine_that_is_a_member_by_then_stays_one(tmp_path):
    """Its invitation is used up."""
    state = State(tmp_path / "state")

    def become_member_and_fail() -> None:
        with make_state_directory(state):
            make_control_node(state)
            raise MachineRefused("no tunnel", hint="none")

    with pytest.raises(MachineRefused):
        become_member_and_fail()
    assert state.settings().name == "control"


def test_a_machine_whose_sysctls_cannot_be_written_is_kept_all_the_same(tmp_path):
    state = tmp_path / "state"
    subprocess.run(["mount", "-o", "bind,ro", "/proc/sys", "/proc/sys"], check=True)
    done = run(state, "init", *INIT)
    assert "Read-only file system; all else is done" in done.stderr
    assert "`sysctl -w net.ipv4.ip_local_reserved_ports=40000-40001`" in done.stderr
    (found,) = [
        each
        for each in json.loads(run(state, "check", "--json", code=1).stdout)["findings"]
        if each["code"] == "port-not-reserved"
    ]
    assert (found["severity"], found["subject"]) == ("error", "40000-40001")
    assert "sysctl -w net.ipv4.ip_local_reserved_ports=40000-40001" in found["cure"]

    # The agent: what was taken away comes back, and a reserved port in it would be a step that never ends.
    links.delete("qmesh0")
    nftables.run(f"delete table inet {TABLE}")
    wait_until(has_tunnel_and_guard, 60)

    # A roll-back needs no write either.
    run(state, "down", "--open")
    assert not has_tunnel_and_guard()
    tried = run(state, "apply", "--confirm", "600")
    assert "cannot be written" in tried.stderr
    assert has_tunnel_and_guard()
    run(state, "undo", "--now")
    assert links.read("qmesh0") is None
    assert nftables.read_table(TABLE) is None

    refused = run(state, "apply", code=3)
    assert "all other steps were taken" in refused.stderr
    assert has_tunnel_and_guard()
    assert run(state, "uninstall", "--delete-state", "--json").stdout
    assert not state.exists()
    assert not held_table.is_held()


def test_what_was_done_is_said_where_standard_output_is_full(tmp_path):
    state, full = tmp_path / "state", "/dev/full"
    lost = "error: the command did its work, but standard output cannot be written: No space left on device"
    done = run(state, "init", *INIT, "--no-apply", code=3, stdout=full)
    assert "fra-1 is in mesh" in done.stderr
    assert lost in done.stderr
    done = run(state, "set", "fra-1", "--workers", "3", code=3, stdout=full)
    assert "fra-1 is changed: revision 2" in done.stderr
    told = json.loads(run(state, "set", "fra-1", "--workers", "2", "--json", code=3, stdout=full).stderr)
    assert told["answer"]["revision"] == 3

    # It has no agent, which whoever asks is told.
    assert "no agent runs here" in run(state, "plan", code=1).stderr
    assert "no agent: nothing fixes fra-1; on fra-1: qmesh apply" in run(state, "status").stdout

    # A secret is said nowhere, and what nobody has is good for nothing.
    done = run(state, "invite", "hel-2", "--workers", "1", code=3, stdout=full)
    assert "could not be written, and is withdrawn again" in done.stderr
    assert "qmesh1" not in done.stderr
    assert json.loads(run(state, "invite", "--list", "--json").stdout)["invitations"] == []

    backup = run(state, "backup", "-", code=3, stdout=full)
    assert "the backup could not be written completely: No space left on device" in backup.stderr
    assert not State(state).last_backup.exists()
    done = run(state, "status", code=3, stdout=full)
    assert done.stderr.startswith("error: standard output cannot be written")


def read_cleanup() -> str:
    """What the page says to type where no systemd runs: all blocks of its section but the first."""
    section = PAGE.read_text(encoding="utf-8").partition("\n### Clean up by hand\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert "systemctl" in blocks[0]
    assert len(blocks) == 5
    return "".join(blocks[1:])


def list_leftovers() -> str:
    """What is left over of a mesh that was there."""
    looks = (
        ["nft", "list", "tables"],
        ["ip", "-o", "link", "show", "type", "tun"],
        ["pgrep", "-r", "D,R,S,T", "-fa", "--", "--state /var/lib/qmesh|wireguard-go"],
        ["find", "/var/lib/qmesh", "/run/qmesh", "/run/wireguard", "-mindepth", "1"],
        ["cat", str(RESERVED)],
    )
    return "".join(
        subprocess.run(words, capture_output=True, text=True, check=False).stdout for words in looks
    )


def test_what_the_page_says_to_type_leaves_nothing_of_a_program_that_is_gone():
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib"], check=True)
    run(Path("/var/lib/qmesh"), "init", *INIT)
    there = list_leftovers()
    assert all(each in there for each in ("inet qmesh", "agent --state", "hold.py --state", "40000-40001"))
    typed = subprocess.run(["sh"], input=read_cleanup(), capture_output=True, text=True, check=False)
    assert "not found" not in typed.stderr
    comes_true(lambda: not list_leftovers().strip(), 1)
    assert list_leftovers().strip() == ""
