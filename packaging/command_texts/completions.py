"""What bash, zsh and fish offer at Tab after `qmesh`, as files that need not ask the program.

Only names of machines are asked for at a Tab.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Final

from command_tree import Command, Parameter

MADE: Final = "Made of the text of `qmesh --help`, by packaging/command_texts."
ASK: Final = "_QMESH_COMPLETE=machines"
"""With it in its environment the program prints names of machines, and does nothing else."""


def render_completions(program: Command, commands: list[Command]) -> dict[str, str]:
    """The files by their places below /usr/share, where each shell reads its own by itself."""
    return {
        "bash-completion/completions/qmesh": render_bash(program, commands),
        "zsh/vendor-completions/_qmesh": render_zsh(program, commands),
        "fish/vendor_completions.d/qmesh.fish": render_fish(program, commands),
    }


BASH: Final = r"""
_qmesh() {
    local current=${COMP_WORDS[COMP_CWORD]} command="" option="" kind="" number word
    local -i arguments=0
    COMPREPLY=()
    for ((number = 1; number < COMP_CWORD; number++)); do
        word=${COMP_WORDS[number]}
        if [[ -n $option ]]; then
            [[ $word == "=" ]] || option=""
        elif [[ $word == -* ]]; then
            [[ -z ${_qmesh_values["$command $word"]+known} ]] || option=$word
        elif [[ -z $command ]]; then
            command=$word
        else
            arguments+=1
        fi
    done
    [[ $current != "=" ]] || current=""
    if [[ -n $option ]]; then
        kind=${_qmesh_values["$command $option"]}
    elif [[ $current == -* ]]; then
        kind="choice ${_qmesh_options["$command "]-}"
    elif [[ -z $command ]]; then
        kind="choice $_qmesh_commands"
    elif ((arguments == 0)); then
        kind=${_qmesh_arguments["$command "]-}
    fi
    case $kind in
        "choice "*) mapfile -t COMPREPLY < <(compgen -W "${kind#choice }" -- "$current") ;;
        machine) mapfile -t COMPREPLY < <(compgen -W "$(ASK "$1" 2>/dev/null)" -- "$current") ;;
        file) compopt -o filenames && mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
        directory) compopt -o filenames && mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
    esac
}

complete -F _qmesh qmesh
""".replace("ASK", ASK)


def render_bash(program: Command, commands: list[Command]) -> str:
    """Tables, and one function that reads them. Keys end with a space: bash has no empty ones."""
    everything = [program, *commands]
    options = {each.name: " ".join(_list_names(each.options)) for each in everything}
    values = {
        f"{command.name} {name}": _render_bash_kind(each)
        for command in everything
        for each in command.options
        if each.takes_value
        for name in each.names
    }
    arguments = {each.name: _render_bash_kind(each.arguments[0]) for each in commands if each.arguments}
    return (
        "\n".join(
            [
                f"# Completion of qmesh for bash. {MADE}",
                "# shellcheck shell=bash",
                f"_qmesh_commands={shlex.quote(' '.join(each.name for each in commands))}",
                *_render_bash_table("options", {f"{name} ": text for name, text in options.items()}),
                *_render_bash_table("values", values),
                *_render_bash_table("arguments", {f"{name} ": text for name, text in arguments.items()}),
            ]
        )
        + "\n"
        + BASH
    )


def _render_bash_table(name: str, rows: dict[str, str]) -> list[str]:
    lines = [f'    ["{key}"]={shlex.quote(text)}' for key, text in rows.items()]
    return [f"declare -gA _qmesh_{name}=(", *lines, ")"]


def _render_bash_kind(parameter: Parameter) -> str:
    return " ".join((parameter.kind, *parameter.choices))


ZSH: Final = """
_qmesh_machines() {
    local -a names
    names=(${(f)"$(ASK _call_program machines qmesh 2>/dev/null)"})
    _wanted machines expl machine compadd -a names
}
""".replace("ASK", ASK)


def render_zsh(program: Command, commands: list[Command]) -> str:
    """One `_arguments` for the program, and one for each command."""
    described = (f"{each.name}:{each.summary.replace('`', '')}" for each in commands)
    cases: list[str] = []
    for command in commands:
        specs = [*_list_zsh_options(command.options), *_list_zsh_arguments(command.arguments)]
        cases += [f"        {command.name})", "            _arguments \\"]
        cases += [f"                {shlex.quote(spec)} \\" for spec in specs[:-1]]
        cases += [f"                {shlex.quote(specs[-1])}", "            ;;"]
    return "\n".join(
        [
            "#compdef qmesh",
            f"# Completion of qmesh for zsh. {MADE}",
            ZSH,
            "_qmesh_commands() {",
            "    local -a commands=(",
            *(f"        {shlex.quote(each)}" for each in described),
            "    )",
            "    _describe -t commands command commands",
            "}",
            "",
            "_qmesh() {",
            "    local curcontext=$curcontext state line",
            "    typeset -A opt_args",
            "    _arguments -C \\",
            *(f"        {shlex.quote(spec)} \\" for spec in _list_zsh_options(program.options)),
            "        '1:command:_qmesh_commands' \\",
            "        '*::argument:->arguments' && return",
            "    [[ $state == arguments ]] || return",
            '    curcontext="${curcontext%:*:*}:qmesh-$line[1]:"',
            "    case $line[1] in",
            *cases,
            "    esac",
            "}",
            "",
            '_qmesh "$@"',
            "",
        ]
    )


def _list_zsh_options(options: Iterable[Parameter]) -> list[str]:
    specs: list[str] = []
    for each in options:
        names = (*each.names, *each.switches_off)
        for name in names:
            # One of these at a time, and once, unless it may be repeated.
            before = "*" if each.repeats else f"({' '.join(names)})" if len(names) > 1 else ""
            equals = "=" if each.takes_value and name.startswith("--") else ""
            value = f":{_escape_zsh(each.value)}:{_render_zsh_action(each)}" if each.takes_value else ""
            specs.append(f"{before}{name}{equals}[{_escape_zsh(each.text)}]{value}")
    return specs


def _list_zsh_arguments(arguments: Iterable[Parameter]) -> list[str]:
    return [
        f"{number}:{_escape_zsh(each.names[0])}:{_render_zsh_action(each)}"
        for number, each in enumerate(arguments, 1)
    ]


def _render_zsh_action(parameter: Parameter) -> str:
    known = {"file": "_files", "directory": "_files -/", "machine": "_qmesh_machines"}
    return f"({' '.join(parameter.choices)})" if parameter.choices else known.get(parameter.kind, " ")


def _escape_zsh(text: str) -> str:
    return re.sub(r"([\\\[\]:])", r"\\\1", text.replace("`", ""))


FISH: Final = """
# Whether this is the command that was typed; without one to compare, whether any was.
function __qmesh_is
    set -l words (commandline -opc)
    set -l value no
    for word in $words[2..]
        if test $value = yes
            set value no
            continue
        end
        switch $word
            case VALUES
                set value yes
            case '-*'
            case '*'
                test (count $argv) = 0 -o "$word" = "$argv[1]"
                return
        end
    end
    return 1
