"""One contract for both backends, and what each has of its own. No key in here is in use anywhere."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qmesh.errors import KernelRefused, MissingProgram, NeedsRoot
from qmesh.host import wireguard
from qmesh.host.network import links, netlink_messages
from qmesh.host.wireguard import device, genetlink_messages, kernel, uapi, userspace
from qmesh.mesh.state import Counters, Peer
from qmesh.mesh.values import Endpoint, Secret
from tests.support.factories import key
from tests.support.processes import read_of_each
from tests.support.waiting import Deadline, idle, patience, wait_until, within

pytestmark = [
    *(pytest.mark.lab, pytest.mark.kernel, pytest.mark.emulated),
    pytest.mark.usefixtures("own_machine"),
]

NAME = "qmesh0"


@pytest.fixture
def in_kernel() -> wireguard.Backend:
    if not kernel.is_available():
        pytest.skip("this machine cannot: its kernel has no WireGuard")
    return kernel.KernelWireGuard()


@pytest.fixture
def process() -> wireguard.Backend:
    if not Path("/dev/net/tun").exists():
        pytest.skip("this machine cannot: it has no /dev/net/tun")
    return userspace.UserspaceWireGuard()


@pytest.fixture(
    params=[
        pytest.param("in_kernel", id="kernel"),
        pytest.param("process", id="userspace", marks=pytest.mark.userspace),
    ]
)
def backend(request):
    return request.getfixturevalue(request.param)


def public_key(private_key: str) -> str:
    octets = X25519PrivateKey.from_private_bytes(base64.b64decode(private_key)).public_key()
    return base64.b64encode(octets.public_bytes_raw()).decode()


def peer(number: int, *allowed_ips: str) -> Peer:
    return Peer(
        public_key=key(number), allowed_ips=allowed_ips or (f"10.77.{number >> 8}.{number & 255}/32",)
    )


WHOLE = Peer(
    public_key=key(1),
    allowed_ips=("10.77.0.1/32", "fd00:77::/64"),
    endpoint=Endpoint("203.0.113.5", 51820),
    preshared_key=Secret(key(99)),
    keepalive_s=25,
)


def is_bare(found: wireguard.Device) -> bool:
    """Whether nothing is configured; a listen port may have been chosen, as wireguard-go does at once."""
    return (found.public_key, found.peers, found.counters) == (None, (), {})


def running(name: str) -> list[int]:
    """The living processes of a name on the test's machine."""
    found = []
    for number, status in read_of_each("status"):
        lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if lines["Name"] == name and not lines["State"].startswith("Z"):
            found.append(number)
    return found


@contextlib.contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", port))
        yield


def test_a_new_interface_is_bare_and_down(backend):
    backend.create(NAME)
    link = links.read(NAME)

    assert link is not None
    assert (link.kind, link.up, link.addresses) == (backend.kind, False, ())
    assert is_bare(backend.read(NAME))


def test_a_new_interface_is_found_again(backend):
    backend.create(NAME)

    assert type(wireguard.find_backend(NAME)) is type(backend)


def test_an_interface_is_made_once(backend):
    backend.create(NAME)

    with pytest.raises(KernelRefused, match=f"could not create {NAME}: File exists"):
        backend.create(NAME)

    assert backend.read(NAME).peers == ()


def test_the_private_key_is_named_by_its_public_key(backend):
    backend.create(NAME)
    backend.set_key(NAME, Secret(key(7)))
    first = backend.read(NAME).public_key
    backend.set_key(NAME, Secret(key(8)))

    assert first == public_key(key(7))
    assert backend.read(NAME).public_key == public_key(key(8))


@pytest.mark.parametrize("up", [False, True])
def test_the_listen_port(backend, up):
    backend.create(NAME)
    links.set_link_state(NAME, up=up)
    for port in (51820, 51821, 51821):
        backend.set_listen_port(NAME, port)

        assert backend.read(NAME).listen_port == port


def test_a_peer_reads_back_as_it_was_configured(backend):
    backend.create(NAME)
    backend.set_peers(NAME, [WHOLE])
    found = backend.read(NAME)

    assert found.peers == (WHOLE,)
    assert found.counters == {
        key(1): Counters(last_handshake_s=None, rx_bytes=0, tx_bytes=0, endpoint=WHOLE.endpoint)
    }


