"""Config files to edit: those of `tests/mesh/corpus`, large ones, and random ones in every style."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from qmesh.mesh.nodeconfig import Setting, edit_settings
from qmesh.mesh.nodeconfig.profiles import profile_facts
from qmesh.mesh.values import Profile
from tests.support.checkout import CHECKOUT

FOLDER = CHECKOUT / "tests/mesh/corpus"
MANY = 5000

Wanted = tuple[str, ...]


def edit_worker_list(text: str, multiaddrs: Sequence[str], profile: Profile) -> str:
    """The config with this list of what the control process dials, in the order of the cores."""
    return edit_settings(text, (Setting(profile_facts(profile).list_key, tuple(multiaddrs)),))


def corpus() -> dict[str, str]:
    """Every file by name, with those that are too long to be kept."""
    kept = {path.name: path.read_bytes().decode("utf-8") for path in sorted(FOLDER.iterdir())}
    entries = [multiaddr(number) for number in range(MANY)]
    block = "".join(f"    - {entry} # core {core}\n" for core, entry in enumerate(entries, 1))
    return kept | {
        "thousands, block": f"engine:\n  dataWorkerMultiaddrs:\n{block}  filter: ffff\n",
        "thousands, flow": f"engine: {{dataWorkerMultiaddrs: [{', '.join(entries)}], filter: ffff}}\n",
        "thousands of other lines": "".join(f"other{n}: {{a: {n}}} # {n}\n" for n in range(MANY // 3))
        + "engine:\n  filter: ffff\n",
    }


def multiaddr(number: int) -> str:
    """The numbered worker's."""
    return f"/ip4/10.77.{number // 250}.{number % 250 + 1}/tcp/{40000 + number}"


def lists_for(entries: Wanted) -> dict[str, Wanted]:
    """The lists to write into a file that has these entries: by what becomes of them."""
    own = tuple(multiaddr(number) for number in range(len(entries)))
    middle = len(own) // 2
    return {
        "same": entries if all(entry.startswith("/ip") and "<" not in entry for entry in entries) else own,
        "all others": own,
        "longer": (*own, "/ip4/10.78.0.1/tcp/50000", "/ip6/fd00::1/tcp/50001"),
        "shorter": own[:-1],
        "first only": own[:1],
        "one changed": (*own[:middle], "/ip4/10.78.0.9/tcp/50009", *own[middle + 1 :]),
        "one": ("/ip4/10.78.0.1/tcp/50000",),
        "hundreds": tuple(multiaddr(number) for number in range(300)),
        "empty": (),
    }


def random_edit(random: Random) -> tuple[str, Wanted]:
    """A valid file, and a list to write into it."""
    entries = tuple(_multiaddr(random) for _ in range(random.choice((0, 1, 2, 3, 7))))
    return _file(random, entries), _wanted(random, entries)


def _multiaddr(random: Random) -> str:
    if random.random() < 0.1:
        return f"/ip6/fd00::{random.randint(1, 0xFFFF):x}/tcp/{random.randint(1, 65535)}"
    return f"/ip4/10.{random.randint(0, 255)}.0.{random.randint(0, 255)}/tcp/{random.randint(1, 65535)}"


def _wanted(random: Random, entries: Wanted) -> Wanted:
    fresh = tuple(_multiaddr(random) for _ in range(random.choice((1, 2, 9))))
    cut = random.randint(0, len(entries))
    kept, rest = entries[:cut], entries[cut:]
    return random.choice((entries, (), fresh, entries + fresh, kept, rest, kept + fresh, entries[::-1]))


def _file(random: Random, entries: Wanted) -> str:
    indent = " " * random.choice((1, 2, 2, 3, 4, 8))
    used = {"engine", "dataWorkerMultiaddrs"}
    lines = [*_keys(random, "", used), *_section(random, indent, entries, used), *_keys(random, "", used)]
    line_break = random.choice(("\n", "\n", "\n", "\r\n", "\r"))
    text = line_break.join(lines) + random.choice((line_break, line_break, ""))
    return random.choice(("", "", "\ufeff")) + text


def _section(random: Random, indent: str, entries: Wanted, used: set[str]) -> list[str]:
    note = _comment(random)
    if not entries and random.random() < 0.5:
        absent: list[list[str]] = [
            [],
            [f"engine:{note}"],
            [f"engine: ~{note}"],
            [f"engine: {{}}{note}"],
            [f"engine: {{ a: [1, {{b: 2}}] }}{note}"],
            [f"engine:{note}", f"{indent}a: 1{note}", *_keys(random, indent, used)],
        ]
        return random.choice(absent)
    if random.random() < 0.1:
        return [f"engine: {{a: 1, dataWorkerMultiaddrs: [{', '.join(entries)}]}}{note}"]
    before, listed = _keys(random, indent, used), list(_list(random, indent, entries))
    return [f"engine:{note}", *before, *listed, *_keys(random, indent, used)]


def _list(random: Random, indent: str, entries: Wanted) -> Iterator[str]:
    key = indent + random.choice(("dataWorkerMultiaddrs", "'dataWorkerMultiaddrs'", '"dataWorkerMultiaddrs"'))
    quote, note = random.choice(("", "", "'", '"')), _comment(random)
    quoted = [f"{quote}{entry}{quote}" for entry in entries]
    if not entries:
        yield f"{key}:{random.choice(('', ' []', '  [ ]', ' null', ' ~'))}{note}"
    elif random.random() < 0.2:
        yield f"{key}: [{', '.join(quoted)}]{note}"
    elif random.random() < 0.1:
        yield f"{key}: [{note}"
        yield from (f"{indent}  {entry},{_comment(random)}" for entry in quoted)
        yield f"{indent}]{note}"
    else:
        margin, gap = random.choice(("", " ", "  ", "    ")), random.choice((" ", " ", "   "))
        yield f"{key}:{note}"
        for entry in quoted:
            yield from random.choice(([], [], [""], [f"{indent}# before"], ["# at the margin"]))
            yield f"{indent}{margin}-{gap}{entry}{_comment(random)}"


def _comment(random: Random) -> str:
    return random.choice(("", "", "", " # a note", "  #", " # [ä] 😀: - 'x'", " "))


VALUES = ("1", "''", '"# no"', "[1, {a: b}]", "{x: [y]}", "&NAME x", "!!str 1", "ä😀", "a b", "", "fd00::1")


def _keys(random: Random, indent: str, used: set[str]) -> list[str]:
    """Keys with values of all kinds and things between them."""
    lines: list[str] = []
    for _ in range(random.choice((0, 0, 1, 2, 4))):
        name = f"key{len(used)}"
        used.add(name)
        lines += random.choice(([], [], [""], [f"{indent}# about"], ["# at the margin"]))
        kind = random.random()
        if kind < 0.7:
            value = random.choice(VALUES).replace("NAME", name)
            lines.append(f"{indent}{name}: {value}{_comment(random)}")
        elif kind < 0.8:
            # Behind a text that ends with the file nothing can be added: its own end would move.
            block = [f"{indent}{name}: |", f"{indent}  - text", "", f"{indent}  # of two lines"]
            lines += [*block, f"{indent}behind-{name}: 1"]
        elif kind < 0.9:
            lines += [f"{indent}{name}:", f"{indent}- &{name} one", f"{indent}- {{two: *{name} }}"]
        else:
            lines += [f"{indent}{name}:", f"{indent}  dataWorkerMultiaddrs: [x]", f"{indent}  other:"]
    return lines
