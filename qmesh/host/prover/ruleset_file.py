"""A file with rules as the kernel understands it: loaded where no packet comes, read back, and gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from qmesh.errors import BadInput, KernelRefused, MachineRefused, MissingProgram
from qmesh.host.firewall import nft_library
from qmesh.host.firewall.foreign_rulesets import read_rulesets
from qmesh.host.firewall.nftables import build_nft_error, decode_output
from qmesh.host.lean.nftables_messages import read_generation
from qmesh.host.network import links
from qmesh.host.prover.set_elements import read_sets
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.foreign.rulesets import Listing
from qmesh.mesh.prover.set_contents import SetContents
from qmesh.mesh.values import quote_text

_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)
_NUMBERED: Final = re.compile(r"\b(?:[io]if|devices?)\b")
"""What names interfaces that have to be there when the rules are loaded; `iifname` is none of it."""
_QUOTED: Final = re.compile(r'"([^"]+)"')
_NAME: Final = re.compile(r"[A-Za-z0-9_.@-]{1,15}")
_NO_NAMES: Final = frozenset({"lo", "all", "default", ".", "..", "iif", "oif"})
_COMPARED: Final = {"left": "right", "key": "data"}
"""Parts of a match and of a map, by what they are about."""
_KINDS: Final = ("dummy", "bridge")
"""Of interfaces that stand for others: a kernel may lack one."""
_MOST_INTERFACES: Final = 200
MOST_OCTETS: Final = 64 << 20
"""Of a file: as `qmesh drill` reads."""
_HINT: Final = "give a file that `nft list ruleset` has written"
_ATTEMPTS: Final = 10
_XT: Final = re.compile(rb'"xt":')


class ReadRules(msgspec.Struct, frozen=True):
    """All rules of a machine, or of a file, and what their sets have in them."""

    listing: Listing
    sets: SetContents


def read_live_rules() -> ReadRules:
    """This machine's, as they are at one moment. Raises MachineRefused."""
    for _ in range(_ATTEMPTS):
        before = read_generation()
        listing = read_rulesets()
        found = ReadRules(listing, read_sets(listing.sets))
        if read_generation() == before:
            return found
    raise KernelRefused(
        "the rules change faster than they can be read",
        hint="find the program that changes them: `nft monitor`",
    )


def read_rules_from_file(path: Path) -> ReadRules:
    """Those of a file, as `nft list ruleset` or `nft -j list ruleset` has printed it.

    It is loaded by a thread in a network namespace of its own, which ends with it: nothing is changed here.
    Raises BadInput for a file that can't be read or is no ruleset, and MachineRefused.
    """
    content = _read_file(path)
    found: list[ReadRules] = []
    failed: list[Exception] = []

    def load() -> None:
        try:
            found.append(_load(content))
        except Exception as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    worker = threading.Thread(target=load, daemon=True)  # Ctrl-C does not wait for what it includes
    worker.start()
    worker.join()
    if failed:
        if isinstance(failed[0], KernelRefused):
            raise BadInput(
                f"the rules in {quote_text(str(path))} can't be loaded: {failed[0].message}",
                hint=_HINT,
            ) from None
        raise failed[0]
    return found[0]


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as opened:
            content = opened.read(MOST_OCTETS + 1)
    except OSError as error:
        raise BadInput(
            f"{quote_text(str(path))} could not be read: {error.strerror}",
            hint=_HINT,
        ) from None
    if len(content) > MOST_OCTETS:
        raise BadInput(f"{quote_text(str(path))} is larger than {MOST_OCTETS} bytes", hint=_HINT)
    if b"\0" in content:
        raise BadInput(f"{quote_text(str(path))} is no text", hint=_HINT)
    if _XT.search(content):
        raise BadInput(
            f"{quote_text(str(path))} lacks what iptables' rules say: nft's JSON does not have it",
            hint="run `qmesh prove` on the machine itself, which reads them from the kernel",
        )
    return content


def _load(content: bytes) -> ReadRules:
    if _libc.unshare(_CLONE_NEWNET) != 0:  # of this thread alone
        code = ctypes.get_errno()
        raise MachineRefused(
            f"no network namespace can be made: {os.strerror(code)}",
            hint="without --ruleset, `qmesh prove` needs none",
        )
    for name in sorted(list_interfaces(content))[:_MOST_INTERFACES]:
        _create_stand_in(name)
    try:
        nft_library.ask_no_resolver()
        library = nft_library.load()
    except OSError:
        raise MissingProgram(
            "libnftables is not installed", hint="run `apt-get install nftables libnftables1`"
        ) from None
    if content.lstrip().startswith(b"{"):
        library.read_json()
    is_done, _, error = library.run(content)
    if not is_done:
        raise build_nft_error(decode_output(error))
    listing = msgspec.structs.replace(read_rulesets(), legacy=())  # those are this machine's
    return ReadRules(listing, read_sets(listing.sets))


def list_interfaces(content: bytes) -> set[str]:
    """Names that may be those of interfaces which have to be there. Raises BadInput for JSON that is none."""
    text = content.decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        try:
            words: Iterable[str] = list(_list_words(decode_json(text, object), is_meant=False))
        except (Malformed, RecursionError):
            raise BadInput("this is no JSON of nft's", hint=_HINT) from None
    else:
        lines = (line for line in text.splitlines() if _NUMBERED.search(line))
        words = (word for line in lines for word in _QUOTED.findall(line))
    return {word for word in words if _NAME.fullmatch(word)} - _NO_NAMES


def _list_words(value: object, *, is_meant: bool) -> Iterator[str]:
    """What `iif` and `oif` are compared with, and what stands behind `dev`."""
    if isinstance(value, str):
        if is_meant:
            yield value
    elif isinstance(value, list):
        for each in value:
            yield from _list_words(each, is_meant=is_meant)
    elif isinstance(value, dict):
        others = {_COMPARED[key] for key in _COMPARED.keys() & value if _names_interface(value[key])}
        for key, each in value.items():
            yield from _list_words(each, is_meant=is_meant or key == "dev" or key in others)


def _names_interface(value: object) -> bool:
    """Whether a part of a statement is an interface's number."""
    if isinstance(value, list):
        return any(map(_names_interface, value))
    return isinstance(value, dict) and (
        value.get("key") in {"iif", "oif"} or any(map(_names_interface, value.values()))
    )


def _create_stand_in(name: str) -> None:
    for kind in _KINDS:
        with contextlib.suppress(KernelRefused):
            links.create(name, kind)
            return
