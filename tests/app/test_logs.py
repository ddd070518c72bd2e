from __future__ import annotations

import json
import subprocess
import sys
import traceback
from importlib import import_module
from pkgutil import walk_packages
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from pydantic import BaseModel, ValidationError
from structlog.testing import capture_logs

import app
import reconciler
from app.api.pages import _Body
from app.logs import _without_values
from reconciler.schedule import Job, _run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sql.upsert import Connection

WORD = "a private word"
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
    event = _without_values(None, "error", {"event": "failed", "exc_info": info})
    told = "".join(traceback.format_exception(error))
    assert event["exc_info"] is info
    assert "new row violates a check" in told
    assert "a private word" not in told


def test_an_error_that_is_only_being_handled_keeps_what_it_says() -> None:
    error = refused()
    try:
        raise error
    except asyncpg.PostgresError:
        _without_values(None, "info", {"event": "retried"})
        assert error.detail == ROW
        _without_values(None, "error", {"event": "failed", "exc_info": True})
    assert error.detail is None


@pytest.mark.parametrize(
    ("query", "args"),
    [
        ("SELECT $1::text::integer", (WORD,)),
        ("SELECT $1::text::json", (WORD,)),
        ("SELECT $1::text::timestamptz", (WORD,)),
        ("SELECT $1::integer", (WORD,)),
        ("SELECT $1::integer[]", ([WORD],)),
        ("SELECT $1::text", (WORD + "\x00",)),
        ("SELECT $1::text", (WORD + "\ud800",)),
        ("INSERT INTO tags (name, colour, created_at) VALUES ($1, $1, now())", (WORD,)),
    ],
)
async def test_no_error_of_a_query_is_printed_with_its_values(
    connection: Connection, query: str, args: tuple[Any, ...]
) -> None:
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, UnicodeError)) as caught:
        await connection.fetch(query, *args)
    outer = ExceptionGroup("several", [raised(RuntimeError("outer"), caught.value)])
    _without_values(None, "error", {"exc_info": outer})
    told = "".join(traceback.format_exception(outer))
    assert type(caught.value).__name__ in told
    assert WORD not in told


async def test_a_job_that_fails_is_told_without_the_values_that_postgres_quotes() -> None:
    async def fails() -> None:
        raise refused()

    with capture_logs() as lines:
        await _run(Job("erase", fails, 60.0))
    assert [line["reason"] for line in lines] == ["CheckViolationError: new row violates a check"]


def shapes(of: type[BaseModel] = BaseModel) -> Iterator[type[BaseModel]]:
    for shape in of.__subclasses__():
        yield shape
        yield from shapes(shape)


def test_no_shape_says_in_its_errors_what_it_was_given() -> None:
    for package in (app, reconciler):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    ours = [shape for shape in shapes() if shape.__module__.partition(".")[0] in {"app", "reconciler"}]
    assert len(ours) > 30
    assert [shape for shape in ours if not shape.model_config.get("hide_input_in_errors")] == []
    with pytest.raises(ValidationError) as caught:
        _Body.model_validate({"access_token": WORD, "name": [WORD], "more": WORD})
    assert WORD not in "".join(traceback.format_exception(caught.value))


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
for name in ("httpx", "httpcore.http2", "hpack.hpack", "sse_starlette", "asyncio", "any.other"):
    logging.getLogger(name).debug("secret")
    logging.getLogger(name).info("secret")
import hpack
hpack.Encoder().encode({{"authorization": "Bearer secret"}})
def fail(token):
    error = asyncpg.UniqueViolationError("duplicate key")
    error.detail = "Key (text)=(secret) already exists."
    raise error
try:
    fail("secret")
except asyncpg.UniqueViolationError:
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
