"""The OpenAPI document of what this service serves, made from the endpoints and their models."""

from __future__ import annotations

import re
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from app.api.answers.common import Problem
from app.keys import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import BaseModel
    from pydantic.json_schema import JsonSchemaMode

    from app.endpoint import Answer, Endpoint

    Endpoints = Iterable[tuple[str, Endpoint]]

_REF = "#/components/schemas/"
PROBLEM_TYPE = "application/problem+json"
_ABOUT = """\
Every Facebook Messenger conversation of many Pages, mirrored.

`/api` takes a key, `Authorization: Bearer ...`, of a role: each operation says which, and each role may do what those
before it may: `read`, `operate`, `admin`. Errors are problems (RFC 9457); where one thing of the request is wrong,
`field` names it. Lists are `{data, next}`: pass `next` as `cursor` to go on, until it is null. Times are in UTC."""
_MEANS = {
    401: "no key, or none that is known",
    403: "the key's role may not do this: `needed_role` may",
    404: "there is none such",
    408: "the body took too long",
    409: "there is one already",
    410: "what it goes on from is gone: start over",
    413: "the body is too large",
    422: "something in the request is wrong: `field` names it",
    429: "the key asks too often",
    500: "a fault of the service's; its log says which",
    502: "Facebook can't be asked now",
    503: "the database is not there now: try again",
}
_PATH_KINDS = {"uuid": {"type": "string", "format": "uuid"}}


def document(endpoints: Endpoints) -> dict[str, Any]:
    """Make the document."""
    endpoints = list(endpoints)
    schemas = _Schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for prefix, endpoint in endpoints:
        paths.setdefault(prefix + endpoint.template, {})[endpoint.method.lower()] = _operation(
            prefix, endpoint, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "messenger-mirror", "version": version("messenger-mirror"), "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": _roles()}},
        },
    }


def _roles() -> str:
    return f"A key of the API. Roles: {', '.join(role.word for role in Role)}; each may do what those before it may."


class _Schemas:
    """The models' schemas: one component for each."""

    def __init__(self, endpoints: Endpoints) -> None:
        wanted: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(Problem, "serialization"): None}
        for _, endpoint in endpoints:
            wanted[endpoint.query, "validation"] = None
            if endpoint.body is not None:
                wanted[endpoint.body, "validation"] = None
            for answer in endpoint.answers.values():
                if answer.model is not None:
                    wanted[answer.model, "serialization"] = None
        refs, found = models_json_schema(list(wanted), ref_template=_REF + "{model}")
        definitions = found.get("$defs", {})
        self._names = _names(definitions)
        self._refs = {key: self._names[str(value["$ref"]).removeprefix(_REF)] for key, value in refs.items()}
        self._definitions = {self._names[name]: self._renamed(value) for name, value in definitions.items()}
        queries = {self._refs[endpoint.query, "validation"] for _, endpoint in endpoints}
        self.components = {name: self._definitions[name] for name in sorted(self._definitions.keys() - queries)}

    def _renamed(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: _REF + self._names[inner.removeprefix(_REF)] if key == "$ref" else self._renamed(inner)
                for key, inner in value.items()
                if key != "title" or not isinstance(inner, str)  # a property may be called so
            }
        return [self._renamed(inner) for inner in value] if isinstance(value, list) else value

    def of(self, model: type[BaseModel], mode: JsonSchemaMode) -> Mapping[str, Any]:
        """A reference to a model's component."""
        return {"$ref": _REF + self._refs[model, mode]}

    def parameters(self, query: type[BaseModel]) -> list[dict[str, Any]]:
        """A query's fields as parameters."""
        schema = self._definitions[self._refs[query, "validation"]]
        needed = set(schema.get("required", ()))
        return [
            _parameter("query", name, _not_null(value), is_required=name in needed)
            for name, value in schema.get("properties", {}).items()
        ]


