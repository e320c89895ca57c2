"""Valid examples made nearly valid. A seed gives the same input in every run of one version of Python."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, TypeAlias

import msgspec

Mutator: TypeAlias = Callable[[Random, Sequence[bytes]], bytes]
"""One input from some valid examples."""

KEY: Final = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

NUMBERS: Final = (
    *(0, 1, -1, -5, 2, 7, 32, 33, 99, 128, 255, 256, 575, 576, 1279, 1280, 1420, 1421, 8340, 40000, 51820),
    *(65535, 65536, 99999, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**63),
    2**64 - 1,
)
TEXTS: Final = (
    *("", " ", "x", "\0", "a\0b", "\n", "\r\n", "\x1b[31m", "\u2028", "\x85", "\ufeff", "é", "\U0001f980"),
    *(
        "a" * 63,
        "a" * 64,
        "x" * 300,
        "-",
        "..",
        "/",
        "/a\0b",
        "relative",
        "'",
        '"',
        "it's",
        "{",
        "[",
        "%",
        "\\",
    ),
    *(
        "null",
        "true",
        "9.9",
        "1.4",
        "2.1",
        "active",
        "invited",
        "control",
        "tunnel",
        "public",
        "nan",
        "-0",
        "1e999",
    ),
    *(
        "10.77.0.1",
        "10.77.0.2",
        "10.77.0.255",
        "0.0.0.0",  # noqa: S104
        "::",
        "::ffff:10.77.0.2",
        "fe80::1%eth0",
        "999.1.1.1",
    ),
    *("10.77.0.0/20", "10.77.0.2/20", "10.77.0.1/33", "fd00::/8", "0.0.0.0/0", "1/" + "9" * 40, "010.1.1.1"),
    *(KEY, KEY[:-1], KEY.lower(), "A" * 43 + "=", "=" * 44, "00" * 32, "ff" * 32, "0" * 32, "٣", "１２"),  # noqa: RUF001
    *(
        "9" * 30,
        "9" * 5000,
        "-1",
        "+1",
        "0x10",
        "1_000",
        "[" * 3000,
        "{" * 3000,
        "((((((((((" * 50,
        "a," * 500,
    ),
    *("host:51820", "host:0", "host:99999", "[::1]:1", "/ip4/10.77.0.2/tcp/40000", "/dns4/x/tcp/1"),
)
OCTETS: Final = (
    *(b"", b"\0", b"\xff", b"\xff" * 8, b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80\xa8"),
    *(b"[" * 2000, b'{"a":' * 1500, b"\x91" * 2000, b"\x81\xa1a" * 800, b"9" * 5000, b"- " * 300, b"&a [*a]"),
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"),
    *(
        b"\n",
        b"\r",
        b"\t",
        b'"',
        b"'",
        b"\\",
        b"\\u0000",
        b"\\ud800",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"#",
    ),
    *(b"!!python/object/apply:os.system ", b"<<: *a", b"%TAG ! x", b"---\n", b"...\n", b"? ", b"| \n", b"--"),
)

_TOKEN: Final = re.compile(rb"[A-Za-z_]+|[0-9]+|[^\sA-Za-z0-9_]+|\s+")


def octets(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Octets changed, left out, put in, said again, or of another example; now and then random ones."""
    if random.random() < 0.03:
        return random.randbytes(random.choice((0, 1, 3, 16, 40, 300)))
    found = bytearray(random.choice(seeds))
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        first = random.randint(0, len(found))
        last = min(len(found), first + random.choice((0, 1, 1, 2, 4, 16, 1000)))
        match random.randrange(7):
            case 0 if found:
                found[first % len(found)] ^= 1 << random.randrange(8)
            case 1:
                del found[first:last]
            case 2:
                found[first:last] = random.choice(OCTETS)
            case 3:
                found[first:first] = found[first:last] * random.choice((1, 2, 50))
            case 4:
                other = random.choice(seeds)
                found[first:] = other[random.randint(0, len(other)) :]
            case 5:
                found[first:last] = random.randbytes(last - first)
            case _:
                found[first:last] = str(random.choice(NUMBERS)).encode()
    return bytes(found)


