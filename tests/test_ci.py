"""What CI types is what the README says, and the README's table of systems has those that CI runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from tests.support.checkout import CHECKOUT

CI = CHECKOUT / ".ci"
LEAN = "sudo apt-get install --no-install-recommends ca-certificates"
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("heading", "first"),
    [
        ("Install on a machine", ["sudo apt-get update", "sudo apt-get install curl openssh-client"]),
        ("From source", ["sudo apt-get update", f"{LEAN} git nftables netbase pipx"]),
        ("With pipx", ["sudo apt-get update", f"{LEAN} curl openssh-client nftables netbase pipx"]),
        ("Try it", ["sudo ./scripts/demo"]),
        ("Test it", ["sudo ./scripts/test"]),
    ],
)
def test_ci_reads_the_commands_below_a_heading(heading, first):
    words = [CI / "readme", "--print", heading]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    typed = done.stdout.splitlines()
    assert typed[: len(first)] == first
    assert f"```\n{done.stdout}```\n" in re.split(rf"\n##+ {heading}\n", README)[1]


def test_ci_finds_no_commands_where_there_are_none():
    done = subprocess.run([CI / "readme", "More"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the README has no commands below 'More'\n"


def test_ci_types_lines_that_belong_together_as_one(tmp_path):
    """And ends at the first that fails."""
    for name in (".ci/readme", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    shutil.copy(CI / "readme", tmp_path / ".ci/readme")
    lines = "true &&\n    echo _VERSION_ URL-OF-THE-RELEASE\nfalse &&\n    echo never\necho never\n"
    (tmp_path / "README.md").write_text(f"## Text\n\n### Lines\n\n```\n{lines}```\n", encoding="utf-8")
    variables = {**os.environ, "RELEASE": "file:///here", "VERSION": "1.2.3"}
    words = [tmp_path / ".ci/readme", "Lines"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 1
    said = "\n$ true &&\n    echo _1.2.3_ file:///here\n_1.2.3_ file:///here\n\n$ false &&\n    echo never\n"
    assert done.stdout == said


def test_the_table_of_systems_has_what_ci_runs():
    (suites,) = re.findall(r"^suites=\((.*)\)$", (CI / "run").read_text(encoding="utf-8"), flags=re.MULTILINE)
    table = README.split("\n### Systems\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "|" in line]
    title, _, *systems = rows
    run = [row for row in systems if row[-1] != "not run"]
    assert [re.findall(r"\((\w+)\)", system)[0] for system, *_ in run] == suites.split()
    assert all(all(row) for row in run)
    assert f"| {' | '.join(title)} |" in (CI / "run").read_text(encoding="utf-8")
    assert [row[0] for row in systems if row not in run] == ["Ubuntu 24.04 and newer"]
