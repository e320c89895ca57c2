"""Others' rules, written to be misread: `check` says what it makes of them, and never breaks off."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.lab.cluster import (
    AGENT,
    CONFIG,
    HOLDER,
    checked,
    make_control,
    qmesh,
    start_workers,
)
from tests.support.lab.machines import Lab, Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

ODD_NAME = "a b\n'\""
ODD_ELEMENT = 'elements = { "b\\xff" : drop }'
DROP = "udp dport 51820 drop"
HOOK = "type filter hook input priority 0;"
PORT = {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 51820}}


@dataclasses.dataclass(frozen=True)
class Case:
    """Rules, by a script of bash, and what `check` finds of them: severity by code, and a word of it.

    in_words: whether what it says to people is looked at too; where there is much to follow it takes seconds.
    """

    script: str
    found: tuple[tuple[str, str, str], ...] = ()
    in_words: bool = True


def nft(rules: str) -> str:
    """A script that loads rules, with octets as printf has them."""
    escaped = rules.replace("'", r"\'")
    return f"nft -f <(printf '%s' $'{escaped.replace(chr(10), chr(92) + 'n')}')"


def chain(*rules: str, more: str = "") -> str:
    body = "\n".join(rules)
    return nft(f"table inet odd {{\n{more}\nchain c {{\n{HOOK}\n{body}\n}}\n}}\n")


def in_json(*commands: dict[str, Any]) -> str:
    return f"nft -j -f - <<'END'\n{json.dumps({'nftables': list(commands)})}\nEND\n"


def named(table: str, name: str) -> str:
    """A table and chain of these names, which drops WireGuard's packets."""
    base = {"type": "filter", "hook": "input", "prio": 0, "policy": "accept"}
    return in_json(
        {"add": {"table": {"family": "inet", "name": table}}},
        {"add": {"chain": {"family": "inet", "table": table, "name": name, **base}}},
        {"add": {"rule": {"family": "inet", "table": table, "chain": name, "expr": [PORT, {"drop": None}]}}},
    )


