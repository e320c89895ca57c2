"""Man pages and completions: made of the text of `--help`, and tried by what reads them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from qmesh.cli.app import COMMANDS, GROUPS, load_command
from qmesh.host.registry import Registry
from tests.support.checkout import CHECKOUT
from tests.support.factories import machine, mesh
from tests.support.terminals import run_at_terminal
from tests.support.waiting import patience


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """As /usr/share of a package."""
    make_texts(tmp_path / "share")
    return tmp_path / "share"


def make_texts(folder: Path) -> None:
    words = [sys.executable, "-I", str(CHECKOUT / "packaging/command_texts"), str(folder)]
    subprocess.run(words, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "86400"}, timeout=patience(60))


def read_page(page: Path) -> str:
    """Its words, as mandoc prints them: a bold letter is one that is printed twice."""
    words = ["mandoc", "-T", "ascii", "-O", "width=100", str(page)]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return " ".join(re.sub(".\b", "", shown).split())


def test_each_command_has_a_valid_page_with_what_its_help_says(texts):
    pages = texts / "man/man8"
    assert {page.name for page in pages.iterdir()} == {
        "qmesh.8",
        *(f"qmesh-{name}.8" for name in COMMANDS),
    }
    lint = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *sorted(pages.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (lint.returncode, lint.stdout) == (0, "")
    for name in COMMANDS:
        command, text = load_command(name), read_page(pages / f"qmesh-{name}.8")
        assert f"qmesh-{name} - {COMMANDS[name].replace('`', '').rstrip('.')}" in text
        assert "1970-01-02" in text
        said = [*command.help.split("\n\n"), *command.epilog.split("\n\n")[1:]]
        said += [param.help for param in command.get_params(typer.Context(command)) if not is_hidden(param)]
        for sentence in said:
            assert " ".join(sentence.replace("`", "").split()) in text, sentence


def is_hidden(param: Any) -> bool:
    return bool(param.hidden)


def test_the_page_of_qmesh_has_commands_in_the_order_of_help_and_what_the_reference_has(texts):
    text = read_page(texts / "man/man8/qmesh.8")
    places = [text.index(f"qmesh-{name}(8) {COMMANDS[name].split('`')[0]}") for name in COMMANDS]
    assert places == sorted(places)
    assert all(f"{group} qmesh-{next(iter(names))}(8)" in text for group, names in GROUPS.items())
    assert "4 refused by the other side" in text
    assert "/var/lib/qmesh/mesh.db control node: the registry" in text
    told = read_page(texts / "man/man8/qmesh-admit.8")
    assert "Exit code 4: the invitation of the request is not good." in told
    assert "SEE ALSO qmesh(8), qmesh-join(8)" in told


# What is typed, and what is offered after it.
OFFERED = (
    ("qmesh re", " ".join(sorted(name for name in COMMANDS if name.startswith("re")))),
    ("qmesh set --notify-t", "--notify-test"),
    ("qmesh --state /re set --master", "--master-proxy"),
    ("qmesh set --node 2", "2.0 2.1 2.1-rust"),
    ("qmesh set --from=", "control mesh none"),
    ("qmesh set --from=c", "control"),
    ("qmesh export ", "ansible hosts nft wg-quick"),
    ("qmesh init --config FOLDER/sh", "FOLDER/share/"),
    ("qmesh admit FOLDER/on", "FOLDER/one.request"),
    ("qmesh pause ", "fra-1 hel-2 zrh-3"),
    ("qmesh render-config --for h", "hel-2"),
    ("qmesh init --name ", ""),
    ("qmesh frob --", ""),
)
TAKE = "taken() { printf 'offered'; printf ' %s' \"$@\"; printf ' .\\n'; }"
BASH = (TAKE, ". /usr/share/bash-completion/bash_completion")
ZSH = (
    TAKE,
    "fpath=(FOLDER/share/zsh/vendor-completions $fpath)",
    "autoload -U compinit",
    "compinit -u -D",
    "zle -C all-matches complete-word _generic",
    "bindkey '^[*' all-matches",
    "zstyle ':completion:all-matches:*' insert yes",
    "zstyle ':completion:all-matches::::' completer _all_matches _complete",
)


@pytest.mark.parametrize(
    ("shell", "prepare"), [(("bash", "--norc", "--noprofile", "-i"), BASH), (("zsh", "-f", "-i"), ZSH)]
)
def test_a_shell_offers_what_can_follow(tmp_path, texts, shell, prepare):
    """Each line is typed at a terminal; the key that inserts all that Tab would offer follows it."""
    variables = make_surroundings(tmp_path, texts)
    keys = [f"{line}\x1b*\x01taken \r" for line, _ in OFFERED]
    with run_at_terminal(shell, width=200, **variables) as terminal:
        for line in (*prepare, *keys, "exit"):
            terminal.type(f"{line}\r".replace("FOLDER", str(tmp_path)).replace("\r\r", "\r"))
        terminal.end()
    found = re.findall(r"[\r\n]offered (.*?) \.\r", terminal.text)
    for (line, offered), shown in zip(OFFERED, found, strict=True):
        *typed, begun = line.replace("FOLDER", str(tmp_path)).split(" ")
        expected = offered.replace("FOLDER", str(tmp_path)).split() or [begun] * bool(begun)
        words = [word.removeprefix("--from=") for word in shown.split()[len(typed) :]]
        # Where all that is offered is inserted, a folder has no slash.
        assert [word.rstrip("/") for word in words] == [word.rstrip("/") for word in expected], line


def test_fish_offers_what_can_follow(tmp_path, texts):
    variables = make_surroundings(tmp_path, texts)
    script = "for line in $argv; echo offered (complete -C $line | string replace -r '\\t.*' '') .; end"
    lines = [line.replace("FOLDER", str(tmp_path)) for line, _ in OFFERED]
    done = subprocess.run(
        ["fish", "-c", script, *lines],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **variables},
        timeout=patience(60),
    )
    found = re.findall(r"^offered (.*?) ?\.$", done.stdout, re.MULTILINE)
    for (line, offered), shown in zip(OFFERED, found, strict=True):
        expected = offered.replace("FOLDER", str(tmp_path)).split()
        # Newer ones also offer what has the letters in this order.
        begun = line.replace("FOLDER", str(tmp_path)).rpartition(" ")[2]
        words = [word.removeprefix("--from=") for word in shown.split() if word.startswith(begun)]
        assert words == expected, line


def make_surroundings(folder: Path, texts: Path) -> dict[str, Any]:
    """A state directory with machines, files to offer; the variables by which shells find all of it."""
    (folder / "state").mkdir()
    (folder / "home").mkdir()
    (folder / "one.request").touch()
    machines = [machine(name, number) for number, name in enumerate(("fra-1", "hel-2", "zrh-3"), 1)]
    Registry.create(folder / "state/mesh.db", mesh(*machines, control="fra-1"), now=0)
    return {
        "HOME": str(folder / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "QMESH_STATE": str(folder / "state"),
        "XDG_DATA_DIRS": f"{texts}:/usr/local/share:/usr/share",
    }