def test_a_peer_without_anything_reads_back_so(backend):
    bare = Peer(public_key=key(1), allowed_ips=())
    backend.create(NAME)
    backend.set_peers(NAME, [bare])

    assert backend.read(NAME).peers == (bare,)


def test_endpoints_of_both_families(backend):
    backend.create(NAME)
    for text in ("203.0.113.5:51820", "[2001:db8::5]:51821", "[::1]:1", "192.0.2.1:65535"):
        wanted = msgspec.structs.replace(WHOLE, endpoint=Endpoint.parse(text))
        backend.set_peers(NAME, [wanted])

        assert backend.read(NAME).peers == (wanted,)


def test_an_endpoint_of_none_leaves_the_one_there_is(backend):
    backend.create(NAME)
    backend.set_peers(NAME, [WHOLE])
    backend.set_peers(NAME, [msgspec.structs.replace(WHOLE, endpoint=None)])

    assert backend.read(NAME).peers == (WHOLE,)


def test_a_peer_is_configured_whole(backend):
    bare = msgspec.structs.replace(WHOLE, allowed_ips=("10.77.0.9/32",), preshared_key=None, keepalive_s=0)
    backend.create(NAME)
    for wanted in (WHOLE, bare, WHOLE):
        backend.set_peers(NAME, [wanted])

        assert backend.read(NAME).peers == (wanted,)


def test_other_peers_stay(backend):
    backend.create(NAME)
    backend.set_peers(NAME, [WHOLE])
    backend.set_peers(NAME, [peer(2)])

    assert backend.read(NAME).peers == (WHOLE, peer(2))


def test_peers_are_in_the_order_of_their_keys(backend):
    backend.create(NAME)
    backend.set_peers(NAME, [peer(3), peer(200), peer(1)])

    assert backend.read(NAME).peers == (peer(1), peer(3), peer(200))


def test_an_allowed_ip_goes_to_the_last_who_asks(backend):
    backend.create(NAME)
    backend.set_peers(NAME, [peer(1, "10.77.0.1/32"), peer(2, "10.77.0.1/32")])

    assert backend.read(NAME).peers == (Peer(public_key=key(1), allowed_ips=()), peer(2, "10.77.0.1/32"))


def test_peers_are_removed_and_those_that_are_gone_are_fine(backend):
    backend.create(NAME)
    backend.set_peers(NAME, [peer(1), peer(2), peer(3)])
    backend.remove_peers(NAME, [key(1), key(3), key(4)])

    assert backend.read(NAME).peers == (peer(2),)


def test_no_peers_are_nothing_to_do(backend):
    backend.create(NAME)
    backend.set_peers(NAME, [])
    backend.remove_peers(NAME, [])

    assert backend.read(NAME).peers == ()


@pytest.mark.parametrize("count", [300, 3000])
def test_many_peers_in_one_go_read_back_equal(backend, count):
    wanted = [
        msgspec.structs.replace(
            WHOLE, public_key=key(number + 1), allowed_ips=(f"10.{number >> 8}.{number & 255}.0/24",)
        )
        for number in range(count)
    ]
    wanted.sort(key=lambda each: each.public_key)
    backend.create(NAME)
    backend.set_peers(NAME, wanted)

    assert backend.read(NAME).peers == tuple(wanted)

    backend.remove_peers(NAME, [each.public_key for each in wanted[1:]])

    assert backend.read(NAME).peers == (wanted[0],)


def test_a_peer_of_many_allowed_ips_reads_back_equal(backend):
    networks = sorted(str(network) for network in IPv4Network("10.64.0.0/12").subnets(new_prefix=24))[:3000]
    backend.create(NAME)
    backend.set_peers(NAME, [peer(1, *networks), peer(2, "10.77.0.0/32")])
    found = backend.read(NAME)

    assert found.peers == (peer(1, *networks), peer(2, "10.77.0.0/32"))

    backend.set_peers(NAME, [peer(1, *networks[:1001])])

    assert backend.read(NAME).peers[0] == peer(1, *networks[:1001])


