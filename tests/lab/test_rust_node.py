"""The stand-in for node 2.1 in Rust does what was seen of the real one; no qmesh in these."""

from __future__ import annotations

import json
import re
import signal

import pytest

from qmesh.mesh.nodeconfig import detect_profile
from tests.support.lab.machines import Lab, Machine
from tests.support.lab.programs.rust_node import (
    DEFAULT_FILE,
    LATER_KEY,
    NodeRefuses,
    new_config,
    new_key,
    read_config,
    read_tcp_address,
)
from tests.support.lab.rust_node import (
    CONFIG,
    PROGRAM,
    ask_node,
    earning_cores,
    install_node,
    start_core,
    start_node,
)
from tests.support.node_files import verdicts
from tests.support.waiting import idle, wait_until

pytestmark = pytest.mark.lab

HERE, THERE = "10.77.0.1", "10.77.0.2"
KEY, OTHER_KEY = "cd" * 32, "ce" * 32
PEER_KEY = "ab" * 114


@pytest.fixture(scope="module")
def one_machine():
    with Lab() as lab:
        machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
        for address in (HERE, THERE):
            machine.run(["ip", "address", "add", address, "dev", "lo"])
        yield machine


@pytest.fixture
def machine(one_machine: Machine):
    """With the files of a node of three cores, the third at another address."""
    install_node(one_machine)
    one_machine.run(["rm", "-rf", CONFIG, "/root/other"])
    write_files(one_machine)
    yield one_machine
    one_machine.kill()


def settings(**values: str) -> str:
    """The config.yml of that node, with other values by key."""
    text = new_config(peer_key=PEER_KEY, encryption_key=KEY)
    streams = ", ".join((f"/ip4/{HERE}/tcp/32500", f"/ip4/{HERE}/tcp/32501", f"/ip4/{THERE}/tcp/32502"))
    p2p = ", ".join(f"/ip4/0.0.0.0/tcp/{port}" for port in (25000, 25001, 25002))
    lists = {
        "dataWorkerStreamMultiaddrs": f"[{streams}]",
        "dataWorkerP2pMultiaddrs": f"[{p2p}]",
        "listenGrpcMultiaddr": "/ip4/127.0.0.1/tcp/8337",
    }
    for key, value in {**lists, **values}.items():
        text, count = re.subn(rf"(?m)^( *{key}:).*$", lambda found: f"{found[1]} {value}", text)  # noqa: B023
        assert count == 1
    return text


KEYS = new_key("default-proving-key", KEY) + new_key("q-view-key", KEY) + new_key("q-spend-key", KEY)


def write_files(machine: Machine, *, keys: str = KEYS, config: str = CONFIG, **values: str) -> None:
    machine.write(f"{config}/config.yml", settings(**values))
    machine.write(f"{config}/keys.yml", keys)


def listeners(machine: Machine, protocol: str) -> set[str]:
    shown = machine.run(["ss", f"-Hln{protocol}"]).stdout
    return {line.split()[3] for line in shown.splitlines()}


def ends_at_once(machine: Machine, core: int) -> str:
    """What it complains of where it ends with status 1."""
    process = start_core(machine, core, ready=False)
    assert process.wait(15) == 1, process.output()
    return process.error_output()


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_its_version_is_told_as_the_real_one_tells_it(machine):
    assert machine.run([PROGRAM, "--version"]).stdout == "quil-node 2.1.0.25\n"
    install_node(machine, version="2.1.0.23")
    assert machine.run([PROGRAM, "--version"]).stdout == "quil-node 2.1.0.23\n"


def test_the_first_start_makes_an_identity_and_a_worker_makes_none(machine):
    machine.run(["rm", "-r", CONFIG])
    assert "config.yml" in ends_at_once(machine, 1)
    start_node(machine, 0)
    assert detect_profile(machine.read(f"{CONFIG}/config.yml")) == "2.1-rust"
    modes = machine.run(["stat", "--format=%a", CONFIG, f"{CONFIG}/config.yml", f"{CONFIG}/keys.yml"]).stdout
    assert modes.split() == ["755", "644", "644"]
    assert ask_node(machine)["identity"]


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_each_process_has_the_sockets_that_were_seen(machine):
    start_node(machine, 0)
    assert listeners(machine, "t") == {"0.0.0.0:8340", "127.0.0.1:8337"}
    assert listeners(machine, "u") == {"0.0.0.0:8336"}
    start_node(machine, 3)
    assert listeners(machine, "t") - {"0.0.0.0:8340", "127.0.0.1:8337"} == {
        f"{THERE}:32502",
        "0.0.0.0:25002",
    }
    assert len(listeners(machine, "u")) == 3


