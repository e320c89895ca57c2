"""What systemd tells of the units that load other firewalls."""

from __future__ import annotations

import pytest

from qmesh.host.firewall.firewall_units import NFTABLES, UNITS, FirewallUnit, parse_unit, read_firewall_units
from qmesh.host.system import systemd

DEBIAN = """\
ExecStart={{ path=/usr/sbin/nft ; argv[]=/usr/sbin/nft -f {file} ; ignore_errors=no ; pid=0 ; status=0/0 }}
ExecReload={{ path=/usr/sbin/nft ; argv[]=/usr/sbin/nft -f {file} ; ignore_errors=no ; pid=0 ; status=0/0 }}
ExecStop={{ path=/usr/sbin/nft ; argv[]=/usr/sbin/nft flush ruleset ; ignore_errors=no ; pid=0 ; status=0/0 }}
Id=nftables.service
ActiveState=failed
UnitFileState=enabled
"""
RED_HAT = """\
ExecStart={{ path=/sbin/nft ; argv[]=/sbin/nft {command}include "{file}"; ; ignore_errors=no ; pid=0 }}
Id=nftables.service
ActiveState=active
UnitFileState=disabled
"""


def test_a_unit_is_told_with_the_files_that_nft_loads_for_it(tmp_path):
    file = str(tmp_path / "nftables.conf")
    assert parse_unit(DEBIAN.format(file=file)) == FirewallUnit(
        name=NFTABLES, state="failed", starts=True, rules=(file,), is_flushing=True
    )
    assert parse_unit(RED_HAT.format(file=file, command="flush ruleset; ")) == FirewallUnit(
        name=NFTABLES, state="active", starts=False, rules=(file,), is_flushing=True
    )


@pytest.mark.parametrize("text", ["table inet mine {\n}\n", "# flush ruleset\n"])
def test_a_unit_flushes_where_it_or_its_file_says_so(tmp_path, text):
    path = tmp_path / "nftables.conf"
    block = RED_HAT.format(file=path, command="")
    assert not parse_unit(block).is_flushing
    path.write_text(text)
    assert not parse_unit(block).is_flushing
    path.write_text(f"{text}flush ruleset\n")
    assert parse_unit(block).is_flushing


def test_a_file_with_rules_is_read_through_links_and_one_that_cannot_be_read_flushes_nothing(tmp_path):
    real, link, loop = tmp_path / "real.conf", tmp_path / "link.conf", tmp_path / "loop.conf"
    real.write_text("flush ruleset\n")
    link.symlink_to(real)
    loop.symlink_to(loop)
    assert parse_unit(RED_HAT.format(file=link, command="")).is_flushing
    for other in (loop, tmp_path, real / "below"):
        assert not parse_unit(RED_HAT.format(file=other, command="")).is_flushing


def test_of_units_that_are_not_there_or_do_nothing_none_is_told(monkeypatch):
    blocks = {name: f"Id={name}\nActiveState=inactive\nUnitFileState=" for name in UNITS}
    blocks["ufw.service"] = "Id=ufw.service\nActiveState=inactive\nUnitFileState=enabled"
    blocks["ferm.service"] = "Id=ferm.service\nActiveState=failed\nUnitFileState=disabled"
    monkeypatch.setattr(systemd, "is_systemd_running", lambda: True)
    monkeypatch.setattr(systemd, "run_systemctl", lambda *_: "\n\n".join(blocks.values()) + "\n")
    assert [(each.name, each.state, each.starts) for each in read_firewall_units()] == [
        ("ufw.service", "inactive", True),
        ("ferm.service", "failed", False),
    ]
    monkeypatch.setattr(systemd, "is_systemd_running", lambda: False)
    assert read_firewall_units() == ()
