"""The crash matrix: each command and each agent killed at each point, and then run again.

For tests (some of the points) and for scripts/faults (all of them).
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from qmesh.host.registry.key_rotation import BETWEEN_S
from qmesh.host.registry.schema import VERSION
from qmesh.mesh.protocol.membership import SignedMembership
from qmesh.mesh.protocol.membership_conflict import MembershipConflict
from tests.support.lab.cluster import peers_of
from tests.support.lab.faults import Ended, Faulty, sample
from tests.support.lab.machines import TOOLS, Lab
from tests.support.node_identity import IDENTITY, KEY_STORE, PEER_KEY
from tests.support.waiting import idle, wait_until

_PROBE = """
import socket, sys, time
print("ready", flush=True)
tries = 0
while True:
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.05).close()
        print("reached", flush=True)
        time.sleep(0.02)
    except OSError:
        time.sleep(0.005)
    tries += 1
    with open("/run/tries", "w") as file:
        file.write(str(tries))
"""


class Result(msgspec.Struct):
    """What became of a command at its points. wrong: the number and label of each at which it did not do.

    points: how many there are. tried: how many were tried.
    """

    points: int
    tried: int = 0
    wrong: list[str] = []

    def note(self, number: int, label: str, trouble: str) -> None:
        """Count a point that was tried; `trouble` is empty where all was well."""
        self.tried += 1
        if trouble:
            self.wrong.append(f"{number} {label}: {trouble}")


class Rig:
    """A control node, a machine to be, and an attacker who asks for a careless worker all the time."""

    def __init__(self, lab: Lab, port: int, *, of_control: bool = False) -> None:
        self.machine_a = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
        self.machine_b = lab.machine("machine-b", "192.168.0.201", "fd00:1a::201")
        self.control, self.member = Faulty(self.machine_a), Faulty(self.machine_b)
        self._attacker = lab.machine("attacker", "192.168.0.66", "fd00:1a::66")
        victim = self.machine_a if of_control else self.machine_b
        victim.start(["python", TOOLS / "service.py", str(port)]).wait_for("ready")
        words = ["python", "-c", _PROBE, victim.ipv4, str(port)]
        self._probing = self._attacker.start(words)
        self._probing.wait_for("reached")  # a worker that nobody guards is reached: it does probe

    def found(self) -> str:
        """Make the mesh, from nothing."""
        self.control.reset()
        done = self.control.succeed(
            "init", "--workers", "3", "--node", "1.4", "--endpoint", self.machine_a.ipv4
        )
        return done.out

    def invite(self, workers: int = 4) -> None:
        """Invite machine-b anew, as if it had never been there, and put the invitation there."""
        self.control("remove", "machine-b")
        self.put(self.control.succeed("invite", "machine-b", "--workers", str(workers)).out)

    def put(self, text: str) -> None:
        """Put an invitation onto machine-b."""
        path = Path(f"/proc/{self.machine_b.pid}/root/root/invitation")
        path.write_text(text)
        path.chmod(0o600)

    def join(self, **how: Any) -> Ended:
        """Join, with the invitation that is there."""
        return self.member("join", "/root/invitation", **how)

    def reached(self) -> int:
        """How often the worker was reached until now, at least one whole attempt included."""
        tries = Path(f"/proc/{self._attacker.pid}/root/run/tries")
        before = _number_in(tries)
        wait_until(lambda: _number_in(tries) >= before + 2)
        return self._probing.output().count("reached")


def _number_in(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0


class Agent:
    """An agent that is killed at a point, counted from `arm` on."""

    def __init__(self, machine: Faulty, *, kill: int = 0, armed: bool = False) -> None:
        self._machine = machine
        root = Path(f"/proc/{machine.machine.pid}/root/run")
        self._log, self._arm = root / "points", root / "armed"
        self._log.unlink(missing_ok=True)
        self._arm.unlink(missing_ok=True)
        machine.end_agent()
        if armed:
            self.arm()
        self.process = machine.start_agent("/run/points", "/run/armed", kill=kill)

    def arm(self) -> None:
        """Let points count from now on."""
        self._arm.touch()

    def points(self) -> list[str]:
        """The labels of the points that it came to."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line.partition(" ")[2] for line in lines]

    def is_dead(self) -> bool:
        """Whether it has come to its end."""
        return not Path(f"/proc/{self._machine.machine.pid}/root/proc/{self.process}").exists()

    def follow(self) -> None:
        """Put an agent in its place that is as it should be."""
        self._arm.unlink(missing_ok=True)
        self._machine.end_agent()
        self._machine.start_agent("/run/points", "/run/armed")