@pytest.mark.parametrize(
    ("key", "address", "instead"),
    [
        ("streamListenMultiaddr", "/ip6/fd77:1::1/tcp/8340", "0.0.0.0:8340"),
        ("listenGrpcMultiaddr", "/ip6/::1/tcp/8337", "0.0.0.0:8337"),
        ("listenGrpcMultiaddr", "/dns4/localhost/tcp/8337", "0.0.0.0:8337"),
        ("listenGrpcMultiaddr", "''", "0.0.0.0:8337"),
        ("listenRESTMultiaddr", "/dns4/localhost/tcp/8338", "0.0.0.0:8338"),
    ],
)
def test_an_address_that_it_does_not_read_is_every_address(machine, key, address, instead):
    write_files(machine, **{key: address})
    start_node(machine, 0)
    assert instead in listeners(machine, "t")


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_the_explorer_is_wide_where_it_is_on(machine):
    write_files(machine)
    text = machine.read(f"{CONFIG}/config.yml")
    machine.write(
        f"{CONFIG}/config.yml", text.replace("explorer:\n  enabled: false", "explorer:\n  enabled: true")
    )
    start_node(machine, 0)
    assert "0.0.0.0:6600" in listeners(machine, "t")


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_a_core_beyond_the_list_listens_on_every_address(machine):
    start_node(machine, 4)
    assert {"0.0.0.0:32503", "0.0.0.0:25003"} <= listeners(machine, "t")


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_a_worker_without_its_address_lives_on_and_does_not_listen(machine):
    write_files(machine, dataWorkerStreamMultiaddrs="[/ip4/10.77.0.9/tcp/32500]")
    (worker,) = start_node(machine, 1)
    assert listeners(machine, "t") == {"0.0.0.0:25000"}
    assert "cannot listen on 10.77.0.9 port 32500" in worker.output()
    assert worker.poll() is None


def test_workers_keep_a_connection_and_earn(machine):
    start_node(machine, 0, 1, 2, 3)
    wait_until(lambda: earning_cores(machine) == [1, 2, 3])
    assert "127.0.0.1:8340" in machine.run(["ss", "-Htn", "state", "established"]).stdout


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_a_worker_that_starts_first_calls_again_after_1_2_4_seconds(machine):
    (worker,) = start_node(machine, 1)
    worker.wait_for("again after 2 s")
    start_node(machine, 0)
    worker.wait_for("connected to 127.0.0.1 port 8340", timeout=15)
    assert re.findall(r"gave up|again after \d+ s|connected", worker.output())[:3] == [
        "gave up",
        "again after 1 s",
        "again after 2 s",
    ]


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_a_worker_whose_control_process_is_gone_begins_with_a_second_again(machine):
    (control,), (worker,) = start_node(machine, 0), start_node(machine, 1)
    worker.wait_for("connected")
    control.kill()
    worker.wait_for("again after 2 s")
    assert "gave up" not in worker.output()
    assert worker.poll() is None


@pytest.mark.long  # the stand-in by itself: for who changes it
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_the_status_that_a_shell_has_for_it(machine, number, status):
    processes = start_node(machine, 0, 1)
    for process in processes:
        process.send_signal(number)
    assert [process.wait(15) for process in processes] == [status, status]


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_a_worker_without_its_keys_ends_at_once(machine):
    machine.run(["rm", f"{CONFIG}/keys.yml"])
    assert "keys.yml: No such file" in ends_at_once(machine, 1)
    write_files(machine, encryptionKey=OTHER_KEY)
    assert "does not fit" in ends_at_once(machine, 1)
    write_files(machine, peerPrivKey="''")
    assert "peerPrivKey" in ends_at_once(machine, 1)
    write_files(machine, keys="- no keys\n")
    assert "keys.yml is none" in ends_at_once(machine, 1)


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_a_file_that_it_refuses_ends_it_at_once(machine):
    machine.write(f"{CONFIG}/config.yml", f"\ufeff{settings()}")
    assert "byte order mark" in ends_at_once(machine, 0)
    machine.write(f"{CONFIG}/config.yml", settings(network="256"))
    assert "network has a wrong type" in ends_at_once(machine, 1)


