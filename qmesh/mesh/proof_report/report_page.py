"""A report as one page of HTML: no script, nothing from elsewhere; what rules say is only ever text.

Its first octets are fixed but for a digest under the machine's own key, which tells that machine whether an
octet was changed. What it says for programs stands in it once more, as JSON.
"""

from __future__ import annotations

import hmac
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.proof_report.report_facts import ReportedClaim, ReportFacts
from qmesh.mesh.proof_report.report_keys import NAMESPACE, ReportKeys
from qmesh.mesh.prover.claims.claim_list import CLAIMS

BEGIN: Final = b"<!DOCTYPE html>\n<!-- qmesh proof report -->\n"
"""How each page begins, and no other file."""
MOST_OCTETS: Final = 16 << 20
"""Of a page that is read."""
_HEAD: Final = BEGIN + b'<html lang="en"><head><meta charset="utf-8"><meta name="qmesh-digest" content="'
_DIGEST: Final = re.compile(rb'[0-9a-f]{64}">')
_NO_DIGEST: Final = b"0" * 64
_FACTS, _FACTS_END = '<pre id="facts">', "</pre>"
_WORDS: Final[Mapping[str, str]] = {str(claim): words for claim, words in CLAIMS.items()}
_FAMILIES: Final = {"ip": "IPv4", "ip6": "IPv6"}
_HINT: Final = "pass the file that `qmesh prove --report FILE` wrote, whole and unchanged"
_STYLE: Final = (
    "body{font:1em/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#111;background:#fff}"
    "table{border-collapse:collapse}"
    "td,th{border:1px solid #999;padding:.3em .6em;text-align:left;vertical-align:top}"
    "code,pre,td{overflow-wrap:anywhere}pre{white-space:pre-wrap}"
    ".refuted,.not-proved{background:#fdd}.proved{background:#dfd}"
)
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"

ASSUMPTIONS: Final = (
    "The kernel does what its rules say, and its rules are those that it lists.",
    "Nothing but rules takes packets elsewhere: no XDP or BPF program, filter of tc, IPVS, program of root.",
    "WireGuard keeps its promise that a source address in the tunnel is that of the peer that has it.",
    "An interface is the same at all hooks, which is not so for a VRF.",
    "Programs are not modelled: what a service does with a connection that it was allowed is not.",
    "A frame that a bridge passes on without the hooks of IP is not seen.",
    "What takes another packet out of one, such as FOU, GUE and SRv6, is not modelled.",
    "It is about the rules as they were at that moment, and in no other network namespace.",
    "The prover has no error.",
)
"""Of every proof; docs/assurance.md says more of each."""


class ParsedReport(msgspec.Struct, frozen=True):
    """A page that was read. octets: the page as it is; digest: what it says of itself."""

    facts: ReportFacts
    octets: bytes
    digest: bytes

    def is_unchanged(self, keys: ReportKeys) -> bool:
        """Whether the machine with these keys wrote each of its octets."""
        blank = _HEAD + _NO_DIGEST + self.octets[len(_HEAD) + len(_NO_DIGEST) :]
        return hmac.compare_digest(_compute_digest(blank, keys), self.digest)


def render_page(facts: ReportFacts, keys: ReportKeys, *, made: str) -> bytes:
    """The page. made: its time in words."""
    body = "\n".join(_list_lines(facts, made))
    blank = _HEAD + _NO_DIGEST + b'">' + body.encode() + b"\n"
    return blank.replace(_NO_DIGEST, _compute_digest(blank, keys), 1)


def parse_page(octets: bytes) -> ParsedReport:
    """A page that anybody may have written. Raises BadInput for what is none."""
    if len(octets) > MOST_OCTETS:
        raise BadInput(f"a report has no more than {MOST_OCTETS} bytes", hint=_HINT)
    digest = _DIGEST.match(octets, len(_HEAD))
    if not octets.startswith(_HEAD) or digest is None:
        raise BadInput("this is not a qmesh report", hint=_HINT)
    text = octets.decode("utf-8", "replace")
    _, _, rest = text.partition(_FACTS)
    said, _, _ = rest.partition(_FACTS_END)
    try:
        facts = decode_json(html.unescape(said), ReportFacts)
    except Malformed:
        raise BadInput(
            "this report is damaged, or was written by another version of qmesh", hint=_HINT
        ) from None
    return ParsedReport(facts, octets, digest[0][: len(_NO_DIGEST)])


