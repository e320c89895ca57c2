"""`qmesh ready`, on machines of their own: the kernel's word on guard, addresses and ports."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qmesh.agent.commands.ready import ReadyResult, wait_until_listening, wait_until_startable
from qmesh.errors import BadInput, MachineRefused
from qmesh.host.lean.owned_table import HeldTable
from qmesh.mesh.guard.tables import HELD, TABLE
from tests.support.waiting import wait_until, within

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

ADDRESS, PORT = "10.77.0.2", 40003
ENTRIES = ("/ip4/10.77.0.1/tcp/40000", f"/ip4/{ADDRESS}/tcp/{PORT}", "/ip6/fd00:77::2/tcp/40004")
CORE = 2
EVERY = ("0.0.0.0", "::")  # noqa: S104 - that is what is asked about


@pytest.fixture
def config(tmp_path):
    lines = "".join(f"    - {entry}\n" for entry in ENTRIES)
    (tmp_path / "config.yml").write_text(f"engine:\n  dataWorkerMultiaddrs:\n{lines}")
    return tmp_path


def run(*words: str) -> None:
    subprocess.run(words, check=True)


def guard(name: str = TABLE) -> None:
    run("nft", "add", "table", "inet", name)


def tunnel(*addresses: str) -> None:
    run("ip", "link", "add", "qmesh0", "type", "veth", "peer", "name", "other")
    for name in ("qmesh0", "other"):
        run("ip", "link", "set", name, "up")
    for address in addresses or (f"{ADDRESS}/20",):
        run("ip", "address", "add", address, "dev", "qmesh0")


@contextlib.contextmanager
def waiting_for(do: Callable[..., object], *words: Any) -> Iterator[None]:
    """What the block waits for is done meanwhile; it is not over before."""
    done = threading.Event()

    def begin() -> None:
        done.set()
        do(*words)

    timer = threading.Timer(1, begin)
    timer.start()
    try:
        with within(10):
            yield
        assert done.is_set()
    finally:
        timer.join()


@contextlib.contextmanager
def listening(address: str, port: int = PORT) -> Iterator[None]:
    with socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET):
        yield


@pytest.mark.parametrize("is_held", [False, True])
def test_a_core_with_guard_address_and_free_port_can_start_at_once(config, is_held):
    with contextlib.closing(HeldTable()) as table:
        if is_held:
            table.replace(f"add table inet {HELD} {{ flags owner; }}\n")
        else:
            guard()
        tunnel()

        # As soon as it can: it is looked at once.
        assert wait_until_startable(CORE, config, timeout_s=0) == ReadyResult(
            core=CORE, address=ADDRESS, port=PORT, listens=False
        )


def test_a_core_waits_for_the_tunnels_address(config):
    guard()
    made = f"ip link add qmesh0 type bridge && ip address add {ADDRESS}/20 dev qmesh0"
    with waiting_for(run, "sh", "-c", made):
        wait_until_startable(CORE, config, timeout_s=60)


def test_g3_a_core_and_the_control_process_wait_for_the_guard(config):
    tunnel()
    for core in (CORE, 0):
        with waiting_for(run, "nft", "add", "table", "inet", "qmesh"):
            wait_until_startable(core, config, timeout_s=60)
        run("nft", "delete", "table", "inet", "qmesh")


def test_g3_a_table_of_another_name_is_no_guard(config):
    tunnel()
    run("nft", "add", "table", "ip", "qmesh")
    guard("qmesh2")
    with pytest.raises(MachineRefused, match="no guard is loaded"):
        wait_until_startable(CORE, config, timeout_s=0)


def test_an_address_that_does_not_come_is_told(config):
    guard()
    with pytest.raises(
        MachineRefused, match=rf"{ADDRESS}, where core 2 should listen, is not an address"
    ) as caught:
        wait_until_startable(CORE, config, timeout_s=0.2)
    assert "qmesh apply" in caught.value.hint


def test_for_another_machines_address_nobody_waits_longer_than_addresses_take_to_come(config):
    guard()
    tunnel("10.77.0.9/20")
    whose = r"core 2 is another machine's: 10\.77\.0\.2 is in 10\.77\.0\.0/20 of qmesh0"
    with within(10), pytest.raises(BadInput, match=whose):
        wait_until_startable(CORE, config, timeout_s=600)


def test_an_interface_may_get_its_addresses_one_by_one(config):
    guard()
    tunnel("10.77.0.9/20")
    with waiting_for(run, "ip", "address", "add", f"{ADDRESS}/20", "dev", "qmesh0"):
        wait_until_startable(CORE, config, timeout_s=60)


@pytest.mark.parametrize("address", [ADDRESS, *EVERY])
def test_a_port_that_somebody_has_is_not_free(config, address):
    guard()
    tunnel()
    with listening(address), pytest.raises(MachineRefused, match=f"port {PORT}, where core 2 .* is in use"):
        wait_until_startable(CORE, config, timeout_s=0.2)


@pytest.mark.parametrize(("address", "port"), [("127.0.0.1", PORT), (ADDRESS, PORT + 1), ("::1", PORT)])
def test_the_same_port_elsewhere_and_another_port_are_in_nobodys_way(config, address, port):
    guard()
    tunnel()
    with listening(address, port):
        wait_until_startable(CORE, config, timeout_s=0)
        with pytest.raises(MachineRefused, match=rf"core 2 does not listen on {ADDRESS} port {PORT}$"):
            wait_until_listening(CORE, config, timeout_s=0)


def test_a_worker_that_listens_is_seen_and_one_that_begins_to_is_waited_for(config):
    tunnel()
    server = f"input(); mine = socket.create_server(('{ADDRESS}', {PORT})); input()"
    program = [sys.executable, "-c", f"import socket; {server}"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, bufsize=0) as worker:
        assert worker.stdin is not None
        try:
            with waiting_for(worker.stdin.write, b"\n"):
                ready = wait_until_listening(CORE, config, timeout_s=60)
        finally:
            worker.kill()
    assert ready == ReadyResult(core=CORE, address=ADDRESS, port=PORT, listens=True)


def test_a_worker_of_ipv6_is_seen(config):
    tunnel("fd00:77::2/64")
    asking = ["ip", "-6", "address", "show", "tentative"]  # until IPv6 knows that nobody else has it
    wait_until(lambda: not subprocess.run(asking, check=True, capture_output=True).stdout)
    with listening("fd00:77::2", 40004):
        assert wait_until_listening(3, config, timeout_s=5).address == "fd00:77::2"


@pytest.mark.parametrize("address", EVERY)
def test_a_worker_that_listens_on_every_address_does_not_count(config, address):
    tunnel()
    wide = rf"{address} port {PORT}, which is every address"
    with within(10), listening(address), pytest.raises(BadInput, match=wide):
        wait_until_listening(CORE, config, timeout_s=600)


def test_a_worker_that_has_ended_is_not_waited_for(config, monkeypatch):
    tunnel()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        monkeypatch.setenv("MAINPID", str(worker.pid))
        with waiting_for(worker.stdin.close), pytest.raises(MachineRefused, match="its process ended"):
            wait_until_listening(CORE, config, timeout_s=60)
    with pytest.raises(MachineRefused, match="its process ended"):  # nor one that is long gone
        wait_until_listening(CORE, config, timeout_s=60)


CALLED = 8340
REMOTE = f"""import socket, subprocess
input()
for words in ('address add 10.77.0.1/20 dev other', 'link set other up'):
    subprocess.run(['ip', *words.split()], check=True)
