"""The user-data of docs/cloud-init.md: what its lines do on a machine, and what cloud-init makes of them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cloud_config import (
    RELEASE,
    REPOSITORY,
    UserData,
    as_base64,
    read_shell_lines,
    read_text,
    read_user_data,
)
from tests.support.fresh import run_in_root
from tests.support.lab.cluster import facts, make_control, newcomer, qmesh
from tests.support.lab.machines import Lab, Machine
from tests.support.packages import build_package, make_repository, own_architecture, sign_files, signing_key

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def mesh() -> Iterator[tuple[Lab, Machine]]:
    with Lab() as lab:
        yield lab, make_control(lab)


def fill_in(heading: str, invitation: str) -> UserData:
    """One server's text, without a wait between its attempts."""
    other = (
        {"SOURCES": as_base64("Types: deb\n")}
        if heading == REPOSITORY
        else {"SIGNERS": as_base64("qmesh a b\n")}
    )
    data = read_user_data(heading, INVITATION=invitation.strip(), **other)
    lines = [line.replace("sleep 20", "sleep 0.2").replace("tries=40", "tries=2") for line in data.lines]
    return data._replace(lines=lines)


def carry_out(machine: Machine, data: UserData) -> subprocess.CompletedProcess[str]:
    """What cloud-init does with files and lines."""
    for path, (content, mode) in data.files.items():
        machine.write(path, content, mode)
    machine.write("/run/runcmd", data.script, 0o700)
    return machine.run(["sh", "/run/runcmd"], check=False, timeout=100)


def members_of(control: Machine) -> dict[str, str]:
    """The mesh's machines and their keys."""
    return {each["name"]: each["public_key"] for each in facts(control, "status")["machines"]}


def test_a_server_joins_by_the_text_and_keeps_no_invitation(mesh):
    lab, control = mesh
    server = newcomer(lab, 201)
    data = fill_in(REPOSITORY, qmesh(control, "invite", server.name, "--expires", "30m").stdout)
    assert data.files["/run/qmesh.invitation"][1] == 0o600
    assert carry_out(server, data).returncode == 0
    assert server.name in members_of(control)
    assert not server.path("/run/qmesh.invitation").exists()

    # As where cloud-init takes it for a new server.
    before = server.read("/var/lib/qmesh/machine.json"), members_of(control)
    again = carry_out(server, data)
    assert again.returncode == 0, again.stderr
    assert (server.read("/var/lib/qmesh/machine.json"), members_of(control)) == before


def test_a_text_that_others_read_lets_nobody_join_a_second_time(mesh):
    lab, control = mesh
    server, stranger = newcomer(lab, 202), newcomer(lab, 203)
    data = fill_in(REPOSITORY, qmesh(control, "invite", server.name, "--expires", "30m").stdout)
    assert carry_out(server, data).returncode == 0
    before = members_of(control)
    refused = carry_out(
        stranger, data._replace(lines=[line.replace("tries=2", "tries=1") for line in data.lines])
    )
    assert refused.returncode == 1
    assert "error: the control node does not answer" in refused.stderr
    assert stranger.run(["nft", "list", "tables"]).stdout == ""
    assert not stranger.path("/var/lib/qmesh/machine.json").exists()
    assert members_of(control) == before


def test_where_the_control_node_is_away_it_is_tried_again(mesh):
    lab, control = mesh
    server = newcomer(lab, 204)
    data = fill_in(REPOSITORY, qmesh(control, "invite", server.name, "--expires", "30m").stdout)
    # The first attempt finds no way to it.
    server.write("/root/bin/qmesh", "#!/bin/sh\nrm /root/bin/qmesh\nexit 4\n", 0o755)
    data.lines.insert(0, "PATH=/root/bin:$PATH")
    assert carry_out(server, data).returncode == 0
    assert server.name in members_of(control)


def test_the_lines_that_make_the_text_fill_it_in(tmp_path):
    for heading, name, key, value in (
        (REPOSITORY, "repository.yaml", "qmesh.sources", "Types: deb\nURIs: file:/x\n"),
        (RELEASE, "release.yaml", "allowed_signers", "qmesh a b\n"),
    ):
        (tmp_path / "nbg-3.invitation").write_text("qmesh1abc-_\n", "utf-8")
        (tmp_path / name).write_text(read_text(heading), "utf-8")
        (tmp_path / key).write_text(value, "utf-8")
        subprocess.run(["sh", "-e", "-c", read_shell_lines(heading)], cwd=tmp_path, check=True)
        place = {"qmesh.sources": "SOURCES", "allowed_signers": "SIGNERS"}[key]
        filled = read_user_data(heading, INVITATION="qmesh1abc-_", **{place: as_base64(value)})
        assert (tmp_path / "nbg-3.yaml").read_text("utf-8") == filled.text
        assert not (tmp_path / "nbg-3.invitation").exists()
        assert value in [content for content, _ in filled.files.values()]


