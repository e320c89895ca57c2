"""The demo holds what it shows, and leaves nothing behind when it is interrupted."""

import signal
import subprocess
import sys

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.lab.machines import host_state
from tests.support.waiting import patience

pytestmark = pytest.mark.lab

DEMO = [sys.executable, f"{CHECKOUT}/scripts/demo.py"]


def test_everything_holds():
    before = host_state()
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=patience(120), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("Everything held.\n")
    assert host_state() == before


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_leaves_nothing_when_interrupted(number, exit_code):
    before = host_state()
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "invite machine-b" in line:
                break
        demo.send_signal(number)
        said = demo.stdout.read()
    assert demo.returncode == exit_code
    assert said.endswith("all machines were taken down, nothing is left of them\n")
    assert host_state() == before