def test_nothing_is_left_of_a_deleted_interface(backend):
    backend.create(NAME)
    backend.set_key(NAME, Secret(key(7)))
    backend.set_peers(NAME, [WHOLE])
    links.set_link_state(NAME, up=True)
    backend.delete(NAME)

    assert links.read(NAME) is None
    assert not uapi.socket_path(NAME).exists()
    wait_until(lambda: not running("wireguard-go"))

    backend.delete(NAME)
    backend.create(NAME)

    assert is_bare(backend.read(NAME))


def test_an_interface_that_somebody_else_deleted(backend):
    backend.create(NAME)
    subprocess.run(["ip", "link", "delete", NAME], check=True)
    wait_until(lambda: not uapi.is_responding(NAME))

    attempts: list[Callable[[], object]] = [
        lambda: backend.read(NAME),
        lambda: backend.set_key(NAME, Secret(key(7))),
        lambda: backend.set_listen_port(NAME, 51820),
        lambda: backend.set_peers(NAME, [WHOLE]),
        lambda: backend.remove_peers(NAME, [key(1)]),
        lambda: backend.reset_session(NAME, WHOLE),
    ]
    for attempt in attempts:
        with pytest.raises(KernelRefused):
            attempt()

    backend.create(NAME)

    assert backend.read(NAME).peers == ()


def test_an_interface_is_made_again_at_once_after_somebody_deleted_it(backend):
    for _ in range(3):
        backend.create(NAME)
        subprocess.run(["ip", "link", "delete", NAME], check=True)
    backend.create(NAME)

    assert backend.read(NAME).peers == ()


@pytest.mark.parametrize("up", [False, True])
def test_a_listen_port_in_use_is_refused_before_anything_changes(backend, up):
    backend.create(NAME)
    backend.set_listen_port(NAME, 51820)
    links.set_link_state(NAME, up=up)

    with taken(51999), pytest.raises(KernelRefused, match="UDP port 51999") as refused:
        backend.set_listen_port(NAME, 51999)

    assert "51999" in refused.value.hint
    assert backend.read(NAME).listen_port == 51820
    if up:
        assert ":51820 " in subprocess.run(["ss", "-lun"], check=True, capture_output=True, text=True).stdout


def test_a_listen_port_that_was_taken_just_now_is_refused_by_wireguard(backend, monkeypatch):
    backend.create(NAME)
    links.set_link_state(NAME, up=True)
    for module in (kernel, userspace):
        monkeypatch.setattr(module, "refuse_taken_port", lambda *_: None)

    with taken(51999), pytest.raises(KernelRefused, match="Address already in use") as refused:
        backend.set_listen_port(NAME, 51999)

    assert "51999" in refused.value.hint


def test_wg_show_agrees(backend):
    peers = [WHOLE, *(peer(number) for number in range(2, 40))]
    backend.create(NAME)
    backend.set_key(NAME, Secret(key(7)))
    backend.set_listen_port(NAME, 51820)
    backend.set_peers(NAME, peers)
    dump = subprocess.run(["wg", "show", NAME, "dump"], check=True, capture_output=True, text=True).stdout
    own, *lines = [line.split("\t") for line in dump.splitlines()]
    found = backend.read(NAME)

    assert own[1:3] == [found.public_key, str(found.listen_port)]
    assert sorted(lines) == [shown(each, found.counters[each.public_key]) for each in found.peers]


def shown(each: Peer, counters: Counters) -> list[str]:
    """A peer as `wg show INTERFACE dump` has it. Source: wg(8)."""
    return [
        each.public_key,
        each.preshared_key.reveal() if each.preshared_key else "(none)",
        str(each.endpoint) if each.endpoint else "(none)",
        ",".join(each.allowed_ips),
        str(counters.last_handshake_s or 0),
        str(counters.rx_bytes),
        str(counters.tx_bytes),
        str(each.keepalive_s or "off"),
    ]


