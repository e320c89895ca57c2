"""A release: the changelog's section, the version, all files with sums and a signature, and a tag.

The Ansible collection is a part of it, and has the same version.

All of it is made in a clone, and verified there as the README tells users to. Only then this checkout gets
the commit and the tag. A run that fails, or is killed, leaves the checkout as it was, and can be run again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[1]
CHANGELOG: Final = "CHANGELOG.md"
SOURCE: Final = "qmesh/__init__.py"
COLLECTION: Final = "packaging/ansible/galaxy.yml"
README: Final = "README.md"
UNRELEASED: Final = "## [Unreleased]"
PAGES: Final = "The pages are in `docs` of the sources, and in `/usr/share/doc/qmesh` of each package."


class Refused(Exception):
    """Why there is no release, and what helps."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def main() -> int:
    """Make a release, and say what is left to do."""
    arguments = read_arguments()
    os.umask(0o022)  # others read the files, as a web server does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with (CHECKOUT / "scripts/release").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            release(arguments)
        except BlockingIOError:
            return complain(Refused("another run makes a release here", "wait for its end"))
        except Refused as refused:
            return complain(refused)
        except KeyboardInterrupt:
            return 130
    return 0


def complain(refused: Refused) -> int:
    """Say why there is none."""
    print(f"error: {refused}\nhint: {refused.hint}", file=sys.stderr)
    return 1


def read_arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(
        prog="scripts/release",
        description="Make a release of what is committed: changelog, version, files, signature, and a tag.",
        epilog="Nothing is pushed or uploaded. The page CONTRIBUTING.md tells what comes after it.",
    )
    parser.add_argument("version", help="such as 0.2.0; greater than that of the source")
    parser.add_argument(
        "--key", required=True, type=Path, help="a key of OpenSSH, which signs the sums and the tag"
    )
    parser.add_argument("--to", type=Path, help="the folder for the files [dist/VERSION]")
    parser.add_argument("--dry-run", action="store_true", help="all of it, but no commit and no tag here")
    parser.add_argument("--arch", action="append", default=[], help="packages for this architecture alone")
    parser.add_argument("--suite", action="append", default=[], help="packages for this suite alone")
    return parser.parse_args()


def release(arguments: argparse.Namespace) -> None:
    """Make it in a clone, verify it, and only then touch this checkout."""
    version, key = arguments.version, arguments.key.absolute()
    target = (arguments.to or CHECKOUT / "dist" / version).absolute()
    before = refuse_early(version, key, target)
    if not arguments.dry_run:
        refuse_unnamed(key)
    text, section = cut_section(read_committed(CHANGELOG), version, time.strftime("%Y-%m-%d", time.gmtime()))
    versioned = {
        SOURCE: replace_version(read_committed(SOURCE), version),
        COLLECTION: replace_collection_version(read_committed(COLLECTION), version),
    }

    with scratch_for(target) as scratch:
        clone, files = scratch / "checkout", scratch / "files"
        run("git", "clone", "--quiet", "--no-hardlinks", CHECKOUT, clone)
        share_roots(clone)
        for name, written in {CHANGELOG: text, **versioned}.items():
            (clone / name).write_text(written, encoding="utf-8")
        git_here = [
            word for name in ("user.name", "user.email") for word in ("-c", f"{name}={configured(name)}")
        ]
        run("git", *git_here, "commit", "--quiet", "--all", f"--message=qmesh {version}", cwd=clone)
        signing = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={key}", "-c", "gpg.ssh.program=ssh-keygen")
        tag = ("tag", "--sign", f"--message=qmesh {version}", f"v{version}")
        run("git", *git_here, *signing, *tag, cwd=clone)
        arch = [word for each in arguments.arch for word in ("--arch", each)]
        words = ("files", files, "--key", key, "--release", *arch, *arguments.suite)
        run(clone / "scripts/package", *words, cwd=clone)
        (files / "RELEASE_NOTES.md").write_text(write_notes(section, version), encoding="utf-8")
        verify(clone, files, version)

        files.rename(target)
        if not arguments.dry_run:
            try:
                take_over(clone, version, before)
            except BaseException:
                target.rename(scratch / "not-released")
                raise
    report(version, target, dry_run=arguments.dry_run)


def _raise_unless_gone(_function: object, _path: str, error: tuple[object, BaseException, object]) -> None:
    """What was started here may be ended by the same signal, and clear up meanwhile."""
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


