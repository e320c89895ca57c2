"""What a look at the node's processes costs, where each worker is a process of its own."""

from __future__ import annotations

import json

from benchmarks.measuring import Figure

from tests.support.lab.cluster import AGENT, CONFIG, STATE, make_control, qmesh
from tests.support.lab.machines import Lab

CROWD = """
import resource, signal, socket, subprocess, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
count = int(sys.argv[1])
hub = socket.create_server(("0.0.0.0", 8340), backlog=4096)
quic = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
quic.bind(("0.0.0.0", 8336))
kept = []
for port in range(32500, 32500 + count):
    own = socket.create_server(("10.77.0.1", port))
    call = socket.create_connection(("127.0.0.1", 8340))
    kept.append(hub.accept()[0])
    kept.append(subprocess.Popen(["sleep", "600"], pass_fds=[own.fileno(), call.fileno()]))
    own.close()
    call.close()
print("ready", flush=True)
signal.pause()
"""
MEASURE = """
import json, statistics, sys, time
from pathlib import Path
from qmesh.agent.local import load_local
from qmesh.agent.node.node_processes import look_at_node, look_for_command, read_readings
from qmesh.agent.node.worker_status import probe_workers
from qmesh.host.network.sockets.node_sockets import SocketObserver
from qmesh.host.state.directory import State
from qmesh.host.system import boot_clock
from qmesh.mesh.node_processes.record import ProcessRecord

state = State(Path(sys.argv[1]))
here, times, observer = load_local(state), int(sys.argv[2]), SocketObserver()
record = ProcessRecord(boot=boot_clock.now().boot, readings=read_readings(here, None))
state.process_record.write(record)

def median(work):
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return 1000 * statistics.median(taken)

def look():
    readings = read_readings(here, record)
    return look_at_node(state, here, record=record, readings=readings, observer=observer)

first = look()
print(json.dumps({
    "alive": sum(each.state == "alive" for each in first.report.workers),
    "before": median(lambda: probe_workers(here, None, notes=())),
    "now": median(lambda: probe_workers(here, look_for_command(state, here)[0], notes=())),
    "agent": median(look),
}))
"""


def figures(workers: int, times: int) -> list[Figure]:
    """`status` without and with its look at the processes, and the agent's, which knows whose a socket is."""
    with Lab() as lab:
        control = make_control(lab, "--node", "2.1-rust", workers=workers)
        qmesh(control, "render-config", "--write", "--config", CONFIG)
        control.kill(AGENT)  # which would look as well, and has its own record
        crowd = control.start(["python", "-c", CROWD, str(workers)])
        crowd.wait_for("ready", timeout=120)
        found = json.loads(control.run(["python", "-c", MEASURE, STATE, str(times)], timeout=300).stdout)
    assert found["alive"] == workers, found
    size = f"{workers} workers"
    return [
        Figure(
            "workers dialled, and their processes looked at",
            size,
            found["now"],
            found["before"],
            "ms",
            "",
            None,
        ),
        Figure("the agent's look at them, every 4 s", size, found["agent"], None, "ms", "", None),
    ]