def joined(backend: wireguard.Backend) -> tuple[Peer, Peer]:
    """Two tunnels that meet over loopback: near's peer, which is far, and far's, whose place is open."""
    far = Peer(
        public_key=public_key(key(8)),
        allowed_ips=("10.77.0.2/32",),
        endpoint=Endpoint("127.0.0.1", 51002),
        preshared_key=Secret(key(99)),
        keepalive_s=1,
    )
    near = Peer(public_key=public_key(key(7)), allowed_ips=("10.77.0.1/32",), preshared_key=Secret(key(99)))
    # The one that only answers is first: a lost first handshake is tried again after 5 s.
    for name, secret, port, other in (("far", 8, 51002, near), ("near", 7, 51001, far)):
        backend.create(name)
        backend.set_key(name, Secret(key(secret)))
        backend.set_listen_port(name, port)
        backend.set_peers(name, [other])
        links.set_link_state(name, up=True)
    # The far side counts octets of an initiation while the near one still waits for its answer.
    ends = (("near", far), ("far", near))
    wait_until(lambda: all(counted(backend, at, of).last_handshake_s for at, of in ends))
    return far, near


def counted(backend: wireguard.Backend, name: str, other: Peer) -> Counters:
    return backend.read(name).counters[other.public_key]


def test_counters_tell_of_a_handshake(backend):
    before = int(time.time())
    far, near = joined(backend)
    near_side, far_side = counted(backend, "near", far), counted(backend, "far", near)

    assert near_side.last_handshake_s is not None
    assert before <= near_side.last_handshake_s <= time.time()
    assert near_side.tx_bytes >= 148  # a handshake initiation
    assert far_side.endpoint == Endpoint("127.0.0.1", 51001)
    assert backend.read("far").peers == (msgspec.structs.replace(near, endpoint=far_side.endpoint),)


def test_a_forgotten_session_begins_anew_where_the_peer_was_last_heard(backend):
    far, near = joined(backend)
    backend.reset_session("far", near)
    forgotten = counted(backend, "far", near)

    assert forgotten.last_handshake_s is None
    assert forgotten.endpoint == Endpoint("127.0.0.1", 51001)

    idle(1.1)  # the clock of handshakes counts seconds
    was = counted(backend, "near", far).last_handshake_s
    backend.reset_session("near", far)
    wait_until(lambda: (counted(backend, "near", far).last_handshake_s or 0) > (was or 0))

    assert backend.read("near").peers == (far,)
    wait_until(lambda: counted(backend, "far", near).last_handshake_s is not None)


def test_without_root_it_says_that_it_could_not_look(backend):
    backend.create(NAME)
    os.seteuid(65534)
    try:
        with pytest.raises(NeedsRoot):
            backend.read(NAME)
        with pytest.raises(NeedsRoot):
            backend.create("other")
    finally:
        os.seteuid(0)


def test_no_log_and_no_traceback_has_a_key(backend, caplog):
    caplog.set_level(logging.DEBUG)
    backend.create(NAME)
    backend.set_key(NAME, Secret(key(0x5EC2E7)))
    backend.set_peers(NAME, [msgspec.structs.replace(WHOLE, preshared_key=Secret(key(0x5EC2E7)))])
    text = repr(backend.read(NAME)) + caplog.text
    backend.delete(NAME)
    with pytest.raises(KernelRefused) as refused:
        backend.set_key(NAME, Secret(key(0x5EC2E7)))
    lines = traceback.TracebackException.from_exception(refused.value, capture_locals=True).format()
    text += "".join(lines)

    assert key(0x5EC2E7) not in text
    assert "5ec2e7" not in text


def test_a_dump_that_is_interrupted_is_read_again(in_kernel, monkeypatch):
    wanted = [peer(number) for number in range(1, 2001)]
    in_kernel.create(NAME)
    in_kernel.set_peers(NAME, wanted)
    torn: list[bool] = []
    dump = kernel._NetlinkSession.dump

    def watched(self, message):
        found, is_torn = dump(self, message)
        torn.append(is_torn)
        return found, is_torn

    monkeypatch.setattr(kernel._NetlinkSession, "dump", watched)
    # The same peer again and again, as it is: to the kernel each is a change of the device.
    script = f"while :; do wg set {NAME} peer {key(1)} allowed-ips 10.77.0.1/32; done"
    other = subprocess.Popen(["sh", "-c", script])
    try:
        deadline = Deadline(60)
        while not any(torn) and not deadline.is_over():
            with contextlib.suppress(KernelRefused):  # the kernel's tables may change too fast
                assert len(in_kernel.read(NAME).peers) == 2000
    finally:
        other.kill()
        other.wait()

    assert any(torn)
    assert in_kernel.read(NAME).peers == tuple(sorted(wanted, key=lambda each: each.public_key))


