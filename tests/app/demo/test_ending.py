from __future__ import annotations

import signal
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.demo.service import free_port
from sql.embedded_postmaster import Postmaster
from tests.app.process import process

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's own: as root, the account that runs Postgres may not enter that."""
    with tempfile.TemporaryDirectory(prefix="mirror-") as made:
        Path(made).chmod(0o711)
        yield Path(made)


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


async def test_a_demo_that_is_ended_takes_along_all_that_it_started(folder: Path) -> None:
    port = free_port()
    arguments = ("-m", "app.cli.main", "demo", "--pages", "1", "--seconds", "600", "--port", str(port))
    async with process(folder, *arguments, TMPDIR=str(folder)) as demo:
        await demo.said("Pages added")
        (data,) = folder.glob("mirror-demo-*/data/postgres/data")
        server = Postmaster(data)
        postmaster = server.pid()
        assert postmaster is not None
        assert is_listening(port)
        demo.signal(signal.SIGTERM)
        assert await demo.ended() != 0
    assert not is_listening(port)
    assert not server.is_(postmaster)
    assert list(folder.iterdir()) == []