CLOUD_CFG = """\
datasource_list: [NoCloud]
network: {config: disabled}
cloud_init_modules: [write_files]
cloud_config_modules: [runcmd]
cloud_final_modules: [package_update_upgrade_install, scripts_user]
system_info: {distro: debian}
"""
"""No module that could touch more than the root's files."""
IN_A_ROOT = """
apt-get -qq update
apt-get -qq install --no-install-recommends cloud-init curl openssh-client >/dev/null 2>&1
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /etc/cloud/cloud.cfg.d/*
cp /srv/given/cloud.cfg /etc/cloud/
mkdir -p /var/lib/cloud/seed/nocloud
cp /srv/given/user-data /var/lib/cloud/seed/nocloud/
printf 'instance-id: one\\nlocal-hostname: nbg-3\\n' >/var/lib/cloud/seed/nocloud/meta-data
boot() {
    unshare --net sh -c 'cloud-init init --local && cloud-init init && cloud-init modules --mode config &&
        cloud-init modules --mode final' >/srv/log 2>&1
}
cloud-init schema --config-file /srv/given/user-data
boot || cat /srv/log /var/log/cloud-init-output.log >&2
cat /srv/typed
cp /var/lib/cloud/instance/scripts/runcmd /srv/runcmd
boot
echo "=== after another boot"
cat /srv/typed
ls /run/qmesh* 2>/dev/null || true
stat --format '%a %U %n' /var/lib/cloud/instance/user-data.txt
echo "=== script"
cat /srv/runcmd
"""


@pytest.mark.long
@pytest.mark.parametrize("suite", ["bookworm", "trixie", "forky"])
@pytest.mark.parametrize("heading", [REPOSITORY, RELEASE])
def test_cloud_init_of_each_suite_installs_and_joins(mesh, tmp_path, suite, heading):
    """The real one, in a pristine root; a lab machine then runs the script that it made of the lines."""
    lab, control = mesh
    given = tmp_path / "given"
    given.mkdir()
    does = '{ echo "$*"; cat "$2"; echo; stat --format "%a %U" "$2"; } >>/srv/typed'
    package = build_package(tmp_path, "0.2.0", does=does)
    number = 210 + 3 * [REPOSITORY, RELEASE].index(heading) + ["bookworm", "trixie", "forky"].index(suite)
    server = lab.machine(f"server-{number}", f"192.168.0.{number}")
    invitation = qmesh(control, "invite", server.name, "--expires", "30m").stdout.strip()
    make = make_release if heading == RELEASE else make_sources
    data = make(given, package, suite, invitation)
    (given / "user-data").write_text(data.text, "utf-8")
    (given / "cloud.cfg").write_text(CLOUD_CFG, "utf-8")

    done = run_in_root(suite, IN_A_ROOT, given)
    said, _, rest = done.stdout.partition("=== after another boot\n")
    after, _, script = rest.partition("=== script\n")
    path = next(path for path in data.files if path.endswith("invitation"))
    word = "invitation" if heading == RELEASE else path
    typed = f"join {word}\n{invitation}\n600 root\n"
    assert said.splitlines()[-3:] == typed.splitlines(), done.stderr
    assert "Valid" in said
    # What was done is not done again; nothing is left in /run, and the text is root's.
    assert after == f"{typed}600 root /var/lib/cloud/instance/user-data.txt\n"

    # A lab machine has this machine's programs: nothing is installed there.
    joining = [line for line in script.splitlines() if re.match("trap|cd|tries|until", line)]
    carried_out = carry_out(server, data._replace(lines=joining))
    assert carried_out.returncode == 0, carried_out.stderr
    assert server.name in members_of(control)


def make_sources(given: Path, package: Path, suite: str, invitation: str) -> UserData:
    """The text of a server that takes it from a repository, which is in the root."""
    with signing_key() as key:
        done = make_repository(given / "apt", key, f"{suite}={package}", "--url", "file:/srv/given/apt")
    assert done.returncode == 0, done.stderr
    sources = (given / f"apt/dists/{suite}/qmesh.sources").read_text("utf-8")
    return read_user_data(REPOSITORY, INVITATION=invitation, SOURCES=as_base64(sources))


def make_release(given: Path, package: Path, suite: str, invitation: str) -> UserData:
    """The text of a server that takes it from the files of a release, which are in the root."""
    package.rename(given / f"qmesh_0.2.0_{suite}_{own_architecture()}.deb")
    signers = sign_files(given)
    return read_user_data(
        RELEASE,
        INVITATION=invitation,
        SIGNERS=as_base64(signers),
        **{"qmesh_VERSION_": "qmesh_0.2.0_", "URL-OF-THE-RELEASE": "file:///srv/given"},
    )
