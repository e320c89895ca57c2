"""A data worker's multiaddr."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig import parse_multiaddr


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("/ip4/10.77.0.2/tcp/40003", ("10.77.0.2", 40003)),
        ("/ip4/0.0.0.0/tcp/1", ("0.0.0.0", 1)),  # noqa: S104  # a wildcard is well-formed; lint is elsewhere
        ("/ip6/FD00:0:0::0002/tcp/65535", ("fd00::2", 65535)),
        ("/ip6/::/tcp/40000", ("::", 40000)),
    ],
)
def test_good(entry, expected):
    assert parse_multiaddr(entry) == expected


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "10.77.0.2:40003",
        "/ip4/10.77.0.2/tcp/40003/",
        "/ip4/10.77.0.2/tcp/40003\n",
        " /ip4/10.77.0.2/tcp/40003",
        "/ip4/10.77.0.2/udp/40003",
        "/ip4/10.77.0.2/udp/40003/quic-v1",
        "/ip4/10.77.0.2/tcp/40003/p2p/Qm",
        "/ip4/10.77.0.2/tcp/",
        "/ip4/10.77.0.2/tcp/0",
        "/ip4/10.77.0.2/tcp/65536",
        "/ip4/10.77.0.2/tcp/040003",
        "/ip4/10.77.0.2/tcp/-1",
        "/ip4/10.77.0.2/tcp/%d",
        "/ip4/10.77.0.2/tcp/٤٠",
        "/ip4/10.77.0.256/tcp/40003",
        "/ip4/10.77.0.02/tcp/40003",
        "/ip4/fd00::2/tcp/40003",
        "/ip6/10.77.0.2/tcp/40003",
        "/ip6/fd00::2%eth0/tcp/40003",
        "/ip6/fd00:::2/tcp/40003",
        "/ip4/<WORKER_IP>/tcp/40003",
        "/dns4/worker.example.org/tcp/40003",
        "/ip6/" + ":" * 100_000,
    ],
)
def test_bad(entry):
    with pytest.raises(BadInput) as caught:
        parse_multiaddr(entry)
    assert len(caught.value.message) < 200
    assert "\n" not in caught.value.message


@given(st.ip_addresses(), st.integers(1, 65535))
def test_law_what_is_written_is_read(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port):
    assert parse_multiaddr(f"/ip{address.version}/{address}/tcp/{port}") == (str(address), port)
    assert parse_multiaddr(f"/ip{address.version}/{address.exploded}/tcp/{port}") == (str(address), port)
