"""A real stack on this machine, in a state folder of its own."""
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "How much does lunch cost?"
SOURCE = "office/kitchen.md"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, condition, seconds=300):
    """Waits until `condition()` is true and returns its value."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"waited {seconds} s in vain: {what}"
        time.sleep(0.05)


def check_error(text):
    """A message is a sentence with what to do: no debug print, no stack trace, no bare code."""
    assert text.strip(), "silence"
    for ugly in ("panicked", "stack backtrace", "Some(", "Err(", "Error {", "Kind::", "Os {", "tonic::", "Traceback"):
        assert ugly not in text, f"{ugly!r} in: {text}"


class Stack:
    def __init__(self, bin_folder, state=None, manifest="examples/quickstart/stack.yaml", name="quickstart"):
        self.bin = Path(bin_folder)
        self.manifest = manifest
        self.name = name
        self.state = Path(state) if state else Path(tempfile.mkdtemp(prefix="aistack-faults-"))
        self.port = free_port()
        self.environment = dict(os.environ, XDG_STATE_HOME=str(self.state), NO_COLOR="1")
        self.environment.pop("AISTACK_MODELHUB_URL", None)

    def run(self, *arguments, program="aistack", timeout=900):
        done = subprocess.run(
            [self.bin / program, *map(str, arguments)], cwd=ROOT, env=self.environment, timeout=timeout,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        return done.returncode, done.stdout

    def good(self, *arguments, program="aistack"):
        code, text = self.run(*arguments, program=program)
        assert code == 0, f"{program} {arguments}: exit code {code}\n{text}"
        return text

    def up(self, *more, code=0):
        got, text = self.run("up", "--detach", "--port", self.port, "-f", self.manifest, *more)
        assert got == code, f"up: exit code {got}, expected {code}\n{text}"
        return text

    def hub(self, *arguments):
        return self.run("--url", f"http://127.0.0.1:{self.port}", *arguments, program="modelhub")

    def ingest(self, folder="examples/quickstart/handbook", rag="handbook"):
        return self.hub("rag", "ingest", rag, folder)

    def ask(self, question=QUESTION):
        return self.run("ask", "--rag", "handbook", question)

    def asks_well(self):
        code, text = self.ask()
        return code == 0 and SOURCE in text

    def status(self):
        _, text = self.run("status", "-o", "json")
        return json.loads(text)

    def pods(self):
        """Name to pod, from the file that the supervisor keeps: it is there also when a component is not."""
        text = (self.state / "aistack" / self.name / "status.json").read_text()
        return {pod["name"]: pod for pod in json.loads(text)["pods"]}

    def all_ready(self):
        return all(pod["phase"] == "Ready" for pod in self.pods().values())

    def restarts(self):
        return {name: pod["restarts"] for name, pod in self.pods().items()}

    def down(self, *more):
        return self.run("down", *more)


def resident_kib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1))


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"
