"""Facts of machines: what they are made of, when they are told, and what becomes of them on their way."""

from __future__ import annotations

import math
import string
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.decode import Malformed
from qmesh.mesh.machine_facts.facts import (
    MOST_RELABELLED,
    MOST_TEXT,
    MOST_WORKERS,
    RELABELLED_S,
    FactText,
    HeldFacts,
    MachineFacts,
    WorkerFacts,
    clean_text,
    hold_labels,
)
from qmesh.mesh.machine_facts.proc_files import (
    parse_cpu_model,
    parse_memory,
    parse_own_memory,
    parse_program_version,
)
from qmesh.mesh.machine_facts.restarts import SeenWorker, update_seen_workers
from qmesh.mesh.machine_facts.schedule import CHANGE_S, TELL_S, Telling, is_telling_due
from qmesh.mesh.node_processes.observed import NodeProcess
from qmesh.mesh.node_processes.workers import WorkerProcess
from qmesh.mesh.protocol.aead import encrypt_message
from qmesh.mesh.protocol.facts_report import (
    FACTS,
    MOST_SEALED,
    decode_facts,
    decrypt_facts,
    encode_facts,
    encrypt_facts,
)
from qmesh.mesh.values import Secret
from tests.support.machine_facts import FACTS as FULL

SHARED = Secret("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=")
OTHER = Secret("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=")
NONCE = bytes(12)
# What they are made of

XEON = """\
processor\t: 0
model\t\t: 85
model name\t: Intel(R) Xeon(R) Gold 6140 CPU @ 2.30GHz
flags\t: a b

processor\t: 1
model name\t: other
"""
GRAVITON = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"
BOARD = (
    "processor\t: 0\nCPU part\t: 0xd08\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
)


@pytest.mark.parametrize(
    ("text", "model"),
    [
        (XEON, "Intel(R) Xeon(R) Gold 6140 CPU @ 2.30GHz"),
        (GRAVITON, "ARM 0x41/0xd0c"),
        (BOARD, "Raspberry Pi 4 Model B Rev 1.4"),
        ("model name\t:\nno colon\n", ""),
        ("", ""),
        ("model name: <b>\x1b[31mfast\x07 & 'cheap'\u202e</b>", "b 31mfast cheap /b"),
    ],
)
def test_the_model_of_a_processor_is_found_on_each_architecture(text, model):
    assert parse_cpu_model(text) == model


def test_memory_is_that_of_the_machine_and_none_where_nothing_is_said():
    meminfo = "MemTotal:       16303428 kB\nMemFree:          1 kB\nMemAvailable:    8000000 kB\n"
    assert parse_memory(meminfo) == (16303428 * 1024, 8000000 * 1024)
    assert parse_memory("MemTotal: many kB\n") == (None, None)


@pytest.mark.parametrize(
    ("statm", "octets"),
    [
        ("900 300 100 5 0 6 0\n", 200 * 4096),
        ("900 100 300 5 0 6 0\n", 0),
        (f"9 {10**14} 1 5 0 6 0\n", 2**53),
        ("", None),
        ("900 -3 1 1", None),
    ],
)
def test_a_process_has_what_it_shares_with_none(statm, octets):
    assert parse_own_memory(statm, 4096) == octets


@pytest.mark.parametrize(
    ("answer", "version"),
    [("nftables v1.0.6 (Lester Gooch #5)\n", "1.0.6"), ("1.4", "1.4"), ("nftables", ""), ("", "")],
)
def test_a_version_is_the_number_in_what_a_program_says(answer, version):
    assert parse_program_version(answer) == version


def test_n3_a_member_that_is_always_another_machine_makes_no_series_without_end():
    """Each value of a label is a series of its own in whatever collects the metrics."""
    held: HeldFacts | None = None
    seen = []
    for second in range(3000):
        told = MachineFacts(cpu=f"model {second}", cores=second, load=float(second))
        held = hold_labels(held, told, now_s=float(second))
        assert held.facts.load == second  # what is a value is the newest
        seen.append((held.facts.cpu, held.facts.cores))
    assert len(set(seen)) == 1 + MOST_RELABELLED
    assert seen[MOST_RELABELLED] == ("model 6", 6)
    held = hold_labels(held, FULL, now_s=3000 + RELABELLED_S)
    assert held == HeldFacts(FULL, (3000 + RELABELLED_S,))
    assert hold_labels(held, FULL, now_s=0.0) == HeldFacts(FULL)  # a clock that was set back


