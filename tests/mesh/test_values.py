"""The nouns cannot be built wrong, and what is refused is refused in two plain lines."""

from __future__ import annotations

import base64
import traceback
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.machine import Cores, Machine, validate_worker_count
from qmesh.mesh.ports.port_ranges import format_port_ranges, list_port_ranges, parse_port_ranges
from qmesh.mesh.state import Peer
from qmesh.mesh.values import (
    PROFILES,
    Endpoint,
    Secret,
    normalize_ip_address,
    normalize_ip_network,
    quote_text,
    validate_interface_name,
    validate_machine_name,
    validate_port,
    validate_wireguard_key,
)
from tests.support.strategies import addresses

KEY = base64.b64encode(bytes(range(32))).decode()


def refusal(call: Callable[..., object], *args: Any, **named: Any) -> BadInput:
    """The BadInput that a call raises: two one-line texts, nothing in them that moves a cursor."""
    with pytest.raises(BadInput) as caught:
        call(*args, **named)
    error = caught.value
    assert error.exit_code == 2
    assert str(error) == error.message
    for text in (error.message, error.hint):
        assert text
        assert text.isprintable()
    assert error.__cause__ is None
    return error


@pytest.mark.parametrize("text", ["a", "0", "machine-b", "a--b", "9-9", "a" * 63, "0" * 63])
def test_a_machine_name_is_taken(text: str) -> None:
    assert validate_machine_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "-a", "a-", "-rf", "--help", "a" * 64, "A", "Machine", "a_b", "a.b", "a b", " a", "a "),
        *("..", "../a", "a/b", "/", "a\n", "\na", "a\nb", "a\r", "a\0", "a\x1b[31m", "a\x7f", "a\t"),
        *("ä", "\u0430", "٣", "a٣", "a\u200b", "\u202ea", "\ud800", "a;b", "$a", "%i", "*"),
    ],
)
def test_what_is_no_machine_name_is_refused(text: str) -> None:
    assert "is not a machine name" in refusal(validate_machine_name, text).message


@pytest.mark.parametrize("text", ["q", "qmesh0", "wg-mesh_1", "Q", "a" * 15])
def test_an_interface_name_is_taken(text: str) -> None:
    assert validate_interface_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "a" * 16, "0a", "-a", "_a", "a.1", "a/b", "..", "a b", "a\n", "\na", "a\0", 'a"', "a%d", "a:0"),
        *("ä0", "a٣", "a\x1b", "a}"),
    ],
)
def test_what_is_no_interface_name_is_refused(text: str) -> None:
    assert "is not an interface name" in refusal(validate_interface_name, text).message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a", "'a'"),
        ("a\n\x1b[31m", r"'a\n\x1b[31m'"),
        ("ä\u202e", r"'\xe4\u202e'"),
        ("a" * 60, f"'{'a' * 60}'"),
        ("a" * 61, f"'{'a' * 60}'..."),
        ("\n" * 99, r"'" + r"\n" * 60 + "'..."),
    ],
)
def test_quoted_text_is_escaped_and_cut_short(text: str, shown: str) -> None:
    assert quote_text(text) == shown


@given(st.text())
def test_quoted_text_is_one_line_of_plain_characters(text: str) -> None:
    assert quote_text(text).isascii()
    assert quote_text(text).isprintable()


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.77.0.2", "10.77.0.2"),
        ("fd00::2", "fd00::2"),
        ("FD00:0:0::0002", "fd00::2"),
        ("::", "::"),
    ],
)
def test_an_address_becomes_canonical(text: str, canonical: str) -> None:
    assert normalize_ip_address(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        *("", "10.77.0", "10.77.0.256", "10.77.0.02", "10.77.0.2/32", "10.77.0.2\n", " 10.77.0.2", "0x7f.1"),
        *(
            "fe80::1%eth0",
            "::ffff:192.0.2.1",
            "fe80::1%\x1b",
            "10.77.0.2%eth0",
            "\u0661\u0660.77.0.2",
            "localhost",
            "[::1]",
            "::1::",
            ":",
        ),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert "is not an IP address" in refusal(normalize_ip_address, text).message


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.77.0.0/20", "10.77.0.0/20"),
        ("10.77.0.0/255.255.240.0", "10.77.0.0/20"),
        ("10.77.0.2", "10.77.0.2/32"),
        ("FD12:3456:789A::/64", "fd12:3456:789a::/64"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_a_network_becomes_canonical(text: str, canonical: str) -> None:
    assert normalize_ip_network(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "10.77.0.1/20", "10.77.0.0/33", "10.77.0.0/-1", "10.77.0.0/", "10.77.0.0/20\n"),
        *("fd00::1/64", "fd00::/129", "fe80::%eth0/64", "fe80::1%eth0", "10.77.0.0/20/20"),
    ],
)
def test_what_is_no_network_is_refused(text: str) -> None:
    assert "is not a network" in refusal(normalize_ip_network, text).message


