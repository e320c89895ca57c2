"""What the package's scripts read without qmesh, and what they do and leave alone, in a folder of their own.

tests/lab/test_package.py runs them by dpkg.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qmesh.host.registry.schema import VERSION
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.systemd.units import add_mark
from tests.support import factories
from tests.support.lab.packages import NAMES, SCRIPTS


def call(script: str, function: str, words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Call a function of a script, which is run by no more than that."""
    text = (SCRIPTS / f"qmesh.{script}").read_text()
    found = re.search(rf"^{function}\(\) {{\n.*?^}}\n", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    given = "".join(f"{name}='{value}'\n" for name, value in variables.items())
    return subprocess.run(
        ["sh", "-ec", f"{given}{found[0]}{words}"], check=False, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", NAMES)
def test_scripts_name_the_schema_that_there_is(name):
    found = re.findall("^schema=(.*)$", (SCRIPTS / f"qmesh.{name}").read_text(), re.MULTILINE)
    assert found == ([str(VERSION)] if name in {"preinst", "postrm"} else [])


@pytest.mark.parametrize("script", ["prerm", "postrm"])
@pytest.mark.parametrize(
    ("ports", "own"), [((40000,), ()), ((40000, 40001), ()), (tuple(range(40000, 40100)), (8337, 41000))]
)
def test_scripts_read_the_ports_of_a_guard_of_any_size(script, ports, own, tmp_path):
    """nft lists many of them over several lines."""
    guard = factories.guard(*ports, kind="tun", own_ports=own)
    (tmp_path / "guard.nft").write_text(render_load_script(guard))
    said = call(script, "list_ports", "list_ports", state=str(tmp_path))
    assert (said.stdout, said.stderr) == (format_port_ranges(sorted((*ports, *own))), "")


@pytest.mark.parametrize("script", ["prerm", "postrm"])
def test_without_a_guard_there_are_no_ports_to_read(script, tmp_path):
    said = call(script, "list_ports", "list_ports", state=str(tmp_path))
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


@pytest.mark.parametrize(("more", "code"), [("", 0), ("# mine\n", 1)])
@pytest.mark.parametrize("script", ["prerm", "postrm"])
def test_scripts_know_a_unit_that_was_edited(script, more, code, tmp_path):
    unit = Path(tmp_path / "qmesh.service")
    unit.write_text(add_mark("[Service]\nExecStart=/bin/true %i\n") + more)
    assert call(script, "is_unedited", f"is_unedited '{unit}'").returncode == code


@pytest.mark.lab
@pytest.mark.parametrize(("user", "is_read"), [(0, True), (1000, False)])
def test_r1_a_removal_reads_no_memory_of_a_users_process(user, is_read, tmp_path):
    """He can have whoever reads it wait for ever, by what he maps at the place of his command line."""
    read = tmp_path / "read"
    with (tmp_path / "of-a-user.lock").open("w") as opened:
        holder = subprocess.Popen(
            ["sh", "-c", "echo; read end"],
            user=user,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[opened.fileno()],
        )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()  # it has begun
        words = f"tr() {{ touch {read}; }}; end_lock_owner of-a-user.lock"
        said = call("prerm", "end_lock_owner", words, state="/none")
        holder.kill()
    assert (said.returncode, said.stderr) == (0, "")
    assert read.exists() == is_read


def link_programs(folder: Path, *names: str) -> str:
    """A PATH with no more than these."""
    for name in names:
        (folder / name).symlink_to(shutil.which(name) or name)
    return str(folder)


@pytest.mark.parametrize(("interface", "told"), [("lo", True), ("qmesh-none", False)])
def test_without_ip_a_purge_names_the_tunnel_that_it_leaves(interface, told, tmp_path):
    """A minimal Debian has no iproute2."""
    (tmp_path / "machine.json").write_text(f'{{\n  "interface": "{interface}"\n}}\n')
    path = link_programs(tmp_path, "sed", "grep")
    said = call("postrm", "remove_tunnel", "remove_tunnel", state=str(tmp_path), PATH=path)
    assert said.returncode == 0
    assert (f"warning: without ip the tunnel {interface} could not be removed" in said.stderr) == told


@pytest.mark.parametrize(("closed", "told"), [("yes", "warning: without nft"), ("", "")])
def test_without_nft_a_purge_warns_only_where_there_was_a_guard(closed, told, tmp_path):
    said = call("postrm", "tell_open", "tell_open", closed=closed, ports="40000", PATH=str(tmp_path))
    assert said.returncode == 0
    assert said.stderr[: len("warning: without nft")] == told


@pytest.mark.parametrize(
    ("systemd", "again"),
    [("true", "installing qmesh again starts the agent"), ("false", "install qmesh, and run `qmesh apply`")],
)
def test_a_removal_says_what_the_boot_guard_needs_and_how_the_agent_comes_back(systemd, again, tmp_path):
    """apt would remove nftables too, which it had installed for qmesh."""
    for name in ("machine.json", "qmesh-guard.service"):
        (tmp_path / name).touch()
    words = f"list_ports() {{ echo 40000; }}; nft() {{ :; }}; has_systemd() {{ {systemd}; }}; tell_ports"
    said = call("prerm", "tell_ports", words, units=str(tmp_path), state=str(tmp_path))
    assert "run `apt-mark manual nftables` before any `apt autoremove`" in said.stderr
    assert again in said.stderr


class Machine:
    """A folder in which a script runs as if it was the root; other programs are stand-ins, which are noted.

    answers: of those programs, by their call's beginning: the exit status.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[str, int] = {}
        self.said = ""
        for name in ("bin", "usr/bin", "var/lib/qmesh", "etc/systemd/system"):
            (folder / name).mkdir(parents=True)
        for path in ("bin/nft", "bin/ip", "bin/systemctl", "bin/dpkg-query", "usr/bin/qmesh"):
            self.write(
                path,
                f'#!/bin/sh\necho "${{0##*/}} $*" >>{folder}/calls\n'
                f'while read -r code words; do case "${{0##*/}} $*" in "$words"*)'
                f" cat {folder}/output 2>/dev/null; exit $code ;; esac; done <{folder}/answers\n",
            ).chmod(0o755)

    def write(self, name: str, text: str = "") -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def write_unit(self, name: str, program: str = "/usr/lib/qmesh/bin/python", *, more: str = "") -> None:
        text = add_mark(f"[Service]\nExecStart={program} -I -m qmesh agent --state /there\n")
        self.write(f"etc/systemd/system/{name}", text + more)

    def list_units(self) -> set[str]:
        return {path.name for path in (self.folder / "etc/systemd/system").iterdir()}

    def begin_systemd(self) -> None:
        (self.folder / "run/systemd/system").mkdir(parents=True)

    def run(self, script: str, *words: str, code: int = 0) -> list[str]:
        """The calls of other programs, in order."""
        text = (SCRIPTS / f"qmesh.{script}").read_text()
        text = re.sub(r"(?<![\w./])/(?=(var|run|etc|proc/sys)/|usr/bin/qmesh)", f"{self.folder}/", text)
        self.write("answers", "".join(f"{code} {call}\n" for call, code in self.answers.items()))
        self.write("calls")
        done = subprocess.run(
            ["sh", self.write("script", text), *words],
            check=False,
            capture_output=True,
            text=True,
            env={"PATH": f"{self.folder}/bin:{os.environ['PATH']}"},
        )
        self.said = done.stdout + done.stderr
        assert done.returncode == code, self.said
        return (self.folder / "calls").read_text().replace(f"{self.folder}/", "/").splitlines()


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


SETTINGS = "var/lib/qmesh/machine.json"


@pytest.mark.parametrize(
    ("output", "has_state", "code"),
    [("schema=999\n", True, 1), ("schema=999\n", False, 0), (f"schema={VERSION}\n", True, 0), ("", True, 0)],
)
def test_only_the_state_of_a_newer_package_keeps_an_older_one_out(machine, output, has_state, code):
    machine.answers["dpkg-query"] = 0
    machine.write("output", output)
    if has_state:
        machine.write(SETTINGS)
    for call in ("install", "upgrade"):
        machine.run("preinst", call, "1", code=code)
        assert ("nothing was changed" in machine.said) == bool(code)


@pytest.mark.parametrize(("status", "is_warned"), [(0, False), (1, False), (3, True)])
def test_what_runs_is_replaced_and_a_failure_leaves_the_package_configured(machine, status, is_warned):
    assert machine.run("postinst", "configure") == []
    machine.write(SETTINGS)
    machine.answers["qmesh"] = status
    assert machine.run("postinst", "configure", "1") == ["qmesh --state /var/lib/qmesh restart"]
    assert ("run `qmesh restart`" in machine.said) == is_warned
    assert machine.run("postinst", "abort-upgrade", "1") == []
    # What prerm ended has to run again.
    assert machine.run("postinst", "abort-remove", "in-favour", "x", "1") == [
        "qmesh --state /var/lib/qmesh restart"
    ]


def test_the_state_is_found_where_the_unit_has_it(machine):
    (machine.folder / "there").mkdir()
    machine.write("there/machine.json")
    machine.write(
        "etc/systemd/system/qmesh.service",
        f"ExecStart=python -m qmesh agent --state {machine.folder}/there\n",
    )
    assert machine.run("postinst", "configure") == ["qmesh --state /there restart"]


def test_a_change_that_waits_keeps_the_package_there(machine):
    machine.begin_systemd()
    machine.write_unit("qmesh.service")
    machine.write("var/lib/qmesh/undo.json", '{"undone": false}')
    assert machine.run("prerm", "remove", code=1) == []
    assert machine.list_units() == {"qmesh.service"}
    machine.write("var/lib/qmesh/undo.json", '{"undone": true}')
    machine.run("prerm", "remove")
    assert machine.list_units() == set()


def test_a_removal_ends_its_own_units_with_the_agent_first_and_keeps_guard_and_node(machine):
    machine.begin_systemd()
    machine.write(SETTINGS)
    for name in ("qmesh-hold.service", "qmesh.service", "qmesh-guard.service", "qmesh-worker@.service"):
        machine.write_unit(name)
    machine.write_unit("qmesh-undo.service", more="# mine\n")
    machine.answers["nft list"] = 0
    units = ("qmesh.service", "qmesh-undo.service", "qmesh-hold.service")
    assert machine.run("prerm", "remove") == [
        *(f"systemctl disable --now {name}" for name in units),
        "systemctl daemon-reload",
        "nft list table inet qmesh",
    ]
    assert machine.list_units() == {"qmesh-undo.service", "qmesh-guard.service", "qmesh-worker@.service"}
    assert "stay CLOSED" in machine.said
    assert "OPEN" not in machine.said
    assert "no process again without qmesh" in machine.said


def test_what_no_call_before_has_ended_is_ended_after_the_files_are_gone(machine):
    """dpkg calls no prerm for a package of an upgrade that was cut off."""
    machine.begin_systemd()
    machine.write(SETTINGS)
    machine.answers["nft list"] = 0
    for name in ("qmesh-hold.service", "qmesh.service", "qmesh-guard.service", "qmesh-undo.service"):
        machine.write_unit(name)
    machine.write("var/lib/qmesh/undo.json", '{"undone": false}')
    assert machine.run("prerm", "left") == [
        *(f"systemctl disable --now {name}" for name in ("qmesh.service", "qmesh-hold.service")),
        "systemctl daemon-reload",
        "nft list table inet qmesh",
    ]
    assert machine.list_units() == {"qmesh-guard.service", "qmesh-undo.service"}
    assert "stay CLOSED" in machine.said
    # A second call, as after prerm: an edited unit, which was stopped, is there too.
    machine.write_unit("qmesh.service", more="# mine\n")
    machine.answers["systemctl --quiet is-enabled"] = 1
    assert machine.run("prerm", "left") == ["systemctl --quiet is-enabled qmesh.service"]
    assert machine.said == ""


@pytest.mark.parametrize(
    ("call", "has_files", "is_called"),
    [("remove", False, True), ("remove", True, False), ("upgrade", False, False), ("purge", False, False)],
)
def test_what_is_left_is_ended_where_the_files_are_gone_for_good(tmp_path, call, has_files, is_called):
    python = tmp_path / "python"
    if has_files:
        python.touch()
    prerm = tmp_path / "qmesh.prerm"
    prerm.write_text("#!/bin/sh\necho called $1\nexit 1\n")
    prerm.chmod(0o755)
    text = (SCRIPTS / "qmesh.postrm").read_text().replace("/usr/lib/qmesh/bin/python", str(python))
    postrm = tmp_path / "qmesh.postrm"
    postrm.write_text(re.sub(r"^    purge\) purge ;;\n", "    purge) ;;\n", text, flags=re.MULTILINE))
    done = subprocess.run(["sh", postrm, call], check=True, capture_output=True, text=True)
    assert done.stdout == ("called left\n" if is_called else "")


def test_a_removal_without_systemd_and_guard_says_that_ports_are_open(machine):
    machine.write(SETTINGS)
    machine.write_unit("qmesh.service", "/opt/pipx/bin/python")
    machine.answers["nft list"] = 1
    assert machine.run("prerm", "remove") == ["nft list table inet qmesh"]
    assert machine.list_units() == {"qmesh.service"}
    assert "are OPEN: no guard is loaded" in machine.said
    assert "from the next boot on they are OPEN" in machine.said


def test_a_purge_takes_units_tunnel_guard_and_state(machine):
    machine.begin_systemd()
    machine.write(SETTINGS, '{\n  "interface": "qmesh0"\n}\n')
    machine.write("var/lib/qmesh/guard.nft", render_load_script(factories.guard(40000, 40001)))
    machine.write_unit("qmesh-worker@.service")
    machine.write_unit("qmesh-guard.service", more="# mine\n")
    machine.answers["ip link show dev qmesh0 type wireguard"] = 0
    machine.write("output", "7: qmesh0\n")
    assert machine.run("postrm", "purge") == [
        *("systemctl stop qmesh-worker@*.service", "systemctl disable qmesh-worker@.service"),
        *("systemctl stop qmesh-guard.service", "systemctl disable qmesh-guard.service"),
        *("systemctl daemon-reload", "systemctl reset-failed qmesh*"),
        *("ip link show dev qmesh0 type wireguard", "ip link delete dev qmesh0"),
        "ip link show dev qmesh0 type tun",
        *("nft delete table inet qmesh", "nft delete table inet qmesh-held"),
    ]
    assert machine.list_units() == {"qmesh-guard.service"}
    assert not (machine.folder / "var/lib/qmesh").exists()
    assert "ports 40000-40001, the workers' among them" in machine.said


def test_a_purge_leaves_what_another_installation_has_and_says_nothing_where_nothing_was(machine):
    machine.answers["nft list"] = 1
    assert machine.run("postrm", "purge") == ["nft list table inet qmesh"]
    assert "OPEN" not in machine.said
    (machine.folder / "var/lib/qmesh").mkdir()
    machine.write(SETTINGS)
    machine.write_unit("qmesh.service", "/bin/sh")
    assert machine.run("postrm", "purge") == []
    assert "another installation" in machine.said
    assert (machine.folder / SETTINGS).exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_call_that_there_is_not_is_refused(machine, name):
    assert machine.run(name, "else", code=1) == []


@pytest.mark.parametrize(("closed", "tables"), [("yes", ["qmesh", "qmesh-held"]), ("", [])])
def test_a_purge_removes_the_guard_of_its_own_state_only(closed, tables):
    """In a chroot nft has the tables of the machine around it."""
    words = 'nft() { echo "$*"; }\nremove_guard'
    done = call("postrm", "remove_guard", words, closed=closed, state="/nowhere")
    assert done.stdout.splitlines() == [f"delete table inet {table}" for table in tables]
    assert ("table inet qmesh stays, and closes its ports" in done.stderr) == (not closed)


@pytest.mark.parametrize("name", NAMES)
def test_scripts_do_nothing_for_a_root_that_is_not_this_machines(name):
    """`dpkg --force-script-chrootless`; read, and not run, as the rest would be done to this machine."""
    text = (SCRIPTS / f"qmesh.{name}").read_text()
    code = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert code[:2] == ["set -e", '[ -z "${DPKG_ROOT:-}" ] || exit 0']