def trouble_of_control(rig: Rig) -> str:
    """What is wrong with a mesh of the control node alone; empty where nothing is."""
    machines = rig.control.facts("status")["machines"]
    found = [(each["name"], each["address"], each["state"], each["cores"]["count"]) for each in machines]
    if found != [("control", "10.77.0.1", "active", 3)]:
        return f"the mesh is {found}"
    return trouble_of_plan(rig.control)


def trouble_of_plan(machine: Faulty) -> str:
    """What a machine would have to do to be as desired."""
    steps = machine.facts("plan")["steps"]
    return f"not as desired: {steps}" if steps else ""


def trouble_of_membership(rig: Rig) -> str:
    """What is wrong where machine-b is to be a member, once, under its name and address."""
    machines = rig.control.facts("status")["machines"]
    found = [(each["name"], each["address"], each["state"]) for each in machines]
    if found != [("control", "10.77.0.1", "active"), ("machine-b", "10.77.0.2", "active")]:
        return f"the mesh is {found}"
    joined = [each["what"] for each in rig.control.facts("log")["events"]][::-1]
    since = joined[: joined.index("invited")]
    if since.count("joined") != 1:
        return f"it joined {since.count('joined')} times"
    return trouble_of_plan(rig.member)


def in_turn(
    points: list[str],
    every: int | None,
    crash: Callable[[int], Ended],
    again: Callable[[], str],
) -> Result:
    """Kill a command at its points one by one; `again` says what is wrong after it was run again."""
    result = Result(len(points))
    for number in sample(points, every):
        ended = crash(number)
        label = points[number - 1]
        if ended.was_killed:
            result.note(number, label, again())
        elif ended.code:
            result.note(number, label, f"it was not killed, but ended with {ended.code}")
        elif trouble := again():  # it asked once less than when the points were counted, and came to its end
            result.wrong.append(f"{number} {label}, not killed: {trouble}")
    return result


NODE: Final = "/root/node/.config"
INIT = ("init", "--workers", "3", "--node", "1.4", "--endpoint", "192.168.0.200")


def init(lab: Lab, *, every: int | None) -> Result:
    """The control node's own worker port is closed from when its guard is loaded on."""
    rig = Rig(lab, 40000, of_control=True)
    rig.control.reset()
    points = rig.control.succeed(*INIT).points
    closed_from = points.index("nft worker ports") + 1
    before = 0

    def crash(number: int) -> Ended:
        nonlocal before
        rig.control.reset()
        ended = rig.control(*INIT, kill=number)
        before = rig.reached() if number > closed_from else -1
        return ended

    def again() -> str:
        ended = rig.control(*INIT)
        if ended.code:
            return f"the same command again: {ended.err}"
        if before == -1:
            return trouble_of_control(rig)
        return trouble_of_control(rig) or ("" if rig.reached() == before else "the worker was reached")

    return in_turn(points, every, crash, again)


def invite(lab: Lab, *, every: int | None) -> Result:
    """Whatever became of the first, the second invitation is the one that is open."""
    rig = Rig(lab, 40003)
    rig.found()
    rig.invite()
    words = ("invite", "machine-b", "--workers", "4")
    points = rig.control.succeed(*words).points

    def again() -> str:
        ended = rig.control(*words)
        machines = rig.control.facts("status")["machines"]
        found = [(each["name"], each["address"], each["state"]) for each in machines]
        if ended.code or found[1:] != [("machine-b", "10.77.0.2", "invited")]:
            return f"{ended.err}: {found}"
        rig.put(ended.out)
        return trouble_of_plan(rig.control)

    result = in_turn(points, every, lambda number: rig.control(*words, kill=number), again)
    rig.join()
    if trouble_of_membership(rig):
        result.wrong.append(f"the last invitation: {trouble_of_membership(rig)}")
    return result


