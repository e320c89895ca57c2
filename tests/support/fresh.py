"""Commands in pristine roots of Debian's suites."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Final

from tests.support.checkout import CHECKOUT
from tests.support.waiting import patience

FRESH: Final = str(CHECKOUT / "scripts/fresh")
_UNPACKED: Final = """\
set -eu
mkdir /srv/given
tar -x --no-same-owner -C /srv/given
cd /
"""


def run_in_root(
    suite: str, script: str, given: Path, *, before: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script of bash in a root that has the folder `given` as /srv/given.

    before: shell lines. With them, all of it is in a network of its own, with nothing but a loopback, in
        which these lines are run first. What they start ends with it.
    """
    # One that has to be made needs the network.
    subprocess.run([FRESH, suite, "true"], check=True, timeout=patience(300), capture_output=True)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(given, ".")
    named = [f"{name}={value}" for name, value in variables.items()]
    words = [FRESH, suite, "env", *named, "bash", "-c", _UNPACKED + script]
    if before:
        alone = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        words = [*alone, "bash", "-c", f'ip link set lo up; {before}\nexec "$@"', "bash", *words]
    done = subprocess.run(
        words, input=packed.getvalue(), capture_output=True, timeout=patience(300), check=False
    )
    return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())