def test_a_kernel_that_lost_its_wireguard_is_said_to_have():
    if kernel.is_available():
        pytest.skip("this machine cannot: its kernel has WireGuard")

    with pytest.raises(KernelRefused, match="the kernel has no WireGuard now") as refused:
        kernel.KernelWireGuard().read(NAME)

    assert "modprobe wireguard" in refused.value.hint


def test_a_kernel_that_does_not_answer_does_not_hang_us(in_kernel, monkeypatch):
    monkeypatch.setitem(netlink_messages.send_request.__kwdefaults__, "timeout_s", 0.1)
    # What asks for no acknowledgement gets none.
    monkeypatch.setattr(genetlink_messages, "ACK", 0)
    in_kernel.create(NAME)

    with pytest.raises(KernelRefused, match="Connection timed out"):
        in_kernel.set_key(NAME, Secret(key(7)))


def test_a_new_tunnel_is_the_kernels_where_it_can_be():
    expected = "wireguard" if kernel.is_available() else "tun"

    assert wireguard.detect_tunnel_kind() == expected
    assert wireguard.find_backend(NAME).kind == expected


def test_asking_for_wireguard_leaves_the_root_logger_alone(capfd):
    kernel.is_available()

    assert capfd.readouterr().err == ""


def test_an_interface_of_another_kind_is_somebody_elses():
    subprocess.run(["ip", "link", "add", NAME, "type", "veth", "peer", "name", "p"], check=True)

    with pytest.raises(KernelRefused, match=f"{NAME} is a veth interface") as refused:
        wireguard.find_backend(NAME)

    assert "it is not qmesh's" in refused.value.hint


@pytest.mark.userspace
def test_a_tun_without_a_process_is_told_apart(process):
    subprocess.run(["ip", "tuntap", "add", NAME, "mode", "tun"], check=True)

    with pytest.raises(KernelRefused, match=f"there is no .*/{NAME}.sock"):
        wireguard.find_backend(NAME)

    uapi.SOCKETS.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(uapi.socket_path(NAME)))

    with pytest.raises(KernelRefused, match=f"nothing answers at .*/{NAME}.sock") as refused:
        wireguard.find_backend(NAME)

    assert f"ip link delete {NAME}" in refused.value.hint


@pytest.mark.userspace
def test_the_socket_of_a_dead_process_is_in_nobodys_way(process):
    process.create(NAME)
    for identifier in running("wireguard-go"):
        os.kill(identifier, signal.SIGKILL)
    wait_until(lambda: links.read(NAME) is None)

    assert uapi.socket_path(NAME).exists()

    process.create(NAME)

    assert process.read(NAME).peers == ()

    for identifier in running("wireguard-go"):
        os.kill(identifier, signal.SIGKILL)
    wait_until(lambda: links.read(NAME) is None)
    process.delete(NAME)

    assert not uapi.socket_path(NAME).exists()


@pytest.mark.userspace
def test_the_process_of_another_network_namespace_is_left_alone(process):
    process.create(NAME)
    subprocess.run(["ip", "link", "set", NAME, "netns", str(elsewhere())], check=True)

    with pytest.raises(KernelRefused, match="belongs to an interface that does not exist here"):
        process.create(NAME)
    process.delete(NAME)

    assert uapi.is_responding(NAME)


@pytest.mark.userspace
def test_a_process_that_is_about_to_end_is_waited_for(process):
    process.create(NAME)
    (identifier,) = running("wireguard-go")
    subprocess.run(["ip", "link", "set", NAME, "netns", str(elsewhere())], check=True)
    ending = threading.Timer(0.3, os.kill, (identifier, signal.SIGTERM))
    ending.start()
    process.create(NAME)
    ending.join()

    assert process.read(NAME).peers == ()


