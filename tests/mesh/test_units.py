"""The systemd units: guarded before the network, the node as its makers want it, paths as they are."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.systemd.units import (
    AFTER_FLUSH,
    AGENT,
    BOOT_GUARD,
    CONTROL_PROCESS,
    HOLDER,
    WORKER,
    WORKERS,
    add_mark,
    is_unedited,
    parse_node_program,
    render_qmesh_units,
    render_undo_unit,
    render_unit_files,
    render_workers_target,
    starts_control_first,
    worker_unit_name,
)
from tests.support.units import paths, words

CONTROL_UNITS = render_unit_files(paths(), is_control=True, cores=range(1, 4))
WORKER_UNITS = render_unit_files(paths(), is_control=False, cores=range(4, 8))

EVERYBODYS = """\
NoNewPrivileges=yes
LimitCORE=0
LockPersonality=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
"""
QMESHS = f"""\
{EVERYBODYS}MemoryDenyWriteExecute=yes
ReadWritePaths=-/proc/sys/net/ipv4/ip_local_reserved_ports
UMask=0077
LogRateLimitIntervalSec=30s
LogRateLimitBurst=500
"""
GUARDS = f"""\
{QMESHS}CapabilityBoundingSet=CAP_NET_ADMIN
PrivateDevices=yes
ProtectHome=read-only
ProtectProc=invisible
ProtectSystem=strict
RestrictAddressFamilies=AF_UNIX AF_NETLINK
MemoryHigh=256M
"""
AGENTS = f"""\
{QMESHS}CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_RAW
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_SETGID CAP_SETUID
CapabilityBoundingSet=CAP_KILL CAP_SYS_PTRACE
PrivateMounts=yes
PrivateTmp=yes
SystemCallFilter=setfsuid setfsuid32 setfsgid setfsgid32
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
ProtectSystem=full
ReadWritePaths=/etc/systemd/system
RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET AF_INET6 AF_PACKET
MemoryHigh=1G
OOMPolicy=continue
"""
NODES = f"""\
{EVERYBODYS}CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_NET_BIND_SERVICE
PrivateDevices=yes
ProtectSystem=full
RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET AF_INET6
"""
NODE_SETTINGS = f"""\
Type=exec
WorkingDirectory=/root/ceremonyclient/node/
LimitNOFILE=1048576
KillSignal=SIGINT
SuccessExitStatus=130 143
TimeoutStartSec=300
TimeoutStopSec=30
Restart=always
RestartSec=2
User=root
{NODES}"""
READY = "+/opt/qmesh/bin/python -I -m qmesh ready"
HOLDS = "/opt/qmesh/lib/python3.11/site-packages/qmesh/host/lean/hold.py"
CONFIG = "/root/ceremonyclient/node/.config"

UNITS = {
    BOOT_GUARD: f"""\
[Unit]
Description=qmesh guard for data-worker ports, from before the network is up
Documentation=man:nft(8)
DefaultDependencies=no
RequiresMountsFor=/var/lib/qmesh/guard.nft
After=local-fs.target nftables.service
Before=network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target
AssertPathExists=/var/lib/qmesh/guard.nft

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /var/lib/qmesh/guard.nft
TimeoutStartSec=60
{GUARDS}
[Install]
WantedBy=sysinit.target
""",
    AFTER_FLUSH: """\
[Service]
ExecStartPost=-+/usr/sbin/nft -f /var/lib/qmesh/guard.nft
ExecReload=-+/usr/sbin/nft -f /var/lib/qmesh/guard.nft
ExecStopPost=-+/usr/sbin/nft -f /var/lib/qmesh/guard.nft
""",
    HOLDER: f"""\
[Unit]
Description=qmesh guard held: its second table, which no flush removes
Documentation=man:nft(8)
DefaultDependencies=no
RequiresMountsFor=/var/lib/qmesh/held.nft /opt/qmesh/bin/python {HOLDS}
After=local-fs.target systemd-sysctl.service qmesh-guard.service
Before=network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target
ConditionPathExists=/var/lib/qmesh/held.nft
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart=/opt/qmesh/bin/python -X utf8 -I -S {HOLDS} --state /var/lib/qmesh
Restart=always
RestartSec=1
TimeoutStartSec=60
OOMScoreAdjust=-900
{GUARDS}ReadWritePaths=/var/lib/qmesh