OTHER = "/root/other/.config"


@pytest.mark.parametrize("what", ["peer key", "keys"])
def test_a_worker_of_another_identity_is_served_and_does_not_earn(machine, what):
    if what == "peer key":
        write_files(machine, config=OTHER, peerPrivKey="ac" * 114)
    else:
        keys = new_key("default-proving-key", OTHER_KEY)
        write_files(machine, config=OTHER, keys=keys, encryptionKey=OTHER_KEY)
    start_node(machine, 0, 1)
    (worker,) = start_node(machine, 2, config=OTHER)
    worker.wait_for("connected")
    wait_until(lambda: len(ask_node(machine)["workers"]) == 2)
    assert [(each["core"], each["earns"]) for each in ask_node(machine)["workers"]] == [(1, True), (2, False)]


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_a_worker_of_another_core_than_its_place_in_the_list_does_not_earn(machine):
    entry = f"/ip4/{THERE}/tcp/32501"
    write_files(machine, config=OTHER, dataWorkerStreamMultiaddrs=f"[{entry}, {entry}]")
    start_node(machine, 0)
    (worker,) = start_node(machine, 2, config=OTHER)
    worker.wait_for("connected")
    assert [each["earns"] for each in ask_node(machine)["workers"]] == [False]


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_a_worker_by_the_masters_proxy_says_connected_and_does_not_earn(machine):
    write_files(machine, config=OTHER, enableMasterProxy="true")
    start_node(machine, 0)
    (worker,) = start_node(machine, 1, config=OTHER)
    worker.wait_for("connected")
    assert [each["earns"] for each in ask_node(machine)["workers"]] == [False]
    assert "0.0.0.0:25000" not in listeners(machine, "t")


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_it_announces_for_each_core_the_announce_entry_else_the_lists_own(machine):
    write_files(machine, dataWorkerAnnounceP2pMultiaddrs="[/ip4/203.0.113.5/tcp/25000]")
    said = json.loads(machine.run([PROGRAM, "--config", CONFIG, "--peer-info"]).stdout)
    assert said == [
        {"core": 1, "p2p": "/ip4/203.0.113.5/tcp/25000", "stream": f"/ip4/{HERE}/tcp/32500"},
        {"core": 2, "p2p": "/ip4/0.0.0.0/tcp/25001", "stream": f"/ip4/{HERE}/tcp/32501"},
        {"core": 3, "p2p": "/ip4/0.0.0.0/tcp/25002", "stream": f"/ip4/{THERE}/tcp/32502"},
    ]


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_builds_of_june_never_call_a_worker(machine):
    start_node(machine, 1, 0)
    idle(1)
    assert ask_node(machine)["called"] == []


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_builds_of_august_call_each_worker_and_those_that_come_later(machine):
    install_node(machine, build="august")
    start_node(machine, 0)
    assert LATER_KEY in machine.read(f"{CONFIG}/keys.yml")
    start_node(machine, 1, 3)
    wait_until(lambda: ask_node(machine)["called"] == [1, 3])
    assert earning_cores(machine) == [1, 3]


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_keys_that_were_copied_before_the_control_process_had_all_of_its_own_earn_nothing(machine):
    write_files(machine, config=OTHER)
    install_node(machine, build="august")
    start_node(machine, 0)
    (worker,) = start_node(machine, 1, config=OTHER)
    worker.wait_for("connected")
    assert earning_cores(machine) == []


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_a_control_process_that_ends_holds_its_store_for_a_while(machine):
    install_node(machine, store_s=2)
    (control,) = start_node(machine, 0)
    control.terminate()
    wait_until(lambda: "0.0.0.0:8340" not in listeners(machine, "t"))
    assert "LOCK" in ends_at_once(machine, 0)
    assert control.wait(15) == 143
    start_node(machine, 0)


