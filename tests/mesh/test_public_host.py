"""A host that the network can reach, and why others are none."""

from __future__ import annotations

import pytest

from qmesh.errors import BadInput
from qmesh.mesh.reachability.public_host import explain_private_host, parse_public_host


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("Node-1.Example.org.", "node-1.example.org"),
    ],
)
def test_addresses_and_names_of_the_internet(text, host):
    assert parse_public_host(text) == parse_public_host(host) == host


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0.0.0.0", "every address of a machine"),  # noqa: S104
        ("::", "every address of a machine"),
        ("127.0.0.1", "reaches only itself"),
        ("::1", "reaches only itself"),
        ("10.77.0.2", "a private network"),
        ("192.168.0.7", "a private network"),
        ("100.64.3.4", "a private network"),
        ("169.254.1.1", "a private network"),
        ("fd77::2", "a private network"),
        ("fe80::2", "a private network"),
        ("224.0.0.1", "not the address of one machine"),
        ("ff02::1", "not the address of one machine"),
        ("255.255.255.255", "not an address of the internet"),
        ("0.1.2.3", "not an address of the internet"),
        ("4000::1", "not an address of the internet"),
        ("localhost", "a name without a domain"),
        ("hel-2", "a name without a domain"),
        ("nas.local", "of the local zone local"),
        ("router.home.arpa", "of the local zone arpa"),
        ("unknown.invalid", "of the local zone invalid"),
    ],
)
def test_what_the_network_cannot_reach_is_not_announced(text, reason):
    with pytest.raises(BadInput, match="cannot be announced") as refused:
        parse_public_host(text)
    assert reason in refused.value.message
    assert "203.0.113.7" in refused.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "203.0.113.7:25000",
        "/ip4/203.0.113.7/tcp/25000",
        "[2001:db8::7]:25000",
        "fe80::1%eth0",
        "http://x.org",
    ],
)
def test_a_port_or_protocol_is_left_out(text):
    with pytest.raises(BadInput):
        parse_public_host(text)


@pytest.mark.parametrize(
    "text", ["", "203.0.113", "x_y.example.org", "-a.example.org", "a b.example.org", "::ffff:203.0.113.7"]
)
def test_what_is_no_host_is_refused(text):
    with pytest.raises(BadInput):
        parse_public_host(text)


def test_a_name_is_looked_at_whatever_its_letter_case():
    assert explain_private_host("NAS.Local.") == "a name of the local zone local"
    assert explain_private_host("node.example.org") is None
