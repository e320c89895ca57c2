"""The documents keep up with the code: links lead somewhere, and nothing is left out."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from qmesh.cli.app import COMMANDS, app, load_command
from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.systemd import units
from tests.support.checkout import CHECKOUT
from tests.support.finding_codes import findings_in_the_code, nodes_of_the_audit
from tests.support.words import GLOSSARY, NOT_USED, is_used, words_that_are_not_used

DOCS = CHECKOUT / "docs"
README = CHECKOUT / "README.md"
DOCUMENTS = [*sorted(CHECKOUT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
PAGES = [
    DOCS / f"{name}.md" for name in ("quick-start", "operating", "recovery", "reference", "fleet", "3am")
]
"""What an operator reads."""
CHECKS, FAULTS, GUARD = (DOCS / f"{name}.md" for name in ("checks", "faults", "guard"))
WATCHED = [DOCS / f"{name}.md" for name in ("cloud-init", "events", "monitoring", "node", "page")]
"""What is read by who watches a cluster, or lets it grow by itself."""
REPOSITORY = [CHECKOUT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY")]
"""What is read before it is installed, or changed."""

OTHER_PROGRAMS = {
    *("ansible-galaxy", "ansible-playbook"),
    *("ansible", "apt-get", "cat", "cp", "git", "gpg", "journalctl", "mkdir", "mv", "pipx", "rm", "scp"),
    *("ssh", "systemctl", "ufw", "umask", "wg", "./scripts/demo", "./scripts/test"),
    *(".", "curl", "dpkg", "grep", "sha256sum", "ssh-keygen", "./scripts/package"),
    *("cd", "chmod", "echo", "groupadd", "ip", "nft", "pkill", "usermod", "./node-2.1.0.25-linux-amd64"),
}
"""What the pages type besides qmesh."""

ENDS_OF_TEXT_FILES = {".cfg", ".md", ".py", ".rb", ".sh", ".toml", ".txt", ".yaml", ".yml", ".lock", ""}
PRIVATE = ("/wor" + "k/", "/tmp" + "/sp")
"""Paths of one machine; spelt in two halves, or this file itself would be found."""

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_ANCHOR = re.compile(r'<a id="([^"]+)"></a>')
_FINDING = re.compile(r"^\| (?:<a id=\"[a-z-]+\"></a>)?`([a-z-]+)` \|", re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def prose_of(document: Path) -> str:
    return _CODE.sub("", document.read_text(encoding="utf-8"))


def anchor_of(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors_of(document: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {*map(anchor_of, _HEADING.findall(text)), *_ANCHOR.findall(text)}


def links_of(document: Path) -> list[str]:
    links = _LINK.findall(prose_of(document))
    return [link for link in links if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_relative_links_lead_somewhere(document):
    for link in links_of(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_relative_to(CHECKOUT), f"{link} leads out of the repository"
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors_of(target), f"{link}: no such heading"


def test_every_document_is_linked_to():
    linked = {
        (document.parent / link.partition("#")[0]).resolve()
        for document in DOCUMENTS
        for link in links_of(document)
    }
    decisions = DOCS / "decisions"
    assert decisions in linked
    assert [name_of(each) for each in DOCS.glob("*.md") if each not in linked] == []


def findings_in_the_document() -> list[str]:
    return _FINDING.findall(CHECKS.read_text(encoding="utf-8"))


def test_codes_are_found_in_the_code():
    # Were a way of making findings overlooked, the next test would be content with too little.
    strings = {
        node.value
        for node in nodes_of_the_audit()
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    words = "key|guard|port|worker|tunnel|peer|config|membership|agent|foreign|route|clock|sysctl|service"
    alike = {text for text in strings if re.fullmatch(f"(?:{words})(?:-[a-z]+)+", text)}
    assert findings_in_the_code() >= alike
    assert len(findings_in_the_code()) >= 20


def test_every_finding_is_in_the_document_once():
    assert sorted(findings_in_the_document()) == sorted(findings_in_the_code())


CONTRACT = frozenset(
    [
        "key-missing",
        "key-mode",
        "key-mismatch",
        "membership-stale",
        "membership-invalid",
        "tunnel-missing",
        "tunnel-down",
        "tunnel-address",
        "tunnel-port",
        "tunnel-mtu",
        "peer-missing",
        "peer-unexpected",
        "peer-allowed-ips",
        "peer-endpoint",
        "peer-psk",
        "peer-silent",
        "guard-missing",
        "guard-drift",
        "guard-not-first",
        "guard-boot",
        "foreign-drop",
        "foreign-flush",
        "worker-exposed",
        "worker-wide",
        "worker-silent",
        "port-not-reserved",
        "sysctl",
        "route-collision",
        "config-missing",
        "config-stale",
        "config-lint",
        "config-mode",
        "clock",
        "service-silent",
        "check-failed",
        "node-keys",
        "node-program",
        "worker-outdated",
        "worker-cut-off",
        "worker-not-ours",
        "control-silent",
        "control-outdated",
        "announce-missing",
        "port-wide",
    ]
)
"""Codes that scripts rely on: they stay."""


def test_every_code_that_scripts_rely_on_is_made():
    assert findings_in_the_code() >= CONTRACT


def test_the_link_of_every_finding_leads_to_its_row():
    anchors = _ANCHOR.findall(CHECKS.read_text(encoding="utf-8"))
    assert sorted(anchors) == sorted(findings_in_the_code())
    for code in sorted(findings_in_the_code()):
        page, _, anchor = Finding(code, "error", "", "", "", "").link.partition("#")
        assert CHECKOUT / page == CHECKS
        assert f'| <a id="{anchor}"></a>`{code}` |' in CHECKS.read_text(encoding="utf-8")


def test_the_changelog_names_no_finding_that_is_not_made():
    text = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    codes = set(re.findall(r"check` has `([a-z-]+)`", text)) | set(
        re.findall(r"\(`([a-z]+-[a-z-]+)`\)", text)
    )
    assert {"worker-silent", "foreign-flush"} <= codes <= findings_in_the_code()


def fences_of(document: Path) -> list[tuple[str, str]]:
    """The code blocks of a document: language and text."""
    text = document.read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def typed_lines_of(document: Path) -> Iterator[str]:
    """What is typed in the code blocks: all of one that is marked `sh`, of others what is behind a prompt.

    All else there is output of programs, or what stands in files.
    """
    for language, block in fences_of(document):
        prompted = re.findall(r"^[a-z0-9-]+# +(.+)$", block, flags=re.MULTILINE)
        is_all_typed = language == "sh" or (not language and document == README and not prompted)
        yield from filter(None, block.splitlines() if is_all_typed else prompted)


def typed_spans_of(document: Path) -> Iterator[str]:
    """The code in the midst of sentences and tables, as it is typed."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    yield from (span.replace(r"\|", "|") for span in re.findall(r"`([^`\n]+)`", text))


def commands_in(line: str) -> Iterator[list[str]]:
    """The words of each command of a shell's line, without variables, `sudo` and redirections."""
    for inner in re.findall(r"\$\(([^()]*)\)", line):
        yield from commands_in(inner)
    line = re.sub(r"\$\([^()]*\)", "$", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in (*lexer, ";"):
        if set(word) <= set("|&;()"):
            yield from _without_prefix(words)
            words = []
        else:
            words.append(word)


def _without_prefix(words: list[str]) -> Iterator[list[str]]:
    for mark in ("<", ">"):
        while mark in words:
            del words[words.index(mark) : words.index(mark) + 2]
    while words and (re.match(r"[A-Za-z_]+=", words[0]) or words[0] == "sudo"):
        del words[0]
    if words:
        yield words
    if words[:1] == ["ssh"]:  # SSH's own command is what stands behind the machine, as words or as one
        rest = words[1:]
        while rest and rest[0].startswith("-"):
            del rest[: 2 if rest[0] == "-L" else 1]
        yield from commands_in(" ".join(rest[1:]))


def typed_commands_of(document: Path) -> Iterator[list[str]]:
    """The words of each qmesh command that a document types, or names with an option."""
    for line in typed_lines_of(document):
        yield from (words[1:] for words in commands_in(line) if words[0] == "qmesh")
    for span in typed_spans_of(document):
        if re.search(r"(?:^|[|&;'] *|sudo |ssh \S+ |=1 )qmesh [a-z-]", span):
            yield from (words[1:] for words in commands_in(span) if words[0] == "qmesh")
        elif span.partition(" ")[0] in COMMANDS:
            yield span.split()


def options_of(name: str | None) -> set[str]:
    """The options of a command; without one those that stand before all commands."""
    found = typer.main.get_command(app) if name is None else load_command(name)
    return {"--help"} | {option for each in found.params for option in (*each.opts, *each.secondary_opts)}


ALL_OPTIONS = options_of(None).union(*map(options_of, COMMANDS))


def mistyped(words: list[str]) -> list[str]:
    """What qmesh does not know of the words behind its name."""
    name = next((word for word in words if not word.startswith("-")), None)
    if name == "COMMAND":  # that stands for all
        name = None
    if name is not None and name not in COMMANDS:
        return [name]
    own = [word for before, word in zip(["", *words], words, strict=False) if before != "--node-args"]
    options = {word.partition("=")[0] for word in own if re.match("--?[a-z]", word)}
    return sorted(options - options_of(None) - (set() if name is None else options_of(name)))


def test_what_is_mistyped_is_found():
    assert mistyped(["chekc"]) == ["chekc"]
    assert mistyped(["set", "hel-2", "--worker", "8"]) == ["--worker"]
    assert mistyped(["set", "hel-2", "--workers=8", "--json"]) == []
    assert mistyped(["--versions"]) == ["--versions"]
    assert mistyped(["units", "--node-args", "--debug", "--writ", "x"]) == ["--writ"]
    line = "ssh -t -L 1:localhost:2 fra-1 sudo qmesh page --porch 3"
    assert [mistyped(words[1:]) for words in commands_in(line) if words[0] == "qmesh"] == [["--porch"]]
    line = "QMESH_TRACEBACK=1 sudo qmesh plan && ssh fra-1 'qmesh invite hel-2' | qmesh join - > x; rm y"
    assert [words[0:2] for words in commands_in(line)] == [
        *(["qmesh", "plan"], ["ssh", "fra-1"], ["qmesh", "invite"], ["qmesh", "join"], ["rm", "y"]),
    ]


@pytest.mark.parametrize("document", [*PAGES, *WATCHED, README, CHECKS, FAULTS, GUARD], ids=name_of)
def test_no_page_types_a_command_or_an_option_that_is_not_there(document):
    assert [(words, wrong) for words in typed_commands_of(document) if (wrong := mistyped(words))] == []


@pytest.mark.parametrize("document", [*PAGES, *WATCHED, README, CHECKS], ids=name_of)
def test_no_page_names_an_option_that_no_command_has(document):
    spans = (span for span in typed_spans_of(document) if re.match("--?[a-z]", span))
    assert {span.split()[0].partition("=")[0] for span in spans} <= ALL_OPTIONS


def test_the_pages_type_all_that_they_are_read_for():
    typed = [words for page in PAGES for words in typed_commands_of(page)]
    assert len(typed) > 200
    assert {words[0] for words in typed} >= COMMANDS.keys()


@pytest.mark.parametrize("document", [*PAGES, README], ids=name_of)
def test_code_blocks_type_programs_that_there_are(document):
    programs = {words[0] for line in typed_lines_of(document) for words in commands_in(line)}
    assert programs <= OTHER_PROGRAMS | {"qmesh"}


@pytest.mark.parametrize("document", [*PAGES, *WATCHED, README, CHECKS, FAULTS, GUARD], ids=name_of)
def test_units_that_a_page_names_are_qmeshs(document):
    text = document.read_text(encoding="utf-8")
    named = re.findall(r"\bqmesh(?:-[a-z]+)?(?:@[0-9]*)?\.(?:service|target)\b", text)
    there = {value for value in vars(units).values() if isinstance(value, str)}
    assert {re.sub("@[0-9]*", "@", name) for name in named} <= there


def sections_of_the_reference() -> dict[str, str]:
    """What the reference says of each command, by name."""
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    titled = (part.partition("\n") for part in parts)
    return {title.removeprefix("qmesh "): body for title, _, body in titled if title.startswith("qmesh ")}


def test_every_command_has_a_section_of_the_reference():
    headings = re.findall(r"^## qmesh (.+)$", (DOCS / "reference.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_of_the_reference_has_an_example_and_the_commands_own_options(name):
    section = sections_of_the_reference()[name]
    (example,) = re.findall(r"^```sh\n(.*?)```$", section, flags=re.DOTALL | re.MULTILINE)
    assert name in [words[1] for words in commands_in(example) if words[0] == "qmesh"]
    named = options_named_in(section)
    assert named <= options_of(name)
    assert {option for option in options_of(name) if option.startswith("-")} - shared_options() <= named


def options_named_in(section: str) -> set[str]:
    return {re.split("[ =]", span)[0] for span in re.findall(r"`(?:NAME )?(--?[a-z][^`]*)`", section)}


def shared_options() -> set[str]:
    """Those that the reference explains once."""
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    return options_named_in(text.split("\n## Options that all commands share\n")[1].partition("\n## ")[0])


def headings_of(text: str) -> list[str]:
    """The headings below a document's title, of the second and third level."""
    code_less = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^###? (.+)$", code_less, flags=re.MULTILINE)


def contents_of(text: str) -> list[tuple[str, str]]:
    """The table of contents at a document's head: titles and anchors."""
    head = re.split(r"^## ", text, maxsplit=1, flags=re.MULTILINE)[0]
    listed = head[found.start() :] if (found := re.search(r"^- ", head, flags=re.MULTILINE)) else ""
    links = re.findall(r"\[([^\]]+)\]\(#([^)]+)\)", listed.partition("\n\n")[0])
    return [(" ".join(title.split()), anchor) for title, anchor in links]


def has_its_contents(text: str) -> bool:
    """Whether the table of contents has just the headings, in their order, and leads to them."""
    headings = headings_of(text)
    return len(set(headings)) == len(headings) and contents_of(text) == [
        (heading, anchor_of(heading)) for heading in headings
    ]


@pytest.mark.parametrize("document", [*PAGES, CHECKS], ids=name_of)
def test_a_page_has_a_table_of_contents_that_matches_its_headings(document):
    text = document.read_text(encoding="utf-8")
    assert contents_of(text) == [(heading, anchor_of(heading)) for heading in headings_of(text)]
    assert has_its_contents(text)


def test_a_heading_that_the_contents_lack_is_found():
    page = (
        "# A page\n\n- [First `one`](#first-one)\n  - [Below it](#below-it)\n\n"
        "## First `one`\n\nText.\n\n### Below it\n"
    )
    assert has_its_contents(page)
    assert not has_its_contents(page + "\n## Another\n")
    assert not has_its_contents(page + "\n### Below it\n")
    assert not has_its_contents(page.replace("### Below it\n", ""))
    assert not has_its_contents(page.replace("(#below-it)", "(#below)"))
    assert not has_its_contents(page.replace("[Below it]", "[Below]"))
    assert not has_its_contents("# A page\n\n## First\n")


def rows_of(document: Path) -> list[list[str]]:
    """The rows of a document's tables, with their titles, cell by cell."""
    lines = document.read_text(encoding="utf-8").splitlines()
    return [re.split(r" (?<!\\)\| ", line[2:-2]) for line in lines if re.match(r"\| .* \|$", line)]


def test_three_in_the_morning_has_a_line_for_every_finding():
    rows = rows_of(DOCS / "3am.md")
    assert [row for row in rows if len(row) != 3] == []
    assert {row[0].strip("`") for row in rows} >= findings_in_the_code()


def texts_in_the_code() -> set[str]:
    """Every text in the program, with `{}` where a value comes."""
    found = set()
    for path in (CHECKOUT / "qmesh").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = [each.value if isinstance(each, ast.Constant) else "{}" for each in parts]
            if isinstance(node, ast.JoinedStr | ast.Constant) and all(isinstance(each, str) for each in text):
                found.add("".join(map(str, text)))
    return found


def pattern_of(message: str) -> re.Pattern[str]:
    """A message of which a page has one case: numbers, names, an ellipsis and the last word may be values."""
    value = r"(?:\{\}|[^ ]+)"
    words = [
        value if re.fullmatch(r"[0-9]+|[A-Z]{2,}(?:'s)?|\.\.\.", word) else rf"{re.escape(word)}(?:\{{\}})*"
        for word in message.split()
        if word not in {"error:", "hint:"}
    ]
    return re.compile(" ".join([*words[:-1], rf"(?:{words[-1]}|\{{\}})"]))


def test_a_message_is_found_with_its_values():
    texts = ("silent: core{} {} of {}; on", "no guard is loaded: worker ports", "this is not a qmesh {}")
    for message, place in (
        ("silent: core 5 of NAME", 0),
        ("no guard was loaded", None),
        ("no guard is loaded", 1),
        ("this is not a qmesh invitation", 2),
    ):
        found = [number for number, text in enumerate(texts) if pattern_of(message).search(text)]
        assert found == ([] if place is None else [place])


def test_what_three_in_the_morning_quotes_is_said_by_the_program():
    texts = texts_in_the_code()
    programs = {"qmesh", "apply", "nft", "systemctl"}
    messages = {
        quoted
        for row in rows_of(DOCS / "3am.md")
        for quoted in re.findall("`([^`]+)`", row[0])
        if " " in quoted and quoted.split()[0] not in programs
    }
    assert len(messages) > 15
    assert [each for each in messages if not any(map(pattern_of(each).search, texts))] == []


def said_in(document: Path) -> str:
    """A document's own words, on one line: no output of programs, no code, no targets of links.

    An option in the midst of a sentence is `--x`.
    """
    text, section, _ = document.read_text(encoding="utf-8").partition(NOT_USED)
    assert bool(section) == (document == GLOSSARY)
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`--[^`\n]*`", "--x", text)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`\n]*`", "` `", text))
    comments = (line.partition("  # ")[2] for line in typed_lines_of(document))
    return " ".join(f"{text} {' '.join(comments)}".split())


def test_the_words_that_are_not_used_are_read():
    words = words_that_are_not_used()
    assert len(words) > 40
    assert {"anew", "whoever", "octets", "by way of", "say --x"} <= set(words)
    assert [word for word in words if not is_used(word, f"Then {word.capitalize()}, and so on.")] == []
    assert not is_used("octet", "octets")
    assert not is_used("anew", "an ewe")


@pytest.mark.parametrize(
    "document",
    [
        *PAGES,
        *WATCHED,
        README,
        *REPOSITORY,
        CHECKS,
        FAULTS,
        GLOSSARY,
        GUARD,
        DOCS / "tests.md",
        DOCS / "vagrant.md",
    ],
    ids=name_of,
)
def test_a_page_keeps_to_the_words_that_are_used(document):
    said = said_in(document)
    assert [word for word in words_that_are_not_used() if is_used(word, said)] == []


def test_decisions_are_numbered_without_a_gap():
    for number, path in enumerate(sorted((DOCS / "decisions").iterdir()), start=1):
        assert re.fullmatch(rf"{number:04}-[a-z0-9-]+\.md", path.name)


def list_files() -> list[Path]:
    """What a commit would have; all but hidden files where this is no checkout of git."""
    listed = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listed, capture_output=True, text=True, check=True)
        found = [CHECKOUT / name for name in done.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        all_files = (path.relative_to(CHECKOUT) for path in CHECKOUT.rglob("*"))
        found = [
            CHECKOUT / path for path in all_files if not any(part.startswith(".") for part in path.parts)
        ]
    return [path for path in found if path.is_file()]


def tracked_files() -> list[Path]:
    """Those that are texts."""
    return [path for path in list_files() if path.suffix in ENDS_OF_TEXT_FILES]


def test_nothing_of_one_machine_is_in_the_repository():
    files = tracked_files()
    assert CHECKOUT / "README.md" in files
    assert CHECKOUT / "scripts/install" in files
    texts = {name_of(path): path.read_text(encoding="utf-8", errors="replace") for path in files}
    assert [(name, each) for name, text in texts.items() for each in PRIVATE if each in text] == []


def test_no_file_has_two_versions_of_its_text():
    """As git leaves them where it can't merge: nothing else finds that in a page."""
    marks = re.compile(rb"^(?:<{7}|>{7}) ", re.MULTILINE)
    assert [name_of(path) for path in list_files() if marks.search(path.read_bytes())] == []


@pytest.mark.parametrize("lock", sorted((CHECKOUT / "scripts").glob("*.lock")), ids=name_of)
def test_locks_have_no_address_in_them(lock):
    assert "://" not in lock.read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "least"), [("promises", 30), ("node", 20)])
def test_every_test_that_a_page_names_is_there(page, least):
    """Whole names, and the beginnings of several with a star."""
    written = (path.read_text(encoding="utf-8") for path in (CHECKOUT / "tests").rglob("test_*.py"))
    there = {
        name for text in written for name in re.findall(r"^ *(?:async )?def (test_\w+)\(", text, re.MULTILINE)
    }
    named = re.findall(r"`(test_\w+)(\*?)`", (DOCS / f"{page}.md").read_text(encoding="utf-8"))
    assert len(named) >= least
    for name, star in named:
        assert any(test.startswith(name) for test in there) if star else name in there, name


def test_each_cell_of_who_can_do_what_is_a_yes_or_names_a_test_or_another_row():
    text = (DOCS / "promises.md").read_text(encoding="utf-8")
    table = text.partition("\n## Who can do what\n")[2].partition("\n## ")[0]
    head, _, *rows = (line.strip("|").split("|") for line in table.splitlines() if line.startswith("|"))
    who = {row[0].split("**")[1] for row in rows}
    assert len(who) == len(rows) >= 9
    for row in rows:
        assert len(row) == len(head)
        for cell in row[1:]:
            named = {name for name in who if re.search(rf"\bas (?:a )?{re.escape(name)}\b", cell)}
            # Where the answer is no in a part, a yes to the rest does not stand for it.
            is_shown = bool(re.search(r"`test_\w+`", cell) or named)
            assert is_shown or ("**yes**" in cell and not re.search(r"\bno\b", cell)), (row[0], cell)