def elsewhere() -> int:
    """A process in a network namespace of its own; it dies with the test's machine."""
    there = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
    own = Path("/proc/self/ns/net").readlink()
    wait_until(lambda: Path(f"/proc/{there.pid}/ns/net").readlink() != own)
    there.returncode = 0  # nobody waits for it
    return there.pid


@pytest.mark.userspace
def test_the_process_outlives_its_maker_and_holds_none_of_its_files(process, monkeypatch):
    monkeypatch.setenv("LOG_LEVEL", "debug")
    code = "from qmesh.host.wireguard.userspace import UserspaceWireGuard as W; W().create('qmesh0')"
    # It returns when standard output and error are closed by everyone.
    words = [sys.executable, "-c", code]
    ended = subprocess.run(words, capture_output=True, check=True, timeout=patience(60))
    (identifier,) = running("wireguard-go")

    assert ended.stdout + ended.stderr == b""
    assert os.getsid(identifier) != os.getsid(0)
    assert Path(f"/proc/{identifier}/cwd").readlink() == Path("/")
    assert b"LOG_LEVEL" not in Path(f"/proc/{identifier}/environ").read_bytes()
    assert {Path(f"/proc/{identifier}/fd/{number}").readlink() for number in range(3)} == {Path("/dev/null")}
    assert process.read(NAME).peers == ()


@pytest.mark.userspace
def test_a_start_that_outlasts_its_starter_makes_no_interface(process):
    assert process.kind == "tun"
    slow, real = Path("/run/bin/wireguard-go"), userspace.find_program()
    slow.parent.mkdir(mode=0o755)
    slow.write_text(f'#!/bin/sh\nuntil test -e /run/told; do sleep 0.05; done\nexec {real} "$@"\n')
    slow.chmod(0o755)
    code = "from qmesh.host.wireguard.userspace import UserspaceWireGuard as W; W().create('qmesh0')"
    starter = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PATH": f"{slow.parent}:{os.environ['PATH']}"}
    )
    wait_until(lambda: running("wireguard-go"))

    starter.kill()
    starter.wait()

    wait_until(lambda: not running("wireguard-go"))
    Path("/run/told").touch()
    assert links.read(NAME) is None


def test_a_start_whose_starter_has_ended_already_runs_nothing(tmp_path):
    for number in (1, os.getpid()):
        words = ("/bin/sh", "-c", userspace._IF_PARENT_LIVES, "x", str(number))
        ended = subprocess.run([*words, "touch", str(tmp_path / "ran")], check=False)

        assert (ended.returncode == 0) == (number == os.getpid()) == (tmp_path / "ran").exists()


@pytest.mark.userspace
def test_a_process_that_hangs_does_not_hang_us(process, monkeypatch):
    process.create(NAME)
    (identifier,) = running("wireguard-go")
    os.kill(identifier, signal.SIGSTOP)
    # A thread of it that runs just now may answer still.
    threads = [*Path(f"/proc/{identifier}/task").glob("*/status")]
    wait_until(lambda: all("State:\tT" in status.read_text() for status in threads))
    monkeypatch.setattr(userspace, "END_TIMEOUT_S", 0.2)

    with within(20), pytest.raises(KernelRefused, match="does not answer") as refused:
        process.read(NAME)
    assert refused.value.hint == f"a signal has stopped it; let it go on: `kill -CONT {identifier}`"
    with pytest.raises(KernelRefused, match="did not end"):
        process.delete(NAME)


def test_what_was_begun_is_gone_on_with(backend):
    with backend.begin_creation(NAME):
        backend.create(NAME)
    backend.set_key(NAME, Secret(key(7)))

    assert backend.read(NAME).public_key == public_key(key(7))


@pytest.mark.userspace
def test_what_was_begun_and_not_gone_on_with_leaves_nothing(process):
    with process.begin_creation(NAME):
        pass

    assert links.read(NAME) is None
    process.create(NAME)
    with process.begin_creation(NAME), pytest.raises(KernelRefused, match="File exists"):
        process.create(NAME)  # and that is said here, not there
    assert process.read(NAME).peers == ()