def replace(lab: Lab, *, every: int | None) -> Result:
    """The member keeps its place until the invitation that the command printed at last is used."""
    rig = _of_two(lab)
    closed = rig.reached()
    words = ("invite", "machine-b", "--replace")
    key = ""

    def crash(number: int) -> Ended:
        nonlocal key
        key = _read_member_key(rig)
        return rig.control(*words, kill=number)

    def again() -> str:
        if trouble := trouble_of_plan(rig.member):
            return f"the member that is to be replaced: {trouble}"
        rig.put(rig.control.succeed(*words).out)
        before = rig.reached()
        rig.member.end_agent()
        rig.machine_b.run(["sh", "-c", "cd /var/lib/qmesh && rm machine.json membership.json private.key"])
        rig.machine_b.run(["ip", "link", "delete", "qmesh0"])
        ended = rig.join()
        if ended.code:
            return f"the new machine: {ended.err}"
        found = rig.control.facts("status")["machines"]
        if [(each["name"], each["address"]) for each in found[1:]] != [("machine-b", "10.77.0.2")]:
            return f"the mesh is {found}"
        trouble = trouble_of_retirement(rig, key) or trouble_of_plan(rig.member)
        return trouble or ("" if rig.reached() == before == closed else "it was reached")

    points = crash(0).points
    return in_turn(points, every, crash, again)


def join(lab: Lab, *, every: int | None) -> Result:
    """A machine that was never a member: its workers are closed from when they were first."""
    rig = Rig(lab, 40003)
    rig.found()
    rig.invite()
    points = rig.join().points
    closed_from = points.index("nft worker ports") + 1
    before = 0

    def crash(number: int) -> Ended:
        nonlocal before
        rig.member.reset()
        rig.invite()
        ended = rig.join(kill=number)
        before = rig.reached() if number > closed_from else -1
        return ended

    def again() -> str:
        ended = rig.join()
        if ended.code:
            return f"the same command again: {ended.err}"
        if before == -1:
            return trouble_of_membership(rig)
        return trouble_of_membership(rig) or ("" if rig.reached() == before else "the worker was reached")

    return in_turn(points, every, crash, again)


def join_again(lab: Lab, *, every: int | None) -> Result:
    """A machine that lost its membership: its workers were closed before, and never open again."""
    rig = _of_two(lab)
    directory = Path(f"/proc/{rig.machine_b.pid}/root/var/lib/qmesh")
    closed = rig.reached()

    def crash(number: int) -> Ended:
        rig.member.end_agent()
        for name in ("machine.json", "membership.json"):
            directory.joinpath(name).unlink()
        return rig.join(kill=number)

    def again() -> str:
        ended = rig.join()
        if ended.code:
            return f"the same command again: {ended.err}"
        return trouble_of_membership(rig) or ("" if rig.reached() == closed else "the worker was reached")

    points = crash(0).points
    return in_turn(points, every, crash, again)


def join_own_place(lab: Lab, *, every: int | None) -> Result:
    """A member that takes its own place with a new key: its workers stay closed, and one key is left."""
    rig = _of_two(lab)
    state = Path(f"/proc/{rig.machine_b.pid}/root/var/lib/qmesh")
    closed = rig.reached()

    def crash(number: int) -> Ended:
        rig.put(rig.control.succeed("invite", "machine-b", "--replace").out)
        return rig.join(kill=number)

    def again() -> str:
        ended = rig.join()
        if ended.code:
            return f"the same command again: {ended.err}"
        found = [(each["name"], each["address"]) for each in rig.control.facts("status")["machines"][1:]]
        if found != [("machine-b", "10.77.0.2")]:
            return f"the mesh is {found}"
        if (state / "joining.key").exists():
            return "the key that it joined with is there twice"
        return (
            trouble_of_plan(rig.control)
            or trouble_of_plan(rig.member)
            or ("" if rig.reached() == closed else "the worker was reached")
        )

    points = crash(0).points
    return in_turn(points, every, crash, again)


def set_workers(lab: Lab, *, every: int | None) -> Result:
    """A change is made once, or not at all."""
    rig = _of_two(lab)
    words = ("set", "machine-b", "--workers", "5")
    revision = 0

    def crash(number: int) -> Ended:
        nonlocal revision
        rig.control.succeed("set", "machine-b", "--workers", "4")
        revision = rig.control.facts("status")["revision"]
        return rig.control(*words, kill=number)

    def again() -> str:
        ended = rig.control(*words)
        status = rig.control.facts("status")
        found = [each["cores"] for each in status["machines"]]
        if ended.code or found != [{"first": 1, "count": 3}, {"first": 4, "count": 5}]:
            return f"{ended.err}: {found}"
        if status["revision"] != revision + 1:
            return f"revision {status['revision']} after {revision}"
        return trouble_of_plan(rig.control)

    points = crash(0).points
    return in_turn(points, every, crash, again)


