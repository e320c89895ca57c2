"""Situations that machines get into: each is named, or fixed by the agent, and what is printed ends it.

All of them are `scripts/situations`; here is one of each kind that is quick.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
from collections.abc import Callable, Iterator

import pytest

from qmesh.host.system.processes import parse_stat
from tests.support.checkout import CHECKOUT
from tests.support.lab.daily_work import DAILY_WORK
from tests.support.lab.machines import Lab
from tests.support.lab.rented_servers import RENTED_SERVERS
from tests.support.lab.situation_cluster import Outcome, Situation, SituationCluster, list_commands
from tests.support.lab.situations import DETOURS, OWN_ROUTES, SITUATIONS

pytestmark = pytest.mark.lab

SILENT_S = 10


@pytest.fixture(scope="module")
def find_cluster() -> Iterator[Callable[[], SituationCluster]]:
    """Gives the machines of the test before, and others where that one could not be undone."""
    with contextlib.ExitStack() as lab:
        made: list[SituationCluster] = []

        def find() -> SituationCluster:
            if not made or not made[-1].is_sound:
                lab.close()
                made.append(SituationCluster(lab.enter_context(Lab()), silent_s=SILENT_S))
            return made[-1]

        yield find


@pytest.fixture
def cluster(find_cluster: Callable[[], SituationCluster]) -> SituationCluster:
    return find_cluster()


def find(name: str):
    (found,) = (each for each in SITUATIONS if each.name == name)
    return found


def test_a_policy_of_ipsec_that_takes_the_mesh_is_named_and_what_is_printed_ends_it(cluster):
    """Nothing else tells: WireGuard's own packets go on, and the kernel's routes are right."""
    outcome = cluster.try_situation(find("IPsec takes 10.0.0.0/8"))
    assert (outcome.how, outcome.exit_code, outcome.ends) == ("named", 1, "yes")
    (finding,) = (each for each in outcome.findings if each["code"] == "foreign-drop")
    assert finding["cure"].startswith(
        "ip xfrm policy add src 10.77.0.0/20 dst 10.77.0.0/20 dir out priority 99"
    )


def test_a_process_is_stopped_where_the_kernel_says_so():
    rest = " ".join(["1"] * 18 + ["77"])
    assert parse_stat(f"7 (a ) T b) T {rest}").is_stopped
    assert not parse_stat(f"7 (a T) S {rest}").is_stopped


@pytest.mark.long
def test_stopped_workers_are_named_on_their_machine(cluster):
    outcome = cluster.try_situation(find("workers stopped by Ctrl-Z"))
    assert (outcome.how, outcome.exit_code, outcome.ends) == ("named", 1, "yes")


@pytest.mark.long
def test_stopped_workers_are_named_by_the_control_node_alone(cluster):
    """It could not tell by their answers: their machine notes it."""
    outcome = cluster.try_situation(find("workers stopped by Ctrl-Z, seen by the control node"))
    assert (outcome.how, outcome.exit_code, outcome.ends) == ("named", 0, "by hand")
    (finding,) = (each for each in outcome.findings if each["code"] == "worker-silent")
    assert finding["subject"] == "machine-b core 4-7"
    assert "a signal has stopped it" in finding["seen"]


@pytest.mark.parametrize(
    ("cure", "typed"),
    [
        ("qmesh apply", ("qmesh apply",)),
        ("run `ip link delete wg9`, then `qmesh apply`; see `man ip`", ("ip link delete wg9", "qmesh apply")),
        ("kill -CONT 7", ("kill -CONT 7",)),
        ("`qmesh restore FILE`, or look at it", ()),
        ("it's", ()),
        ("", ()),
    ],
)
def test_what_is_typed_of_a_cure_are_its_commands(cure, typed):
    assert list_commands(cure) == typed


def test_situations_have_names_of_their_own():
    names = [each.name for each in SITUATIONS]
    assert len(names) == len(set(names))


@pytest.mark.long
@pytest.mark.parametrize("situation", [*OWN_ROUTES, *DETOURS], ids=lambda each: each.name)
def test_what_is_the_tunnels_own_is_fixed_and_the_rest_is_named_with_the_command(cluster, situation):
    outcome = cluster.try_situation(situation)
    assert outcome.is_right, outcome


@pytest.mark.long
@pytest.mark.parametrize("situation", [*RENTED_SERVERS, *DAILY_WORK], ids=lambda each: each.name)
def test_what_providers_distributions_and_other_programs_do_is_fixed_or_named_or_harmless(cluster, situation):
    outcome = cluster.try_situation(situation)
    assert outcome.is_right, outcome


def test_a_whole_run_puts_its_table_into_the_page(monkeypatch):
    """In place of the one that is there, and nothing else is changed."""
    monkeypatch.syspath_prepend(CHECKOUT / "scripts")
    script = importlib.import_module("situations")
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.HEAD in page
    put = script.put_into(page, "new")
    assert "new" in put.partition(script.FIRST)[2].partition(script.LAST)[0]
    assert script.HEAD not in put
    assert (put.partition(script.FIRST)[0], put.partition(script.LAST)[2]) == (
        page.partition(script.FIRST)[0],
        page.partition(script.LAST)[2],
    )
    outcome = Outcome(find("agent killed"), "named", 1, 3.4, "yes", 10.5, ())
    row = script.format_row(outcome)
    assert row.endswith("| `agent-missing`, 1 | 3.4 | `check` | yes, 10.5 s |")
    assert row.count("|") == script.HEAD.partition("\n")[0].count("|")
    broken = [outcome, Outcome(find("all rules flushed"), "broken", 0, 0.0, "", 0.0, ())]
    assert "1 named by `check`, 0 fixed by the agent, 0 silent" in script.describe_run(broken, 10)
    assert "1 not tried" in script.describe_run(broken, 10)


def test_a_situation_that_does_not_end_is_named_and_the_next_one_is_tried(monkeypatch, capsys):
    """As what waits for a process that cannot end: where it waited is said."""
    monkeypatch.syspath_prepend(CHECKOUT / "scripts")
    script = importlib.import_module("situations")
    monkeypatch.setattr(script, "MOST_S", 0.05)
    right = Outcome(find("agent killed"), "named", 1, 3.4, "yes", 10.5, ())

    class Cluster:
        def __init__(self, *_: object, **__: object) -> None:
            self.is_sound = True

        def try_situation(self, situation: Situation) -> Outcome:
            if situation.name != "agent killed":
                signal.pause()
            return right

    monkeypatch.setattr(script, "Lab", contextlib.nullcontext)
    monkeypatch.setattr(script, "SituationCluster", Cluster)
    done = script.try_situations([find("all rules flushed"), find("agent killed")], 10)
    assert [each.how for each in done] == ["unending", "named"]
    assert [each.is_right for each in done] == [False, True]
    assert "1 not over in time" in script.describe_run(done, 10)
    said = capsys.readouterr()
    assert "| **not over in time** |" in said.out
    assert "signal.pause()" in said.err
