"""Packages of Debian, made and installed in pristine roots of each suite: minutes for each."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

from qmesh import __version__
from qmesh.cli.app import COMMANDS
from tests.support.checkout import CHECKOUT
from tests.support.waiting import patience

pytestmark = [pytest.mark.lab, pytest.mark.long]

SUITES = {"bookworm": "deb12", "trixie": "deb13", "forky": "deb14"}
MACHINES = {"amd64": 62, "arm64": 183}
"""What ELF files have for each architecture. Source: elf(5), e_machine."""
LONGEST_S = 900


class Package(NamedTuple):
    """A package's file, and what is in it."""

    path: Path
    fields: dict[str, str]
    members: dict[str, tarfile.TarInfo]
    files: dict[str, bytes]

    def find(self, pattern: str) -> set[str]:
        """What a pattern's group is in the names of files in which it is found."""
        found = (re.search(pattern, name) for name in self.files)
        return {each[1] for each in found if each}


def read_package(path: Path) -> Package:
    told = subprocess.run(["dpkg-deb", "--field", path], stdout=subprocess.PIPE, check=True).stdout
    fields = dict(re.findall(r"^([\w-]+): (.*)$", told.decode(), flags=re.MULTILINE))
    whole = subprocess.run(["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        members = {member.name.removeprefix("."): member for member in tar}
        files = {name: tar.extractfile(each) for name, each in members.items() if each.isfile()}
        return Package(path, fields, members, {name: each.read() for name, each in files.items() if each})


def make(output: Path, suite: str, *words: str, **variables: str) -> dict[str, Path]:
    """The packages of a suite by their architecture; the words come before those of the command."""
    done = subprocess.run(
        [*words, str(CHECKOUT / "scripts/package"), "deb", "--output", str(output), suite],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=patience(LONGEST_S),
        env={**os.environ, **variables},
    )
    packages = [Path(line) for line in done.stdout.splitlines()]
    assert sorted(packages) == sorted(output.iterdir())
    return {path.stem.rpartition("_")[2]: path for path in packages}


def in_root(suite: str, package: Package, *words: str) -> tuple[int, str]:
    """Exit status and output of a command in a root of the suite, with the package as its standard input."""
    command = [str(CHECKOUT / "scripts/fresh"), suite, *words]
    with package.path.open("rb") as file:
        done = subprocess.run(
            command,
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=patience(LONGEST_S),
        )
    return done.returncode, done.stdout.decode()


@pytest.fixture(scope="module", params=SUITES)
def suite(request) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def packages(suite, tmp_path_factory) -> dict[str, Package]:
    made = make(tmp_path_factory.mktemp("packages"), suite)
    return {architecture: read_package(path) for architecture, path in made.items()}


def test_they_need_the_interpreter_that_they_were_made_for(suite, packages):
    assert set(packages) == set(MACHINES)
    for architecture, package in packages.items():
        links = {
            name: os.path.normpath(Path(name).parent / each.linkname)
            for name, each in package.members.items()
            if each.issym()
        }
        python = Path(links["/usr/lib/qmesh/bin/python"]).name
        assert links == {"/usr/lib/qmesh/bin/python": f"/usr/bin/{python}"}
        assert {python} == package.find(r"^/usr/lib/qmesh/lib/(python3\.\d+)/")
        # So that dpkg refuses the package of another suite before it unpacks it over one that works.
        assert python in package.fields["Pre-Depends"].split(", ")
        assert set(package.fields["Depends"].split(", ")) == {
            "libnftables1",
            "libstdc++6",
            "netbase",
            "nftables",
        }
        assert "Recommends" not in package.fields
        assert package.fields["Architecture"] == architecture
        assert package.fields["Version"].endswith(f"-1~{SUITES[suite]}")
        assert package.path.name == f"qmesh_{package.fields['Version']}_{architecture}.deb"


def test_who_made_them_is_in_no_file(packages):
    words = ["git", "log", "-1", "--format=%ct"]
    time = int(subprocess.run(words, cwd=CHECKOUT, stdout=subprocess.PIPE, check=True).stdout)
    for package in packages.values():
        assert {(each.uid, each.gid, each.mtime) for each in package.members.values()} == {(0, 0, time)}
        assert {each.mode for each in package.members.values() if each.isdir()} == {0o755}
        modes = {name: package.members[name].mode for name in package.files}
        assert {name: mode for name, mode in modes.items() if mode != 0o644} == {"/usr/bin/qmesh": 0o755}
        here = str(CHECKOUT).encode()
        assert [name for name, content in package.files.items() if here in content] == []


def test_what_is_compiled_counts_whatever_the_times(packages):
    for package in packages.values():
        compiled = {name: each for name, each in package.files.items() if name.endswith(".pyc")}
        # PEP 552: by a hash, which is not compared.
        assert {struct.unpack("<I", each[4:8])[0] for each in compiled.values()} == {1}
        modules = {re.sub(r"/__pycache__/([^/]+)\.cpython-\d+\.pyc$", r"/\1.py", name) for name in compiled}
        assert modules == {name for name in package.files if name.endswith(".py")}


def test_libraries_are_those_of_the_lock_for_that_machine(packages):
    lock = (CHECKOUT / "scripts/requirements.lock").read_text("utf-8")
    locked = {"-".join(each) for each in re.findall(r"^([\w-]+)==([\w.]+)", lock, flags=re.MULTILINE)}
    for architecture, package in packages.items():
        found = {each.replace("_", "-") for each in package.find(r"/([^/]+)\.dist-info/METADATA$")}
        assert found - {f"qmesh-{__version__}"} < locked
        names = {each.rpartition("-")[0] for each in found}
        assert {"qmesh", "clingo", "cryptography", "msgspec", "typer"} <= names
        assert not names & {"hatchling", "packaging", "pip", "pytest", "setuptools"}
        programs = [each for each in package.files.values() if each.startswith(b"\x7fELF")]
        assert {struct.unpack("<H", each[18:20])[0] for each in programs} == {MACHINES[architecture]}
        assert package.find(r"(.*\.(?:hh?|pyi)|.*/(?:RECORD|INSTALLER|direct_url\.json))$") == set()


def test_each_library_has_its_licence(packages):
    for package in packages.values():
        libraries = package.find(r"/([^/]+\.dist-info)/METADATA$")
        assert libraries == package.find(r"/([^/]+\.dist-info)/(?:.*/)?(?:LICEN[SC]E|COPYING)[^/]*$")
        copyright_file = package.files["/usr/share/doc/qmesh/copyright"].decode()
        others = [each for each in libraries if not each.startswith("qmesh-")]
        assert [each for each in others if f"site-packages/{each}/*\n" not in copyright_file] == []
        assert "License: GPL" not in copyright_file


def test_each_command_has_its_page_and_shells_know_them_all(packages):
    for package in packages.values():
        pages = package.find(r"^/usr/share/man/man8/qmesh-([\w-]+)\.8\.gz$")
        assert pages == set(COMMANDS)
        for place in ("bash-completion/completions/qmesh", "zsh/vendor-completions/_qmesh"):
            assert all(each.encode() in package.files[f"/usr/share/{place}"] for each in COMMANDS)
        assert "/usr/share/fish/vendor_completions.d/qmesh.fish" in package.files


@pytest.mark.parametrize("architecture", sorted(MACHINES))
def test_lintian_has_nothing_to_say(suite, packages, architecture):
    status, said = in_root(suite, packages[architecture], "packaging/debian/lint")
    assert status == 0, said
    assert not re.search(r"^[EWI]: ", said, flags=re.MULTILINE), said


INSTALLED = """
    cat >/root/qmesh.deb
    {
        apt-get -qq update
        apt-get -qq install /root/qmesh.deb </dev/null
    } >/dev/null 2>&1
    find /usr/lib/qmesh /usr/bin/qmesh | sort >/root/before
    mkdir /tmp/hostile
    cd /tmp/hostile
    for name in socket json ctypes typer qmesh; do echo 'print("hostile")' >$name.py; done
    export PYTHONPATH=/tmp/hostile PYTHONHOME=/tmp/hostile
    qmesh --version
    setpriv --reuid nobody --clear-groups qmesh --version
    qmesh status --help | grep -o 'Usage: qmesh status'
    /usr/lib/qmesh/bin/python -I - <<'PYTHON'
import importlib, pkgutil, qmesh, sys
print(sys.executable, qmesh.__file__)
for each in pkgutil.walk_packages(qmesh.__path__, 'qmesh.'):
    if not each.name.endswith('__main__'):
        importlib.import_module(each.name)
from qmesh.host.firewall import nft_library
print('imported', nft_library.load().run(b'list ruleset'))
PYTHON
    dpkg --verify qmesh
    find /usr/lib/qmesh /usr/bin/qmesh | sort | diff /root/before -
    find /boot -type f # a kernel
    echo unchanged
    cd / && rm -r /tmp/hostile
    apt-get -qq purge qmesh >/dev/null 2>&1
    find / -xdev -path '*qmesh*' ! -path '/root/*' ! -path '/srv/*' ! -path '/proc/*'
    echo gone
"""


def test_installed_it_starts_isolated_changes_nothing_and_goes_without_a_trace(suite, packages):
    package = packages["amd64"]
    status, said = in_root(suite, package, "bash", "-euo", "pipefail", "-c", INSTALLED)
    (module,) = (name for name in package.files if name.endswith("-packages/qmesh/__init__.py"))
    expected = [
        *[f"qmesh {__version__}"] * 2,
        "Usage: qmesh status",
        f"/usr/lib/qmesh/bin/python {module}",
        "imported (True, b'', b'')",
        *("unchanged", "gone"),
    ]
    assert said.splitlines()[-len(expected) :] == expected, said
    assert status == 0


def test_made_by_somebody_else_they_are_the_same_octet_by_octet(suite, packages, tmp_path):
    words = ("taskset", "--cpu-list", "0", "sh", "-c", 'umask 077; exec "$@"', "sh")
    variables = {"LC_ALL": "POSIX", "TZ": "Asia/Kolkata", "TMPDIR": str(tmp_path), "PYTHONHASHSEED": "7"}
    again = make(tmp_path / "again", suite, *words, **variables)
    for architecture, package in packages.items():
        assert again[architecture].name == package.path.name
        assert again[architecture].read_bytes() == package.path.read_bytes(), architecture
