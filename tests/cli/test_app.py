"""The hall: what it costs to enter, what `--help` tells, and that every error has two lines."""

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from qmesh import __file__ as beginning
from qmesh import __version__
from qmesh.cli import app
from qmesh.cli.app import COMMANDS, GROUPS, load_command
from qmesh.errors import BadInput, EnrolmentRefused, MachineRefused, QmeshError
from tests.support.forked import type_command

HEAVY = (
    "pyroute2",
    "cryptography",
    "h11",
    "asyncio",
    "nftables",
    "msgspec",
    "yaml",
    "sqlite3",
    "rich",
    "pydantic",
)


TYPED = ("0", "1", "12", "007", "-1", "99999", "a", "1.5", "2.1", "on", "none", "public", "/etc", "٣")


def started(*words: str, code: int = 0) -> tuple[set[str], str]:
    """The top-level modules that a command line loads, by python -X importtime, and its standard output."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "qmesh", *words],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin"},
    )
    assert done.returncode == code
    names = (line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line)
    return {name.partition(".")[0] for name in names}, done.stdout


def loaded_by(*words: str, code: int = 0) -> set[str]:
    return started(*words, code=code)[0]


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["--state", "/x", "--help"]])
def test_help_and_version_load_nothing_heavy(words):
    assert not loaded_by(*words) & set(HEAVY)


def test_the_detector_of_heavy_modules_detects():
    assert {"cryptography", "h11"} <= loaded_by("join", "/nowhere/file", code=2)


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--json"],
        ["invite", "machine-b", "--workers", "3"],
        ["pause", "machine-b", "--state", "/nowhere"],
        ["set", "machine-b", "--endpoint", "192.0.2.1", "--endpoint", "192.0.2.2"],
        ["handover", "machine-b", "--wait", "5"],
        ["set", "machine-b", "--node-files", "on"],
    ],
)
def test_what_needs_no_conversion_has_typer_load_no_pydantic(words):
    """None of them is root, or in a mesh, and all of them were read."""
    assert "pydantic" not in loaded_by(*words, code=2 if os.geteuid() == 0 else 3)


def test_the_detector_of_pydantic_detects():
    assert "pydantic" in loaded_by("apply", "--confirm", "1_0", code=2 if os.geteuid() == 0 else 3)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_plain_value_is_what_typer_would_make_of_it(name):
    """Each option and argument of each command with values that may fit, against typer's own conversion."""
    command = load_command(name)
    context = typer.Context(command)
    for param in command.get_params(context):
        if param.name == "help":
            continue
        for text in TYPED:
            value = [text, text] if param.multiple else True if getattr(param, "is_flag", False) else text
            assert processed(param.process_value, context, value) == by_typer(param, context, value), text
        if not param.required:
            assert processed(param.process_value, context, None) == by_typer(param, context, None)


def by_typer(param: Any, context: Any, value: object) -> object:
    return processed(functools.partial(type(param).process_value, param), context, value)


def processed(process_value: Callable[..., object], context: Any, value: object) -> object:
    try:
        return process_value(context, value)
    except typer.BadParameter:
        return "refused"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["apply", "--confirm", "soon"], "'--confirm': 'soon' is not a whole number"),
        (["init", "--workers", "x"], "'--workers': 'x' is not a whole number"),
        (["init", "--node", "3"], "'--node': '3' is not one of 1.4, 2.0, 2.1, 2.1-rust"),
        (["ready", "-1"], "No such option: -1"),
        (["ready", "x"], "'CORE': 'x' is not a whole number from 0 on"),
        (["ready", "1", "--timeout", "nan"], "'--timeout': 'nan' is not a number from 0 to 86400"),
        (["handover", "hel-2", "--wait", "1"], "'--wait': '1' is not a whole number from 5 to 86400"),
        (["backup"], "Missing argument FILE"),
        (["pause"], "Missing argument NAME"),
        (["pause", "a", "b"], "`qmesh pause` takes no further argument: 'b'"),
        (["check", "b"], "`qmesh check` takes no further argument: 'b'"),
        (["chekc"], "there is no command 'chekc'"),
        (["status", "--state"], "requires an argument"),
        (["status", "--no-such"], "No such option"),
    ],
)
def test_what_typer_refuses_is_refused(words, said):
    done = type_command(*words)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[0]


