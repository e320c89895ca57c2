"""`scripts/package repository`: apt takes it from a disk and from a web server, and only what is signed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.fresh import run_in_root
from tests.support.packages import SigningKey, build_package, make_repository, own_architecture, signing_key

SUITE = "bookworm"
ARCHITECTURE = own_architecture()


@pytest.fixture(scope="module")
def key() -> Iterator[SigningKey]:
    with signing_key() as made:
        yield made


@pytest.fixture
def packages(tmp_path) -> dict[str, Path]:
    return {version: build_package(tmp_path, version) for version in ("0.2.0", "0.10.0")}


@pytest.fixture
def repository(tmp_path, key, packages) -> Path:
    folder = Path(tmp_path, "a repository")
    done = make_repository(folder, key, f"{SUITE}={packages['0.2.0']}")
    assert (done.returncode, done.stderr) == (0, "")
    return folder


class Apt:
    """This machine's apt with folders of its own: no setting or source of the machine is read or changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in (
            "etc/sources.list.d",
            "etc/preferences.d",
            "state/lists/partial",
            "cache/archives/partial",
        ):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        self.settings = [
            f"Dir::Etc={folder}/etc",
            f"Dir::State={folder}/state",
            f"Dir::State::status={folder}/status",
            f"Dir::Cache={folder}/cache",
            "APT::Sandbox::User=root",
            "Acquire::http::Proxy=DIRECT",
            "Acquire::Retries=0",
        ]

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        options = [f"--option={setting}" for setting in self.settings]
        return subprocess.run(
            [program, *options, *words], cwd=self.folder, capture_output=True, text=True, check=False
        )

    def take(self, source: Path, url: str | None = None) -> None:
        """Have a `.sources` file; with a URL in place of the one in it."""
        text = source.read_text(encoding="utf-8")
        if url is not None:
            text = re.sub("^URIs: .*$", f"URIs: {url}", text, flags=re.MULTILINE)
        (self.folder / "etc/sources.list.d/qmesh.sources").write_text(text, encoding="utf-8")

    def update(self) -> str:
        """What apt complains of; nothing where all was well."""
        done = self.run("apt-get", "-qq", "update")
        assert (done.returncode == 0) == (not done.stderr), done.stderr
        return done.stderr

    def versions(self) -> list[str]:
        shown = self.run("apt-cache", "madison", "qmesh").stdout
        return [line.split("|")[1].strip() for line in shown.splitlines()]

    def download(self, what: str = "qmesh") -> str:
        done = self.run("apt-get", "-qq", "download", what)
        return done.stderr if done.returncode else ""


@pytest.fixture
def apt(tmp_path, repository) -> Apt:
    made = Apt(tmp_path / "apt")
    made.take(source_of(repository))
    return made


def source_of(repository: Path) -> Path:
    return repository / f"dists/{SUITE}/qmesh.sources"


