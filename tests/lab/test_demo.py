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


@pytest.mark.long  # .ci/run types it as the README has it
@pytest.mark.parametrize(
    ("options", "ports"),
    [
        pytest.param((), "32500-32502", id="2.1-rust"),
        *(
            pytest.param(("--node", node), ports, id=node)
            for node, ports in (("1.4", "40000-40002"), ("2.0", "40000-40002"), ("2.1", "32500-32502"))
        ),
    ],
)
def test_everything_holds(request, options, ports):
    before = host_state()
    words = [*DEMO, *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=patience(120), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("Everything held.\n")
    node = request.node.callspec.id
    assert f"cores 1-3, worker ports {ports}, node {node}\n" in done.stdout
    assert "workers that the control node reached: 17 of 17\n" in done.stdout
    assert "workers that the attacker reached: 0 of 17\n" in done.stdout
    assert host_state() == before


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)],
)
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