@given(st.text(max_size=200))
def test_a_text_that_was_cleaned_is_a_fact_and_stays_as_it_is(text):
    cleaned = clean_text(text)
    assert msgspec.convert(cleaned, FactText) == cleaned == clean_text(cleaned)
    assert len(cleaned) <= MOST_TEXT


# Restarts


def worker(core: int, number: int | None, started_s: float = 1.0) -> WorkerProcess:
    process = None if number is None else NodeProcess(number, "node", started_s)
    return WorkerProcess(core, "alive" if process else "silent", process)


def counts_after(looks: Iterable[tuple[WorkerProcess, ...]]) -> dict[int, int]:
    seen: dict[int, SeenWorker] = {}
    for look in looks:
        seen = update_seen_workers(seen, look)
    return {core: each.restarts for core, each in seen.items()}


@pytest.mark.parametrize(
    ("looks", "counts"),
    [
        ([(worker(1, 7), worker(2, 8))], {1: 0, 2: 0}),
        ([(worker(1, 7),), (worker(1, 7),)], {1: 0}),
        ([(worker(1, 7),), (worker(1, None),), (worker(1, 7),)], {1: 0}),
        ([(worker(1, 7),), (worker(1, None),), (worker(1, 9),)], {1: 1}),
        ([(worker(1, 7),), (worker(1, 7, 5.0),), (worker(1, 8, 9.0),)], {1: 2}),
        ([(worker(1, None),), (worker(1, 7),)], {1: 0}),
        ([(worker(1, 7),), (worker(1, 9), worker(2, 3)), (worker(2, 3),)], {2: 0}),
    ],
)
def test_a_restart_is_another_process_for_the_same_core(looks, counts):
    assert counts_after(looks) == counts


# When they are told

TOLD = Telling(FULL, "hub", "own", 1000.0)
READINGS = msgspec.structs.replace(
    FULL,
    load=0.0,
    memory_available_bytes=1,
    disk_free_bytes=2,
    workers=(WorkerFacts(4, 7, 2), WorkerFacts(5)),
)
BEGUN = msgspec.structs.replace(FULL, workers=(WorkerFacts(4, 7, 2), WorkerFacts(5, 9)))
RESTARTED = msgspec.structs.replace(FULL, workers=(WorkerFacts(4, 7, 3), WorkerFacts(5)))


@pytest.mark.parametrize(
    ("last", "facts", "after_s", "is_due"),
    [
        (None, FULL, 0, True),
        (TOLD, FULL, TELL_S - 1, False),
        (TOLD, FULL, TELL_S, True),
        (TOLD, READINGS, TELL_S - 1, False),
        (TOLD, RESTARTED, CHANGE_S - 1, False),
        (TOLD, RESTARTED, CHANGE_S, True),
        (TOLD, BEGUN, CHANGE_S, True),
        (TOLD, msgspec.structs.replace(FULL, qmesh="0.2.0"), CHANGE_S, True),
        (msgspec.structs.replace(TOLD, to="another"), FULL, 0, True),
        (msgspec.structs.replace(TOLD, own="before"), FULL, 0, True),
    ],
)
def test_facts_are_told_seldom_and_soon_where_they_differ(last, facts, after_s, is_due):
    assert is_telling_due(last, facts, to="hub", own="own", now_s=1000.0 + after_s) is is_due


# On their way


def test_facts_arrive_as_they_were_told():
    sealed = encrypt_facts(FULL, SHARED, nonce=NONCE)
    assert decrypt_facts(sealed, SHARED, cores={4, 5}) == FULL
    assert (
        decrypt_facts(encrypt_facts(MachineFacts(), SHARED, nonce=NONCE), SHARED, cores={}) == MachineFacts()
    )


def test_n3_a_machine_speaks_of_its_own_cores_alone_and_of_each_once():
    told = msgspec.structs.replace(FULL, workers=(WorkerFacts(9, 1), WorkerFacts(4, 2), WorkerFacts(4, 3)))
    found = decrypt_facts(encrypt_facts(told, SHARED, nonce=NONCE), SHARED, cores={4, 5})
    assert [each.core for each in found.workers] == [4]


def test_workers_are_in_their_order_however_a_member_tells_them():
    row = msgspec.msgpack.decode(encode_facts(FULL))
    row[WORKERS_AT] = [[5, 1, 0], [4, 2, 0]]
    sealed = encrypt_message(msgspec.msgpack.encode(row), SHARED, about=FACTS, nonce=NONCE)
    assert [each.core for each in decrypt_facts(sealed, SHARED, cores={4, 5}).workers] == [4, 5]


def test_n3_facts_of_another_machine_are_refused():
    with pytest.raises(EnrolmentRefused):
        decrypt_facts(encrypt_facts(FULL, SHARED, nonce=NONCE), OTHER, cores={4, 5})


