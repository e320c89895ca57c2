from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qmesh.errors import KernelRefused
from qmesh.host.network import links
from tests.support.network import ip, veth

pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.usefixtures("own_machine")]


def test_what_is_not_there_reads_as_none():
    assert links.read("qmesh0") is None


def test_an_interface_reads_as_ip_link_shows_it():
    veth("qmesh0", up=False)
    ip("link", "set", "qmesh0", "mtu", "1400")

    link = links.read("qmesh0")

    assert link == links.Link(
        name="qmesh0",
        index=int(ip("-o", "link", "show", "qmesh0").split(":")[0]),
        kind="veth",
        mtu=1400,
        up=False,
        addresses=(),
    )


def test_another_name_of_an_interface_is_not_it():
    veth("eth0")
    ip("link", "property", "add", "dev", "eth0", "altname", "qmesh0")

    with pytest.raises(KernelRefused, match="another name of the interface eth0"):
        links.delete("qmesh0")

    assert links.read("eth0") is not None


def test_up_and_down():
    veth("eth0", up=False)
    links.set_link_state("eth0", up=True)
    up = links.read("eth0")
    links.set_link_state("eth0", up=False)
    down = links.read("eth0")

    assert up is not None
    assert down is not None
    assert (up.up, down.up) == (True, False)


def test_mtu():
    veth("eth0")
    links.set_mtu("eth0", 1420)
    link = links.read("eth0")

    assert link is not None
    assert link.mtu == 1420


def test_a_refused_mtu_says_which():
    veth("eth0")

    with pytest.raises(KernelRefused, match="set the MTU of eth0 to 99999999"):
        links.set_mtu("eth0", 99_999_999)


def test_addresses_are_added_once_and_sorted_and_without_link_local():
    veth("eth0")
    for address in ("fd00:77::2/64", "10.77.0.2/20", "10.77.0.2/20", "fd00:77::2/64"):
        links.add_address("eth0", address)
    link = links.read("eth0")

    assert "fe80::" in ip("-6", "address", "show", "eth0")
    assert link is not None
    assert link.addresses == ("10.77.0.2/20", "fd00:77::2/64")


def test_an_ipv6_address_can_be_used_at_once():
    veth("eth0")
    links.add_address("eth0", "fd00:77::2/64")

    assert "tentative" not in ip("-6", "address", "show", "scope", "global")
    assert "nodad" in ip("-6", "address", "show", "scope", "global")


def test_an_ipv6_address_with_another_prefix_length_is_no_success():
    veth("eth0", "fd00:77::2/48")

    with pytest.raises(KernelRefused, match="add fd00:77::2/64 to eth0"):
        links.add_address("eth0", "fd00:77::2/64")


def test_ipv6_switched_off_is_told():
    veth("eth0")
    Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").write_text("1")

    with pytest.raises(KernelRefused) as refused:
        links.add_address("eth0", "fd00:77::2/64")

    assert "disable_ipv6" in refused.value.hint


def test_addresses_are_removed_and_those_that_are_gone_are_fine():
    veth("eth0", "10.77.0.2/20", "fd00:77::2/64")
    for address in ("10.77.0.2/20", "10.77.0.2/20", "fd00:77::2/64", "fd00:77::2/64"):
        links.remove_address("eth0", address)
    links.remove_address("no-such", "10.77.0.2/20")
    link = links.read("eth0")

    assert link is not None
    assert link.addresses == ()


def test_a_point_to_point_address_is_our_own_side():
    veth("eth0")
    ip("address", "add", "10.1.1.1", "peer", "10.1.1.2/32", "dev", "eth0")
    link = links.read("eth0")

    assert link is not None
    assert link.addresses == ("10.1.1.1/32",)


def test_delete_and_what_is_gone_is_fine():
    veth("eth0")
    links.delete("eth0")
    links.delete("eth0")

    assert links.read("eth0") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda: links.set_link_state("qmesh0", up=True),
        lambda: links.set_mtu("qmesh0", 1420),
        lambda: links.add_address("qmesh0", "10.77.0.2/20"),
    ],
    ids=["up", "mtu", "address"],
)
def test_changing_what_is_not_there_is_refused(change):
    with pytest.raises(KernelRefused, match="No such device") as refused:
        change()

    assert refused.value.hint


def test_without_the_right_to_change_links_root_is_asked_for():
    code = "from qmesh.host.network import links; links.set_mtu('lo', 1400)"
    # Without the network administrator's capability, root is told no as well.
    ended = subprocess.run(
        ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
    )

    assert "NeedsRoot: could not set the MTU of lo to 1400" in ended.stderr
