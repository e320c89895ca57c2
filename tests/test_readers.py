"""Whatever is read from elsewhere is understood or refused by a QmeshError: nothing else ends a reader."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qmesh
from qmesh.host.registry import RegistryImage
from tests.support.readers.outcome import other_error, tried
from tests.support.readers.table import READERS, REGISTRY, Reader

PACKAGE = Path(qmesh.__file__).parent

FUNCTIONS = {"decode_json", "decode_msgpack", "convert_value", "select", "select_one"}
METHODS = {"loads", "deserialize", "unpack", "unpack_from", "fromhex", "read_bytes", "read_text"}
"""What makes a value of octets or text."""

ELSEWHERE = {
    "mesh/foreign/attributes.py": "of rules: one that raises was not understood",
    "mesh/foreign/xtables/legacy_tables.py": "in the table as `tables of iptables-legacy`",
    "mesh/foreign/xtables/connection_matches.py": "of rules: one that raises was not understood",
    "mesh/foreign/xtables/header_matches.py": "the same",
    "mesh/foreign/xtables/stateful_matches.py": "the same",
    "mesh/foreign/xtables/matches.py": "the same",
    "mesh/foreign/xtables/targets.py": "the same",
    "mesh/foreign/packet_queues.py": "the same",
    "mesh/prover/xtables/xtables_facts.py": "the same",
    "mesh/prover/xtables/xtables_fields.py": "the same",
    "mesh/prover/xtables/xtables_steps.py": "the same",
    "mesh/prover/xtables/xtables_translations.py": "the same",
    "agent/assurance/proof.py": "the answers of its own other process",
    "host/prover/timed_answers.py": "the same, and how long each is",
    "host/page/page_files.py": "files of the package itself",
    "host/drill/legacy_copy.py": "what the kernel says of a table that it made itself",
    "host/drill/namespaces.py": "the answer of its own other process, as forked work",
    "host/drill/netlink_session.py": "the number of a message that was parsed",
    "host/drill/network_copy.py": "the kernel's messages, in a process that ends of what it can't read",
    "host/system/forked_work.py": "the numbers of its own open files; the answer is decoded as all else",
    "host/page/question_process.py": "a number from its own other process",
    "host/lean/owned_table.py": "the number of a message that was parsed",
    "host/write_obstacle.py": "a file's name out of an error",
    "host/owned_path.py": "what the kernel tells of a descriptor",
    "host/config_directory.py": "what the kernel tells of a descriptor; octets go on to nodefile",
    "host/firewall/foreign_rulesets.py": "octets of questions that mesh/foreign asked",
    "host/system/sudo_user.py": "a name that fits, or a number",
    "host/system/leftover_processes.py": "looks for one word",
    "host/system/systemd.py": "compares unit files as text",
    "host/network/routes.py": "lines of resolv.conf, of which it takes what is an address",
    "host/network/sysctls.py": "a number of the kernel's, and KernelRefused for anything else",
    "host/system/boot_clock.py": "any text will do",
}
"""Modules that read and are no reader of the table, and why not."""


every_reader = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**64) | st.binary(max_size=600))
def _returns_or_refuses(reader: Reader, drawn: int | bytes) -> None:
    octets = drawn if isinstance(drawn, bytes) else reader.mutate(Random(drawn), reader.seeds)  # noqa: S311 - to be the same again
    assert other_error(reader, octets)[1] == ""


@every_reader
def test_every_reader_returns_or_refuses(reader):
    _returns_or_refuses(reader)


DEEP = (
    b"[" * 100_000,
    b'{"x":' * 100_000,
    b'{"mesh":"x","x":' + b"[" * 100_000,
    b"\x91" * 100_000,
    b"\x81\xa1x" * 100_000,
    b"\xdd\xff\xff\xff\xff" * 8,
    b"9" * 100_000,
    b"- " * 100_000,
    b"((" * 50_000,
)


@every_reader
@pytest.mark.parametrize("octets", DEEP, ids=lambda each: repr(each[:8]))
def test_no_reader_is_ended_by_depth_or_length(reader, octets):
    assert other_error(reader, octets)[1] == ""


@pytest.mark.parametrize(
    "reader", [each for name, each in READERS.items() if name != "registry"], ids=lambda each: each.name
)
def test_a_valid_example_is_taken_by_its_reader(reader):
    assert any(other_error(reader, seed)[0] for seed in reader.seeds)


def test_the_valid_registry_is_taken():
    """Its reader asks for what is refused of a valid one too."""
    with RegistryImage(REGISTRY) as registry:
        assert [each.name for each in registry.inventory().machines] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith((".json", ".key", ".msgpack"))])
def test_a_file_of_the_table_is_the_one_that_is_read(name):
    assert READERS[name].read(READERS[name].seeds[0]) is not None


def test_a_run_finds_a_reader_that_raises_something_else():
    broken = Reader("broken", (), lambda octets: octets.decode("ascii"), (b"text",))
    tally = tried(broken, 500, seed=1)
    assert tally.other > 0
    assert tally.inputs == 500
    place, octets = next(iter(tally.others.items()))
    assert place.startswith("UnicodeDecodeError at ")
    assert other_error(broken, octets)[1].startswith(place)


@every_reader
def test_a_run_is_the_same_again_from_its_seed(reader):
    def inputs(seed: int) -> list[bytes]:
        random = Random(seed)  # noqa: S311 - as above
        return [reader.mutate(random, reader.seeds) for _ in range(20)]

    assert inputs(5) == inputs(5) != inputs(6)


def modules() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8")


def calls_in(text: str) -> set[str]:
    """The functions and, behind a dot, the methods that a module calls."""
    called = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return {ast.unparse(each) for each in called if isinstance(each, ast.Name | ast.Attribute)}


def reads(text: str) -> bool:
    return any(
        each in FUNCTIONS or each == "yaml.parse" or ("." in each and each.rpartition(".")[2] in METHODS)
        for each in calls_in(text)
    )


def test_every_module_that_reads_has_its_reader():
    named = {
        Path(module.__file__ or "").relative_to(PACKAGE).as_posix()
        for each in READERS.values()
        for module in each.modules
    }
    packages = tuple(name.removesuffix("__init__.py") for name in named if name.endswith("__init__.py"))
    reading = {name for name, text in modules() if reads(text)}
    without = {name for name in reading if name not in named and not name.startswith(packages)}
    assert sorted(without - ELSEWHERE.keys()) == []
    assert sorted(ELSEWHERE.keys() - without) == [], "needs no excuse any more"


def test_octets_are_decoded_in_one_place():
    """Each decoder has a dozen ways to say no, and whoever calls it himself forgets some."""
    decoders = {"msgspec.json.decode", "msgspec.msgpack.decode", "msgspec.convert", "json.loads", "yaml.load"}
    found = {name for name, text in modules() if decoders & calls_in(text)}
    assert found == {"mesh/decode.py"}


def test_rows_are_read_in_one_place():
    """A column may hold anything. Names for a shell are read without what checks rows, each by a pattern."""
    fetching = ("fetchone", "fetchall", "fetchmany")
    found = {name for name, text in modules() if any(each.endswith(fetching) for each in calls_in(text))}
    assert found == {"host/registry/sqlite.py", "host/machine_names.py"}
