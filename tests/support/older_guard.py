"""What the guard of an older qmesh lacks."""

from __future__ import annotations

import re

_NEW_IN_2 = re.compile(
    r"\n\tset askers \{.*?\n\t\}\n"
    r"|\n\tchain asks_service \{.*?\n\t\}\n"
    r"|\t\t[^\n]*(?:goto asks_service|@askers|meta skuid)[^\n]*\n",
    re.DOTALL,
)
_NEW_IN_3 = re.compile(
    r"\n\tset (?:guarded|control|mesh)_ports \{.*?\n\t\}\n"
    r"|\n\tchain sent_back \{.*?\n\t\}\n"
    r"|\t\t[^\n]*(?:@control_ports|@mesh_ports|loopback [^\n]*@guarded_ports)[^\n]*\n"
    r"| (?:meta l4proto \{ tcp, udp \} )?th sport != @guarded_ports"
    r"|(?<! @closed_ports) meta l4proto \{ tcp, udp \} th dport != @guarded_ports(?= accept)"
    r"| th dport != @guarded_ports",
    re.DOTALL,
)


def as_of_format_2(text: str) -> str:
    """The guard's table, or commands with it, as qmesh wrote it while it closed workers' ports alone."""
    answers = "meta oiftype != loopback counter drop" if "guard 3: control" in text else "counter drop"
    older = _NEW_IN_3.sub("", text).replace("goto sent_back", answers)
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
