"""A package of Debian for each architecture, by the Python of the suite: packaging/debian/build runs it.

What is in it is what a virtual environment is: a link to the suite's interpreter, two lines beside it, and
the packages of the lock that qmesh needs, from wheels. Nothing of it is run here, so the architecture may be
another one.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import gzip
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from string import Template
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE: Final = Path(__file__).resolve().parent
CHECKOUT: Final = HERE.parents[1]
LOCK: Final = CHECKOUT / "scripts/requirements.lock"
MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
PYTHON: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"
GLIBC: Final = os.confstr("CS_GNU_LIBC_VERSION").split()[1]  # type: ignore[union-attr]
OLDEST_GLIBC: Final = 17
"""Of 2.17: wheels for an older one have other names, and none of ours has them alone."""
ENVIRONMENT: Final = Path("usr/lib/qmesh")
PACKAGES: Final = ENVIRONMENT / "lib" / PYTHON / "site-packages"
DOCUMENTS: Final = Path("usr/share/doc/qmesh")
MAINTAINER: Final = "The qmesh authors <qmesh@example.org>"
COMPRESSION: Final = ("-Zxz", "-z1", "--threads-max=2")
"""Into how many parts a file is cut for the processors decides on its bytes: for two, wherever it is made.
A level of 6 takes four times as long, for a seventh less."""
LEFT_OUT: Final = (
    "bin",  # programs of libraries, which start the Python that made them
    "*.dist-info/RECORD",  # of files that are not all here; dpkg has its own list, and sums
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/direct_url.json",  # a folder of the machine that made it
    "**/*.h",  # what compilers and type checkers read
    "**/*.hh",
    "**/*.pyi",
    "**/py.typed",
    "typer/.agents",
)


def main() -> None:
    """Make the packages: OUTPUT SUITE VERSION TIME ARCH..."""
    output, suite, version, time, *architectures = sys.argv[1:]
    os.umask(0o022)
    os.environ.update(LC_ALL="C.UTF-8", TZ="UTC", SOURCE_DATE_EPOCH=time, PYTHONHASHSEED="0")
    Path(output).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_wheel(Path(scratch))
        for architecture in architectures:
            root = Path(scratch, architecture)
            install(root, wheel, architecture, Path(scratch))
            compile_modules(root)
            place_files(root, suite, version, int(time))
            control(root, version, architecture)
            settle(root, int(time))
            run("dpkg-deb", "--root-owner-group", *COMPRESSION, "--build", root, output)


def run(*words: str | Path) -> None:
    """Run a program, and end with it where it fails."""
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


def pip(*words: str | Path) -> None:
    """Run pip, that of this environment."""
    quiet = ("--disable-pip-version-check", "--no-input", "--root-user-action=ignore", "-qq")
    run(sys.executable, "-I", "-m", "pip", "install", *quiet, *words)


def build_wheel(scratch: Path) -> Path:
    """Make the wheel of qmesh itself, by what the lock has to build it with."""
    run(
        sys.executable,
        "-I",
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        scratch / "wheel",
    )
    (wheel,) = (scratch / "wheel").glob("*.whl")
    return wheel


def list_needed(machine: str) -> set[str]:
    """The packages that qmesh and its extra `prove` need, with those that these need."""
    needed: set[str] = set()
    left = ["qmesh"]
    while left:
        name = canonicalize_name(left.pop())
        if name in needed:
            continue
        needed.add(name)
        where = {"extra": "prove" if name == "qmesh" else "", "platform_machine": machine}
        for each in map(Requirement, importlib.metadata.requires(name) or []):
            if each.marker is None or each.marker.evaluate(where):
                assert not each.extras, f"what {each} brings by its extras is not followed"
                left.append(each.name)
    return needed - {"qmesh"}


def install(root: Path, wheel: Path, architecture: str, scratch: Path) -> None:
    """Fill the environment, from wheels alone: those of the lock by their hashes."""
    machine = MACHINES[architecture]
    needed = list_needed(machine)
    entries = re.split(r"\n(?=\w)", LOCK.read_text("utf-8"))
    chosen = [each for each in entries if canonicalize_name(each.partition("==")[0]) in needed]
    assert len(chosen) == len(needed), "the lock has not all that is needed"
    lock = scratch / f"{architecture}.lock"
    lock.write_text("\n".join(chosen), "utf-8")
    newest = int(GLIBC.split(".")[1])
    platforms = [f"--platform=manylinux_2_{each}_{machine}" for each in range(newest, OLDEST_GLIBC - 1, -1)]
    where = (f"--target={root / PACKAGES}", "--no-deps", "--no-compile", "--only-binary=:all:", *platforms)
    pip(*where, "--require-hashes", f"--requirement={lock}")
    pip(*where, "--no-index", wheel)
    # While it is known which file is whose; it fails where a licence is none that is allowed.
    words = (sys.executable, "-I", CHECKOUT / "packaging/inside", "copyright", root / PACKAGES)
    text = subprocess.run(words, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    write(root / DOCUMENTS / "copyright", text)
    for pattern in LEFT_OUT:
        for path in sorted((root / PACKAGES).glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
    (root / ENVIRONMENT / "bin").mkdir()
    (root / ENVIRONMENT / "bin/python").symlink_to(f"../../../bin/{PYTHON}")
    write(root / ENVIRONMENT / "pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n")


def compile_modules(root: Path) -> None:
    """Compile all modules: that counts whatever the times of files, and nobody writes there later."""
    # Not -I, which would not hear of PYTHONHASHSEED: the order of sets is in what is compiled.
    words = ("-s", "-P", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash")
    run(sys.executable, *words, "-s", root, "-p", "/", root / ENVIRONMENT)


def write(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file, whose folder there need not be yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    path.chmod(mode)


def place_files(root: Path, suite: str, version: str, time: int) -> None:
    """Write what is outside of the environment."""
    start = f"#!/{ENVIRONMENT}/bin/python -I\nfrom qmesh.cli import main\n\nmain()\n"
    write(root / "usr/bin/qmesh", start, mode=0o755)
    run(sys.executable, "-I", CHECKOUT / "packaging/command_texts", root / "usr/share")
    for page in (root / "usr/share/man").rglob("*.[1-9]"):
        compress(page.with_name(f"{page.name}.gz"), page.read_text("utf-8"))
        page.unlink()
    documents = root / DOCUMENTS
    for name in ("README.md", "SECURITY.md"):
        write(documents / name, (CHECKOUT / name).read_text("utf-8"))
    shutil.copytree(CHECKOUT / "docs", documents / "docs")
    date = email.utils.format_datetime(dt.datetime.fromtimestamp(time, dt.UTC))
    entry = (
        f"qmesh ({version}) {suite}; urgency=medium\n\n"
        "  * /usr/share/doc/qmesh/changelog.gz says what changed.\n\n"
        f" -- {MAINTAINER}  {date}\n"
    )
    compress(documents / "changelog.Debian.gz", entry)
    compress(documents / "changelog.gz", (CHECKOUT / "CHANGELOG.md").read_text("utf-8"))
    write(root / "usr/share/lintian/overrides/qmesh", (HERE / "qmesh.lintian-overrides").read_text("utf-8"))


def compress(path: Path, text: str) -> None:
    """Write a file, smaller: without a name or a time in it."""
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def control(root: Path, version: str, architecture: str) -> None:
    """Write what dpkg reads: the fields, the sums, and the scripts of the maintainer."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    others = sum(1 for _ in root.rglob("*")) - len(files)
    fields = {
        "version": version,
        "architecture": architecture,
        "maintainer": MAINTAINER,
        "size": others + sum(-(-path.stat().st_size // 1024) for path in files),  # deb-substvars(5)
        "python": PYTHON,
        "glibc": GLIBC,
    }
    folder = root / "DEBIAN"
    write(folder / "control", Template((HERE / "control").read_text("utf-8")).substitute(fields))
    sums = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(root)}\n"
        for path in files
    ]
    write(folder / "md5sums", "".join(sums))
    for script in sorted(HERE.glob("qmesh.p*")):
        write(folder / script.suffix[1:], script.read_text("utf-8"), mode=0o755)


def settle(root: Path, time: int) -> None:
    """Give every file the mode and the time that it has wherever it is made."""
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            program = path.stat().st_mode & 0o100 and root / ENVIRONMENT not in path.parents
            path.chmod(0o755 if path.is_dir() or program else 0o644)
        os.utime(path, (time, time), follow_symlinks=False)


if __name__ == "__main__":
    main()
