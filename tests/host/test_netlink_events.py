from __future__ import annotations

import re
import select
import subprocess

import pytest

from qmesh.host.firewall import nftables
from qmesh.host.network.netlink_events import Notice, Notices
from tests.support.network import nft

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]


def test_nothing_is_noticed_where_nothing_happens():
    notices = Notices()
    assert notices.take_notice() is None
    notices.close()


@pytest.mark.parametrize(
    "change",
    [
        "add chain inet qmesh a",
        "add rule inet qmesh there drop",
        "add element inet qmesh ports { 1 }",
        "delete table inet qmesh",
        "flush ruleset",
    ],
)
def test_who_changed_the_guards_table_is_told(change):
    nft("add table inet qmesh; add chain inet qmesh there; add set inet qmesh ports { type inet_service; }")
    notices = Notices()
    nft(change)
    notice = notices.take_notice()

    assert notice is not None
    assert re.fullmatch(r"nft \(process \d+\)", notice.changed_by)
    assert notices.take_notice() is None
    notices.close()


def test_of_two_who_changed_it_the_last_is_told():
    notices = Notices()
    nft("add table inet qmesh")
    nftables.run("delete table inet qmesh")
    notice = notices.take_notice()

    assert notice is not None
    assert notice.changed_by
    assert not notice.changed_by.startswith("nft ")
    notices.close()


def test_the_tables_of_others_are_theirs():
    notices = Notices()
    nft("add table inet other; add table ip qmesh2; add table ip qmes; delete table inet other")
    assert notices.take_notice() is None
    notices.close()


@pytest.mark.parametrize("change", ["link set lo mtu 1400", "address add 10.0.0.1/32 dev lo"])
def test_links_and_addresses_are_noticed(change):
    notices = Notices()
    subprocess.run(["ip", *change.split()], check=True)
    assert notices.take_notice() == Notice()
    assert notices.take_notice() is None
    notices.close()


def test_where_too_much_happened_that_is_a_notice():
    notices = Notices()
    for number in range(40):
        elements = ",".join(str(number * 1000 + port) for port in range(1000))
        nft(f"add table ip t; add set ip t s {{ type mark; }}; add element ip t s {{ {elements} }}")
    assert notices.take_notice() == Notice()
    nft("add table ip another")
    assert notices.take_notice() is None
    notices.close()


def test_they_can_be_waited_for():
    notices = Notices()
    assert select.select(notices.sockets, [], [], 0)[0] == []
    nft("add table inet qmesh")
    assert len(select.select(notices.sockets, [], [], 5)[0]) == 1
    notices.take_notice()
    assert select.select(notices.sockets, [], [], 0)[0] == []
    notices.close()


def test_notices_in_place_of_others_count_on_and_one_more():
    notices = Notices()
    nft("add table inet other; add set inet other s { type inet_service; }")
    nft("add element inet other s { 1 }")
    notices.take_notice()
    before = notices.count_changes()
    notices.close()
    nft("delete table inet other")
    others = Notices(before)
    others.close()

    assert before.rules
    assert before.elements
    assert others.count_changes() == (before.rules + 1, before.elements)
