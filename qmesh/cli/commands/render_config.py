"""`qmesh render-config`."""

from __future__ import annotations

import difflib
import logging
from typing import TYPE_CHECKING, Annotated

import typer

from qmesh.cli.output import (
    STATE,
    ConfigOption,
    JsonOption,
    NewFileOption,
    StateOption,
    machine_option,
    print_answer,
    print_outcome,
)
from qmesh.errors import BadInput

if TYPE_CHECKING:
    from qmesh.agent.commands.render_config import RenderedConfig
    from qmesh.host.state.directory import State

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh render-config",
    "qmesh render-config --diff",
    "qmesh render-config --write --config /root/node/.config",
    "qmesh render-config --for hel-2 -o hel-2-config.yml",
)


def command(
    config: ConfigOption = None,
    in_place: Annotated[
        bool, typer.Option("--write", help="Edit config.yml in place; the old one stays as config.yml.bak.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show what would change; exit code 1 if something would.")
    ] = False,
    for_name: Annotated[
        str | None,
        machine_option("--for", help="Make a minimal config.yml for another machine."),
    ] = None,
    out: NewFileOption = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Write the worker list into the node's config.yml.

    Only the worker list changes, every other byte stays. What is printed has no secrets in it: for a
    file that the node can start with, use `--write` or `-o FILE`.
    """
    from qmesh.agent.commands.render_config import render_node_config, write_config_copy
    from qmesh.host.state.directory import State

    if sum((in_place, diff, out is not None)) > 1 or (in_place and for_name is not None):
        raise BadInput("these options do not go together", hint="use one of --write, --diff and -o FILE")
    rendered = render_node_config(State(state), config=config, for_name=for_name)
    if in_place:
        _write_in_place(State(state), rendered, as_json=as_json)
    elif out is not None:
        write_config_copy(rendered, out)
        log.info("wrote %s, mode 0600, with %d workers", out, len(rendered.workers))
        print_outcome({"path": str(out), "workers": rendered.workers}, as_json=as_json, text=lambda _: "")
    elif diff:
        _print_diff(rendered, as_json=as_json)
    else:
        _old, new = rendered.redacted_texts
        facts = {"config": new, "workers": rendered.workers}
        print_answer(facts, as_json=as_json, text=lambda _: new.rstrip("\n"))


def _write_in_place(state: State, rendered: RenderedConfig, *, as_json: bool) -> None:
    from qmesh.agent.commands.render_config import write_node_config
    from qmesh.agent.commands.units import find_removed_workers

    path, changed = write_node_config(state, rendered)
    facts = {"path": str(path), "changed": changed, "workers": rendered.workers}
    count = f"{len(rendered.workers)} worker{'s' * (len(rendered.workers) != 1)}"
    done = f"wrote {path}: {count}" if changed else f"nothing to do, {path} is up to date: {count}"
    print_outcome(facts, as_json=as_json, text=lambda _: done)
    if changed:
        log.info("%s", rendered.restart_advice)
    find_removed_workers(state)


def _print_diff(rendered: RenderedConfig, *, as_json: bool) -> None:
    old, new = rendered.redacted_texts
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), "config.yml", "config.yml as rendered", lineterm=""
    )
    text = "\n".join(lines)
    changed = rendered.is_changed
    print_answer({"diff": text, "changed": changed}, as_json=as_json, text=lambda _: text or "as desired")
    if changed:
        raise typer.Exit(1)
