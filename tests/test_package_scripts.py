"""What the package's scripts read without qmesh: a guard's ports, a unit's mark, the schema."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qmesh.host.registry.schema import VERSION
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.systemd.units import add_mark
from qmesh.mesh.values import format_port_ranges
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