end

function __qmesh_machines
    env ASK qmesh 2>/dev/null
end

complete -c qmesh -f
""".replace("ASK", ASK)


def render_fish(program: Command, commands: list[Command]) -> str:
    """One line for each option, argument and command."""
    values = [name for each in program.options if each.takes_value for name in each.names]
    lines = [_render_fish_line("not __qmesh_is", words) for words in _list_fish_words(program.parameters)]
    lines += [
        _render_fish_line("not __qmesh_is", ["-a", command.name, "-d", command.summary.replace("`", "")])
        for command in commands
    ]
    for command in commands:
        for words in _list_fish_words(command.parameters):
            lines.append(_render_fish_line(f"__qmesh_is {command.name}", words))
    head = f"# Completion of qmesh for fish. {MADE}\n"
    return head + FISH.replace("VALUES", " ".join(values)) + "\n".join(lines) + "\n"


def _list_fish_words(parameters: Iterable[Parameter]) -> list[list[str]]:
    rows: list[list[str]] = []
    for each in parameters:
        offered = {
            "choice": ["-a", " ".join(each.choices)],
            "machine": ["-a", "(__qmesh_machines)"],
            "directory": ["-a", "(__fish_complete_directories)"],
            "file": ["-F"],
            "": [],
        }[each.kind]
        if each.is_argument:
            rows += [offered] * bool(offered)
            continue
        if each.takes_value:
            offered = ["-r" if each.kind == "file" else "-x", *offered]
        names = [["-l", name[2:]] if name.startswith("--") else ["-s", name[1:]] for name in each.names]
        described = ["-d", each.text.replace("`", "")]
        rows.append([*(word for name in names for word in name), *offered, *described])
        rows += [["-l", name[2:], *described] for name in each.switches_off]
    return rows


def _render_fish_line(condition: str, words: Iterable[str]) -> str:
    return " ".join(["complete -c qmesh -n", *map(_quote_fish, (condition, *words))])


def _quote_fish(text: str) -> str:
    """In fish, a backslash escapes a quote and itself within single quotes."""
    if re.fullmatch(r"[\w./:-]+", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _list_names(options: Iterable[Parameter]) -> list[str]:
    return [name for each in options for name in (*each.names, *each.switches_off)]