[Install]
WantedBy=sysinit.target
""",
    AGENT: f"""\
[Unit]
Description=qmesh agent: keeps the tunnel and the guard as desired
Documentation=man:wg(8)
Wants=qmesh-guard.service qmesh-hold.service
After=qmesh-guard.service qmesh-hold.service network.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart=/opt/qmesh/bin/python -I -m qmesh agent --state /var/lib/qmesh
KillMode=process
WatchdogSec=6
WatchdogSignal=SIGKILL
Restart=always
RestartSec=500ms
TimeoutStartSec=90
TimeoutStopSec=20
{AGENTS}
[Install]
WantedBy=multi-user.target
""",
    CONTROL_PROCESS: f"""\
[Unit]
Description=Quilibrium control process (core 0)
Wants=qmesh-guard.service qmesh-hold.service qmesh.service
After=qmesh-guard.service qmesh-hold.service qmesh.service qmesh-workers.target network-online.target
StartLimitIntervalSec=0

[Service]
ExecStartPre={READY} 0 --config {CONFIG} --timeout 60
ExecStart=/usr/local/bin/node --config /root/ceremonyclient/node/.config
{NODE_SETTINGS}
[Install]
WantedBy=multi-user.target
""",
    WORKER: f"""\
[Unit]
Description=Quilibrium data worker, core %i
PartOf=qmesh-workers.target
Wants=qmesh-guard.service qmesh-hold.service qmesh.service
After=qmesh-guard.service qmesh-hold.service qmesh.service
StartLimitIntervalSec=0

[Service]
ExecStartPre={READY} %i --config {CONFIG} --timeout 60
ExecStart=/usr/local/bin/node --config {CONFIG} --core %i
ExecStartPost={READY} %i --config {CONFIG} --timeout 180 --listening
{NODE_SETTINGS}
[Install]
WantedBy=qmesh-workers.target
""",
    WORKERS: """\
[Unit]
Description=Quilibrium data workers of this machine
Wants=qmesh-worker@1.service
Wants=qmesh-worker@2.service
Wants=qmesh-worker@3.service