METRICS_PLACE: Final = "127.0.0.1:9586"


def set_metrics(lab: Lab, *, every: int | None) -> Result:
    """Where metrics go is as it was or as it was asked for, and no file is left where none belongs."""
    rig = Rig(lab, 40003)
    rig.found()
    rig.control.end_agent()  # it would tidy up what the command leaves over
    directories = ["/var/lib/metrics-a", "/var/lib/metrics-b"]
    rig.machine_a.run(["mkdir", *directories])

    def place(is_first: bool) -> tuple[str, ...]:
        where = ("none", directories[0]) if is_first else (METRICS_PLACE, directories[1])
        return ("set", "--metrics", where[0], "--metrics-directory", where[1])

    def crash(number: int) -> Ended:
        rig.control.succeed(*place(True))
        rig.machine_a.write(f"{directories[0]}/qmesh.prom", "qmesh_revision 1\n")
        return rig.control(*place(False), kill=number)

    def again() -> str:
        said = rig.control.facts(*place(False))
        if (said["metrics"], said["metrics_directory"]) != (METRICS_PLACE, directories[1]):
            return f"the settings are {said}"
        left = rig.machine_a.run(["ls", "-A", directories[0]]).stdout
        return f"left over where node_exporter looks: {left}" if left else trouble_of_plan(rig.control)

    points = crash(0).points
    return in_turn(points, every, crash, again)


RECEIVER: Final = "http://127.0.0.1:8123/hook"


def set_notify(lab: Lab, *, every: int | None, wanted: str) -> Result:
    """Who is told is who was told before or as asked for; where none is, nothing of it is kept."""
    rig = Rig(lab, 40003)
    rig.found()
    rig.control.end_agent()  # it would remove what the command leaves over
    before = RECEIVER if wanted == "none" else "none"
    files = ["/var/lib/qmesh/notify.json", "/var/lib/qmesh/notifications.json"]

    def crash(number: int) -> Ended:
        rig.control.succeed("set", "--notify", before)
        if wanted == "none":
            rig.machine_a.write(files[1], '{"mesh":"x","control":"x"}', 0o600)
        return rig.control("set", "--notify", wanted, kill=number)

    def again() -> str:
        found = [each["url"] for each in rig.control.facts("set", "--notify", wanted)["notify"]]
        if found != ([] if wanted == "none" else ["http://127.0.0.1:8123"]):
            return f"told are {found}"
        left = rig.machine_a.run(["ls", *files], check=False).stdout.split()
        expected = [] if wanted == "none" else files[:1]
        return f"kept are {left}" if left != expected else trouble_of_plan(rig.control)

    points = crash(0).points
    return in_turn(points, every, crash, again)


READERS: Final = "qmesh-readers"
_WHERE_READERS_ASK: Final = """
test -S /run/qmesh-read/ask.sock && exec stat -c %G:%a /run/qmesh-read/ask.sock
test -e /run/qmesh-read || echo nothing
"""


def set_readers(lab: Lab, *, every: int | None, wanted: str) -> Result:
    """Who may look is who could or was asked for; run again it is that group, and of none nothing stays."""
    rig = Rig(lab, 40003)
    rig.found()
    rig.machine_a.run(["groupadd", READERS])
    before, expected = (READERS, "nothing") if wanted == "none" else ("none", f"{READERS}:660")

    def crash(number: int) -> Ended:
        rig.control.succeed("set", "--readers", before)
        return rig.control("set", "--readers", wanted, kill=number)

    def again() -> str:
        ended = rig.control("set", "--readers", wanted)
        if ended.code:
            return f"the same command again: {ended.err}"
        ask = ["sh", "-c", _WHERE_READERS_ASK]
        try:
            wait_until(lambda: rig.machine_a.run(ask, check=False).stdout.strip() == expected, seconds=20)
        except AssertionError:
            return f"where readers ask is {rig.machine_a.run(ask, check=False).stdout}"
        return trouble_of_plan(rig.control)

    points = crash(0).points
    return in_turn(points, every, crash, again)


