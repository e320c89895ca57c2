"""Addresses of the control process that its program replaces by a wildcard."""

from __future__ import annotations

import re
from collections.abc import Iterator

from qmesh.mesh.nodeconfig.document import Node, Scalar, resolve_alias
from qmesh.mesh.nodeconfig.lint.list_names import mapping_pairs
from qmesh.mesh.nodeconfig.lint.problems import Problem, build_error, build_warning
from qmesh.mesh.nodeconfig.profiles import profile_facts
from qmesh.mesh.values import GRPC_PORT, STREAM_PORT, Profile, parse_ip_address

_READ = re.compile(r"/ip4/(?P<address>[0-9.]+)/tcp/[0-9]+")
_GRPC = frozenset({"listenGrpcMultiaddr", "listenGRPCMultiaddr"})


def find_listener_problems(root: Node | None, profile: Profile) -> Iterator[Problem]:
    """Addresses that the program of Rust does not read, so that it listens on every address instead.

    A mesh of node 2.1 may run that program: its files can't be told apart. Its port for streams is asked of
    2.1-rust alone, as the program of Go has it on IPv6 too.
    """
    known = profile_facts(profile)
    if known.stream_key is None:
        return
    for key, value in mapping_pairs(root):
        if key.value in _GRPC:
            fix = f"write it as /ip4/127.0.0.1/tcp/{GRPC_PORT}"
            yield from _check_address(key, value, fix, is_written=known.grpc_key is not None)
        if key.value == known.stream_key.section and profile == "2.1-rust":
            for inner, inside in mapping_pairs(value):
                if inner.value == known.stream_key.name:
                    fix = f"write it as /ip4/ADDRESS/tcp/{STREAM_PORT}"
                    yield from _check_address(inner, inside, fix, is_written=True)


def _check_address(key: Scalar, node: Node, fix: str, *, is_written: bool) -> Iterator[Problem]:
    value = resolve_alias(node)
    if not isinstance(value, Scalar) or not value.value or value.is_null:
        return
    found = _READ.fullmatch(value.value)
    if found is None or parse_ip_address(found["address"]) is None:
        message = f"node 2.1 in Rust does not read this `{key.value}`, and listens on every address instead"
        # What is no address at all is one to no program: a node in Go loads it.
        say = build_error if is_written or value.value.startswith("/") else build_warning
        yield say(node.start, "wildcard", message, fix, cured=is_written)
