"""A Flink cluster on this machine: one JobManager, two TaskManagers, a pool of Python workers beside them.

`make flink-up` and `make flink-down`, or `python -m runners.flink_cluster up|down`. All listen on loopback alone.
What runs is written in the state folder, so that `up` starts only what is missing and `down` ends only its own.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import platformdirs
import psutil  # type: ignore[import-untyped]

from runners.fetch import flink_lib
from runners.flink_rest import overview
from runners.job_server import listens
from schemas.errors import ClusterUnreachable, MissingTool, SetupError, WrongVersion

LOOPBACK = "127.0.0.1"
TASKMANAGERS = 2
SLOTS = 2
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0
LOWEST_JAVA = 11

JOBMANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASKMANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"

OPENED = (
    "java.base/java.lang", "java.base/java.net", "java.base/java.io", "java.base/java.nio", "java.base/sun.nio.ch",
    "java.base/java.lang.reflect", "java.base/java.text", "java.base/java.time", "java.base/java.util",
    "java.base/java.util.concurrent", "java.base/java.util.concurrent.atomic", "java.base/java.util.concurrent.locks",
)  # fmt: skip
"""What Flink's own configuration opens on Java 17."""

HEAP_MIB = 512
MEMORY = {
    "taskmanager.cpu.cores": str(float(SLOTS)),
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.task.heap.size": "384m",
    "taskmanager.memory.task.off-heap.size": "64m",
    "taskmanager.memory.network.min": "64m",
    "taskmanager.memory.network.max": "64m",
    "taskmanager.memory.managed.size": "128m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "128m",
    "taskmanager.memory.jvm-overhead.max": "128m",
}
"""A TaskManager started without Flink's scripts must be told all of them; a gibibyte and a quarter in all."""

LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.rolling.ref = Rolling
appender.rolling.name = Rolling
appender.rolling.type = RollingFile
appender.rolling.fileName = ${sys:log.file}
appender.rolling.filePattern = ${sys:log.file}.%i
appender.rolling.layout.type = PatternLayout
appender.rolling.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %c - %m%n
appender.rolling.policies.type = Policies
appender.rolling.policies.size.type = SizeBasedTriggeringPolicy
appender.rolling.policies.size.size = 20MB
appender.rolling.strategy.type = DefaultRolloverStrategy
appender.rolling.strategy.max = 3
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the cluster listens; `rpc` is Flink's own business."""

    rest: int
    worker_pool: int
    rpc: int


@dataclass(frozen=True, slots=True)
class Process:
    """One that was started; the time of its start tells it from a later one with its id."""

    pid: int
    created_at: float


@dataclass(frozen=True, slots=True)
class Cluster:
    """What runs: name -> process."""

    ports: Ports
    processes: Mapping[str, Process]

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.rest}"

    @property
    def worker_pool(self) -> str:
        return f"{LOOPBACK}:{self.ports.worker_pool}"


def default_state() -> Path:
    """HEADRACE_FLINK, or below the user's state folder."""
    configured = os.environ.get("HEADRACE_FLINK")
    return Path(configured) if configured else platformdirs.user_state_path("headrace") / "flink"


def up(state: Path, rest_port: int = 8081, pool_port: int = 50000) -> Cluster:
    """Start what is not running, and wait until the cluster answers with all its slots.

    Args:
        state: folder of checkpoints, savepoints, logs and of what runs; made if absent.
        rest_port: of Flink's REST API; 0 takes a free one, as for `pool_port`.
    Raises:
        MissingTool: there is no Java, or Flink was not fetched.
        WrongVersion: Java is too old.
        DigestMismatch: a jar is not the pinned one.
        SetupError: a port is taken.
        ClusterUnreachable: it did not come up; names its logs.
    """
    java, lib = java_launcher(), flink_lib()
    state = state.expanduser().resolve()
    for folder in ("conf", "log", "checkpoints", "savepoints", "tmp"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    before = running(state)
    if before and before.processes:
        ports = before.ports
    else:
        ports = Ports(*(_port(port) for port in (rest_port, pool_port, 0)))
    processes = dict(before.processes) if before else {}
    write_configuration(state, ports)
    for name, command in commands(java, lib, state, ports):
        if name not in processes:
            processes[name] = _start(name, command, state)
            cluster = Cluster(ports, processes)
            _write(state, cluster)
    cluster = Cluster(ports, processes)
    _wait(cluster, state)
    return cluster


def down(state: Path) -> list[str]:
    """Stop what `up` started; names of what was running."""
    state = state.expanduser().resolve()
    cluster = running(state)
    stopped = []
    if cluster:
        found = {name: psutil.Process(process.pid) for name, process in cluster.processes.items()}
        for process in found.values():
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(list(found.values()), timeout=STOP_TIMEOUT_S)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=STOP_TIMEOUT_S)
        stopped = list(found)
    _file(state).unlink(missing_ok=True)
    return stopped