[Install]
WantedBy=multi-user.target
""",
}


def settings(text: str, name: str) -> list[str]:
    """All values of a setting in a unit."""
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_of_the_control_node_is_this_text(name: str) -> None:
    assert CONTROL_UNITS[name] == add_mark(UNITS[name])


def test_the_control_node_has_all_units_and_a_worker_machine_all_but_the_control_process() -> None:
    of_workers = {AGENT, BOOT_GUARD, HOLDER, AFTER_FLUSH, "qmesh-worker@.service", "qmesh-workers.target"}
    assert set(WORKER_UNITS) == of_workers
    assert set(CONTROL_UNITS) == of_workers | {"qmesh-control.service"}


def test_a_worker_machines_units_differ_from_the_control_nodes_only_in_the_cores() -> None:
    wants = [f"qmesh-worker@{core}.service" for core in (4, 5, 6, 7)]
    assert settings(WORKER_UNITS[WORKERS], "Wants") == wants
    for name in (AGENT, BOOT_GUARD, HOLDER, WORKER):
        assert WORKER_UNITS[name] == CONTROL_UNITS[name]


def test_qmeshs_own_units_are_the_agent_the_guard_its_holder_and_what_a_flush_is_answered_by() -> None:
    own = (AGENT, BOOT_GUARD, HOLDER, AFTER_FLUSH)
    assert render_qmesh_units(paths()) == {name: add_mark(UNITS[name]) for name in own}


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_known_again_until_it_is_edited(name: str) -> None:
    text = CONTROL_UNITS[name]
    assert is_unedited(text)
    first, rest = text.split("\n", 1)
    for edited in (UNITS[name], "", rest, f"{text}\n", f"{text}# mine", f"{first[:-1]}\n{rest}", first):
        assert not is_unedited(edited)


def test_after_a_flush_the_guard_is_loaded_whatever_that_service_may_see_and_where_it_is_not_wanted() -> None:
    """Source: systemd.service(5), command lines: `-` for a failure that is none, `+` for no sandbox."""
    text = CONTROL_UNITS[AFTER_FLUSH]
    for setting in ("ExecStartPost", "ExecReload", "ExecStopPost"):
        assert settings(text, setting) == ["-+/usr/sbin/nft -f /var/lib/qmesh/guard.nft"]
    assert "[Unit]" not in text  # no order and no need, so no cycle


@pytest.mark.parametrize("name", [CONTROL_PROCESS, WORKER])
def test_a_node_process_has_the_limits_that_its_makers_want(name: str) -> None:
    lines = CONTROL_UNITS[name].splitlines()
    assert {"LimitNOFILE=1048576", "KillSignal=SIGINT", "TimeoutStopSec=30"} <= set(lines)


@pytest.mark.parametrize(("name", "core"), [(CONTROL_PROCESS, "0"), (WORKER, "%i")])
def test_g3_no_node_process_starts_without_the_guard(name: str, core: str) -> None:
    text = CONTROL_UNITS[name]
    assert settings(text, "ExecStartPre") == [f"{READY} {core} --config {CONFIG} --timeout 60"]
    assert text.index("ExecStartPre=") < text.index("ExecStart=")
    for setting in ("Wants", "After"):
        assert {BOOT_GUARD, HOLDER, AGENT} <= set(settings(text, setting)[0].split())


@pytest.mark.parametrize("name", [CONTROL_PROCESS, WORKER])
@pytest.mark.parametrize("user", ["alice", "node-user_1", "_n", "1000", "4294967294"])
def test_a_node_process_has_the_rights_of_the_config_directorys_owner_alone(name: str, user: str) -> None:
    text = render_unit_files(paths(user=user), is_control=True, cores=range(1, 4))[name]
    assert settings(text, "User") == [user]
    assert settings(text, "CapabilityBoundingSet") == [""]
    assert settings(text, "NoNewPrivileges") == ["yes"]


@pytest.mark.parametrize("name", [CONTROL_PROCESS, WORKER])
def test_a_node_process_may_start_a_program_that_lies_beside_its_own(name: str) -> None:
    for setting in (
        *("ExecPaths", "NoExecPaths", "InaccessiblePaths", "ProtectHome", "RootDirectory", "RootImage"),
        *("TemporaryFileSystem", "PrivateUsers", "MemoryDenyWriteExecute", "TasksMax", "LimitNPROC"),
    ):
        assert settings(CONTROL_UNITS[name], setting) == [], setting


@pytest.mark.parametrize("user", ["", "Alice", "a b", "alice\nUser=root", "%u", "-1", "1-", "ä", "a" * 40])
def test_a_user_that_not_every_systemd_takes_is_refused(user: str) -> None:
    assert_refused("systemd cannot run a program as a user named", user=user)


@pytest.mark.parametrize("name", [CONTROL_PROCESS, WORKER])
def test_nothing_that_ends_or_restarts_takes_the_node_along(name: str) -> None:
    """Source: systemd.unit(5): what each of these is stopped or restarted with."""
    text = CONTROL_UNITS[name]
    for setting in ("Requires", "Requisite", "BindsTo"):
        assert settings(text, setting) == []
    assert settings(text, "PartOf") == ([WORKERS] if name == WORKER else [])


@pytest.mark.parametrize("name", [CONTROL_PROCESS, WORKER])
def test_a_node_process_is_started_again_for_ever_and_has_the_time_that_its_start_takes(name: str) -> None:
    text = CONTROL_UNITS[name]
    assert settings(text, "Restart") == ["always"]
    assert settings(text, "StartLimitIntervalSec") == ["0"]
    waits = [int(seconds) for seconds in re.findall(r"--timeout (\d+)", text)]
    assert int(settings(text, "TimeoutStartSec")[0]) > sum(waits)


@pytest.mark.parametrize("name", [BOOT_GUARD, HOLDER])
def test_g3_the_guard_is_there_before_the_network(name: str) -> None:
    assert "network-pre.target" in settings(CONTROL_UNITS[name], "Before")[0].split()


# (path, as a whole setting, as a program or a word of a setting, as an argument of a command line)
ESCAPED = {
    "plain": ("/a-b_c.d/e", "/a-b_c.d/e", "/a-b_c.d/e", "/a-b_c.d/e"),
    "space": ("/a b/c", "/a b/c", '"/a b/c"', '"/a b/c"'),
    "percent sign": ("/a%i/c", "/a%%i/c", "/a%%i/c", "/a%%i/c"),
    "dollar sign": ("/a$b/c", "/a$b/c", "/a$b/c", "/a$$b/c"),
    "variable": ("/a${b}/c", "/a${b}/c", "/a${b}/c", "/a$${b}/c"),
    "semicolon": ("/a;b/c", "/a;b/c", '"/a;b/c"', '"/a;b/c"'),
    "letters of other languages": ("/ä/é", "/ä/é", "/ä/é", "/ä/é"),
    "double quote": ('/a"b/c', '/a"b/c', r'"/a\"b/c"', r'"/a\"b/c"'),
    "single quote": ("/a'b/c", "/a'b/c", '"/a\'b/c"', '"/a\'b/c"'),
    "backslash": (r"/a\nb/c", r"/a\nb/c", r'"/a\\nb/c"', r'"/a\\nb/c"'),
    "all": ("/%$ \"'\\/c", "/%%$ \"'\\/c", r'''"/%%$ \"'\\/c"''', r'''"/%%$$ \"'\\/c"'''),
}
FOR_PROGRAMS = {name: row for name, row in ESCAPED.items() if not set(row[0]) & set("\"'\\")}


def test_the_control_process_starts_before_the_workers_or_after_them_and_never_both() -> None:
    others = "qmesh-guard.service qmesh-hold.service qmesh.service"
    for first in (False, True):
        units = render_unit_files(paths(), is_control=True, cores=range(1, 4), is_control_first=first)
        after = {name: settings(units[name], "After") for name in (CONTROL_PROCESS, WORKER)}
        assert after == {
            CONTROL_PROCESS: [f"{others} {'' if first else WORKERS + ' '}network-online.target"],
            WORKER: [f"{others} {CONTROL_PROCESS}" if first else others],
        }
        assert starts_control_first(units[CONTROL_PROCESS]) == first


@pytest.mark.parametrize(("path", "whole", "word", "argument"), ESCAPED.values(), ids=ESCAPED)
def test_a_path_is_escaped_as_its_setting_wants_it(path: str, whole: str, word: str, argument: str) -> None:
    units = render_unit_files(
        paths(guard_file=path, held_file=path, state=path, config_directory=path),
        is_control=True,
        cores=range(1, 2),
    )
    assert settings(units[BOOT_GUARD], "AssertPathExists") == [whole]
    assert settings(units[BOOT_GUARD], "RequiresMountsFor") == [word]
    assert settings(units[BOOT_GUARD], "ExecStart") == [f"/usr/sbin/nft -f {argument}"]
    assert settings(units[AFTER_FLUSH], "ExecReload") == [f"-+/usr/sbin/nft -f {argument}"]
    assert settings(units[HOLDER], "ConditionPathExists") == [whole]
    assert settings(units[HOLDER], "ReadWritePaths")[-1] == word
    for name, start in ((AGENT, "-I -m qmesh agent"), (HOLDER, f"-X utf8 -I -S {HOLDS}")):
        assert settings(units[name], "ExecStart") == [f"/opt/qmesh/bin/python {start} --state {argument}"]
    for name, core in ((CONTROL_PROCESS, ""), (WORKER, " --core %i")):
        assert settings(units[name], "ExecStart") == [f"/usr/local/bin/node --config {argument}{core}"]
        assert settings(units[name], "WorkingDirectory") == [whole.rpartition("/")[0] + "/"]
        assert f" --config {argument} --timeout 60" in settings(units[name], "ExecStartPre")[0]
    assert f" --config {argument} --timeout 180" in settings(units[WORKER], "ExecStartPost")[0]


@pytest.mark.parametrize(("path", "word"), [row[::2] for row in FOR_PROGRAMS.values()], ids=FOR_PROGRAMS)
def test_a_program_is_escaped_but_for_variables_which_systemd_does_not_look_for_there(
    path: str, word: str
) -> None:
    units = render_unit_files(paths(python=path, nft=path, program=path), is_control=True, cores=range(1, 2))
    for name in (AGENT, BOOT_GUARD, HOLDER, CONTROL_PROCESS, WORKER):
        assert settings(units[name], "ExecStart")[0].startswith(f"{word} -")
    for setting in ("ExecStartPre", "ExecStartPost"):
        assert settings(units[WORKER], setting)[0].startswith(f"+{word} -I -m qmesh ready %i ")


@pytest.mark.parametrize(
    ("directory", "parent"),
    [
        ("/root/node/.config", "/root/node/"),
        ("/root/node/.config/", "/root/node/"),
        ("/config", "/"),
        ("/", "/"),
        ("/a b /.config", "/a b /"),
        ("/a\\/.config", "/a\\/"),
    ],
)
def test_a_node_works_in_the_directory_that_holds_its_config_directory(directory: str, parent: str) -> None:
    units = render_unit_files(paths(config_directory=directory), is_control=True, cores=range(1, 2))
    for name in (CONTROL_PROCESS, WORKER):
        assert settings(units[name], "WorkingDirectory") == [parent]


special = st.text(st.sampled_from("ab%$ \"'\\;{}#-=~@")).map("/x{}/y".format)


@given(special)
def test_a_command_line_holds_just_the_words_that_it_was_given(path: str) -> None:
    units = render_unit_files(paths(config_directory=path, state=path), is_control=True, cores=range(1, 2))
    node = ["/usr/local/bin/node", "--config", path]
    assert words(settings(units[CONTROL_PROCESS], "ExecStart")[0]) == node
    assert words(settings(units[WORKER], "ExecStart")[0]) == [*node, "--core", "%i"]
    assert words(settings(units[AGENT], "ExecStart")[0])[1:] == [
        "-I",
        "-m",
        "qmesh",
        "agent",
        "--state",
        path,
    ]


PATHS = ("python", "state", "guard_file", "held_file", "nft", "program", "config_directory")


def assert_refused(message: str, **named: Any) -> None:
    with pytest.raises(BadInput) as caught:
        paths(**named)
    assert message in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.hint.isprintable()


@pytest.mark.parametrize("field", PATHS)
@pytest.mark.parametrize(
    "path",
    ["", "node", "./node", "~/node", "/a/../b", "/a/..", "/a\nExecStartPre=/bin/x", "/a\tb", "/\ud800"],
)
def test_what_systemd_takes_for_no_path_is_refused(field: str, path: str) -> None:
    assert_refused("is not a path for a systemd unit", **{field: path})


@pytest.mark.parametrize("field", ["python", "nft", "program"])
@pytest.mark.parametrize("path", ['/a"b', "/a'b", "/a\\b"])
def test_a_program_whose_name_systemd_does_not_take_is_refused(field: str, path: str) -> None:
    assert_refused("systemd cannot run a program named", **{field: path})


def test_two_dots_inside_a_name_are_no_way_up() -> None:
    assert paths(config_directory="/a..b/..c/d..").config_directory == "/a..b/..c/d.."


def test_the_undoing_is_before_whatever_loads_the_guard_and_in_nobodys_session():
    text = render_undo_unit(paths(state="/var/lib/q mesh%"))
    assert is_unedited(text)
    assert "Before=qmesh-guard.service qmesh-hold.service qmesh.service network-pre.target" in text
    assert "ConditionPathExists=/var/lib/q mesh%%/undo.json\n" in text
    assert 'ExecStart=/opt/qmesh/bin/python -I -m qmesh undo --state "/var/lib/q mesh%%"\n' in text
    for setting in ("DefaultDependencies=no", "Restart=on-failure", "KillMode=process"):
        assert f"{setting}\n" in text


def test_a_workers_unit_is_an_instance_of_the_template_by_its_core():
    assert worker_unit_name(17) == "qmesh-worker@17.service"


@given(
    st.text(
        st.characters(exclude_characters="\"'\\", exclude_categories=["C", "Z"]) | st.just(" "), min_size=1
    )
)
def test_the_program_of_a_workers_unit_is_read_from_it(name):
    program = f"/opt/{name}"
    if ".." in program.split("/"):
        return
    unit = render_unit_files(paths(program=program), is_control=False, cores=range(1, 2))[WORKER]
    assert parse_node_program(unit) == program


def test_a_unit_that_tells_of_no_program_has_none():
    assert parse_node_program(UNITS[BOOT_GUARD]) is None


def test_the_target_alone_is_as_among_all_units():
    assert (
        render_workers_target((4, 5))
        == render_unit_files(paths(), is_control=False, cores=range(4, 6))[WORKERS]
    )