def _run_sql(rig: Rig, script: str) -> list[int]:
    """Have the control node's registry do what a script says; the first column of what it answers."""
    program = (
        "import json, sqlite3, sys\n"
        "connection = sqlite3.connect('/var/lib/qmesh/mesh.db', isolation_level=None)\n"
        "done = [connection.execute(each).fetchall() for each in sys.argv[1].split(';') if each.strip()]\n"
        "print(json.dumps([row[0] for rows in done for row in rows]))\n"
    )
    found: list[int] = json.loads(rig.machine_a.run(["python", "-c", program, script]).stdout)
    return found


def set_on_older_registry(lab: Lab, *, every: int | None) -> Result:
    """A registry of the version before is one of that version or of this one, and loses nothing."""
    rig = _of_two(lab)
    key = _read_member_key(rig)

    def crash(number: int) -> Ended:
        rig.control.end_agent()
        rig.control.succeed("set", "machine-b", "--workers", "4")
        _run_sql(rig, "DROP TABLE retired_keys; PRAGMA user_version = 6;")
        return rig.control("set", "machine-b", "--workers", "5", kill=number)

    def again() -> str:
        ended = rig.control("set", "machine-b", "--workers", "5")
        cores = [each["cores"]["count"] for each in rig.control.facts("status")["machines"]]
        version = _run_sql(rig, "SELECT count(*) FROM retired_keys; PRAGMA user_version;")
        if ended.code or cores != [3, 5] or version != [0, VERSION]:
            return f"{ended.err}: {cores}, a registry of version {version}"
        return trouble_of_plan(rig.control)

    points = crash(0).points
    result = in_turn(points, every, crash, again)
    assert rig.control("remove", "machine-b").code == 0
    if trouble := trouble_of_retirement(rig, key):
        result.wrong.append(f"in the end: {trouble}")
    return result


def trouble_of_retirement(rig: Rig, public_key: str) -> str:
    """What is wrong where machine-b had that key: who calls with it is to be told, and let in nowhere."""
    rig.control.succeed("apply")
    lines = rig.machine_a.run(["wg", "show", "qmesh0", "allowed-ips"]).stdout.splitlines()
    place = dict(line.split("\t") for line in lines).get(public_key, "none")
    return "" if place.startswith("239.") else f"the peer with the key of before has the address {place}"


def _read_member_key(rig: Rig) -> str:
    words = ["sh", "-c", "wg pubkey < /var/lib/qmesh/private.key"]
    return rig.machine_b.run(words).stdout.strip()


def remove(lab: Lab, *, every: int | None) -> Result:
    """Who is removed is gone, and is told so: at once, or when the agent or the next command looks."""
    rig = _of_two(lab)
    key = ""

    def crash(number: int) -> Ended:
        nonlocal key
        rig.member.reset()
        rig.invite()
        assert rig.join().code == 0
        key = _read_member_key(rig)
        return rig.control("remove", "machine-b", kill=number)

    def again() -> str:
        ended = rig.control("remove", "machine-b")
        if ended.code and not ended.refused(2):
            return f"the same command again: {ended.err}"
        trouble = trouble_of_retirement(rig, key)
        peers = peers_of(rig.machine_a)
        return trouble or trouble_of_control(rig) or (f"there are peers: {peers}" if peers else "")

    points = crash(0).points
    return in_turn(points, every, crash, again)


def rotate_key(lab: Lab, *, every: int | None) -> Result:
    """A machine is never without a key that the control node knows; run again, it has a new one."""
    rig = _of_two(lab)
    closed = rig.reached()
    before = ""

    def crash(number: int) -> Ended:
        wait_until(lambda: rig.member("rotate-key").code == 0, seconds=40)  # not too soon after the last
        idle(BETWEEN_S + 1)
        nonlocal before
        before = _read_member_key(rig)
        return rig.member("rotate-key", kill=number)

    def again() -> str:
        wait_until(lambda: rig.member("rotate-key").code == 0, seconds=40)
        key, peers = _read_member_key(rig), peers_of(rig.machine_a)
        if peers != [key]:
            return f"the control node knows {peers}, the machine has {key}"
        if trouble := trouble_of_retirement(rig, before):
            return trouble
        reached = "" if rig.reached() == closed else "the worker was reached"
        return trouble_of_membership(rig) or reached

    points = crash(0).points
    return in_turn(points, every, crash, again)


