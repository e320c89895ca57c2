"""What the guard of an older qmesh lacks."""

from __future__ import annotations

import re

from qmesh.mesh.guard.parse import parse_table_header
from qmesh.mesh.guard.render import MOST_IN_BITMAP, render_port_set

_NEW_IN_2 = re.compile(
    r"\n\tset askers \{.*?\n\t\}\n"
    r"|\n\tchain asks_service \{.*?\n\t\}\n"
    r"|\t\t[^\n]*(?:goto asks_service|@askers|meta skuid)[^\n]*\n",
    re.DOTALL,
)
_LOCAL_BEFORE_TAKEN_UP = re.compile(
    r"(?P<local>(?:\t\tth dport [^\n]* fib daddr type local goto closed_port\n)+)"
    r"(?P<taken_up>(?:\t\ttcp sport [^\n]* goto taken_up\n)+)"
)
_OF_INTERVALS = re.compile(r"(?P<rest>\t\t(?:th|tcp) [ds]port )\d+-\d+")
_NEW_IN_3 = re.compile(
    r"\n\tset (?:guarded|control|mesh)_ports \{.*?\n\t\}\n"
    r"|\n\tchain sent_back \{.*?\n\t\}\n"
    r"|\t\t[^\n]*(?:@control_ports|@mesh_ports|loopback [^\n]*@guarded_ports)[^\n]*\n"
    r"| th [sd]port != @guarded_ports",
    re.DOTALL,
)


def as_of_format_4(text: str) -> str:
    """The guard's table, or commands with it, as while a local user asked a worker from another's number."""
    older = _LOCAL_BEFORE_TAKEN_UP.sub(r"\g<taken_up>\g<local>", text)
    return older.replace('comment "qmesh guard 5:', 'comment "qmesh guard 4:')


def as_of_format_3(text: str) -> str:
    """The same as while each port was an element of a set.

    The tests within a rule are in this format's order.
    """
    lines: list[str] = []
    for line in as_of_format_4(text).splitlines(keepends=True):
        of_set = _OF_INTERVALS.sub(r"\g<rest>@closed_ports", line)
        if of_set != line and (
            " saddr " in of_set or ("local" in of_set and lines[-1].endswith("taken_up\n"))
        ):
            of_set = of_set.replace("@closed_ports", "@closed_ports th dport != @guarded_ports")
        if not lines or "closed_ports" not in of_set or lines[-1] != of_set:
            lines.append(of_set)
    found = parse_table_header(text)
    assert found is not None
    older = re.sub(
        r"\tset closed_ports \{.*?\n\t\}\n",
        render_port_set("closed_ports", found.closed_ports[:MOST_IN_BITMAP]),
        "".join(lines),
        count=1,
        flags=re.DOTALL,
    )
    return older.replace('comment "qmesh guard 4:', 'comment "qmesh guard 3:')


def as_of_format_2(text: str) -> str:
    """The same as qmesh wrote it while it closed workers' ports alone."""
    older = as_of_format_3(text)
    answers = "meta oiftype != loopback counter drop" if "guard 3: control" in older else "counter drop"
    older = _NEW_IN_3.sub("", older).replace("goto sent_back", answers)
    older = older.replace("closed_port", "worker_port")
    older = older.replace('comment "qmesh guard 3:', 'comment "qmesh guard 2:')
    assert "guarded_ports" not in older
    assert older != text
    return older


def as_of_format_1(text: str) -> str:
    """The same as qmesh wrote it before it knew users."""
    older = _NEW_IN_2.sub("", as_of_format_2(text)).replace(
        'comment "qmesh guard 2:', 'comment "qmesh guard 1:'
    )
    assert "skuid" not in older
    return older