@pytest.mark.userspace
@pytest.mark.parametrize(
    ("modules", "hint"),
    [
        ((), "run `apt-get install wireguard-go`"),
        (("6.1.0-18-amd64", os.uname().release), "run `apt-get install wireguard-go`"),
        (("6.1.0-18-amd64",), "reboot into the newer kernel; or `apt-get install wireguard-go`"),
        (None, "run `apt-get install wireguard-go`"),  # a container
    ],
)
def test_without_the_program_it_says_what_to_install(process, modules, hint, tmp_path, monkeypatch):
    """Or to reboot: an update that removes the running kernel's modules takes its WireGuard."""
    where = userspace.find_program()
    subprocess.run(["mount", "--bind", "/dev/null", where], check=True)
    for name in modules or ():
        (tmp_path / name).mkdir()
    monkeypatch.setattr(userspace, "MODULES", Path("/no-such") if modules is None else tmp_path)

    with pytest.raises(MissingProgram) as missing:
        process.create(NAME)

    assert missing.value.hint == f"{hint}, then the same command again"


@pytest.mark.userspace
def test_a_program_that_fails_is_quoted(process):
    Path("/run/tun").touch()
    subprocess.run(["mount", "--bind", "/run/tun", "/dev/net/tun"], check=True)

    with pytest.raises(KernelRefused, match=r"wireguard-go could not make qmesh0: .*TUN") as refused:
        process.create(NAME)

    assert "/dev/net/tun" in refused.value.hint
    assert "\n" not in refused.value.message
    assert links.read(NAME) is None


def answering(octets: bytes) -> threading.Thread:
    """A process that gives one answer, whatever is asked, and hangs up."""
    uapi.SOCKETS.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(uapi.socket_path(NAME)))
    listener.listen()

    def answer() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(octets)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\n\n",
        b"listen_port=51820\n",
        b"listen_port=51820\n\n",
        b"listen_port=51820\nerrno=0\n",
        b"listen_port=51820\nerrno=0",
        b"listen_port=51820\nerrno=\n\n",
        b"listen_port=many\nerrno=0\n\n",
        b"private_key=5ec2e7\nerrno=0\n\n",
        b"private_key=5ec2e7 is no key\nerrno=0\n\n",
        b"public_key=0102\nerrno=0\n\n",
        b"public_key=" + b"01" * 32 + b"\nendpoint=nowhere:1\nerrno=0\n\n",
        b"public_key=" + b"01" * 32 + b"\nallowed_ip=10.0.0.0/99\nerrno=0\n\n",
        b"\xff\xfe=1\nerrno=0\xff\n\n",
    ],
)
@pytest.mark.userspace
def test_an_answer_that_is_not_whole_is_no_empty_device(process, octets):
    thread = answering(octets)

    with pytest.raises(KernelRefused, match="is incomplete or not understood") as refused:
        process.read(NAME)
    thread.join()

    assert "5ec2e7" not in str(refused.value)


@pytest.mark.userspace
def test_an_answer_without_end_is_cut_off(process, monkeypatch):
    monkeypatch.setattr(uapi, "MAX_ANSWER_OCTETS", 1000)
    thread = answering(b"x" * 1001)

    with pytest.raises(KernelRefused, match="is incomplete"):
        process.read(NAME)
    thread.join()


@pytest.mark.userspace
def test_an_error_of_the_process_is_ours(process):
    thread = answering(b"errno=-1\n\n")

    with pytest.raises(NeedsRoot):
        process.read(NAME)
    thread.join()


@pytest.mark.userspace
def test_what_newer_programs_add_is_no_matter_and_a_scope_is_left_out(process):
    lines = (
        b"listen_port=1\nnew=x\npublic_key="
        + b"01" * 32
        + b"\nendpoint=[fe80::1%eth0]:7\nnewer=\nerrno=0\n\n"
    )
    thread = answering(lines)
    (found,) = process.read(NAME).peers
    thread.join()

    assert found.endpoint == Endpoint("fe80::1", 7)


def test_an_ipv6_only_holder_of_a_port_counts_too():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("::1", 51999))

        with pytest.raises(KernelRefused, match="51999"):
            device.refuse_taken_port(NAME, 51999)
    device.refuse_taken_port(NAME, 51999)
