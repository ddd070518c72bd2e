from __future__ import annotations

import json
import subprocess
import sys
import traceback

import asyncpg
import pytest

from app.logs import _without_rows

ROW = "Failing row contains (1001, a private word)."


def refused() -> asyncpg.CheckViolationError:
    error = asyncpg.CheckViolationError("new row violates a check")
    error.detail = ROW
    return error


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:  # noqa: BLE001 - it is what is returned
        return caught


@pytest.mark.parametrize("as_tuple", [True, False])
def test_a_traceback_does_not_quote_the_rows_that_postgres_refused(*, as_tuple: bool) -> None:
    error = raised(RuntimeError("outer"), raised(ValueError("middle"), refused()))
    assert ROW in "".join(traceback.format_exception(error))
    info = (type(error), error, error.__traceback__) if as_tuple else error
    event = _without_rows(None, "error", {"event": "failed", "exc_info": info})
    told = "".join(traceback.format_exception(error))
    assert event["exc_info"] is info
    assert "new row violates a check" in told
    assert "a private word" not in told


def test_an_error_that_is_only_being_handled_keeps_what_it_says() -> None:
    error = refused()
    try:
        raise error
    except asyncpg.PostgresError:
        _without_rows(None, "info", {"event": "retried"})
        assert error.detail == ROW
        _without_rows(None, "error", {"event": "failed", "exc_info": True})
    assert error.detail is None


SCRIPT = """
import logging, asyncpg, structlog
from uvicorn.config import Config
Config("app:none", access_log=True)
from app.logs import configure_logging
configure_logging({level!r})
log = structlog.get_logger("app")
log.info("ours", count=3)
logging.getLogger("library").warning("theirs %s", 7)
logging.getLogger("uvicorn.error").info("started")
logging.getLogger("uvicorn.access").info("GET /webhook?hub.verify_token=secret")
for name in ("httpx", "httpcore", "sse_starlette"):
    logging.getLogger(name).debug("secret")
    logging.getLogger(name).info("secret")
def fail(token):
    error = asyncpg.UniqueViolationError("duplicate key")
    error.detail = "Key (text)=(secret) already exists."
    raise error
try:
    fail("secret")
except Exception:
    log.exception("bad")
    logging.getLogger("library").exception("worse")
"""


@pytest.mark.parametrize("level", ["debug", "info"])
def test_each_line_is_one_json_object_and_no_library_says_more_than_it_should(level: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(level=level)], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == ""
    assert [line["event"] for line in lines] == ["ours", "theirs 7", "started", "bad", "worse"]
    assert all(line["timestamp"].endswith("Z") and line["level"] for line in lines)
    assert lines[0]["count"] == 3
    assert all("duplicate key" in line["exception"] for line in lines[3:])
    assert "secret" not in done.stderr.replace('fail(\\"secret\\")', "")  # the line of this script itself
