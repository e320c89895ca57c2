"""What pip installs: the sources and the wheel of this commit, and the versions to install with it."""

from __future__ import annotations

import email
import email.policy
import json
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from tests.support.checkout import CHECKOUT
from tests.support.waiting import patience

LOCK = (CHECKOUT / "scripts/requirements.lock").read_text("utf-8")


def make_distribution(folder: Path) -> dict[str, Path]:
    """The three files by their kinds."""
    words = [str(CHECKOUT / "scripts/package"), "python", "--output", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=patience(300))
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert sorted(paths) == sorted(folder.iterdir())
    return {path.suffix: path for path in paths}


def list_tracked() -> set[str]:
    words = ["git", "-C", str(CHECKOUT), "ls-tree", "-r", "--name-only", "HEAD"]
    return set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines())


def test_it_is_made_of_the_commit_and_nothing_else_and_twice_the_same(tmp_path):
    made = make_distribution(tmp_path / "once")
    with tarfile.open(made[".gz"]) as sources:
        names = {name.partition("/")[2] for name in sources.getnames()}
    tracked = list_tracked()
    assert names == tracked | {"PKG-INFO"}

    with zipfile.ZipFile(made[".whl"]) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
        licence = wheel.read(next(name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")))
        text = wheel.read(next(name for name in wheel.namelist() if name.endswith("/METADATA")))
    assert inside == {name for name in tracked if name.startswith("qmesh/")}
    assert licence == (CHECKOUT / "LICENSE").read_bytes()
    assert_index_takes_it(text)

    again = make_distribution(tmp_path / "again")
    assert {kind: path.read_bytes() for kind, path in made.items()} == {
        kind: path.read_bytes() for kind, path in again.items()
    }
    assert_constraints_are_those_of_the_lock(made[".txt"].read_text("utf-8"))


def assert_index_takes_it(text: bytes) -> None:
    metadata = Metadata.from_email(text, validate=True)
    assert metadata.license_expression == "MIT"
    assert not metadata.project_urls  # there is no address yet that would stay
    page = email.message_from_bytes(text, policy=email.policy.default).get_content()
    assert page.startswith("# qmesh")
    assert re.findall(r"\]\((?!https?://)[^)]*\)", page) == []
    assert "The quick start goes from two servers" in page


def assert_constraints_are_those_of_the_lock(text: str) -> None:
    lines = text.splitlines()
    assert len(lines) == LOCK.count("==") - LOCK.count(" == ")
    assert all(line in LOCK for line in lines)
    assert not any("--hash" in line or "[" in line for line in lines)
    assert any(line.startswith("cryptography==") for line in lines)


def test_what_it_is_asked_wrongly_is_refused(tmp_path):
    for words in (["--output"], ["--frob"], ["frob"]):
        done = subprocess.run(
            [str(CHECKOUT / "scripts/package"), "python", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("usage:")


def test_the_readme_gives_pipx_the_versions_by_a_word_that_it_heeds():
    """Where uv is there, a newer pipx installs by it, and uv does not read PIP_CONSTRAINT."""
    readme = (CHECKOUT / "README.md").read_text("utf-8")
    assert (
        'pipx install --pip-args="--constraint=$PWD/qmesh-VERSION-constraints.txt" ./qmesh-VERSION-' in readme
    )
    assert "PIP_CONSTRAINT" not in readme


@pytest.mark.parametrize("group", ["requirements", "requirements-dev", "requirements-release"])
def test_a_lock_has_a_hash_for_each_package_and_no_address(group):
    text = (CHECKOUT / f"scripts/{group}.lock").read_text("utf-8")
    entries = re.split(r"\n(?=\w)", text.strip())
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


@pytest.mark.long
def test_the_sbom_is_valid_and_has_what_wheels_have_compiled_in(tmp_path):
    """Its schema is asked by the program that writes it; twine says what an index would."""
    made = make_distribution(tmp_path / "made")
    words = [str(CHECKOUT / "scripts/package"), "sbom", "--output"]
    texts = []
    for folder in (tmp_path / "once", tmp_path / "again"):
        done = subprocess.run([*words, str(folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        texts.append(Path(done.stdout.strip()).read_text("utf-8"))
    assert texts[0] == texts[1]
    assert "file:///" not in texts[0]
    sbom = json.loads(texts[0])
    assert sbom["metadata"]["component"]["name"] == "qmesh"
    components = {each["name"]: each for each in sbom["components"]}
    for line in LOCK.splitlines():
        if found := re.match(r"(cryptography|typer|msgspec)==(\S+)", line):
            assert components[found[1]]["version"] == found[2]
    assert all(each["licenses"] for each in components.values())
    assert "openssl" in {each["name"] for each in components["cryptography"]["components"]}
    assert not components.keys() & {"hatchling", "pytest", "pip"}

    twine = CHECKOUT / ".cache/release/bin/twine"
    subprocess.run([twine, "check", "--strict", made[".whl"], made[".gz"]], check=True)