DROPS = ("foreign-drop", "error", "drop")
CASES = {
    "a chain without a name": Case(chain("udp dport 51820 jump { drop; }"), (DROPS,)),
    "such a chain for other packets": Case(chain("tcp dport 22 jump { drop; }")),
    "a comment with a line break": Case(chain(f'{DROP} comment "x\\nflags dormant"'), (DROPS,)),
    "a comment that looks like another hook": Case(
        chain(f'{DROP} comment "x\\ntype filter hook ingress device eth9"'),
        (DROPS,),
    ),
    "a comment that talks to the terminal": Case(
        chain(f'{DROP} comment "\\x1b]0;x\\x07\\x1b[2Jerror:\\x9b\\xe2\\x80\\xae"'), (DROPS,)
    ),
    "a comment that is not UTF-8": Case(chain(f'{DROP} comment "x\\xff"'), (DROPS,)),
    "an interface that is not UTF-8": Case(chain('iifname "a\\xff" accept', DROP), (DROPS,)),
    "a map of such interfaces": Case(
        chain(
            "iifname vmap @m", DROP, more='map m { type ifname : verdict; elements = { "b\\xff" : drop }; }'
        ),
        (DROPS,),
    ),
    "a line separator in a table's name": Case(named("odd\u2028table inet qmesh {", "c"), (DROPS,)),
    "line breaks and shell in names": Case(named("a\nflags dormant", "b; touch /root/owned"), (DROPS,)),
    "the longest names": Case(named("t" * 255, "c" * 255), (DROPS,)),
    "names that are nft's words": Case(named("table", "drop"), (DROPS,)),
    "a table of qmesh's name and another family": Case(
        nft(f"table ip qmesh {{\nchain c {{ {HOOK} {DROP}; }}\n}}\n"), (DROPS,)
    ),
    "other families": Case(
        nft(
            "table arp a { chain c { type filter hook input priority 0; policy accept; }\n}\n"
            "table bridge b { chain c { type filter hook input priority 0; policy drop; }\n}\n"
            'table netdev n { chain c { type filter hook ingress device "eth0" priority 0; '
            f"{DROP}; }}\n}}\n"
        ),
        (DROPS,),
    ),
    "a table that sleeps": Case(nft(f"table inet s {{ flags dormant; chain c {{ {HOOK} {DROP}; }}\n}}\n")),
    "a hundred thousand addresses": Case(
        "{ echo 'table inet big { set s { type ipv4_addr; elements = {';"
        " for a in {1..100}; do echo 198.18.$a.{0..250},; echo 198.19.$a.{0..250},; echo 203.0.$a.{0..250},;"
        " echo 203.1.$a.{0..250},; done | tr ' ' '\\n';"
        f" echo '192.0.2.9 }} }}';"
        f" echo 'chain c {{ {HOOK} ip saddr != @s {DROP}; }}'; echo '}}'; }} | nft -f -",
        (("foreign-drop", "error", "!= @s"),),
    ),
    "two thousand chains": Case(
        "{ echo 'table inet many {'; for i in {1..2000}; do echo \"chain c$i { tcp dport $i drop; }\"; done;"
        f" echo 'chain c {{ {HOOK}'; for i in {{1..2000}}; do echo \"udp dport $i jump c$i\"; done;"
        f" echo '{DROP}; }}'; echo '}}'; }} | nft -f -",
        (DROPS,),
        in_words=False,
    ),
    "jumps that multiply": Case(
        "{ echo 'table inet deep {'; for i in {14..0}; do echo \"chain c$i {\";"
        " [ $i = 14 ] || for j in 1 2 3 4; do echo \"jump c$((i+1))\"; done; echo '}'; done;"
        f" echo 'chain c {{ {HOOK} ip saddr 192.0.2.1 jump c0; }}'; echo '}}'; }} | nft -f -",
        (("foreign-drop", "warning", "more rules than qmesh follows"),),
        in_words=False,
    ),
    "iptables: a quote in a chain's name": Case(
        """iptables-nft -N "it's"; iptables-nft -A INPUT -j "it's";"""
        """ iptables-nft -A "it's" -p udp --dport 51820 -j DROP""",
        (DROPS,),
    ),
    "iptables: a chain whose name is not UTF-8": Case(
        """iptables-nft -N $'b\\xff'; iptables-nft -A INPUT -j $'b\\xff';"""
        """ iptables-nft -A $'b\\xff' -p udp --dport 51820 -j DROP""",
        (DROPS,),
    ),
    "iptables: a quote in an interface": Case(
        """iptables-nft -A INPUT -i 'a"b' -j ACCEPT; iptables-nft -A INPUT -i '"' -j ACCEPT;"""
        """ iptables-nft -A INPUT -p udp --dport 51820 -j DROP""",
        (DROPS,),
    ),
    "iptables: a comment that looks like another table": Case(
        """iptables-nft -A INPUT -p udp --dport 51820 -m comment"""
        """ --comment $'x\\nCOMMIT\\n*filter\\n:INPUT ACCEPT [0:0]\\nCOMMIT\\n\\xff' -j DROP""",
        (DROPS,),
    ),
    "iptables-legacy: the same": Case(
        """iptables-legacy -N "it's"; iptables-legacy -A INPUT -j "it's"; iptables-legacy -N $'b\\xff';"""
        """ iptables-legacy -A "it's" -p udp --dport 51820 -m comment --comment $'x\\nCOMMIT\\xff' -j DROP""",
        (("foreign-drop", "error", "-j DROP"),),
    ),
}


SOME = {
    "a chain without a name",
    "a comment that talks to the terminal",
    "an interface that is not UTF-8",
    "line breaks and shell in names",
    "other families",
    "two thousand chains",
    "jumps that multiply",
    "iptables: a quote in a chain's name",
    "iptables-legacy: the same",
}
"""Those that are tried with every change; the others are near one of them."""