def _compute_digest(blank: bytes, keys: ReportKeys) -> bytes:
    return hmac.digest(keys.marking, blank, "sha256").hex().encode()


def _list_lines(facts: ReportFacts, made: str) -> Iterator[str]:
    answer = "every claim is proved" if facts.is_proved else "NOT every claim is proved"
    source = "" if facts.origin.is_live else ", by the rules of a file, NOT by what was loaded"
    title = f"{facts.origin.machine}: {answer}{source}"
    yield f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">'
    yield '<meta name="viewport" content="width=device-width"><meta name="referrer" content="no-referrer">'
    yield f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{_text(title)}</h1>"
    yield (
        "<p>This page says which packets the firewall rules of one machine let in, and by which rules that is"
        " decided. A solver was asked about every packet at once. It was written by"
        " <code>qmesh prove --report</code> on that machine.</p>"
    )
    if not facts.origin.is_live:
        yield (
            "<p>The rules are those of a file that was given with <code>--ruleset</code>. Whether they were"
            " ever loaded, there or anywhere, this page does not say.</p>"
        )
    yield (
        "<p>The machine is part of a mesh: machines that are connected by a tunnel of WireGuard. One of them"
        " is the control node. A <em>closed port</em> is one that from outside at most the control node, or"
        " members of the mesh, may reach, and only through the tunnel.</p>"
    )
    yield from _list_summary(facts, made)
    yield "<h2>The claims</h2>"
    yield from _list_claims(facts)
    yield from _list_not_modelled(facts)
    yield "<h2>What every proof assumes</h2>"
    yield from _list_items(ASSUMPTIONS)
    yield from _list_ways_to_verify(facts)
    encoded = msgspec.json.encode(facts).decode()
    yield "<details><summary>The same for programs</summary>"
    yield f"{_FACTS}{_text(encoded)}{_FACTS_END}</details></body></html>"


def _list_summary(facts: ReportFacts, made: str) -> Iterator[str]:
    guard, origin = facts.guard, facts.origin
    role = "a control node" if guard.role == "control" else "a worker machine"
    rules = "what was loaded" if origin.is_live else "those of a file, NOT what was loaded"
    rows = [
        ("machine", f"{origin.machine}, {role}"),
        ("mesh", origin.mesh),
        ("time", made),
        ("qmesh", origin.qmesh),
        ("rules", f"{rules}: {facts.asked.rules} rules, {facts.asked.sets} sets"),
        ("closed ports", format_port_ranges(guard.closed_ports)),
        ("the tunnel", f"{guard.interface} ({guard.kind}), the control node has {guard.control_address}"),
        ("hash of what was asked", facts.asked.sha256),
        ("hash of what nft prints", _describe_nft(facts)),
        ("the machine's key for reports", facts.key),
    ]
    yield "<table>"
    for name, value in rows:
        yield f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>"
    yield "</table>"


def _describe_nft(facts: ReportFacts) -> str:
    asked = facts.asked
    if asked.nft is None:
        return "none: it could not be computed"
    lacks = f"; of {asked.not_in_nft} rules nft prints less than was asked" if asked.not_in_nft else ""
    return f"{asked.nft.sha256}, by nft {asked.nft.version}{lacks}"


def _list_claims(facts: ReportFacts) -> Iterator[str]:
    yield "<table><tr><th>claim</th><th>answer</th><th>by which rules</th></tr>"
    named = {each.claim for each in facts.claims}
    for claim in (each for each in _WORDS if each in named):
        words = _WORDS[claim]
        found = [each for each in facts.claims if each.claim == claim]
        for answer in dict.fromkeys(each.answer for each in found):
            alike = [each for each in found if each.answer == answer]
            yield (
                f'<tr class="{answer.replace(" ", "-")}"><td>{_text(words)}</td>'
                f"<td>{_text(answer)}: {_text(_describe_cases(alike))}</td><td>"
            )
            yield from _list_reasons(alike)
            yield "</td></tr>"
    yield "</table>"