def node_files(lab: Lab, *, every: int | None) -> Result:
    """The node's files are whole, keys.yml never older than config.yml; run again, both are the new ones."""
    rig = _of_two(lab)
    new = {"keys.yml": KEY_STORE, "config.yml": IDENTITY}
    old = {name: text.replace("aabb", "aabc").replace("5ec4e7a1", "ab" * 4) for name, text in new.items()}
    for name, text in new.items():
        rig.machine_a.write(f"{NODE}/{name}", text, 0o600)
    rig.control.succeed("set", "--node", "2.1")
    rig.control.succeed("render-config", "--write", "--config", NODE)
    rig.control.succeed("set", "machine-b", "--node-files", "on")
    fetch = ("node-files", "--write", "--replace", "--config", NODE)

    def held() -> dict[str, bool]:
        """Whether each file is the new one; KeyError where one is neither."""
        keys = {old["keys.yml"]: False, new["keys.yml"]: True}
        config = rig.machine_b.read(f"{NODE}/config.yml")
        is_new = {old["config.yml"]: False}.get(config, PEER_KEY in config and config.endswith("\n"))
        return {"keys.yml": keys[rig.machine_b.read(f"{NODE}/keys.yml")], "config.yml": is_new}

    def crash(number: int) -> Ended:
        for name, text in old.items():
            rig.machine_b.write(f"{NODE}/{name}", text, 0o600)
        return rig.member(*fetch, kill=number)

    def again() -> str:
        found = held()
        if found["config.yml"] and not found["keys.yml"]:
            return "config.yml is newer than keys.yml"
        ended = rig.member(*fetch)
        names = set(rig.machine_b.run(["ls", "-A", NODE]).stdout.split())
        if ended.code or not all(held().values()):
            return f"run again it ended with {ended.code}: {ended.err}, with {held()}"
        left = names - {*new, *(f"{name}.bak" for name in new)}
        return f"copies are left over: {left}" if left else ""

    points = crash(0).points
    return in_turn(points, every, crash, again)


def agent_of_control(lab: Lab, *, every: int | None) -> Result:
    """The control node's agent, from a machine's first word to its last."""
    rig = Rig(lab, 40003)
    rig.found()
    return _agent_in_turn(rig, every, lambda kill: _join_with_agent(rig, kill))


def _join_with_agent(rig: Rig, kill: int) -> tuple[list[str], str]:
    """A join while the control node's agent dies, and another begins; its points, and what is wrong."""
    rig.member.reset()
    agent = Agent(rig.control, kill=kill)
    rig.invite()
    wait_until(lambda: bool(rig.machine_a.run(["ss", "-Hltn"]).stdout))
    agent.arm()
    ended: list[Ended] = []
    joining = threading.Thread(target=lambda: ended.append(rig.join()))
    joining.start()
    wait_until(lambda: agent.is_dead() or not joining.is_alive())
    points = agent.points()
    if kill:
        agent.follow()
    joining.join()
    if ended[0].code not in {0, 4} or (ended[0].code and rig.join().code):
        return points, f"the join ended with {ended[0].err}"
    before = rig.reached()
    return points, trouble_of_membership(rig) or ("" if rig.reached() == before else "the worker was reached")


def agent_in_a_rotation(lab: Lab, *, every: int | None) -> Result:
    """The control node's agent, in whose transaction the old key retires: it is never forgotten."""
    rig = _of_two(lab)
    closed = rig.reached()

    def once(kill: int) -> tuple[list[str], str]:
        wait_until(lambda: rig.member("rotate-key").code == 0, seconds=40)  # not too soon after the last
        idle(BETWEEN_S + 1)
        before = _read_member_key(rig)
        agent = Agent(rig.control, kill=kill)
        wait_until(lambda: bool(rig.machine_a.run(["ss", "-Hltn"]).stdout))
        agent.arm()
        rotating = threading.Thread(target=lambda: rig.member("rotate-key"))
        rotating.start()
        wait_until(lambda: agent.is_dead() or not rotating.is_alive(), seconds=60)
        points = agent.points()
        agent.follow()
        rotating.join()
        wait_until(lambda: rig.member("rotate-key").code == 0, seconds=60)
        key, peers = _read_member_key(rig), peers_of(rig.machine_a)
        if peers != [key] or key == before:
            return points, f"the control node knows {peers}, the machine has {key}, and had {before}"
        reached = "" if rig.reached() == closed else "the worker was reached"
        return points, trouble_of_retirement(rig, before) or trouble_of_membership(rig) or reached

    return _agent_in_turn(rig, every, once)


