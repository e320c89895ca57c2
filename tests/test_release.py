"""`scripts/release`: whole or not at all, and verified by the lines that the README has users type."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.checkout import CHECKOUT

COPIED = (
    "README.md",
    "scripts/release",
    "scripts/release.py",
    "scripts/package",
    "packaging/files",
    ".ci/readme",
)
LOG = """\
# Changelog

## [Unreleased]

### Added

- A thing.

## 0.1.0 - not released

### Added

- All.
"""
SOURCE = '"""A program."""\n\n__version__ = "0.1.0"\n'
MANIFEST = "namespace: a\nversion: 0.1.0\nreadme: README.md\n"
VERSION = """\
#!/bin/sh
sed -n 's/__version__ = "\\(.*\\)"/\\1/p' "$(dirname "$0")/../qmesh/__init__.py"
"""
DEB = """\
#!/usr/bin/env bash
# Packages with nothing in them
set -euo pipefail
output=$2 suite=${*: -1} arches=()
while (($#)); do [[ $1 != --arch ]] || arches+=("$2"); shift; done
((${#arches[@]} > 0)) || arches=(amd64 arm64)
%s
for arch in "${arches[@]}"; do
    root=$(mktemp -d)
    mkdir --mode=755 "$root/DEBIAN"
    name=qmesh_$(packaging/version)-1~$suite
    printf '%%s\\n' "Package: qmesh" "Version: ${name#*_}" "Architecture: $arch" \\
        "Maintainer: a <a@example.org>" "Description: a" >"$root/DEBIAN/control"
    mkdir -p "$output"
    dpkg-deb --root-owner-group -Znone --build "$root" "$output/${name}_$arch.deb" >/dev/null
    rm -r "$root"
done
"""
OTHER = {
    "python": "qmesh-$version.tar.gz qmesh-$version-py3-none-any.whl qmesh-$version-constraints.txt",
    "sbom": "qmesh-$version.cdx.json",
}
"""What else is made, by the program that makes it."""
OTHER_MAKER = """\
#!/bin/sh
version=$("$(dirname "$0")/version")
mkdir -p "$2" && cd "$2" && for name in %s; do echo "$name" >"$name"; done
"""
SUITES = ("bookworm", "trixie", "forky")


class Project(NamedTuple):
    """A checkout with the real scripts, in which packages are made in no time."""

    folder: Path
    key: Path

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text("utf-8")

    def name_key(self, key: Path) -> None:
        data = " ".join(Path(f"{key}.pub").read_text("utf-8").split()[:2])
        self.write("README.md", (CHECKOUT / "README.md").read_text("utf-8") + f"\nThe key is `{data}`.\n")

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=a step")

    def build_by(self, line: str) -> None:
        """Have the program that makes packages do this first."""
        self.write("packaging/deb", DEB % line, 0o755)
        self.commit()

    def release(self, version: str = "0.2.0", *options: str) -> subprocess.CompletedProcess[str]:
        words: list[str | Path] = [self.folder / "scripts/release", version, "--key", self.key, *options]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    def state(self) -> tuple[str, ...]:
        """What a run that fails leaves as it was."""
        dist = self.folder / "dist"
        left = sorted(path.name for path in dist.iterdir()) if dist.exists() else []
        asked = (["rev-parse", "HEAD"], ["status", "--porcelain"], ["tag"], ["branch", "--all"])
        return (*(self.git(*words) for words in asked), *left)


@pytest.fixture(scope="module")
def pattern(tmp_path_factory) -> Project:
    folder = Path(tmp_path_factory.mktemp("pattern"))
    project = Project(folder / "checkout", folder / "key")
    make_key(project.key)
    project.folder.mkdir()
    for name in COPIED:
        path = project.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, path)
    project.name_key(project.key)
    project.write("CHANGELOG.md", LOG)
    project.write("qmesh/__init__.py", SOURCE)
    project.write("packaging/ansible/galaxy.yml", MANIFEST)
    project.write("packaging/version", VERSION, 0o755)
    project.write("packaging/deb", DEB % ":", 0o755)
    for name, files in OTHER.items():
        project.write(f"packaging/{name}", OTHER_MAKER % files, 0o755)
    project.write(".gitignore", "dist/\n.cache/\n")
    project.git("init", "--quiet", "--initial-branch=main")
    project.git("config", "user.name", "a maintainer")
    project.git("config", "user.email", "maintainer@example.org")
    project.commit()
    return project


@pytest.fixture
def project(pattern, tmp_path) -> Project:
    shutil.copytree(pattern.folder, tmp_path / "checkout")
    return Project(tmp_path / "checkout", pattern.key)


def make_key(path: Path) -> None:
    words: list[str | Path] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a test", "-f", path]
    subprocess.run(words, check=True)


@pytest.fixture(scope="module")
def released(pattern, tmp_path_factory) -> Project:
    folder = Path(tmp_path_factory.mktemp("released")) / "checkout"
    shutil.copytree(pattern.folder, folder)
    project = Project(folder, pattern.key)
    done = project.release()
    assert done.returncode == 0, done.stderr
    return project


def test_a_release_has_all_files_with_sums_and_notes(released):
    files = released.folder / "dist/0.2.0"
    packages = {f"qmesh_0.2.0_{suite}_{arch}.deb" for suite in SUITES for arch in ("amd64", "arm64")}
    packages |= {name for names in OTHER.values() for name in names.replace("$version", "0.2.0").split()}
    signed = {"SHA256SUMS", "SHA256SUMS.sig", "allowed_signers", "RELEASE_NOTES.md"}
    assert {path.name for path in files.iterdir()} == packages | signed
    assert {line.split()[1] for line in (files / "SHA256SUMS").read_text("utf-8").splitlines()} == packages
    assert [path.name for path in files.parent.iterdir()] == ["0.2.0"]
    assert not [path for path in files.iterdir() if b"PRIVATE" in path.read_bytes()]


SECTION = """
What is new, and
[what for](docs/index.md#why).

### Added

- A thing of
  [somebody](https://example.org/)
  with `--this`.
- Two because

  - [one
    and](docs/one.md) two.
"""
NOTES = """\
# qmesh 0.2.0

What is new, and what for.

### Added

- A thing of [somebody](https://example.org/) with `--this`.
- Two because

  - one and two.

The pages are in `docs` of the sources, and in `/usr/share/doc/qmesh` of each package.
"""


def test_notes_are_for_a_page_that_is_elsewhere(project):
    project.write("CHANGELOG.md", LOG.replace("\n### Added\n\n- A thing.\n", SECTION))
    project.commit()
    assert project.release().returncode == 0
    assert project.read("dist/0.2.0/RELEASE_NOTES.md") == NOTES
    assert SECTION in project.read("CHANGELOG.md")


def test_the_commit_has_version_and_section_and_nothing_else(released):
    assert released.git("diff", "--name-only", "HEAD^", "HEAD").split() == [
        "CHANGELOG.md",
        "packaging/ansible/galaxy.yml",
        "qmesh/__init__.py",
    ]
    assert released.read("qmesh/__init__.py") == SOURCE.replace("0.1.0", "0.2.0")
    assert released.read("packaging/ansible/galaxy.yml") == MANIFEST.replace("0.1.0", "0.2.0")
    date = r"20\d\d-\d\d-\d\d"
    expected = LOG.replace("## [Unreleased]", "## [Unreleased]\n\n## [0.2.0] - DATE")
    assert re.sub(date, "DATE", released.read("CHANGELOG.md")) == expected
    assert released.git("status", "--porcelain") == ""
    assert released.git("log", "-1", "--format=%s|%an") == "qmesh 0.2.0|a maintainer"


def test_the_tag_is_signed_by_the_key(released):
    signers = released.folder / "dist/0.2.0/allowed_signers"
    released.git("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-tag", "v0.2.0")
    assert released.git("rev-parse", "v0.2.0^{commit}") == released.git("rev-parse", "main")


def test_the_next_release_needs_something_to_tell(released):
    done = released.release("0.2.1")
    assert refused(done) == "error: CHANGELOG.md has nothing below '## [Unreleased]'"


def test_a_dry_run_makes_the_files_and_no_commit(project):
    before = project.state()
    done = project.release(
        "0.2.0", "--dry-run", "--arch", "amd64", "--suite", "trixie", "--to", str(project.folder / "../try")
    )
    assert done.returncode == 0, done.stderr
    assert "verified: apt-get install ./qmesh_0.2.0_trixie_amd64.deb\n" in done.stdout
    assert len(list((project.folder / "../try").glob("*.deb"))) == 1
    assert project.state() == before


def test_everybody_can_read_the_files_whatever_the_umask(project):
    previous = os.umask(0o077)
    try:
        done = project.release("0.2.0", "--dry-run", "--arch", "amd64", "--suite", "trixie")
    finally:
        os.umask(previous)
    assert done.returncode == 0, done.stderr
    files = project.folder / "dist/0.2.0"
    assert files.stat().st_mode & 0o777 == 0o755
    assert {path.name for path in files.iterdir() if path.stat().st_mode & 0o777 != 0o644} == set()


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stderr
    assert "\nhint: " in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")][-1]


def change_a_file(project):
    project.write("README.md", "other\n")


def leave_a_file(project):
    project.write("new", "other\n")


def set_the_tag(project):
    project.git("tag", "v0.2.0")


def empty_the_section(project):
    project.write("CHANGELOG.md", LOG.replace("- A thing.\n", ""))
    project.commit()


def double_the_section(project):
    project.write("CHANGELOG.md", LOG + "\n## [Unreleased]\n\n- More.\n")
    project.commit()


def write_the_section_before(project):
    project.write("CHANGELOG.md", LOG + "\n## [0.2.0] - 2026-01-01\n\n- More.\n")
    project.commit()


def leave_the_branch(project):
    project.git("switch", "--quiet", "--detach")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (change_a_file, "not all is committed: M README.md"),
        (leave_a_file, "not all is committed: ?? new"),
        (set_the_tag, "there is a tag v0.2.0"),
        (empty_the_section, "CHANGELOG.md has nothing below '## [Unreleased]'"),
        (double_the_section, "CHANGELOG.md has not one line '## [Unreleased]'"),
        (write_the_section_before, "CHANGELOG.md has a section of 0.2.0"),
        (leave_the_branch, "no branch is checked out"),
    ],
)
def test_a_checkout_that_is_not_ready_is_refused_at_once(project, spoil, said):
    spoil(project)
    before = project.state()
    assert refused(project.release()) == f"error: {said}"
    assert project.state() == before


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("0.1.0", "0.1.0 is not newer than 0.1.0, which the source has"),
        ("0.0.9", "0.0.9 is not newer than 0.1.0, which the source has"),
        ("v0.2.0", "'v0.2.0' is no version"),
        ("0.2", "'0.2' is no version"),
        ("0.2.0rc1", "'0.2.0rc1' is no version"),
        ("0.02.0", "'0.02.0' is no version"),
    ],
)
def test_what_is_no_newer_version_is_refused(project, version, said):
    assert refused(project.release(version)) == f"error: {said}"
    assert project.state()[2] == ""


def test_a_key_that_is_not_there_is_refused(project, tmp_path):
    done = project._replace(key=tmp_path / "none").release()
    assert refused(done) == f"error: there is no key {tmp_path}/none"
    assert not (project.folder / "dist").exists()


def test_a_key_that_the_readme_does_not_name_is_only_good_for_a_trial(project, tmp_path):
    make_key(tmp_path / "other")
    with_other = project._replace(key=tmp_path / "other")
    data = " ".join((tmp_path / "other.pub").read_text("utf-8").split()[:2])
    before = project.state()
    done = with_other.release()
    assert refused(done) == "error: README.md does not name this key"
    assert f"hint: commit there: `{data}`\n" in done.stderr
    assert project.state() == before
    assert with_other.release("0.2.0", "--dry-run", "--to", str(tmp_path / "try")).returncode == 0
    project.name_key(with_other.key)
    project.commit()
    (tmp_path / "other.pub").unlink()
    assert with_other.release().returncode == 0


def test_files_of_another_run_are_not_replaced(project):
    project.write("dist/0.2.0/mine", "")
    assert "is there, and no v0.2.0" in refused(project.release())
    assert [path.name for path in (project.folder / "dist/0.2.0").iterdir()] == ["mine"]


FAILING = {
    "the second suite is not built": "[[ $suite != trixie ]] || exit 1",
    "a package is of another version": "sed -i s/0.2.0/0.2.7/ qmesh/__init__.py",
    "the last commit is taken back meanwhile": (
        '[[ $suite != trixie ]] || git -C "$FAILING" reset --quiet --hard HEAD^'
    ),
    "somebody commits meanwhile": 'git -C "$FAILING" commit --quiet --allow-empty --message=more',
    "somebody changes a file meanwhile": 'echo more >>"$FAILING/README.md"',
}


@pytest.mark.parametrize("how", FAILING)
def test_what_fails_in_the_middle_leaves_nothing_and_can_be_run_again(project, monkeypatch, how):
    project.build_by(FAILING[how])
    project.git("commit", "--quiet", "--allow-empty", "--message=last")
    monkeypatch.setenv("FAILING", str(project.folder))
    before = project.state()
    refused(project.release())
    after = project.state()
    assert after[2:] == before[2:]
    if "meanwhile" not in how:
        assert after == before
    project.git("checkout", "--quiet", ".")
    project.build_by(":")
    assert project.release().returncode == 0
    assert project.git("tag") == "v0.2.0"


def test_a_branch_that_cannot_have_the_commit_leaves_no_tag_and_no_files(project, monkeypatch):
    """As another program of git's is at work there."""
    lock = project.folder / ".git/index.lock"
    project.build_by('touch "$LOCK"')
    monkeypatch.setenv("LOCK", str(lock))
    before = project.state()
    assert refused(project.release()).startswith("error: 'git merge --quiet ...' ended with ")
    assert project.state() == before
    lock.unlink()
    project.build_by(":")
    assert project.release().returncode == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_leaves_the_checkout_as_it_was(project, number):
    project.build_by(f'[[ $suite != trixie ]] || kill -{number:d} -- "-$(ps -o pgid= $$ | tr -d " ")"')
    before = project.state()
    words = [project.folder / "scripts/release", "0.2.0", "--key", project.key]
    with subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL) as killed:
        pass
    assert killed.returncode == {signal.SIGKILL: -signal.SIGKILL}.get(number, 128 + number)
    assert project.state()[:4] == before[:4]
    assert number == signal.SIGKILL or project.state() == before
    project.build_by(":")
    assert project.release().returncode == 0
    assert [path.name for path in (project.folder / "dist").iterdir()] == ["0.2.0"]


def test_a_key_that_is_not_the_one_beside_it_is_found(project, tmp_path):
    for name in ("one", "other"):
        make_key(tmp_path / name)
    shutil.copy(tmp_path / "other.pub", tmp_path / "one.pub")
    project.name_key(tmp_path / "one")
    project.commit()
    before = project.state()
    # By ssh-keygen when it verifies what it signed; a newer one does not sign.
    assert "ended with" in refused(project._replace(key=tmp_path / "one").release())
    assert project.state() == before


class User(NamedTuple):
    """Somebody who types what the README has below a heading, in a folder."""

    folder: Path
    release: Path

    def type_lines(self, heading: str = "Install on a machine") -> str:
        """What root was asked for in the end."""
        lines = subprocess.run(
            [CHECKOUT / ".ci/readme", "--print", heading], capture_output=True, text=True, check=True
        ).stdout
        self.type(lines)
        return (self.folder / "asked").read_text("utf-8").strip()

    def type(self, lines: str) -> None:
        script = """
            sudo() { if [[ " $* " == *" install "* ]]; then echo "$*" >asked; fi; }
            qmesh() { :; }
            dpkg() { echo amd64; }
            pipx() { :; }
            tar() { :; }
            ansible-galaxy() { sudo "$@"; }
        """
        lines = lines.replace("URL-OF-THE-RELEASE", f"file://{self.release}")
        lines = lines.replace("_VERSION_", "_0.2.0_").replace("-VERSION-", "-0.2.0-")
        lines = lines.replace('$(. /etc/os-release && echo "$VERSION_CODENAME")', "bookworm")
        # Pasted as a whole, as people do: a line that fails ends nothing.
        subprocess.run(
            ["bash", "-c", f"{script}\n{lines}"], cwd=self.folder, capture_output=True, text=True, check=False
        )


PACKAGE = "qmesh_0.2.0_bookworm_amd64.deb"
INSTALLED = f"apt-get install ./{PACKAGE}"
WHEEL = "./qmesh-0.2.0-py3-none-any.whl"


@pytest.fixture
def user(released, tmp_path) -> User:
    shutil.copytree(released.folder / "dist/0.2.0", tmp_path / "release")
    (tmp_path / "empty").mkdir()
    return User(tmp_path / "empty", tmp_path / "release")


def test_what_was_released_is_installed_by_the_readmes_lines(user):
    assert user.type_lines() == INSTALLED


def test_so_is_the_wheel_by_the_lines_for_pipx(user):
    assert user.type_lines("With pipx").endswith(WHEEL)


@pytest.mark.parametrize("name", ["qmesh-0.2.0-py3-none-any.whl", "qmesh-0.2.0-constraints.txt"])
def test_a_wheel_is_not_installed_if_that_or_its_versions_were_altered(user, name):
    (user.release / name).write_bytes(b"other")
    assert not user.type_lines("With pipx").endswith(WHEEL)


@pytest.mark.parametrize("altered", ["", "qmesh_0.2.0_trixie_amd64.deb", "qmesh-0.2.0.tar.gz"])
def test_what_ansible_is_given_was_checked_by_the_lines_for_a_fleet(user, altered):
    if altered:
        (user.release / altered).write_bytes(b"other")
    fences = re.findall(
        r"^```\n(.*?)^```$", (CHECKOUT / "docs/fleet.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    (lines,) = (each for each in fences if "ssh-keygen" in each)
    user.type(lines.replace("=VERSION ", "=0.2.0 "))
    assert (user.folder / "asked").exists() is (not altered)


def test_a_package_that_was_altered_is_not_installed(user):
    with (user.release / PACKAGE).open("ab") as file:
        file.write(b"\0")
    assert user.type_lines() != INSTALLED


def test_sums_that_were_altered_are_not_taken(user):
    package = user.release / PACKAGE
    package.write_bytes(package.read_bytes() + b"\0")
    words = f"cd {user.release} && sha256sum *.deb >SHA256SUMS"
    subprocess.run(["sh", "-c", words], check=True)
    assert user.type_lines() != INSTALLED


def test_another_key_is_not_taken_where_that_of_before_was_kept(user, tmp_path):
    make_key(tmp_path / "stranger")
    sign = [
        "ssh-keygen",
        "-q",
        "-Y",
        "sign",
        "-f",
        tmp_path / "stranger",
        "-n",
        "qmesh-release",
        "SHA256SUMS",
    ]
    (user.release / "SHA256SUMS.sig").unlink()
    subprocess.run(sign, cwd=user.release, check=True)
    assert user.type_lines() != INSTALLED


def test_a_package_that_is_not_listed_is_not_installed_beside_one_that_is(user, released):
    """Sums and signature of an earlier release are good, and so is its package, which the user still has."""
    shutil.copy(user.release / "qmesh_0.2.0_trixie_amd64.deb", user.folder)
    sums = user.release / "SHA256SUMS"
    kept = [line for line in sums.read_text("utf-8").splitlines() if PACKAGE not in line]
    sums.write_text("\n".join(kept) + "\n", encoding="utf-8")
    (user.release / "SHA256SUMS.sig").unlink()
    sign = ["ssh-keygen", "-q", "-Y", "sign", "-f", released.key, "-n", "qmesh-release", "SHA256SUMS"]
    subprocess.run(sign, cwd=user.release, check=True)
    assert user.type_lines() != INSTALLED