# Its loader is independent of the product's, and held to what the real one said of these.

LOADS = (
    ("network: 0", "network: 0x1"),
    ("network: 0", "network: +1"),
    ("network: 0", "network: 1   # x"),
    ("traceLogStdout: false", "traceLogStdout: True"),
    ("syncTimeoutMs: 4000", "syncTimeoutMs: 1m30s"),
    ("syncTimeoutMs: 4000", "syncTimeout: 4"),
    ("gossipFactor: 0.25", "gossipFactor: .5"),
    ("bootstrapPeers: []", "bootstrapPeers:"),
    ("bootstrapPeers: []", "bootstrapPeers: [1, true, null]"),
    ("provingKeyId: ''", "provingKeyId: NO"),
    ("provingKeyId: ''", "provingKeyId: ''\n  provingKeyID: x\n  provingKeyID: y"),
    ("key:\n", "foo: 1\nfoo: 2\nkey:\n"),
    ("key:\n", "%YAML 1.1\n---\nkey:\n"),
)
REFUSES = (
    ("network: 0", "network: '0'"),
    ("network: 0", "network: 010"),
    ("network: 0", "network: 2_5"),
    ("network: 0", "network: 1.0"),
    ("network: 0", "network:"),
    ("network: 0", "network: 0\n  network: 0"),
    ("dataWorkerBaseP2pPort: 25000", "dataWorkerBaseP2pPort: 70000"),
    ("dataWorkerBaseP2pPort: 25000", "dataWorkerBaseP2PPort: 1\n  dataWorkerBaseP2pPort: 1"),
    ("traceLogStdout: false", "traceLogStdout: yes"),
    ("traceLogStdout: false", 'traceLogStdout: "true"'),
    ("traceLogStdout: false", "traceLogStdout:"),
    ("syncTimeoutMs: 4000", "syncTimeoutMs: 4 seconds"),
    ("syncTimeoutMs: 4000", "syncTimeoutMs: -1s"),
    ("gossipFactor: 0.25", 'gossipFactor: "0.25"'),
    ("bootstrapPeers: []", "bootstrapPeers: ''"),
    ("bootstrapPeers: []", "bootstrapPeers: [[a]]"),
    ("provingKeyId: ''", "provingKeyId: []"),
    ("keyManagerType: file", "keyManagerType: FILE"),
    ("engine:\n", "engine: {}\nengine:\n"),
    ("key:\n", "\ufeffkey:\n"),
    ("key:\n", "---\n---\nkey:\n"),
    ("key:\n", "\tkey:\n"),
    ("key:\n", "# \x07\nkey:\n"),
)


@pytest.mark.parametrize(("there", "instead"), LOADS)
def test_its_loader_takes(there, instead):
    assert there in DEFAULT_FILE
    assert read_config(DEFAULT_FILE.replace(there, instead, 1).encode())["logger.maxSize"] == 0


@pytest.mark.parametrize(("there", "instead"), REFUSES)
def test_its_loader_refuses(there, instead):
    assert there in DEFAULT_FILE
    with pytest.raises(NodeRefuses):
        read_config(DEFAULT_FILE.replace(there, instead, 1).encode())


def test_its_loader_agrees_with_every_verdict_of_the_real_one():
    def loads(file: bytes) -> bool:
        try:
            read_config(file)
        except NodeRefuses:
            return False
        return True

    ours = [verdict for verdict in verdicts() if verdict.profile == "2.1-rust"]
    assert len(ours) == 118
    assert [each.case for each in ours if loads(each.file) is not each.loads] == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/ip4/10.77.0.1/tcp/1", ("10.77.0.1", 1)),
        ("/ip6/::1/tcp/1", ("::1", 1)),
        ("/ip4/10.77.0/tcp/1", None),
        ("/ip4/10.77.0.1/tcp/65536", None),
        ("/ip4/10.77.0.1/udp/1", None),
        ("/dns4/x/tcp/1", None),
    ],
)
def test_an_address_that_it_reads(text, place):
    assert read_tcp_address(text) == place