def test_version_does_not_even_load_typer():
    assert "typer" not in loaded_by("--version")
    assert type_command("--version").stdout == f"qmesh {__version__}\n"
    assert type_command("--version", "status").stdout == f"qmesh {__version__}\n"


LOOKS = """
import atexit, gc, sys
found = []
gc.callbacks.append(lambda phase, _: "typer" in sys.modules and found.append(phase))
atexit.register(lambda: print(len(found), gc.get_freeze_count() > 10_000))
from qmesh.cli import main
main()
"""


def test_no_command_looks_through_its_modules_for_garbage(tmp_path):
    words = ["status", "--state", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", LOOKS, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "0 True\n")


def test_help_names_every_command_with_its_summary_in_its_group():
    said = " ".join(re.sub("[│╭╮╰╯─]", " ", type_command("--help").stdout).split())
    for title, group in GROUPS.items():
        listed = " ".join(f"{name} {summary}" for name, summary in group.items())
        assert f"{title} {listed}" in said


def test_the_reference_has_the_same_groups():
    text = (Path(beginning).parents[1] / "docs/reference.md").read_text(encoding="utf-8")
    contents = text.partition("\n## ")[0]
    for title, group in GROUPS.items():
        listed = contents.partition(f"\n- {title}: ")[2].partition("\n- ")[0]
        assert re.findall(r"\[qmesh ([a-z-]+)\]", listed) == list(group)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_help_begins_with_its_summary_ends_with_an_example_and_loads_little(name):
    found = load_command(name)
    assert found.help.splitlines()[0] == COMMANDS[name]
    examples = found.epilog.split("\n\n")
    assert examples[0] == "Examples:"
    assert examples[1].strip().startswith(f"qmesh {name}")
    loaded, said = started(name, "--help")
    assert not loaded & (set(HEAVY) - {"msgspec"}), "a limit of an option is msgspec's"
    assert f"qmesh {name}" in said.partition("Examples:")[2]
    names = {
        option for each in found.params for option in (*each.opts, *each.secondary_opts) if option[0] == "-"
    }
    assert names <= set(re.findall(r"(?<= )--?[a-z0-9-]+(?= )", said))  # in 80 columns, and not cut


def test_every_command_module_is_in_the_hall():
    modules = Path(sys.modules["qmesh.cli.app"].__file__ or "").parent.glob("commands/[a-z]*.py")
    assert {module.stem.replace("_", "-") for module in modules} == set(COMMANDS)


@pytest.mark.parametrize("words", [["status", "\udcff"], ["--state", "/\udcff", "check"], ["\udcff"]])
def test_what_is_no_text_is_refused_whatever_it_is_for(words):
    done = type_command(*words)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "error: an argument is not UTF-8 text"


@pytest.mark.parametrize("words", [["9" * 5000], ["1", "--timeout", "nan"], ["1", "--timeout", "9" * 5000]])
def test_ready_ends_whatever_its_numbers_are(words, tmp_path):
    """systemd waits for it: one that never ends, or a traceback, is no answer."""
    done = type_command("ready", words[0], "--config", str(tmp_path), *(words[1:] or ["--timeout", "1"]))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


SEE_CHECK = "see `qmesh check --help`"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["frob"], "see `qmesh --help`"),
        (["chekc"], "did you mean `qmesh check`? see `qmesh --help`"),
        (["units", "--wri"], "did you mean --write? see `qmesh units --help`"),
        (["--frob"], "see `qmesh --help`"),
        (["init", "--frob"], "see `qmesh init --help`"),
        (["init", "--workers", "x"], "see `qmesh init --help`"),
        (["invite"], "see `qmesh invite --help`"),
        (
            ["check", "hel-2"],
            "it is about the machine that it runs on: log in to hel-2, and run `qmesh check` there; "
            + SEE_CHECK,
        ),
        (["status", "hel-2"], "see `qmesh status --help`"),
    ],
)
def test_wrong_usage_is_two_lines_and_exit_code_2(words, hint):
    done = type_command(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    error, second = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert second == f"hint: {hint}"
    told = json.loads(type_command(*words, "--json").stderr)
    assert (told["hint"], told["exit_code"]) == (hint, 2)


@pytest.mark.parametrize("name", app.COMMANDS)
def test_an_option_with_one_value_is_taken_once(name):
    command = app.load_command(name)
    for param in command.get_params(typer.Context(command)):
        if param.param_type_name != "option" or param.multiple:
            continue
        first, second = param.opts[0], (param.secondary_opts or param.opts)[-1]
        if param.is_flag and not param.secondary_opts:
            continue  # said twice it says the same
        words = [
            each for option in (first, second) for each in ([option] if param.is_flag else [option, "5"])
        ]
        with pytest.raises(BadInput, match=f"{param.opts[0]}.* was given twice") as refused:
            command.make_context(name, words)  # is no more than read: it would be done here, if it were taken
        assert (refused.value.exit_code, refused.value.hint) == (2, "leave one of the two out")


def test_the_state_directory_is_said_once_before_a_command_or_after_it(capsys):
    for words in (["--state", "/a", "status", "--state", "/b"], ["--state", "/a", "--state", "/b", "status"]):
        assert app.run(words) == 2
        assert capsys.readouterr().err.startswith("error: --state was given twice\n")
    assert app.run(["status", "--json", "--json", "--state", "/nowhere"]) == 2
    assert "there is none in /nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["invite", "--list", "--replace"],
            "--list and --withdraw go with none of the options of an invitation",
        ),
        (
            ["invite", "--withdraw", "hel-2", "--out", "new"],
            "--list and --withdraw go with none of the options",
        ),
        (["invite", "--list", "--expires", "2h"], "--list and --withdraw go with none of the options"),
        (["handover", "--cancel", "--leave-behind"], "--cancel goes with no other option"),
        (["handover", "--cancel", "--wait", "300"], "--cancel goes with no other option"),
        (
            ["set", "hel-2", "--guard-port", "none", "--from", "control"],
            "--from says for whom --guard-port is",
        ),
    ],
)
def test_options_of_which_one_would_do_nothing_are_refused(words, said, capsys, tmp_path):
    assert app.run([*words, "--state", str(tmp_path / "none")]) == 2
    assert f"error: {said}" in capsys.readouterr().err


