"""Packages of Debian on lab machines, by the real dpkg and with the package's own scripts.

    package = build_package(tmp_path, "0.2.0")
    prepare_packages(machine)
    install(machine, package)

What is in them is this checkout's qmesh, and the libraries that the tests run with: one is made in a second.
"""

from __future__ import annotations

import compileall
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.lab.machines import Machine
from tests.support.skips import CANNOT

SCRIPTS: Final = CHECKOUT / "packaging/debian"
NAMES: Final = ("preinst", "postinst", "prerm", "postrm")
PLACE: Final = "/usr/lib/qmesh"
PROGRAM: Final = "/usr/bin/qmesh"
_DATABASE: Final = "/root/dpkg"
_PYTHON: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"
_DPKG: Final = ("dpkg", f"--admindir={_DATABASE}", "--log=/dev/null", "--force-unsafe-io")


def build_package(folder: Path, version: str, *, source: Path = CHECKOUT, schema: int | None = None) -> Path:
    """A package of that version.

    source: the checkout whose qmesh is in it. schema: what its scripts say of the registry's, where not so.
    """
    root = folder / version
    packages = root / PLACE[1:] / "lib" / _PYTHON / "site-packages"
    shutil.copytree(source / "qmesh", packages / "qmesh", ignore=shutil.ignore_patterns("__pycache__"))
    (packages / "qmesh/__init__.py").write_text(f'"""qmesh."""\n\n__version__ = "{version}"\n')
    # Or Python would write it there, and a purge leave it.
    compileall.compile_dir(packages, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (root / PLACE[1:] / "bin").mkdir()
    (root / PLACE[1:] / "bin/python").symlink_to(f"{sys.base_prefix}/bin/{_PYTHON}")
    (root / PLACE[1:] / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\n")
    (root / "usr/bin").mkdir()
    (root / PROGRAM[1:]).write_text(f"#!{PLACE}/bin/python -I\nfrom qmesh.cli import main\n\nmain()\n")
    (root / PROGRAM[1:]).chmod(0o755)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        f"Package: qmesh\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n"
        "Description: for tests\n"
    )
    for name in NAMES:
        text = (SCRIPTS / f"qmesh.{name}").read_text()
        if schema is not None:
            text = re.sub("^schema=.*$", f"schema={schema}", text, flags=re.MULTILINE)
        (root / "DEBIAN" / name).write_text(text)
        (root / "DEBIAN" / name).chmod(0o755)
    package = folder / f"qmesh_{version}.deb"
    words = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(package)]
    subprocess.run(words, check=True, capture_output=True)
    shutil.rmtree(root)
    return package


def prepare_packages(machine: Machine) -> None:
    """Give a machine a /usr that it can write to, and a database of dpkg without a package in it."""
    for program in ("dpkg", "dpkg-deb"):
        if shutil.which(program) is None:
            pytest.skip(f"{CANNOT}it has no {program}: it is no Debian")
    machine.run(
        [
            "sh",
            "-ec",
            f"""
            mkdir -p /tmp/usr {_DATABASE}/info {_DATABASE}/updates
            : >{_DATABASE}/status
            mount -t tmpfs tmpfs /tmp/usr
            mkdir /tmp/usr/upper /tmp/usr/work
            mount -t overlay -o lowerdir=/usr,upperdir=/tmp/usr/upper,workdir=/tmp/usr/work overlay /usr
            """,
        ]
    )


def leave_room(machine: Machine, kib: int) -> None:
    """Have so much room left for what is yet to be written to /usr."""
    used = machine.run(["df", "-k", "--output=used", "/tmp/usr"]).stdout.split()[-1]
    machine.run(["mount", "-o", f"remount,size={int(used) + kib}k", "/tmp/usr"])


def dpkg(machine: Machine, *words: str, code: int = 0) -> str:
    """What dpkg and the package's scripts say; it must end with that exit code."""
    done = machine.run([*_DPKG, *words], check=False, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == code, f"{words} ended with {done.returncode}:\n{said}"
    return said


def bring(machine: Machine, package: Path) -> str:
    """A package as a file of the machine."""
    there = f"/root/{package.name}"
    shutil.copyfile(package, machine.path(there))
    return there


def install(machine: Machine, package: Path, code: int = 0) -> str:
    """Install or upgrade; what was said."""
    return dpkg(machine, "--install", bring(machine, package), code=code)