def _names(definitions: Iterable[str]) -> dict[str, str]:
    """Names for people: what a handler reads is private to its module, and often called as in another."""
    names = {name: re.sub(r"^(?:\w+__)?(\w+?)___(\w+)$", _joined, name).strip("_") for name in definitions}
    public = {name for name in definitions if not name.startswith(("_", "app__"))}
    return {name: f"{nice}Given" if name not in public and nice in public else nice for name, nice in names.items()}


def _joined(match: re.Match[str]) -> str:
    return match[1].capitalize() + match[2]


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is there or not; it can't be null."""
    kept = {key: value for key, value in schema.items() if key != "anyOf"}
    others = [value for value in schema.get("anyOf", ()) if value != {"type": "null"}]
    if len(others) == 1:
        kept = {**others[0], **kept}
    elif others:
        kept["anyOf"] = others
    return {key: value for key, value in kept.items() if (key, value) != ("default", None)}


def _parameter(where: str, name: str, schema: dict[str, Any], *, is_required: bool) -> dict[str, Any]:
    schema = dict(schema)
    made: dict[str, Any] = {"name": name, "in": where, "required": is_required}
    if "description" in schema:
        made["description"] = schema.pop("description")
    if schema.get("type") == "array":
        made |= {"style": "form", "explode": False}
    return {**made, "schema": schema}


def _operation(prefix: str, endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    summary, _, description = endpoint.about.partition("\n\n")
    made: dict[str, Any] = {
        "operationId": _operation_id(prefix, endpoint),
        "summary": summary.replace("\n", " ").rstrip("."),
        "tags": [_tag(prefix, endpoint)],
        "parameters": [
            *_path_parameters(endpoint.path),
            *schemas.parameters(endpoint.query),
            *(
                _parameter("header", name, {"type": "string", "description": text}, is_required=False)
                for name, text in endpoint.headers.items()
            ),
        ],
        "responses": {
            **{str(status): _answer(answer, schemas) for status, answer in sorted(endpoint.answers.items())},
            **{str(status): _problem(status, schemas) for status in sorted(endpoint.refuses - endpoint.answers.keys())},
            "500": _problem(500, schemas),
        },
        "security": [{"key": [endpoint.role.word]}] if endpoint.role is not None else [],
    }
    if description:
        made["description"] = description.replace("\n", " ")
    if endpoint.role is not None:
        made["x-role"] = endpoint.role.word
    if endpoint.body is not None:
        schema = schemas.of(endpoint.body, "validation")
        made["requestBody"] = {"required": True, "content": {endpoint.body_type: {"schema": schema}}}
    elif endpoint.takes_any:
        made["requestBody"] = {"required": True, "content": {endpoint.body_type: {"schema": {}}}}
    return made


def _operation_id(prefix: str, endpoint: Endpoint) -> str:
    words = re.findall(r"\w+", prefix + endpoint.template)
    return "_".join([endpoint.method.lower(), *words])


def _tag(prefix: str, endpoint: Endpoint) -> str:
    words = re.findall(r"[\w-]+", endpoint.template)
    return words[0] if prefix or words[0] in {"webhook", "facebook"} else "service"


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        _parameter("path", name, _PATH_KINDS.get(kind, {"type": "string", "minLength": 1}), is_required=True)
        for name, kind in re.findall(r"\{(\w+)(?::(\w+))?\}", path)
    ]


def _answer(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    made: dict[str, Any] = {"description": answer.means}
    if answer.headers:
        made["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    if answer.model is not None:
        schema = schemas.of(answer.model, "serialization")
        made["content"] = {answer.media_type or "application/json": {"schema": schema}}
    elif answer.media_type is not None:
        made["content"] = {answer.media_type: {"schema": answer.schema or {"type": "string"}}}
    return made


def _problem(status: int, schemas: _Schemas) -> dict[str, Any]:
    means = _MEANS.get(status, HTTPStatus(status).phrase.lower())
    made: dict[str, Any] = {
        "description": means,
        "content": {PROBLEM_TYPE: {"schema": schemas.of(Problem, "serialization")}},
    }
    if status in {429, 503}:
        made["headers"] = {"Retry-After": {"description": "in how many seconds", "schema": {"type": "string"}}}
    return made
