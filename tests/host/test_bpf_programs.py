"""eBPF programs beside all rules, as the kernel has them."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from qmesh.host.firewall import bpf_programs
from qmesh.host.firewall.bpf_programs import find_bpf_programs, parse_name
from tests.support.bpf import CLASSIFIER, DROP, SHOT, TCX_EGRESS, attach_program, detach_program
from tests.support.skips import CANNOT

GROUP_PACKETS, GROUP_CALLS = 8, 18
CONNECT4, GROUP_INGRESS = 10, 0


def attach(of: int, place: int, kind: int, answer: int, *, name: str) -> None:
    try:
        attach_program(of, place, kind, answer, name=name)
    except OSError as error:
        pytest.skip(f"{CANNOT}its kernel attaches no such program: {error}")


@contextlib.contextmanager
def own_group():
    """A control group, with a process in it that waits; its directory, and the process's number."""
    root = next(
        (
            Path(words[1])
            for words in map(str.split, Path("/proc/mounts").read_text().splitlines())
            if words[2] == "cgroup2"
        ),
        None,
    )
    if root is None:
        pytest.skip(f"{CANNOT}it has no control groups (cgroup2)")
    group = root / f"bpf-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"{CANNOT}its control groups are not ours to make: {error.strerror}")
    try:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as waiting:
            (group / "cgroup.procs").write_text(str(waiting.pid))
            yield group, waiting.pid
            waiting.communicate()
    finally:
        group.rmdir()


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_programs_of_an_interface_and_of_a_processes_group_are_found_with_their_names():
    subprocess.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far"], check=True)
    with own_group() as (group, process):
        assert find_bpf_programs(["eth0", "eth9"], [process, 0]) == ()
        attach(socket.if_nametoindex("eth0"), TCX_EGRESS, CLASSIFIER, SHOT, name="shoots")
        (found,) = find_bpf_programs(["eth0", "far"], [])
        assert (found.interface, found.place) == ("eth0", "tcx")
        assert found.kinds[0].startswith("egress: shoots (id ")
        detach_program(socket.if_nametoindex("eth0"), TCX_EGRESS)
        assert find_bpf_programs(["eth0"], []) == ()

        opened = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
        attach(opened, CONNECT4, GROUP_CALLS, DROP, name="no_calls")
        attach(opened, GROUP_INGRESS, GROUP_PACKETS, DROP, name="no_packets")
        os.close(opened)
        (found,) = find_bpf_programs([], [process, process])
        assert (found.interface, found.place) == (str(group), "control group")
        assert [each.partition(" (id ")[0] for each in found.kinds] == [
            "ingress: no_packets",
            "connect4: no_calls",
        ]


def test_where_bpf_is_refused_or_unknown_nothing_is_seen(monkeypatch):
    monkeypatch.setattr(bpf_programs, "_CALLS", {})
    assert find_bpf_programs(["lo"], [os.getpid()]) == ()


def test_a_programs_name_is_what_ends_before_the_first_zero():
    assert parse_name(bytes(64) + b"drops".ljust(16, b"\0")) == "drops"
    assert parse_name(bytes(80)) == "?"
    with pytest.raises(ValueError, match="breaks off"):
        parse_name(struct.pack("=I", 7))