@given(st.binary(min_size=32, max_size=32))
def test_a_key_of_32_octets_is_taken(octets: bytes) -> None:
    text = base64.b64encode(octets).decode()
    assert validate_wireguard_key(text) == text


SPELLINGS = {
    "empty": "",
    "31 octets": base64.b64encode(bytes(31)).decode(),
    "33 octets": base64.b64encode(bytes(33)).decode(),
    "unused bits set": "A" * 42 + "B=",
    "no padding": KEY.rstrip("="),
    "more padding": KEY + "=",
    "newline behind": KEY + "\n",
    "newline inside": KEY[:20] + "\n" + KEY[20:],
    "space in front": " " + KEY,
    "URL alphabet": base64.urlsafe_b64encode(b"\xff" * 32).decode(),
    "hexadecimal": bytes(range(32)).hex(),
    "not ASCII": "ä" + KEY[1:],
    "two keys": KEY + KEY,
}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)
def test_what_is_no_key_is_refused_and_not_repeated(text: str) -> None:
    error = refusal(validate_wireguard_key, text)
    assert error.message == "this is not a WireGuard key"
    assert not text.strip() or text.strip()[:8] not in error.message + error.hint


@pytest.mark.parametrize("number", [1, 2, 51820, 65535])
def test_a_port_is_taken(number: int) -> None:
    assert validate_port(number, "listen port") == number


@pytest.mark.parametrize("number", [0, -1, 65536, 10**9])
def test_what_is_no_port_is_refused_by_its_purpose(number: int) -> None:
    assert refusal(validate_port, number, "listen port").message == f"listen port {number} is out of range"


@pytest.mark.parametrize("number", [1, 64, 65535])
def test_a_worker_count_is_taken(number: int) -> None:
    assert validate_worker_count(number) == number


@pytest.mark.parametrize("number", [0, -1, 65536])
def test_what_is_no_worker_count_is_refused(number: int) -> None:
    assert refusal(validate_worker_count, number).message == f"{number} is not a number of workers"


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{0!r}".format, "{0!a}".format, "%s".__mod__])
def test_e1_a_secret_shows_itself_in_no_text(show: Callable[[object], str]) -> None:
    peer = Peer(public_key=KEY, allowed_ips=(), preshared_key=Secret("hunter2"))
    assert show(Secret("hunter2")) == "Secret(...)"
    assert "hunter2" not in show(peer)


@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins])
@pytest.mark.parametrize(
    "value", [Secret("hunter2"), Peer(public_key=KEY, allowed_ips=(), preshared_key=Secret("hunter2"))]
)
def test_e1_a_secret_is_refused_by_every_encoder(encode: Callable[[object], object], value: object) -> None:
    with pytest.raises(TypeError) as caught:
        encode(value)
    assert "hunter2" not in str(caught.value)


def test_e1_a_secret_is_not_in_a_traceback_that_shows_locals() -> None:
    def fail(key: Secret) -> None:
        raise ValueError(f"no good: {key}")

    with pytest.raises(ValueError, match="no good") as caught:
        fail(Secret("hunter" + "2"))
    told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "key = Secret(...)" in told
    assert "hunter2" not in told


def test_a_secret_is_told_when_asked_and_compares_by_its_text() -> None:
    assert Secret("a").reveal() == "a"
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert len({Secret("a"), Secret("b")}) == 2
    assert Secret("a") != "a"
    assert not hasattr(Secret("a"), "__dict__")


LONG_HOST = ".".join(["a" * 63] * 3 + ["b" * 61])