@pytest.fixture(scope="module")
def control() -> Iterator[Machine]:
    with Lab() as lab:
        machine = make_control(lab)
        qmesh(machine, "render-config", "--write")
        workers = start_workers(machine, "1..3")
        yield machine
        workers.stop()


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[] if name in SOME else pytest.mark.long)
        for name, case in CASES.items()
    ],
)
def test_what_others_wrote_to_be_misread_is_named_and_the_rest_is_told_as_ever(control: Machine, case: Case):
    tables = "iptables-legacy -F; iptables-legacy -X" if "legacy" in case.script else "true"
    config = f"{CONFIG}/config.yml"
    control.run(["chmod", "644", config])  # a finding of another part, which is to be there each time
    control.run(["bash", "-c", case.script], timeout=60)
    try:
        done = control.run(["qmesh", "check", "--json"], check=False, timeout=60)
        asked = ["qmesh", "check"] if case.in_words else ["true"]
        words = control.run(asked, check=False, timeout=60).stdout
    finally:
        control.run(["bash", "-c", f"nft flush ruleset; {tables}"])
        qmesh(control, "apply")
        control.run(["chmod", "600", config])
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)["findings"]
    assert "config-mode" in [each["code"] for each in found]
    about = [each for each in found if each["code"] in {"foreign-drop", "check-failed"}]
    for code, severity, word in case.found:
        alike = [each for each in about if (each["code"], each["severity"]) == (code, severity)]
        assert any(word in each["seen"] for each in alike), about
    assert {each["code"] for each in about} == {code for code, _, _ in case.found}, about
    if case.in_words:
        assert_told(words, len(found))


def assert_told(words: str, count: int) -> None:
    """That so many findings are told, each with a line of its own at its beginning."""
    assert "\n  cure:   chmod 600" in words
    assert all(line.isprintable() for line in words.split("\n"))
    told = words.partition("\nwhat these codes mean")[0]
    heads = [line for line in told.split("\n") if not line.startswith("  ")]
    assert len([line for line in heads if line]) == count


def test_the_cure_of_a_rule_with_hostile_names_cures_and_does_nothing_else(control: Machine):
    control.run(["bash", "-c", named(ODD_NAME, "$(touch /root/owned); touch /root/owned")])
    (found,) = checked(control, code=1)["findings"]
    assert found["code"] == "foreign-drop"
    control.run(["sh", "-ec", found["cure"]])
    assert checked(control)["findings"] == []
    assert "owned" not in control.run(["ls", "/root"]).stdout
    control.run(["bash", "-c", in_json({"delete": {"table": {"family": "inet", "name": ODD_NAME}}})])


def test_g3_beside_all_of_it_holder_and_agent_keep_the_guard_and_go_on(control: Machine):
    """libnftables loads it in their processes, and ends one in which it meets what it did not foresee."""
    listed = ["nft", "-s", "list", "table", "inet", "qmesh"]
    before = control.run(listed).stdout
    running = {pattern: set(control.processes(pattern)) for pattern in (AGENT, HOLDER)}
    told = [case.script for case in CASES.values() if case.in_words and "legacy" not in case.script]
    control.run(["bash", "-c", "\n".join(told)], timeout=60)
    try:
        for away in ((), (HOLDER,), (AGENT,)):
            for pattern in away:
                control.freeze(pattern)
            control.run(["nft", "delete", "table", "inet", "qmesh"])
            wait_until(lambda: control.run(listed, check=False).stdout == before, 20)
            for pattern in away:
                control.thaw(pattern)
        assert {pattern: set(control.processes(pattern)) for pattern in running} == running
        drilled = control.run(["qmesh", "drill"], check=False, timeout=60)
        assert (drilled.returncode, drilled.stderr) == (0, ""), drilled.stdout
    finally:
        control.run(["nft", "flush", "ruleset"])
        qmesh(control, "apply")