WORKERS_AT = MachineFacts.__struct_fields__.index("workers")


def row_of(facts: MachineFacts) -> list[object]:
    row = msgspec.msgpack.decode(encode_facts(facts))
    assert isinstance(row, list)
    return row


def test_what_a_later_version_adds_is_passed_over():
    row, at = row_of(FULL), WORKERS_AT
    workers: list[object] = [[*each, "new", {}] for each in msgspec.convert(row[at], list[list[int | None]])]
    later = msgspec.msgpack.encode([*row[:at], workers, *row[at + 1 :], {"gpu": 1}, math.nan])
    assert decode_facts(later) == FULL


def test_what_an_earlier_version_does_not_tell_is_not_known():
    fields = MachineFacts.__struct_fields__
    for count in range(len(fields)):
        earlier = decode_facts(msgspec.msgpack.encode(row_of(FULL)[:count]))
        left = {name: getattr(FULL, name) for name in fields[:count]}
        assert earlier == msgspec.structs.replace(MachineFacts(), **left)
    shorter = decode_facts(msgspec.msgpack.encode([*row_of(FULL)[:WORKERS_AT], [[4]]]))
    assert shorter.workers == (WorkerFacts(4),)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("load", math.nan),
        ("load", math.inf),
        ("load", -0.5),
        ("cores", -1),
        ("memory_bytes", 2**53 + 1),
        ("memory_bytes", 2**63),
        ("memory_bytes", 1.5),
        ("core_speed", "fast"),
        ("cpu", "<script>"),
        ("cpu", 'a"b'),
        ("cpu", "a\nb"),
        ("cpu", "a\n"),
        ("node_digest", "ab" * 32 + "\n"),
        ("cpu", "\x1b[2J"),
        ("cpu", "\u202e"),
        ("cpu", "\ud800"),
        ("cpu", "x" * (MOST_TEXT + 1)),
        ("kernel", None),
        ("node_digest", "AB" * 32),
        ("node_digest", "ab" * 31),
        ("workers", [[0, 1, 1]]),
        ("workers", [[65536, 1, 1]]),
        ("workers", [[4, -1, 1]]),
        ("workers", [[4, 1, -1]]),
        ("workers", [[]]),
        ("workers", [[1, 1, 1]] * (MOST_WORKERS + 1)),
    ],
)
def test_n3_what_breaks_its_bounds_is_no_fact(field, value):
    row = row_of(FULL)
    row[MachineFacts.__struct_fields__.index(field)] = value
    try:
        octets = msgspec.msgpack.encode(row)
    except UnicodeEncodeError:  # as an attacker would
        octets = msgspec.msgpack.encode(row_of(msgspec.structs.replace(FULL, cpu="abc"))).replace(
            b"\xa3abc", b"\xa3\xed\xa0\x80"
        )
    with pytest.raises(Malformed):
        decode_facts(octets)
    with pytest.raises(EnrolmentRefused):
        decrypt_facts(encrypt_message(octets, SHARED, about=FACTS, nonce=NONCE), SHARED, cores={4})


def test_n3_no_character_is_a_fact_that_means_something_elsewhere():
    """To a shell, a page, a terminal, a collector of metrics."""
    allowed = set(string.ascii_letters + string.digits + " ()@._+~:/,%#*=-")
    for character in map(chr, range(0x250)):
        if character in allowed:
            assert msgspec.convert(character, FactText) == character
        else:
            with pytest.raises(msgspec.ValidationError):
                msgspec.convert(character, FactText)


def test_n3_a_report_of_very_many_workers_fits_and_has_those_with_most_memory():
    every = tuple(WorkerFacts(core, 10**12 + core, 255) for core in range(60000, 60000 + MOST_WORKERS + 5))
    text = "x" * MOST_TEXT
    fields = (text, text, "ab" * 32, *[text] * 4, *[2**53] * 5, 1e6, 2**53, every, 9999, 9999, text)
    most = msgspec.structs.replace(FULL, **dict(zip(MachineFacts.__struct_fields__, fields, strict=True)))
    sealed = encrypt_facts(most, SHARED, nonce=NONCE)
    assert len(sealed) <= MOST_SEALED
    told = decrypt_facts(sealed, SHARED, cores=range(65536)).workers
    assert told == every[5:]


def test_a_usual_report_is_small():
    eight = msgspec.structs.replace(FULL, workers=tuple(WorkerFacts(n, 2 * 10**9, 0) for n in range(4, 12)))
    assert len(encrypt_facts(eight, SHARED, nonce=NONCE)) < 350
