"""`/openapi.json` and `/docs`: what is served, for programs and for people. No asset from anywhere else."""

from __future__ import annotations

from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import HTMLResponse, Response

from app.endpoint import Answer, Endpoint
from app.openapi import document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request

    from app.openapi import Endpoints

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; }
h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
summary { cursor: pointer; padding: .3em 0; }
code, pre { font: 13px/1.4 ui-monospace, monospace; background: #f4f4f4; padding: .1em .3em; border-radius: 3px; }
pre { padding: .6em; overflow: auto; }
.method { display: inline-block; width: 4.5em; font-weight: bold; }
.role { float: right; color: #666; }
table { border-collapse: collapse; margin: .5em 0; }
td, th { text-align: left; vertical-align: top; padding: .2em .8em .2em 0; }
"""
# the page runs no script and fetches nothing
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def documentation(endpoints: Callable[[], Endpoints]) -> list[Endpoint]:
    """Make the endpoints that tell of all endpoints, themselves among them."""

    @cache
    def made() -> tuple[bytes, str]:
        told = document(endpoints())
        return orjson.dumps(told), page(told)

    async def openapi(_request: Request) -> Response:
        """What is served here, as OpenAPI."""
        return Response(made()[0], media_type="application/json")

    async def docs(_request: Request) -> Response:
        """The same for people."""
        return HTMLResponse(made()[1], headers={"content-security-policy": _POLICY})

    return [
        Endpoint(
            "GET",
            "/openapi.json",
            openapi,
            role=None,
            answers={200: Answer("the document", media_type="application/json", schema={"type": "object"})},
        ),
        Endpoint("GET", "/docs", docs, role=None, answers={200: Answer("the page", media_type="text/html")}),
    ]


def page(told: dict[str, Any]) -> str:
    """Write the document as a page."""
    info = told["info"]
    about = "".join(f"<p>{_text(part)}</p>" for part in info["description"].split("\n\n"))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>"
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>{about}"
        f"<p>As OpenAPI: <a href=openapi.json>openapi.json</a></p>"
        f"{''.join(_groups(told))}<h2>Shapes</h2>{''.join(_schemas(told))}</html>"
    )


def _groups(told: dict[str, Any]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(path, method, operation))
    for name, parts in groups.items():
        yield f"<h2>{escape(name)}</h2>{''.join(parts)}"


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    role = f"<span class=role>{escape(operation['x-role'])}</span>" if "x-role" in operation else ""
    parts = [f"<p>{_text(operation['description'])}</p>"] if "description" in operation else []
    rows = [
        f"<tr><td><code>{escape(p['name'])}</code><td>{p['in']}{', needed' if p['required'] else ''}"
        f"<td>{_kind(p['schema'])}<td>{_text(p.get('description', ''))}"
        for p in operation["parameters"]
    ]
    if rows:
        parts.append(f"<table>{''.join(rows)}</table>")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body, <code>{escape(kind)}</code>: {_kind(content['schema'])}</p>")
    answers = [
        f"<tr><td>{status}<td>{_text(answer['description'])}"
        f"<td>{', '.join(_kind(content['schema']) for content in answer.get('content', {}).values())}"
        for status, answer in operation["responses"].items()
    ]
    return (
        f"<details id={escape(operation['operationId'])}><summary><span class=method>{method.upper()}</span>"
        f"<code>{escape(path)}</code> {_text(operation['summary'])}{role}</summary>"
        f"{''.join(parts)}<table>{''.join(answers)}</table></details>"
    )


def _schemas(told: dict[str, Any]) -> Iterator[str]:
    for name, schema in told["components"]["schemas"].items():
        needed = set(schema.get("required", ()))
        rows = [
            f"<tr><td><code>{escape(field)}</code><td>{_kind(value)}<td>{'' if field in needed else 'may be absent'}"
            f"<td>{_text(value.get('description', ''))}"
            for field, value in schema.get("properties", {}).items()
        ]
        yield (
            f"<details id=shape-{escape(name)}><summary><code>{escape(name)}</code> "
            f"{_text(schema.get('description', ''))}</summary><table>{''.join(rows)}</table></details>"
        )


def _kind(schema: dict[str, Any]) -> str:
    """Name a schema's kind, with a link where it is a shape."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#shape-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    kind = schema.get("format") or schema.get("type", "any")
    bounds = [str(schema[key]) if key in schema else "" for key in ("minimum", "maximum")]
    limits = f" {'-'.join(bounds)}" if any(bounds) else ""
    default = f", {escape(str(schema['default']))} by default" if "default" in schema else ""
    return f"{escape(str(kind))}{limits}{default}"


def _text(text: str) -> str:
    """Escape a text, and mark what stands between backticks."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