def agent_in_a_conflict(lab: Lab, *, every: int | None) -> Result:
    """An agent with an older copy of the registry: whenever it ends, members believe nothing of it."""
    rig = _of_two(lab)
    state = Path(f"/proc/{rig.machine_a.pid}/root/var/lib/qmesh")
    rig.control.end_agent()
    older = {each.name: each.read_bytes() for each in state.glob("mesh.db*")}
    rig.control.start_agent("/run/points", "/run/armed")
    rig.control.succeed("set", "machine-b", "--workers", "5")
    revision = rig.control.facts("status")["revision"]
    wait_until(lambda: _is_up_to_date(rig, revision), seconds=20)

    def once(kill: int) -> tuple[list[str], str]:
        rig.control.end_agent()
        for each in state.glob("mesh.db*"):
            each.unlink()
        for name, octets in older.items():
            (state / name).write_bytes(octets)
        (state / "conflict.json").unlink(missing_ok=True)
        agent = Agent(rig.control, kill=kill, armed=True)
        noted = state / "conflict.json"
        wait_until(lambda: agent.is_dead() or noted.exists(), seconds=60)
        points = agent.points()
        agent.follow()
        wait_until(noted.exists, seconds=60)
        msgspec.json.decode(noted.read_bytes(), type=MembershipConflict)
        for workers in ("6", "7"):  # revisions that would take the place of what the member holds
            rig.control.succeed("set", "machine-b", "--workers", workers)
        if trouble := trouble_of_plan(rig.control) or trouble_of_plan(rig.member):
            return points, trouble
        return points, "" if _is_up_to_date(rig, revision) else "the member believed an older copy"

    return _agent_in_turn(rig, every, once)


def agent_of_member(lab: Lab, *, every: int | None) -> Result:
    """A member's agent, from its start until it has a newer membership: its workers are closed throughout."""
    rig = _of_two(lab)
    closed = rig.reached()
    counts = [5, 4]

    def once(kill: int) -> tuple[list[str], str]:
        rig.member.end_agent()
        rig.control.succeed("set", "machine-b", "--workers", str(counts[0]))
        counts.reverse()
        revision = rig.control.facts("status")["revision"]
        agent = Agent(rig.member, kill=kill, armed=True)
        wait_until(lambda: agent.is_dead() or _is_up_to_date(rig, revision))
        points = agent.points()
        agent.follow()
        wait_until(lambda: _is_up_to_date(rig, revision))
        return points, "" if rig.reached() == closed else "the worker was reached"

    return _agent_in_turn(rig, every, once)


def _is_up_to_date(rig: Rig, revision: int) -> bool:
    """Whether machine-b holds the membership of that revision, and its guard and ports are as that says."""
    directory = Path(f"/proc/{rig.machine_b.pid}/root/var/lib/qmesh")
    signed = msgspec.json.decode(directory.joinpath("membership.json").read_bytes(), type=SignedMembership)
    if msgspec.json.decode(signed.payload)["revision"] != revision:
        return False
    return not trouble_of_plan(rig.member)


def handover(lab: Lab, *, every: int | None) -> Result:
    """There is one control node at any time, and run again the command ends with the new one."""
    rig = _of_two(lab)
    closed = rig.reached()

    def crash(number: int) -> Ended:
        _to_have_control(rig, rig.control, rig.member)
        return rig.control("handover", "machine-b", kill=number)

    def again() -> str:
        return _trouble_of_handover(rig) or ("" if rig.reached() == closed else "the worker was reached")

    points = crash(0).points
    return in_turn(points, every, crash, again)


def _to_have_control(rig: Rig, wanted: Faulty, other: Faulty) -> None:
    """See that a machine is the control node, whatever became of the last handover."""
    name = "control" if wanted is rig.control else "machine-b"
    if wanted.facts("status")["control"] != name:
        other.succeed("handover", name)
    wait_until(lambda: other.facts("status")["control"] == name, seconds=20)


