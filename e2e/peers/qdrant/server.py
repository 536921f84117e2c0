"""Starts a VectorForge of our own on free ports, or points at one that runs already.

VECTORFORGE_URL and VECTORFORGE_GRPC_PORT name a running server; otherwise VECTORFORGE_BIN (default: the release binary of this
workspace) is started on a temporary data directory and stopped at the end.
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """One VectorForge process and the addresses it answers on."""

    def __init__(self, settings: list[str] | None = None):
        self.process = None
        self.data_dir = None
        self.settings = settings or []
        self.url = os.environ.get("VECTORFORGE_URL")
        if self.url:
            self.grpc_port = int(os.environ.get("VECTORFORGE_GRPC_PORT", "6334"))
            return
        target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target"))
        self.binary = os.environ.get("VECTORFORGE_BIN", f"{target}/release/vectorforge")
        self.data_dir = tempfile.mkdtemp(prefix="vectorforge-peer-")
        self.http_port, self.grpc_port, self.admin_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.start()

    @property
    def ours(self) -> bool:
        """Whether this process was started here, so that it may be killed here."""
        return self.process is not None

    def start(self) -> None:
        command = [
            self.binary,
            "--set", f"listen_http=127.0.0.1:{self.http_port}",
            "--set", f"listen_grpc=127.0.0.1:{self.grpc_port}",
            "--set", f"server.admin_listen=127.0.0.1:{self.admin_port}",
            "--set", f"data_dir={self.data_dir}",
            "--log-level", os.environ.get("VECTORFORGE_LOG", "warn"),
        ]
        for setting in self.settings:
            command += ["--set", setting]
        # A variable with the server's prefix is a setting to it, and an unknown one an error.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("VECTORFORGE_")}
        self.process = subprocess.Popen(command, env=environment)
        self.wait_ready()

    def wait_ready(self, seconds: float = 300.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.binary} ended with {self.process.returncode} before it was ready")
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=10) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"{self.url}/readyz did not answer 200 within {seconds} s")

    def restart(self, how: int = signal.SIGKILL) -> None:
        """Kills the process as a crash would and starts it again on the same files."""
        self.process.send_signal(how)
        self.process.wait()
        self.start()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(300)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
        if self.data_dir:
            shutil.rmtree(self.data_dir, ignore_errors=True)