@pytest.fixture
def served(repository) -> Iterator[tuple[str, list[str]]]:
    """The repository on a web server: its address, and what was asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            asked.append(self.path)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(repository))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_apt_takes_a_package_from_a_folder(apt):
    assert apt.update() == ""
    assert apt.versions() == ["0.2.0"]
    assert apt.download() == ""
    assert (apt.folder / f"qmesh_0.2.0_{ARCHITECTURE}.deb").exists()


def test_apt_takes_it_from_a_web_server_by_hash(apt, repository, served):
    url, asked = served
    apt.take(source_of(repository), url)
    # As where the folder is changed between two questions of apt's.
    for index in repository.glob(f"dists/{SUITE}/main/*/Packages*"):
        index.unlink()
    assert apt.update() == ""
    assert apt.download() == ""
    assert any("/by-hash/SHA" in path for path in asked)


def test_a_second_version_is_added_and_the_first_one_stays(apt, repository, key, packages):
    done = make_repository(repository, key, f"{SUITE}={packages['0.10.0']}")
    assert (done.returncode, done.stderr) == (0, "")
    assert apt.update() == ""
    assert apt.versions() == ["0.10.0", "0.2.0"]
    assert apt.download() == ""
    assert apt.download("qmesh=0.2.0") == ""


def test_each_suite_has_its_own_packages(apt, repository, key, packages):
    make_repository(repository, key, f"trixie={packages['0.10.0']}")
    apt.take(repository / "dists/trixie/qmesh.sources")
    assert apt.update() == ""
    assert apt.versions() == ["0.10.0"]


def test_who_has_the_indexes_of_before_still_finds_them(repository, key, packages):
    before = (repository / f"dists/{SUITE}/InRelease").read_text(encoding="utf-8")
    make_repository(repository, key, f"{SUITE}={packages['0.10.0']}")
    hashes = set(re.findall(r"^ ([0-9a-f]{64}) ", before, flags=re.MULTILINE))
    there = {path.name for path in repository.glob(f"dists/{SUITE}/main/*/by-hash/SHA256/*")}
    assert len(hashes) == 2
    assert hashes < there


def test_the_same_again_changes_no_index(repository, key, packages):
    index = repository / f"dists/{SUITE}/main/binary-{ARCHITECTURE}/Packages"
    before = index.read_bytes()
    assert make_repository(repository, key).returncode == 0
    assert make_repository(repository, key, f"{SUITE}={packages['0.2.0']}").returncode == 0
    assert index.read_bytes() == before
    assert not list(repository.rglob("*.new"))


@pytest.mark.parametrize(
    ("program", "failing"), [("gpg", "--clearsign"), ("gpg", "--detach-sign"), ("apt-ftparchive", "packages")]
)
def test_what_fails_in_the_middle_leaves_what_apt_takes(
    apt, repository, key, packages, tmp_path, program, failing
):
    """A card that is taken out, a passphrase that is not typed, a program that is killed."""
    stand_in = tmp_path / "bin" / program
    stand_in.parent.mkdir()
    own = f'exec {shutil.which(program)} "$@"'
    script = f'#!/bin/sh\ncase "$*" in *{failing}*) echo half; exit 2 ;; esac\n{own}\n'
    stand_in.write_text(script, encoding="utf-8")
    stand_in.chmod(0o755)
    path = f"{stand_in.parent}:{os.environ['PATH']}"
    before = listing(repository)
    failed = make_repository(
        repository,
        key._replace(environment={**key.environment, "PATH": path}),
        f"{SUITE}={packages['0.10.0']}",
    )
    assert failed.returncode == 2
    changed = {name for name, content in listing(repository).items() if before.get(name, content) != content}
    assert not {name for name in changed if (repository / name).read_bytes() in {b"", b"half\n"}}
    assert apt.update() == ""
    assert apt.versions() == ["0.2.0"]
    assert make_repository(repository, key).returncode == 0
    assert apt.update() == ""
    assert apt.versions() == ["0.10.0", "0.2.0"]


def test_apt_refuses_what_another_key_signed(apt, repository, packages):
    with signing_key() as stranger:
        done = make_repository(repository, stranger, f"{SUITE}={packages['0.10.0']}")
        assert done.returncode == 0
    # The machine has the key of before; the new file beside the indexes is none of its own.
    assert re.search("NO_PUBKEY|OpenPGP signature verification failed", apt.update())
    assert apt.versions() == []


@pytest.fixture(params=["InRelease", f"main/binary-{ARCHITECTURE}/Packages"])
def altered(request, repository) -> Path:
    return Path(repository, "dists", SUITE, request.param)


def test_apt_refuses_indexes_that_were_altered(apt, repository, altered):
    for file in [altered, *altered.parent.glob("Packages.gz"), *altered.parent.glob("by-hash/*/*")]:
        file.write_bytes(file.read_bytes().replace(b"qmesh", b"qmash") + b"\n")
    (repository / f"dists/{SUITE}/Release").unlink()
    assert apt.update() != ""
    assert apt.versions() == []


def test_apt_refuses_a_package_that_was_altered(apt, repository):
    assert apt.update() == ""
    (package,) = (repository / f"pool/{SUITE}").iterdir()
    content = package.read_bytes()
    assert b"echo qmesh" in content
    package.write_bytes(content.replace(b"echo qmesh", b"echo qmush"))
    assert re.search("Hash Sum mismatch|Hashes of expected file", apt.download())


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode in {1, 2}
    assert "\nhint: " in done.stderr
    return done.stderr.partition("\n")[0]


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_package_of_the_same_name_is_refused_and_nothing_changes(repository, key, packages):
    before = listing(repository)
    other = packages["0.2.0"]
    other.write_bytes(packages["0.10.0"].read_bytes())
    done = make_repository(repository, key, f"{SUITE}={packages['0.10.0']}", f"{SUITE}={other}")
    assert refused(done).endswith(f"/pool/bookworm/qmesh_0.2.0_{ARCHITECTURE}.deb has other contents")
    assert listing(repository) == before


def test_two_packages_of_one_name_are_refused_together(tmp_path, key, packages):
    (tmp_path / "other").mkdir()
    other = build_package(tmp_path / "other", "0.2.0", does="echo other")
    first, second = f"{SUITE}={packages['0.2.0']}", f"{SUITE}={other}"
    done = make_repository(tmp_path / "new", key, first, second)
    assert refused(done) == f"error: {other} and {packages['0.2.0']} are of one name"
    assert not (tmp_path / "new").exists()
    assert make_repository(tmp_path / "new", key, first, first).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bookworm=no-such.deb"], "error: no-such.deb is no Debian package"),
        (["qmesh.deb"], "error: 'qmesh.deb' is not SUITE=PACKAGE"),
        (["../evil=qmesh.deb"], "error: '../evil=qmesh.deb' is not SUITE=PACKAGE"),
        (["--wrong"], "error: there is no option --wrong"),
        (["--url"], "error: --url needs a value"),
    ],
)
def test_what_is_no_package_is_refused(tmp_path, key, arguments, said):
    assert refused(make_repository(tmp_path / "new", key, *arguments)) == said
    assert not (tmp_path / "new").exists()


def test_a_key_that_gpg_has_not_is_refused(tmp_path, key):
    stranger = key._replace(fingerprint="0" * 40)
    assert (
        refused(make_repository(tmp_path / "new", stranger))
        == f"error: gpg has no secret key {'0' * 40} here"
    )
    assert not (tmp_path / "new").exists()


def give(key: SigningKey, other: SigningKey, export: str) -> None:
    """Have the gpg of one key have the other key too: `--export`, or `--export-secret-keys`."""
    words = ["gpg", "--batch", export, other.fingerprint]
    exported = subprocess.run(words, env=other.environment, check=True, capture_output=True).stdout
    taken = ["gpg", "--batch", "--quiet", "--import"]
    subprocess.run(taken, env=key.environment, check=True, input=exported)


def test_machines_trust_the_key_that_signs_and_no_other_of_that_name(apt, tmp_path, packages):
    """Who verified a stranger's signature, or asked a key server, may have the stranger's key."""
    folder = tmp_path / "new"
    with signing_key() as own, signing_key() as stranger:
        give(own, stranger, "--export")
        named = own._replace(fingerprint="packages of a test")
        assert make_repository(folder, named, f"{SUITE}={packages['0.2.0']}").returncode == 0
        words = ["gpg", "--batch", "--with-colons", "--show-keys", folder / "qmesh-archive-key.asc"]
        shown = subprocess.run(words, env=own.environment, check=True, capture_output=True, text=True).stdout
        assert re.findall("^fpr:.*?([0-9A-F]{40})", shown, flags=re.MULTILINE) == [own.fingerprint]
        apt.take(source_of(folder))
        assert apt.update() == ""


def test_of_several_keys_of_one_name_nobody_guesses(tmp_path, packages):
    with signing_key() as own, signing_key() as other:
        give(own, other, "--export-secret-keys")
        named = own._replace(fingerprint="packages of a test")
        done = make_repository(tmp_path / "new", named, f"{SUITE}={packages['0.2.0']}")
        assert refused(done) == "error: gpg has several secret keys packages of a test"
        assert own.fingerprint in done.stderr
        assert not (tmp_path / "new").exists()
        assert make_repository(tmp_path / "new", own, f"{SUITE}={packages['0.2.0']}").returncode == 0


def test_everybody_can_read_it_whatever_the_umask(tmp_path, key, packages):
    """A web server is another user than who made it; folders that are there stay as they are."""
    previous = os.umask(0o077)
    try:
        assert make_repository(tmp_path / "new", key, f"{SUITE}={packages['0.2.0']}").returncode == 0
    finally:
        os.umask(previous)
    modes = {path: path.stat().st_mode for path in [tmp_path / "new", *(tmp_path / "new").rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o100644}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o40755}


def test_a_suite_whose_packages_were_all_deleted_is_empty_and_the_others_go_on(
    apt, repository, key, packages
):
    shutil.rmtree(repository / f"pool/{SUITE}")
    done = make_repository(repository, key, f"trixie={packages['0.10.0']}")
    assert (done.returncode, done.stderr) == (0, "")
    assert apt.update() == ""
    assert apt.versions() == []
    apt.take(repository / "dists/trixie/qmesh.sources")
    assert apt.update() == ""
    assert apt.versions() == ["0.10.0"]


def test_no_secret_is_in_the_folder(repository):
    assert not [name for name, content in listing(repository).items() if b"PRIVATE KEY" in content]


IN_A_ROOT = """
source() {
    sed "s|^URIs: .*|URIs: $1|" "/srv/given/$2/dists/$SUITE/qmesh.sources" \\
        >/etc/apt/sources.list.d/qmesh.sources
}
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
source file:/srv/given/first first
apt-get -qq update && apt-get -qq install qmesh >/dev/null && qmesh
source $URL/second first
apt-get -qq update && apt-get -qq upgrade >/dev/null && qmesh
apt-get -qq install --allow-downgrades qmesh=0.2.0 >/dev/null && qmesh
source $URL/strange first
! apt-get -qq update 2>/dev/null || echo "a strange signature was taken"
source $URL/altered altered
apt-get clean # of the one that is as it should be
apt-get -qq update && ! apt-get -qq install qmesh 2>/dev/null || echo "an altered package was taken"
qmesh
"""


@pytest.mark.lab
@pytest.mark.long
@pytest.mark.parametrize("suite", ["bookworm", "trixie", "forky"])
def test_apt_of_each_suite_installs_upgrades_and_refuses(tmp_path, key, packages, suite):
    """In a pristine root, from a folder and from a web server on the loopback of a network of its own."""
    old, new = (f"{suite}={packages[version]}" for version in ("0.2.0", "0.10.0"))
    folder = tmp_path / "all"
    made = [make_repository(folder / name, key, old) for name in ("first", "second", "altered")]
    made.append(make_repository(folder / "second", key, new))
    made.append(make_repository(folder / "altered", key, new))
    with signing_key() as stranger:
        made.append(make_repository(folder / "strange", stranger, new))
    assert [done.returncode for done in made] == [0] * 6
    altered = folder / f"altered/pool/{suite}/qmesh_0.10.0_{ARCHITECTURE}.deb"
    altered.write_bytes(altered.read_bytes().replace(b"echo qmesh", b"echo qmush"))
    server = f"python3 -m http.server --bind 127.0.0.1 --directory {folder} 8000 >/dev/null 2>&1 &"
    done = run_in_root(suite, IN_A_ROOT, folder, before=server, SUITE=suite, URL="http://127.0.0.1:8000")
    said = done.stdout.splitlines()
    assert said == [f"qmesh {version}" for version in ("0.2.0", "0.10.0", "0.2.0", "0.2.0")], done.stderr