def running(state: Path) -> Cluster | None:
    """What `up` started and still runs; None when it has not been called."""
    try:
        stored = orjson.loads(_file(state.expanduser().resolve()).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    processes = {name: Process(**facts) for name, facts in stored["processes"].items()}
    alive = {name: process for name, process in processes.items() if _lives(process)}
    return Cluster(Ports(**stored["ports"]), alive)


def java_launcher() -> str:
    """Java on the PATH, or that of JAVA_HOME.

    Raises:
        MissingTool: there is none.
        WrongVersion: it is too old for Flink.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if java is None:
        where = f"in JAVA_HOME, {home}" if home else "on the PATH"
        raise MissingTool(f"no java {where}, which Flink needs: install Java 17, or set JAVA_HOME")
    try:
        asked = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
        said = asked.stderr
    except subprocess.TimeoutExpired:
        raise MissingTool(f"{java} -version does not end: install Java 17, or set JAVA_HOME") from None
    release = java_release(said)
    if release is None or release < LOWEST_JAVA:
        raise WrongVersion(
            f"{java} is Java {release or 'of an unknown version'}, Flink needs {LOWEST_JAVA} or newer: install"
            " Java 17, or set JAVA_HOME"
        )
    return java


def java_release(said: str) -> int | None:
    """The release in what `java -version` says: 17 of "17.0.15", 8 of "1.8.0_402"; None where it says none."""
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found.group(1)) if found else None


def add_opens() -> list[str]:
    """Options of Java for Flink's classes."""
    return [f"--add-opens={package}=ALL-UNNAMED" for package in OPENED]


def write_configuration(state: Path, ports: Ports) -> None:
    """Flink's configuration file and that of its logs."""
    settings = {
        "jobmanager.rpc.address": LOOPBACK,
        "jobmanager.rpc.port": ports.rpc,
        "jobmanager.bind-host": LOOPBACK,
        "taskmanager.host": LOOPBACK,
        "taskmanager.bind-host": LOOPBACK,
        "taskmanager.numberOfTaskSlots": SLOTS,
        "rest.address": LOOPBACK,
        "rest.bind-address": LOOPBACK,
        "rest.port": ports.rest,
        "io.tmp.dirs": state / "tmp",
        "web.upload.dir": state / "tmp",
        # Both TaskManagers work on a job, although one has slots enough.
        "cluster.evenly-spread-out-slots": "true",
        # A TaskManager that comes up before the JobManager asks again after a second, not ten.
        "cluster.registration.error-delay": "1000",
        "state.backend.type": "hashmap",
        "state.checkpoint-storage": "filesystem",
        "state.checkpoints.dir": (state / "checkpoints").as_uri(),
        "state.savepoints.dir": (state / "savepoints").as_uri(),
        "execution.checkpointing.interval": "10s",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1s",
        "restart-strategy.exponential-delay.max-backoff": "10s",
        # About a minute in all; then it is no passing fault, and the job fails with its reason.
        "restart-strategy.exponential-delay.attempts-before-reset-backoff": "10",
        "restart-strategy.exponential-delay.reset-backoff-threshold": "2 min",
        # A TaskManager that was killed is missed after ten seconds, not fifty.
        "heartbeat.interval": "2000",
        "heartbeat.timeout": "10000",
    }
    lines = [f"{key}: {value}\n" for key, value in {**settings, **MEMORY}.items()]
    (state / "conf" / "config.yaml").write_text("".join(lines), encoding="utf-8")
    (state / "conf" / "log4j.properties").write_text(LOG4J, encoding="utf-8")


def commands(java: str, lib: Path, state: Path, ports: Ports) -> Iterator[tuple[str, list[str]]]:
    """Name and command line of each process, in the order they are started."""
    conf = str(state / "conf")

    def jvm(name: str, main: str, *options: str) -> list[str]:
        heap = (f"-Xms{HEAP_MIB}m", f"-Xmx{HEAP_MIB}m", "-XX:+ExitOnOutOfMemoryError")
        logs = (
            f"-Dlog.file={state / 'log' / name}.log",
            f"-Dlog4j.configurationFile={conf}/log4j.properties",
        )
        return [java, *heap, *options, *add_opens(), *logs, "-cp", f"{lib}/*", main, "--configDir", conf]

    yield "jobmanager", jvm("jobmanager", JOBMANAGER)
    pool = [sys.executable, "-m", "runners.worker_pool", "--port", str(ports.worker_pool)]
    yield "worker-pool", [*pool, "--logs", str(state / "log"), "--share", str(TASKMANAGERS)]
    for number in range(1, TASKMANAGERS + 1):
        name = f"taskmanager-{number}"
        taskmanager = jvm(name, TASKMANAGER, "-XX:MaxMetaspaceSize=256m", "-XX:MaxDirectMemorySize=256m")
        yield name, [*taskmanager, "-D", f"taskmanager.resource-id={name}"]


def _file(state: Path) -> Path:
    return state / "cluster.json"


def _write(state: Path, cluster: Cluster) -> None:
    new = _file(state).with_suffix(".new")
    new.write_bytes(orjson.dumps(asdict(cluster), option=orjson.OPT_INDENT_2))
    new.rename(_file(state))


def _lives(process: Process) -> bool:
    try:
        found = psutil.Process(process.pid)
        alive: bool = found.create_time() == process.created_at and found.status() != psutil.STATUS_ZOMBIE
        return alive
    except psutil.NoSuchProcess:
        return False


def _port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise SetupError(f"port {port} cannot be used: {error.strerror}: choose another") from None
        return int(probe.getsockname()[1])


def _start(name: str, command: list[str], state: Path) -> Process:
    """Start what outlives this process."""
    said = str(state / "log" / f"{name}.out")
    pid = os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return Process(pid, psutil.Process(pid).create_time())


def _wait(cluster: Cluster, state: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        dead = [name for name, process in cluster.processes.items() if not _lives(process)]
        with suppress(ClusterUnreachable):
            found = overview(cluster.url)
            if (
                found.slots >= TASKMANAGERS * SLOTS
                and not dead
                and listens(LOOPBACK, cluster.ports.worker_pool)
            ):
                return
        if dead or time.monotonic() > deadline:
            what = (
                f"{dead[0]} ended at once"
                if dead
                else f"it has not all its slots after {START_TIMEOUT_S:.0f} s"
            )
            down(state)
            raise ClusterUnreachable(f"the Flink cluster did not come up, {what}: see {state / 'log'}")
        time.sleep(0.2)


def main(arguments: Sequence[str]) -> int:
    """Start or stop the cluster; 1 and one line on stderr where that fails."""
    parser = argparse.ArgumentParser(prog="python -m runners.flink_cluster", description=__doc__)
    parser.add_argument("what", choices=("up", "down"))
    parser.add_argument("--state", type=Path, default=default_state(), help="folder (default: %(default)s)")
    parser.add_argument(
        "--rest-port", type=int, default=8081, help="0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--pool-port", type=int, default=50000, help="0 takes a free one (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    try:
        if given.what == "down":
            print("stopped: " + (", ".join(down(given.state)) or "nothing was running"))
            return 0
        cluster = up(given.state, given.rest_port, given.pool_port)
    except SetupError as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 1
    print(f"Flink at {cluster.url}, Python workers at {cluster.worker_pool}, state in {given.state}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