print(flush=True)
input()
heard = socket.create_server(('10.77.0.1', {CALLED}))
input()"""


def newer(tmp_path: Path, stream: str) -> Path:
    """The same entries in the file of a node 2.1, whose workers call the control process there."""
    lists = "".join(
        f"  {key}:\n" + "".join(f"    - {entry}\n" for entry in ENTRIES)
        for key in ("dataWorkerStreamMultiaddrs", "dataWorkerP2PMultiaddrs")
    )
    stream = f"p2p:\n  streamListenMultiaddr: {stream}\n"
    (tmp_path / "config.yml").write_text(f"engine:\n{lists}{stream}db:\n  path: .config/store\n")
    return tmp_path


def test_a_worker_waits_until_the_control_process_answers_through_the_tunnel(tmp_path):
    guard()
    tunnel()
    config = newer(tmp_path, f"/ip4/10.77.0.1/tcp/{CALLED}")
    program = ["unshare", "--net", sys.executable, "-c", REMOTE]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        try:
            here = Path("/proc/self/ns/net").readlink()
            wait_until(lambda: Path(f"/proc/{other.pid}/ns/net").readlink() != here)
            run("ip", "link", "set", "other", "netns", str(other.pid))
            other.stdin.write(b"\n")
            other.stdout.readline()
            with waiting_for(other.stdin.write, b"\n"):
                wait_until_startable(CORE, config, timeout_s=60)
        finally:
            other.kill()


@pytest.mark.parametrize("stream", ["/ip4/0.0.0.0/tcp/8340", f"/ip4/{ADDRESS}/tcp/8340"])
def test_on_the_control_node_a_worker_waits_for_what_listens_there(tmp_path, stream):
    guard()
    tunnel()
    config = newer(tmp_path, stream)
    server = f"input(); mine = socket.create_server(('0.0.0.0', {CALLED})); input()"
    program = [sys.executable, "-c", f"import socket; {server}"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, bufsize=0) as control:
        assert control.stdin is not None
        try:
            with waiting_for(control.stdin.write, b"\n"):
                wait_until_startable(CORE, config, timeout_s=60)
        finally:
            control.kill()


@pytest.mark.parametrize("stream", ["/ip4/0.0.0.0/tcp/8340", "/ip4/10.77.0.1/tcp/8340"])
def test_a_worker_starts_all_the_same_where_the_control_process_does_not_answer(tmp_path, stream, caplog):
    guard()
    tunnel()
    config = newer(tmp_path, stream)
    with within(10):
        ready = wait_until_startable(CORE, config, timeout_s=0.2)
    assert ready == ReadyResult(core=CORE, address=ADDRESS, port=PORT, listens=False)
    where = "this machine" if "0.0.0.0" in stream else "10.77.0.1"  # noqa: S104 - it is in the file
    (said,) = caplog.messages
    assert said == (
        f"the control process does not answer at {where} port 8340; core 2 starts all the same, and calls it"
        " again later"
    )
    with listening(ADDRESS), pytest.raises(MachineRefused, match="is in use"):
        wait_until_startable(CORE, config, timeout_s=0)


@pytest.mark.parametrize("stream", ["not one", '""', "[]", "/dns4/a/tcp/1"])
def test_a_place_that_is_none_is_not_waited_for(tmp_path, stream, caplog):
    guard()
    tunnel()
    wait_until_startable(CORE, newer(tmp_path, stream), timeout_s=0)
    assert caplog.messages == []


LOCKER = """import fcntl, sys
store = open(sys.argv[1], 'r+')
fcntl.lockf(store, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()"""


def test_the_control_process_waits_until_the_one_before_has_given_up_its_store(tmp_path, caplog):
    caplog.set_level("INFO", "qmesh")
    guard()
    config = tmp_path / ".config"
    (config / "store").mkdir(parents=True)
    lock = config / "store" / "LOCK"
    lock.touch()
    newer(config, "/ip4/0.0.0.0/tcp/8340")
    wait_until_startable(0, config, timeout_s=0)  # a lock that no process holds is left over
    program = [sys.executable, "-c", LOCKER, str(lock)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as before:
        assert before.stdin is not None
        assert before.stdout is not None
        before.stdout.readline()
        with pytest.raises(MachineRefused, match=f"process {before.pid} has the node's store"):
            wait_until_startable(0, config, timeout_s=0.2)

        end = before.stdin.close

        def end_when_it_was_said() -> None:
            wait_until(lambda: any(message.endswith(": waiting") for message in caplog.messages))
            end()

        with waiting_for(end_when_it_was_said):
            wait_until_startable(0, config, timeout_s=60)


@pytest.mark.parametrize("stream", ["/ip4/0.0.0.0/tcp/8340", f"/ip4/{ADDRESS}/tcp/8340"])
def test_the_control_process_waits_until_the_port_that_workers_call_is_free(tmp_path, stream):
    guard()
    tunnel()
    config = newer(tmp_path, stream)
    with listening("0.0.0.0", CALLED), pytest.raises(MachineRefused, match="port 8340, where the control"):  # noqa: S104
        wait_until_startable(0, config, timeout_s=0.2)
    with listening(ADDRESS, CALLED + 1):
        wait_until_startable(0, config, timeout_s=0)


def test_what_cannot_be_read_keeps_no_control_process_from_its_start(tmp_path):
    guard()
    (tmp_path / "config.yml").write_text("a: [")
    for config in (tmp_path, tmp_path / "nowhere"):
        wait_until_startable(0, config, timeout_s=0)
    newer(tmp_path, "/ip4/10.77.0.1/tcp/8340")
    (tmp_path.parent / ".config").symlink_to("/dev")
    wait_until_startable(0, tmp_path, timeout_s=0)


def test_the_control_process_has_no_place_in_the_list(config):
    guard()
    assert wait_until_startable(0, None, timeout_s=0) == ReadyResult(
        core=0, address=None, port=None, listens=False
    )
    with pytest.raises(BadInput, match="core 0 is the control process"):
        wait_until_listening(0, config, timeout_s=0)


def test_without_a_config_nothing_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for config in (tmp_path, None):
        with pytest.raises(BadInput, match=r"there is no config\.yml in "):
            wait_until_startable(1, config, timeout_s=60)


def qmesh(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "qmesh", *words], check=False, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == code, done.stderr
    return done


def test_the_command_says_the_same_whether_a_unit_or_a_hand_typed_it(config):
    guard()
    tunnel()
    unit = ("ready", "2", "--config", str(config), "--timeout", "5")
    hand = ("ready", "--timeout", "5", "--config", str(config), "2")
    for words in (unit, hand):
        assert qmesh(*words).stdout == f"core 2 can start on {ADDRESS} port {PORT}\n"
    with listening(ADDRESS):
        for words in (unit, hand):
            assert qmesh(*words, "--listening").stdout == f"core 2 listens on {ADDRESS} port {PORT}\n"
    for words in (unit, hand):
        beyond = ["9" if word == "2" else word for word in words]
        assert qmesh(*beyond, code=2).stderr.startswith("error: core 9 is not in the worker list")
    told = json.loads(qmesh(*hand, "--json").stdout)
    assert told == {"core": 2, "address": ADDRESS, "port": PORT, "listens": False}


def test_of_what_qmesh_remembers_nothing_is_read_and_little_is_loaded(config):
    """A hundred cores may start at once."""
    guard()
    tunnel()
    words = ["ready", "2", "--config", str(config), "--timeout", "5"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "qmesh", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "qmesh" in loaded
    assert not loaded & {"typer", "pyroute2", "cryptography", "h11", "sqlite3"}