def text(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Words exchanged for others that mean something somewhere, or octets as above."""
    if random.random() < 0.3:
        return octets(random, seeds)
    tokens = [*_find_tokens(random.choice(seeds))]
    for _ in range(random.choice((1, 1, 2, 4))):
        where = random.randint(0, max(0, len(tokens) - 1))
        until = where + random.choice((0, 1, 1, 1, 3))
        match random.randrange(4):
            case 0:
                tokens[where:until] = [random.choice(TEXTS).encode()]
            case 1:
                tokens[where:until] = [str(random.choice(NUMBERS)).encode()]
            case 2:
                tokens[where:until] = _find_tokens(random.choice(seeds))[: random.randrange(8)]
            case _:
                tokens[where:until] = tokens[where:until] * random.randrange(3)
    return b"".join(tokens)


@functools.lru_cache(maxsize=64)
def _find_tokens(seed: bytes) -> tuple[bytes, ...]:
    return tuple(_TOKEN.findall(seed))


def value(random: Random, was: Any = None) -> Any:
    """Any value that JSON and MessagePack can hold, often one that is like what it takes the place of."""
    match random.randrange(9):
        case 0:
            return None
        case 1:
            return random.random() < 0.5
        case 2 | 3:
            return random.choice(NUMBERS)
        case 4 | 5:
            return random.choice(TEXTS)
        case 6:
            return random.choice((0.5, -0.0, 1e308, 1.0, 40000.0))
        case 7 if isinstance(was, str | list):
            return was[: random.randint(0, len(was))] * random.choice((1, 2, 40))
        case 7 if isinstance(was, int):
            return was + random.choice((-1, 1, 1 << 16))
        case _:
            return random.choice(([], {}, [was], {"a": was}, [None] * 300, {"": {}}))


def changed(random: Random, tree: Any) -> Any:
    """A tree of plain values with one of its parts exchanged, left out, said twice, or added to."""
    if random.random() < 0.25 or not isinstance(tree, dict | list) or not tree:
        return value(random, tree)
    if isinstance(tree, dict):
        key = random.choice(sorted(tree, key=str))
        match random.randrange(8):
            case 0:
                return {name: part for name, part in tree.items() if name != key}
            case 1:
                return {**tree, random.choice(TEXTS): value(random)}
            case _:
                return {**tree, key: changed(random, tree[key])}
    where = random.randrange(len(tree))
    match random.randrange(8):
        case 0:
            return tree[:where] + tree[where + 1 :]
        case 1:
            return [*tree[:where], *tree[where : where + 1] * random.choice((2, 3, 300)), *tree[where + 1 :]]
        case _:
            return [*tree[:where], changed(random, tree[where]), *tree[where + 1 :]]


def trees(read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> Mutator:
    """Mutates what a notation says, and now and then its octets."""

    def mutated(random: Random, seeds: Sequence[bytes]) -> bytes:
        if random.random() < 0.2:
            return octets(random, seeds)
        tree = read(random.choice(seeds))
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            tree = changed(random, tree)
        try:
            written = write(tree)
        except (OverflowError, RecursionError):  # MessagePack has no number that is so large
            return octets(random, seeds)
        return octets(random, [written]) if random.random() < 0.1 else written

    return mutated


def _as_json(tree: Any) -> bytes:
    return json.dumps(tree, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _as_msgpack(tree: Any) -> bytes:
    """Texts become octets half of the time where they are not the whole: MessagePack has both."""
    if isinstance(tree, float) and not math.isfinite(tree):
        return msgspec.msgpack.encode(0.5)
    return msgspec.msgpack.encode(tree)


json_trees: Final = trees(json.loads, _as_json)
msgpack_trees: Final = trees(msgspec.msgpack.decode, _as_msgpack)


def within(
    inner: Mutator, unwrap: Callable[[bytes], bytes], wrap: Callable[[bytes], bytes], part: float = 0.75
) -> Mutator:
    """Mutates what stands in a cover such as a checksum, and makes the cover anew; else the whole."""

    def mutated(random: Random, seeds: Sequence[bytes]) -> bytes:
        if random.random() > part:
            return octets(random, seeds)
        return wrap(inner(random, [unwrap(each) for each in seeds]))

    return mutated