@contextlib.contextmanager
def scratch_for(target: Path) -> Iterator[Path]:
    """A folder beside the target, on the same disk; what is left of a run that was killed goes."""
    scratch = target.with_name(f".{target.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, onerror=_raise_unless_gone)


def share_roots(clone: Path) -> None:
    """Have packages be built in the roots that this checkout keeps."""
    for folder in (CHECKOUT / ".cache/fresh", clone / ".cache"):
        folder.mkdir(parents=True, exist_ok=True)
    (clone / ".cache/fresh").symlink_to(CHECKOUT / ".cache/fresh")


def refuse_early(version: str, key: Path, target: Path) -> str:
    """Refuse what can be known before anything is made; the commit that is released."""
    now = version_of(read_committed(SOURCE))
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        raise Refused(f"'{version}' is no version", "three numbers, such as 0.2.0")
    if as_numbers(version) <= as_numbers(now):
        raise Refused(f"{version} is not newer than {now}, which the source has", "a greater number")
    if git("tag", "--list", f"v{version}"):
        # Had the run that made it been cut off just then, the branch would not have its commit.
        hint = f"a version is released once; if its run was cut off: git merge --ff-only v{version}"
        raise Refused(f"there is a tag v{version}", hint)
    if changed := git("status", "--porcelain"):
        raise Refused(f"not all is committed: {changed.splitlines()[0].strip()}", "git status")
    if git("rev-parse", "--abbrev-ref", "HEAD") == "HEAD":
        raise Refused("no branch is checked out", "git switch main")
    if not key.is_file():
        raise Refused(f"there is no key {key}", "ssh-keygen -t ed25519 -f FILE, once; then keep it safe")
    if target.exists():
        raise Refused(
            f"{target} is there, and no v{version}", "move it away: it is of another run, or of a dry one"
        )
    cut_section(read_committed(CHANGELOG), version, "")
    for name in ("user.name", "user.email"):
        configured(name)
    return git("rev-parse", "HEAD")


def refuse_unnamed(key: Path) -> None:
    """Refuse a key that the README does not name, as users compare it with what came with the files."""
    public = key if key.suffix == ".pub" else key.with_name(f"{key.name}.pub")
    text = public.read_text("utf-8") if public.exists() else run_for_output("ssh-keygen", "-y", "-f", key)
    shown = " ".join(text.split()[:2])
    if f"`{shown}`" not in read_committed(README):
        raise Refused(f"{README} does not name this key", f"commit there: `{shown}`")


def read_committed(name: str) -> str:
    """A file as it is committed, to its last line's end."""
    return run_for_output("git", "show", f"HEAD:{name}") + "\n"


def version_of(source: str) -> str:
    """The version that the source says."""
    found = re.search(r'^__version__ = "([^"]+)"$', source, flags=re.MULTILINE)
    if found is None:
        raise Refused(f"{SOURCE} has no line with __version__", "git log it")
    return found[1]


def replace_version(source: str, version: str) -> str:
    """The source with another version."""
    return source.replace(f'__version__ = "{version_of(source)}"', f'__version__ = "{version}"')


def replace_collection_version(manifest: str, version: str) -> str:
    """What describes the Ansible collection, with another version."""
    found, count = re.subn(r"^version: .*$", f"version: {version}", manifest, flags=re.MULTILINE)
    if count != 1:
        raise Refused(f"{COLLECTION} has not one line 'version: ...'", "git log it")
    return found


def as_numbers(version: str) -> tuple[int, ...]:
    """A version as what can be compared."""
    return tuple(map(int, version.split(".")))


def cut_section(text: str, version: str, date: str) -> tuple[str, str]:
    """The changelog with what is unreleased as a section of this version; and that section's own text."""
    if text.count(f"\n{UNRELEASED}\n") != 1:
        raise Refused(
            f"{CHANGELOG} has not one line '{UNRELEASED}'", "all that is not released stands below one"
        )
    if re.search(rf"^## \[?{re.escape(version)}\b", text, flags=re.MULTILINE):
        raise Refused(
            f"{CHANGELOG} has a section of {version}", "a version is released once: take a greater number"
        )
    head, _, rest = text.partition(f"\n{UNRELEASED}\n")
    section = re.split(r"^(?=## )", rest, maxsplit=1, flags=re.MULTILINE)[0]
    if not re.search(r"^- ", section, flags=re.MULTILINE):
        raise Refused(f"{CHANGELOG} has nothing below '{UNRELEASED}'", "write there what changed for users")
    title = f"## [{version}] - {date}"
    return f"{head}\n{UNRELEASED}\n\n{title}\n{rest}", section.strip()


def write_notes(section: str, version: str) -> str:
    """The section for a page that is not beside the others, and shows each end of a line as one."""
    text = re.sub(r"\[([^\]]+)\]\((?!https?://)[^)]+\)", r"\1", section)
    text = re.sub(r"(?<=\S)\n *(?=[^-#\s])", " ", text)
    return f"# qmesh {version}\n\n{text}\n\n{PAGES}\n"


def verify(clone: Path, files: Path, version: str) -> None:
    """As a user would: by the README's own lines, for each package, in an empty folder."""
    run("sha256sum", "--quiet", "--check", "SHA256SUMS", cwd=files)
    packages = sorted(files.glob("*.deb"))
    if not packages:
        raise Refused("no package was made", "see above")
    for package in packages:
        _, _, suite, architecture = package.stem.split("_")
        machine = {
            '$(. /etc/os-release && echo "$VERSION_CODENAME")': suite,
            "$(dpkg --print-architecture)": architecture,
        }
        lines = read_lines(clone, "Install on a machine", version, files, machine)
        type_lines(lines, f"apt-get install ./{package.name}")
        built = run_for_output("dpkg-deb", "--field", package, "Version")
        if not built.startswith(f"{version}-"):
            raise Refused(f"{package.name} is of version {built}", f"{SOURCE} of the tag")
    wheel = f"./qmesh-{version}-py3-none-any.whl"
    type_lines(read_lines(clone, "With pipx", version, files, {}), wheel)


def read_lines(clone: Path, heading: str, version: str, files: Path, machine: dict[str, str]) -> str:
    """What the README has users type, but for the last line; machine: what stands there for the user's."""
    lines = run_for_output(clone / ".ci/readme", "--print", heading, cwd=clone)
    release = {
        "URL-OF-THE-RELEASE": f"file://{files}",
        "_VERSION_": f"_{version}_",
        "-VERSION-": f"-{version}-",
    }
    for word in machine:
        if word not in lines:
            raise Refused(f"the README's lines have no {word}", "scripts/release.py has to know them")
    for word, value in {**release, **machine}.items():
        lines = lines.replace(word, value)
    return lines.removesuffix("\nqmesh --version")


def type_lines(lines: str, last: str) -> None:
    """Type them in an empty folder. Nothing is installed: what root would have done at last is to end so."""
    quiet = 'sudo() { printf "%s\\n" "$*"; }\ncurl() { command curl --silent --show-error "$@"; }'
    shell = f"set -euo pipefail\n{quiet}\n{lines}\n"
    with tempfile.TemporaryDirectory() as empty:
        said = run_for_output("bash", "-c", shell, cwd=Path(empty)).splitlines()
    if not said or not said[-1].endswith(last):
        raise Refused(f"the README's lines do not come to: {last}", "see above")
    print(f"verified: {last}")


def take_over(clone: Path, version: str, before: str) -> None:
    """Give this checkout the commit, and the tag; neither where it is not what it was."""
    if git("rev-parse", "HEAD") != before or git("status", "--porcelain", "--untracked-files=no"):
        raise Refused("the checkout was changed meanwhile", "run it again")
    run("git", "fetch", "--quiet", "--no-tags", clone, f"refs/tags/v{version}:refs/tags/v{version}")
    try:
        run("git", "merge", "--quiet", "--ff-only", f"v{version}^{{commit}}")
    except BaseException:
        run("git", "tag", "--delete", f"v{version}")
        raise


def report(version: str, target: Path, *, dry_run: bool) -> None:
    """Say what there is, and what is left to do."""
    for file in sorted(target.iterdir()):
        print(f"{file.stat().st_size:>12,}  {file}")
    if dry_run:
        print(f"tried: {version} could be released; this checkout is as it was")
        return
    print(f"released: {version}, as commit and tag v{version} of this checkout")
    print(f"next: upload these files, then git push --atomic origin HEAD v{version}")


def configured(name: str) -> str:
    """A setting of git's, which the commit needs."""
    done = subprocess.run(["git", "config", name], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"git has no {name}", f"git config {name} ...")
    return done.stdout.strip()


def git(*words: str) -> str:
    """What git says of this checkout."""
    return run_for_output("git", *words)


def run_for_output(*words: str | Path, cwd: Path = CHECKOUT) -> str:
    """The output of a program, which must not fail."""
    done = subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False, env=ENVIRONMENT)
    return judge(done, words).stdout.rstrip("\n")


def run(*words: str | Path, cwd: Path = CHECKOUT) -> None:
    """Run a program, which must not fail; what it says is said."""
    judge(subprocess.run(words, cwd=cwd, check=False, text=True, env=ENVIRONMENT), words)


def judge(
    done: subprocess.CompletedProcess[str], words: tuple[str | Path, ...]
) -> subprocess.CompletedProcess[str]:
    """What was done, unless it failed."""
    if done.returncode:
        shown = " ".join(map(str, words[:3]))
        raise Refused(f"'{shown} ...' ended with {done.returncode}", "see above; this checkout is as it was")
    return done


ENVIRONMENT: Final = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}

if __name__ == "__main__":
    sys.exit(main())
