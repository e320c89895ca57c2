from __future__ import annotations

import errno
import struct

import pytest

from qmesh.errors import KernelRefused, NeedsRoot
from qmesh.host.network import netlink
from qmesh.host.network.netlink_messages import parse_answers, read_whole_dump

pytestmark = pytest.mark.kernel


def test_a_torn_dump_is_asked_for_again():
    answers = [(["old", "new"], True), (["new"], False)]
    assert read_whole_dump(lambda: answers.pop(0)) == ["new"]


def test_a_dump_that_is_always_torn_is_refused():
    with pytest.raises(KernelRefused, match="too fast"):
        read_whole_dump(lambda: (["new"], True))


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