def _describe_cases(alike: Sequence[ReportedClaim]) -> str:
    """Of which families, and without which table."""
    keys = {(each.family, each.without): _describe_case(each) for each in alike}
    families = dict.fromkeys(family for family, _ in keys)
    left_out = {without for _, without in keys if without}
    if len(keys) < len(families) * (len(left_out) + 1) or any(each.out_of_time for each in alike):
        return "; ".join(keys.values())
    words = " and ".join(_FAMILIES[family] for family in families)
    return words + ("; also with either table of the guard alone" if left_out else "")


def _describe_case(claim: ReportedClaim) -> str:
    without = f" without the table {claim.without}" if claim.without else ""
    return _FAMILIES[claim.family] + without + (" (out of time)" if claim.out_of_time else "")


def _list_reasons(alike: Iterable[ReportedClaim]) -> Iterator[str]:
    """The rules that a proof needs, of all cases together; of what is not proved, each case."""
    rules: dict[str, None] = {}
    for each in alike:
        rules |= dict.fromkeys(each.rules)
        if each.packet:
            may = "" if each.answer == "refuted" else "it may be broken by "
            yield f"<p>{_text(_describe_case(each))}: {may}<code>{_text(each.packet)}</code></p>"
        yield from _list_items([*(f"came to {step}" for step in each.path)])
        yield from _list_items([*(f"not understood: {rule}" for rule in each.unclear)])
        yield from _list_items([*(f"not ordinary: {words}" for words in each.unusual)])
    yield from _list_items(rules)


def _list_not_modelled(facts: ReportFacts) -> Iterator[str]:
    yield "<h2>What was not modelled</h2>"
    if facts.not_modelled is None:
        yield "<p>The time was over before all rules were looked at, so this is not known.</p>"
        return
    rules = [*facts.not_modelled, *([f"and {facts.unnamed} more"] if facts.unnamed else [])]
    rules += [f"the elements of the set {each}, which are too many" for each in facts.asked.unread_sets]
    if not rules:
        yield "<p>Nothing: the meaning of every rule is known.</p>"
        return
    yield (
        "<p>The meaning of these is not known. That was not guessed: what is proved holds whatever they mean,"
        " and what depends on one of them is not proved.</p>"
    )
    yield from _list_items(rules)


def _list_ways_to_verify(facts: ReportFacts) -> Iterator[str]:
    yield "<h2>How to verify it</h2>"
    yield (
        "<p>A report is the word of its machine: a program with the rights of root there could write any. So"
        " verify it on the machine itself, or trust those who run it.</p>"
    )
    yield (
        "<p>On the machine, as root: <code>qmesh prove --verify FILE</code>. It says whether the report is"
        " unchanged, which rules are others than those that are loaded, and proves each claim again. With"
        " <code>--ruleset RULES</code> it asks the rules of a file instead, and says so.</p>"
    )
    yield (
        "<p>Elsewhere, if the file <code>FILE.sig</code> came with it:"
        f" <code>ssh-keygen -Y check-novalidate -n {NAMESPACE} -s FILE.sig &lt;FILE</code>."
        " It has to print <code>Good</code>, and the key that those who run the machine have told you in"
        f" another way than by this report. Here it is said to be <code>{_text(facts.key)}</code>.</p>"
    )
    yield (
        "<p>Whether the rules are the same, without qmesh: the page &ldquo;assurance&rdquo; of qmesh's"
        " documents has a command that computes the hash of what nft prints.</p>"
    )


def _list_items(lines: Iterable[str]) -> Iterator[str]:
    items = [f"<li><code>{_text(line)}</code></li>" for line in lines]
    if items:
        yield f"<ul>{''.join(items)}</ul>"


def _text(words: str) -> str:
    return html.escape(words, quote=True)