def test_without_a_command_it_shows_its_help():
    assert "Usage: qmesh" in type_command().stdout


@pytest.mark.parametrize(
    ("kind", "code"), [(BadInput, 2), (MachineRefused, 3), (EnrolmentRefused, 4), (QmeshError, 3)]
)
def test_each_kind_of_error_has_its_exit_code(kind, code):
    error = kind("what", hint="what to do")
    assert (error.exit_code, error.message, error.hint) == (code, "what", "what to do")


def test_a_bug_is_no_traceback_but_two_lines(monkeypatch, capsys):
    def broken(_name: str) -> object:
        raise ZeroDivisionError("5ecret")

    monkeypatch.setattr(app, "load_command", broken)
    assert app.run(["status"]) == 3
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 2
    assert "ZeroDivisionError at test_app.py:" in said
    assert "5ecret" not in said


def test_a_path_in_a_directory_that_is_gone_is_no_bug(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(app, "load_command", lambda name: Path(name).absolute())
    assert app.run(["status"]) == 2
    assert capsys.readouterr().err.startswith("error: the current directory is gone\nhint: `cd` to another")


def test_nothing_prints_but_the_one_place_for_it():
    """What is printed is escaped there: a print of one's own would be a way around."""
    package = Path(beginning).parent
    ways = re.compile(r"\bprint\(|\becho\(|\bsecho\(|stdout\.write|stderr\.write|logging\.Formatter\(")
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if ways.search(path.read_text(encoding="utf-8"))
    }
    # The version, and what the library's process answers to its parent.
    assert found == {"cli/__init__.py", "cli/terminal.py"}