ENDPOINTS = [
    ("203.0.113.5", "203.0.113.5", 51820),
    ("203.0.113.5:1", "203.0.113.5", 1),
    ("203.0.113.5:65535", "203.0.113.5", 65535),
    ("203.0.113.5:00080", "203.0.113.5", 80),
    ("node.example.org", "node.example.org", 51820),
    ("Node.Example.ORG:443", "Node.Example.ORG", 443),
    ("node.example.org.:443", "node.example.org.", 443),
    ("localhost:5", "localhost", 5),
    ("3com.example", "3com.example", 51820),
    ("1.example", "1.example", 51820),
    ("x-1", "x-1", 51820),
    ("a" * 63, "a" * 63, 51820),
    (LONG_HOST, LONG_HOST, 51820),
    ("[2001:db8::5]:7", "2001:db8::5", 7),
    ("[2001:DB8::5]", "2001:db8::5", 51820),
    ("2001:DB8:0::5", "2001:db8::5", 51820),
    ("::1", "::1", 51820),
]


@pytest.mark.parametrize(("text", "host", "port"), ENDPOINTS)
def test_an_endpoint_is_read(text: str, host: str, port: int) -> None:
    assert Endpoint.parse(text) == Endpoint(host, port)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":51820", "host:", "host:0", "host:65536", "host:99999", "host:123456", "host:-1"),
        *("host:+1", "host: 1", "host:1 ", "host:1\n", "host:x", "host:1.0", "host:\uff11", "host:1_0"),
        *("1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.04", "1.2.3.4.", "12345", "example.123", "example.7."),
        *("under_score.example", "-a.example", "a-.example", "a..example", ".example", "example..", "."),
        *("a" * 64, "a" * 64 + ".example", LONG_HOST + "b", LONG_HOST[:-1] + "..", "a" * 254),
        *("[", "[]", "[]:5", "[::1", "[::1]x", "[::1]51820", "[::1]:", "[::1]:0", "[[::1]]:5", "::1]:5"),
        *("[1.2.3.4]:5", "[host]:5", "[fe80::1%eth0]:5", "fe80::1%eth0", "::g", "1:2:3", "host:1:2"),
        *("host\n", "\nhost", "host\nname", "ho st", "höst", "a/b", "user@host", "host\0", "\x1b[31m:5", "*"),
        *("[::1\n]:5", "[::1]:5\n", "203.0.113.5\n", "203.0.113.5/32", "http://host:5"),
    ],
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    refusal(Endpoint.parse, text)


def test_without_a_default_an_endpoint_needs_its_port() -> None:
    assert "has no port" in refusal(Endpoint.parse, "host", default_port=None).message
    assert "has no port" in refusal(Endpoint.parse, "[::1]", default_port=None).message
    assert Endpoint.parse("host:5", default_port=None) == Endpoint("host", 5)
    assert Endpoint.parse("host", default_port=7) == Endpoint("host", 7)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("host", 0, "endpoint port 0 is out of range"),
        ("host", 65536, "endpoint port 65536 is out of range"),
        ("2001:DB8::5", 5, "endpoint '2001:DB8::5' is not canonical"),
        ("[::1]", 5, "'[::1]' is not an IP address"),
        ("host\n", 5, r"'host\n' is not a host"),
        ("", 5, "'' is not a host"),
    ],
)
def test_an_endpoint_cannot_be_built_wrong(host: str, port: int, message: str) -> None:
    assert refusal(Endpoint, host, port).message == message


def test_the_hint_for_an_endpoint_that_is_not_canonical_says_how_to_write_it() -> None:
    assert refusal(Endpoint, "2001:DB8::5", 5).hint == "write it as 2001:db8::5"


@pytest.mark.parametrize(
    ("host", "is_address"), [("203.0.113.5", True), ("::1", True), ("host", False), ("1.example", False)]
)
def test_an_endpoint_knows_whether_it_needs_dns(host: str, is_address: bool) -> None:
    assert Endpoint(host, 5).is_address is is_address


@given(addresses, st.integers(1, 65535))
def test_an_endpoint_reads_back_as_it_prints(host: str, port: int) -> None:
    assert Endpoint.parse(str(Endpoint(host, port)), default_port=None) == Endpoint(host, port)


