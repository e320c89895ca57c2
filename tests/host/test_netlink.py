from __future__ import annotations

import errno
import struct

import pytest
from pyroute2.netlink import NLM_F_DUMP_INTR

from qmesh.errors import KernelRefused, NeedsRoot
from qmesh.host.network import netlink
from qmesh.host.network.netlink_messages import parse_answers

pytestmark = pytest.mark.kernel


def message(name: str, flags: int = 0) -> dict[str, object]:
    return {"header": {"flags": flags}, "name": name}


def test_a_torn_dump_is_asked_for_again():
    answers = [[message("old"), message("new", NLM_F_DUMP_INTR)], [message("new")]]

    assert netlink.read_pyroute2_dump(lambda: answers.pop(0)) == [message("new")]


def test_a_dump_that_is_always_torn_is_refused():
    with pytest.raises(KernelRefused, match="too fast"):
        netlink.read_pyroute2_dump(lambda: [message("new", NLM_F_DUMP_INTR)])


def test_an_empty_dump_is_empty():
    assert netlink.read_pyroute2_dump(tuple) == []


@pytest.mark.parametrize(
    ("code", "kind", "hint"),
    [
        (errno.EPERM, NeedsRoot, "root"),
        (errno.ENODEV, KernelRefused, "qmesh apply"),
        (errno.ENOBUFS, KernelRefused, "memory"),
        (errno.EOPNOTSUPP, KernelRefused, "cannot do that"),
        (errno.EADDRINUSE, KernelRefused, "ours"),
        (errno.EINVAL, KernelRefused, "dmesg"),
    ],
)
def test_every_refusal_has_a_hint(code, kind, hint):
    refused = netlink.build_kernel_error(code, "do it", {errno.EADDRINUSE: "ours"})

    assert type(refused) is kind
    assert refused.message.startswith("could not do it: ")
    assert hint in refused.hint


def header(length: int, kind: int, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", length, kind, flags, 1, 0)


def test_the_answers_in_a_buffer():
    part = header(24, 29, flags=2) + b"some" + b"thin"
    torn = header(20, 29, flags=0x12) + b"some"
    error = header(36, 2) + struct.pack("=i", -19) + bytes(16)
    success = header(36, 2) + struct.pack("=i", 0) + bytes(16)
    done = header(20, 3, flags=2) + struct.pack("=i", 0)

    assert list(parse_answers(part + torn + done)) == [
        (part, None, False),
        (torn, None, True),
        (done, 0, False),
    ]
    assert list(parse_answers(error)) == [(error, 19, False)]
    assert list(parse_answers(success)) == [(success, 0, False)]


@pytest.mark.parametrize("length", [0, 15, 19, 21, 2**31])
def test_a_message_of_a_wrong_length_is_refused(length):
    with pytest.raises(ValueError, match="breaks off"):
        list(parse_answers(header(length, 29) + b"some"))
