"""A server under load in a process of its own, and what puts the load on it in another."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cryptography.fernet import Fernet

from tests.bench.load import Load

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET, KEY = "the bench's own", "key"
START_WITHIN_SECONDS = 60.0
STOP_WITHIN_SECONDS = 20.0


class Server(NamedTuple):
    """The application under load."""

    pid: int
    port: int
    folder: Path


@contextmanager
def data_folder(kept: Path | None = None) -> Iterator[Path]:
    """Give a data folder that also the account which runs Postgres may enter: one that is kept, or one for now."""
    folder = kept or Path(tempfile.mkdtemp(prefix="mirror-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server(folder: Path, module: str, *arguments: str) -> Iterator[Server]:
    """Run a module that serves the application on the socket whose descriptor is its first argument."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        port = listening.getsockname()[1]
        environment = os.environ | {
            "DATA_DIR": str(folder),
            "DATABASE_URL": "",
            "FACEBOOK_APP_SECRET": SECRET,
            "FACEBOOK_VERIFY_TOKEN": "verify",
            "OPS_API_KEY": KEY,
            "API_REQUESTS_PER_SECOND": "0",
            "TOKEN_ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "RECONCILER_ENABLED": "false",
            "LOG_LEVEL": "warning",
        }
        command = [sys.executable, "-m", module, str(listening.fileno()), *arguments]
        process = subprocess.Popen(command, env=environment, pass_fds=[listening.fileno()])
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=START_WITHIN_SECONDS) as answer:
            answer.read()
        yield Server(process.pid, port, folder)
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Loading:
    """Load that goes on behind, out of a file of requests."""

    def __init__(self, file: Path, port: int, *, connections: int, seconds: float) -> None:
        command = [sys.executable, "-m", "tests.bench.load", str(file), "127.0.0.1", str(port)]
        command += [str(connections), str(seconds)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def wait(self) -> Load:
        """Wait for its end.

        Raises:
            RuntimeError: it failed.

        """
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError("the load failed")
        return Load(**json.loads(out))
