"""On the way to the first packet nobody looks again and again: who waits is told."""

import pytest

from tests.support.lab.cluster import invite, make_control
from tests.support.lab.traces import Call, parse_trace, trace

pytestmark = [pytest.mark.lab, pytest.mark.userspace]


def test_a_look_is_told_from_a_wait_that_was_ended():
    """What strace wrote of the waits that qmesh once had, and of those that it has."""
    begun = '7 1.0 execve("/bin/qmesh", ["qmesh", "join"], 0x7 /* 5 vars */) = 0\n'
    looks = (
        "clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, {tv_sec=13187, tv_nsec=1}, NULL) = 0",
        "poll([{fd=5, events=POLLIN}], 1, 100) = 0 (Timeout)",
        "pselect6(6, [5], NULL, NULL, {tv_sec=0, tv_nsec=500000}, NULL) = 0 (Timeout)",
        "epoll_wait(5, [], 1, 100) = 0",
        "wait4(8, 0x7fff, WNOHANG, NULL) = 0",
        "futex(0x7f, FUTEX_WAIT_BITSET_PRIVATE, 0, {tv_sec=2, tv_nsec=6000000}, 0xff) = -1 ETIMEDOUT (x)",
        "flock(4, LOCK_EX|LOCK_NB) = -1 EAGAIN (Resource temporarily unavailable)",
    )
    waits = (
        "poll([{fd=5, events=POLLIN}, {fd=6, events=POLLIN}], 2, 60000) = 1 ([{fd=6, revents=POLLIN}])",
        "wait4(8, [{WIFEXITED(s) && WEXITSTATUS(s) == 0}], 0, NULL) = 8",
        "epoll_wait(5, [{events=EPOLLOUT, data={u32=6, u64=6}}], 1, 1000) = 1",
        "flock(4, LOCK_EX|LOCK_NB) = 0",
        "pselect6(6, [5], NULL, NULL, {tv_sec=0, tv_nsec=0}, NULL) = 0 (Timeout)",
        # a thread of Python's that waits for its turn
        "futex(0xa5, FUTEX_WAIT_BITSET_PRIVATE, 0, {tv_sec=2, tv_nsec=4990000}, 0xff) = -1 ETIMEDOUT (x)",
    )
    found = parse_trace(begun + "".join(f"7 2.0 {text}\n" for text in (*looks, *waits)))

    assert [each.text for each in found if each.is_look] == list(looks)
    assert {each.program for each in found} == {"qmesh join"}


def test_what_is_said_in_halves_is_one_call_of_its_program():
    said = (
        '7 1.0 execve("/bin/qmesh", ["qmesh", "join"], 0x7) = 0',
        "7 2.0 vfork( <unfinished ...>",
        '9 3.0 execve("/bin/sh", ["/bin/sh", "-c", "x"], 0x7 <unfinished ...>',
        "7 4.0 <... vfork resumed>) = 9",
        "9 5.0 <... execve resumed>) = 0",
        "9 6.0 wait4(-1,  <unfinished ...>",
        "7 7.0 exit_group(0) = ?",
        "9 8.0 <... wait4 resumed>0x7, WNOHANG, NULL) = 0",
    )
    found = parse_trace("\n".join(said))

    assert [each for each in found if each.is_look] == [
        Call(6.0, "/bin/sh -c x", "wait4(-1, 0x7, WNOHANG, NULL) = 0")
    ]


def test_between_the_first_line_of_a_join_and_its_first_packet_as_a_member_nobody_looks(lab):
    control = make_control(lab)
    member = lab.machine("machine-b", "192.168.0.201")
    invite(control, member, "--workers", "4")

    calls = trace(member, "qmesh", "join", "invitation")

    answered = next(at for at, each in enumerate(calls) if '"GET /v1/membership' in each.text)
    before = [each for each in calls[:answered] if each.program == "qmesh join invitation"]
    assert (
        sum(each.text.startswith("vfork(") for each in before) >= 2
    )  # the tunnel's process, and the guard's
    assert sum(each.text.startswith("fsync(") for each in before) <= 18  # each is milliseconds on a real disk
    # A control node that does not have the new key yet tells nobody when it has: a connection is begun anew.
    assert [each for each in before if each.is_look and "events=POLLOUT}" not in each.text] == []


def test_an_init_does_not_look_either(lab):
    machine = lab.machine("machine-a", "192.168.0.200")

    calls = trace(machine, "qmesh", "init", "--workers", "3", "--node", "1.4")

    own = [each for each in calls if each.program.startswith("qmesh init")]
    assert sum(each.text.startswith("vfork(") for each in own) >= 3  # and the agent
    assert [each for each in own if each.is_look] == []