def _trouble_of_handover(rig: Rig) -> str:
    """What is wrong where machine-b is to be the control node, once the command was run again."""
    ended = rig.control("handover", "machine-b")
    if ended.code and not (ended.refused(2) and "is not the control node" in ended.err):
        return f"the same command again: {ended.err}"
    return _trouble_of_new_control(rig)


def _trouble_of_new_control(rig: Rig) -> str:
    def ended() -> bool:
        return all(each.facts("status")["control"] == "machine-b" for each in (rig.control, rig.member))

    try:
        wait_until(ended, seconds=30)
        wait_until(lambda: not trouble_of_plan(rig.control) + trouble_of_plan(rig.member), seconds=20)
    except AssertionError:
        return f"it is not followed: {trouble_of_plan(rig.control)} {trouble_of_plan(rig.member)}"
    for machine, there in ((rig.machine_a, False), (rig.machine_b, True)):
        state = Path(f"/proc/{machine.pid}/root/var/lib/qmesh")
        if {state.joinpath(name).exists() for name in ("mesh.db", "signing.key")} != {there}:
            return f"the registry or the signing key is at the wrong place: {machine.name}"
    return ""


def agents_in_a_handover(lab: Lab, *, every: int | None) -> Result:
    """Either agent dies while the control role moves, and another begins."""
    rig = _of_two(lab)
    closed = rig.reached()
    result = Result(0)
    for dying in (rig.member, rig.control):

        def once(kill: int, dying: Faulty = dying) -> tuple[list[str], str]:
            _to_have_control(rig, rig.control, rig.member)
            agent = Agent(dying, kill=kill)
            wait_until(lambda: bool(rig.machine_a.run(["ss", "-Hltn"]).stdout))
            agent.arm()
            ended: list[Ended] = []
            moving = threading.Thread(target=lambda: ended.append(rig.control("handover", "machine-b")))
            moving.start()
            wait_until(lambda: agent.is_dead() or not moving.is_alive(), seconds=120)
            points = agent.points()
            agent.follow()
            moving.join()
            trouble = _trouble_of_handover(rig)
            return points, trouble or ("" if rig.reached() == closed else "the worker was reached")

        of_one = _agent_in_turn(rig, every, once)
        result.points += of_one.points
        result.tried += of_one.tried
        result.wrong += of_one.wrong
    return result


def _agent_in_turn(rig: Rig, every: int | None, once: Callable[[int], tuple[list[str], str]]) -> Result:
    """Kill an agent at its points one by one."""
    points, trouble = once(0)
    result = Result(len(points))
    if trouble:
        result.wrong.append(f"without a crash: {trouble}")
    for number in sample(points, every):
        came_to, trouble = once(number)
        result.note(number, came_to[-1] if came_to else "not reached", trouble)
    return result


def _of_two(lab: Lab) -> Rig:
    rig = Rig(lab, 40003)
    rig.found()
    rig.invite()
    ended = rig.join()
    assert ended.code == 0, ended
    return rig


class Matrix(Protocol):
    """A command at its points: every so many, and the first of each kind."""

    def __call__(self, lab: Lab, *, every: int | None) -> Result: ...


MATRICES: Final[dict[str, Matrix]] = {
    "init": init,
    "invite": invite,
    "join": join,
    "join of a machine that lost its membership": join_again,
    "join of a member in its own place": join_own_place,
    "set": set_workers,
    "set of a registry of the version before": set_on_older_registry,
    "set --metrics": set_metrics,
    "set --notify URL": functools.partial(set_notify, wanted=RECEIVER),
    "set --notify none": functools.partial(set_notify, wanted="none"),
    "set --readers GROUP": functools.partial(set_readers, wanted=READERS),
    "set --readers none": functools.partial(set_readers, wanted="none"),
    "remove": remove,
    "invite --replace": replace,
    "rotate-key": rotate_key,
    "node-files": node_files,
    "handover": handover,
    "agent of either machine, while the control role moves": agents_in_a_handover,
    "agent of the control node, while a machine joins": agent_of_control,
    "agent of the control node, while a machine's key rotates": agent_in_a_rotation,
    "agent of the control node, which is an older copy": agent_in_a_conflict,
    "agent of a member, while the mesh changes": agent_of_member,
}