@pytest.mark.parametrize("json", [b'{"host":"h","port":0}', b'{"host":"h","port":65536}', b'{"host":"h"}'])
def test_a_message_holds_no_endpoint_with_a_bad_port(json: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json, type=Endpoint)


@pytest.mark.parametrize("port", [1, 65535])
def test_a_message_may_hold_any_port(port: int) -> None:
    assert msgspec.json.decode(msgspec.json.encode(Endpoint("h", port)), type=Endpoint).port == port


def machine(**named: Any) -> Machine:
    return Machine(**{"name": "b", "public_key": KEY, "address": "10.77.0.2", "workers": 4, **named})


def test_a_machine_is_active_and_without_endpoints_unless_told() -> None:
    assert (machine().state, machine().endpoints) == ("active", ())


@pytest.mark.parametrize("state", ["active", "paused"])
def test_a_member_has_a_worker_count(state: str) -> None:
    error = refusal(machine, state=state, workers=None)
    assert error.message == "b has no worker count"


def test_an_invited_machine_may_leave_its_worker_count_open() -> None:
    assert machine(state="invited", workers=None).workers is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "../b"}, "'../b' is not a machine name"),
        ({"public_key": "x"}, "this is not a WireGuard key"),
        ({"address": "10.77.0.2\n"}, r"'10.77.0.2\n' is not an IP address"),
        ({"address": "FD00::2"}, "address 'FD00::2' is not canonical"),
        ({"workers": 0}, "0 is not a number of workers"),
        ({"workers": -1}, "-1 is not a number of workers"),
        ({"workers": 65536}, "65536 is not a number of workers"),
        ({"workers": 0, "state": "invited"}, "0 is not a number of workers"),
    ],
)
def test_a_machine_cannot_be_built_wrong(wrong: dict[str, Any], message: str) -> None:
    assert refusal(machine, **wrong).message == message


def test_the_hint_for_an_address_that_is_not_canonical_says_how_to_write_it() -> None:
    assert refusal(machine, address="FD00::2").hint == "write it as fd00::2"


@pytest.mark.parametrize(
    "wrong",
    [{"workers": 0}, {"workers": True}, {"state": "gone"}, {"endpoints": [{"host": "h", "port": 0}]}],
)
def test_a_message_holds_no_machine_of_wrong_types(wrong: dict[str, Any]) -> None:
    json = msgspec.json.encode({**msgspec.to_builtins(machine()), **wrong})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json, type=Machine)


def test_a_noun_is_not_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        machine().workers = 5  # type: ignore[misc]


def test_cores_are_numbered_and_listen_in_order() -> None:
    cores = Cores(4, 3)
    assert list(cores.numbers) == [4, 5, 6]
    assert list(cores.ports(40000)) == [40003, 40004, 40005]


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        ((), ""),
        ((7,), "7"),
        ((1, 2), "1-2"),
        ((1, 2, 3, 7), "1-3, 7"),
        ((1, 3, 5), "1, 3, 5"),
        ((40000, 40001, 40002, 40007, 40009, 40010), "40000-40002, 40007, 40009-40010"),
    ],
)
def test_ports_are_written_as_ranges(ports: tuple[int, ...], text: str) -> None:
    assert format_port_ranges(ports) == text
    assert format_port_ranges(ports, separator=",") == text.replace(", ", ",")
    assert parse_port_ranges(text) == parse_port_ranges(text.replace(", ", ",")) == frozenset(ports)


@pytest.mark.parametrize("text", ["x", "-5", "1-x", "65536", "1-65536", "1-99999999999999999999", "1-2-3"])
def test_what_are_no_ports_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"port|int"):
        parse_port_ranges(text)


@given(st.sets(st.integers(1, 65535) | st.integers(1, 30)).map(lambda ports: tuple(sorted(ports))))
def test_ranges_are_the_ports_again_and_none_touches_the_next(ports: tuple[int, ...]) -> None:
    ranges = list_port_ranges(ports)
    assert tuple(port for first, last in ranges for port in range(first, last + 1)) == ports
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(ranges))


def test_there_are_four_profiles() -> None:
    assert PROFILES == ("1.4", "2.0", "2.1", "2.1-rust")
