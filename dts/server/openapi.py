"""The interface as OpenAPI 3.1, made from what the handlers declare, so that it cannot say anything else."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from dts.server.access.roles import PUBLIC, TABLE, roles_for
from dts.server.consts import CONTENT_JSON, ErrorCode
from dts.server.handlers._base import DtsHandler
from dts.server.handlers.declare import Declaration, declaration_of
from dts.version import __version__

Json = dict[str, Any]

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_REFERENCE = "#/components/schemas/{name}"
_PATTERNS = {"number": "^[0-9]{1,12}$", "seq": "^[0-9]{1,15}$"}

_SIGNED_ERRORS = (
    ErrorCode.ARGUMENT_INVALID,
    ErrorCode.UNAUTHORIZED,
    ErrorCode.FORBIDDEN,
    ErrorCode.LIMIT_EXCEEDED,
    ErrorCode.STORE_UNAVAILABLE,
)

_SIGNATURE = {
    "type": "apiKey",
    "in": "header",
    "name": "Authorization",
    "description": "DTS-KECCAK-256 v=2, uid=…, ts=…, nonce=…, digest=…, sig=…: HMAC with Keccak-256 over the request's "
    "head and its body's SHA-256, see docs/signature.md",
}

_ERROR = {
    "type": "object",
    "title": "Error",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string", "enum": sorted(code.code for code in ErrorCode)},
                "message": {"type": "string"},
                "limit": {"type": "string"},
            },
        }
    },
}


def describe(routes: Iterable[tuple[str, type[DtsHandler]]]) -> Json:
    """The OpenAPI document of the routes, given as templates and handlers."""
    schemas = _Schemas()
    paths: Json = {}
    for template, handler in routes:
        methods = {
            method.lower(): _operation(method, template, handler, declaration, schemas)
            for method in _METHODS
            if (declaration := _declared(method, template, handler)) is not None
        }
        if methods:
            paths[template] = methods
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DTS",
            "version": __version__,
            "description": "A distributed task scheduler. Every success is an object with `result`, every failure one "
            "with `error`; see docs/rest.md.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR, **schemas.components},
            "securitySchemes": {"signature": _SIGNATURE},
        },
    }


def _declared(method: str, template: str, handler: type[DtsHandler]) -> Declaration | None:
    if template not in PUBLIC and (method, template) not in TABLE:
        return None
    return declaration_of(getattr(handler, method.lower()))


class _Schemas:
    """The schemas of types, with those of Structs among the components."""

    def __init__(self) -> None:
        self.components: Json = {}

    def of(self, kind: Any) -> Json:
        """The schema of a type."""
        (schema,), components = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
        self.components.update(components)
        return schema

    def fields(self, kind: type[msgspec.Struct]) -> tuple[Json, Sequence[str]]:
        """The schemas of a Struct's fields, and which are required; the Struct itself is no component."""
        _, components = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
        own = components.pop(kind.__name__)
        self.components.update(components)
        return own.get("properties", {}), own.get("required", [])


def _resolved(shape: Any, handler: type[DtsHandler]) -> Any:
    """The type of a shape that may be the name of an attribute of the handler's resource."""
    if not isinstance(shape, str):
        return shape
    resource = handler.resource  # type: ignore[attr-defined]
    return list[resource.view] if shape == "views" else getattr(resource, shape)  # type: ignore[name-defined]


def _operation(
    method: str, template: str, handler: type[DtsHandler], declaration: Declaration, schemas: _Schemas
) -> Json:
    documentation = inspect.getdoc(getattr(handler, method.lower())) or ""
    summary, _, more = documentation.partition("\n")
    operation: Json = {
        "operationId": f"{handler.__name__.removesuffix('Handler')}.{method.lower()}",
        "summary": summary,
        "tags": [re.split(r"/(?!admin)", template.strip("/"))[0]],
        "parameters": list(_parameters(method, template, handler, declaration, schemas)),
        "responses": _responses(method, template, handler, declaration, schemas),
    }
    if template not in PUBLIC:
        operation["security"] = [{"signature": []}]
        more += f"\n\nRoles: {', '.join(roles_for(method, template))}."
    if more.strip():
        operation["description"] = more.strip()
    if declaration.body is not None:
        operation["requestBody"] = _body(_resolved(declaration.body, handler), declaration.accepts, schemas)
    return operation


def _parameters(
    method: str, template: str, handler: type[DtsHandler], declaration: Declaration, schemas: _Schemas
) -> Iterable[Json]:
    for name in re.findall(r"\{(\w+)\}", template):
        schema = {"type": "string", "minLength": 1}
        if name in _PATTERNS:
            schema = {"type": "string", "pattern": _PATTERNS[name]}
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    if declaration.query is not None:
        properties, required = schemas.fields(_resolved(declaration.query, handler))
        for name, schema in properties.items():
            yield {"name": name, "in": "query", "required": name in required, "schema": _without_null(schema)}
    if ErrorCode.VERSION_MISMATCH in declaration.errors:
        description = "the version that was read, as its ETag says it, or several of which one must be the present one"
        schema = {"type": "string", "pattern": '^("[0-9]+"(, *"[0-9]+")*|\\*)$'}
        yield {"name": "If-Match", "in": "header", "required": False, "schema": schema, "description": description}
    if ErrorCode.KEY_CONFLICT in declaration.errors:
        description = "the same for a request and its repeats, which then make no more jobs"
        schema = {"type": "string", "pattern": "^[!-~]([ -~]{0,62}[!-~])?$"}
        about = {"required": False, "schema": schema, "description": description}
        yield {"name": "Idempotency-Key", "in": "header", **about}


def _without_null(schema: Json) -> Json:
    """A schema for what is written in a query, where there is no null."""
    kept = {name: value for name, value in schema.items() if not (name == "default" and value is None)}
    if "anyOf" in kept:
        choices = [choice for choice in kept.pop("anyOf") if choice != {"type": "null"}]
        return {**kept, **choices[0]} if len(choices) == 1 else {**kept, "anyOf": choices}
    return kept


def _body(kind: Any, accepts: Sequence[str], schemas: _Schemas) -> Json:
    content: Json = {media: {"schema": {"type": "string", "contentMediaType": media}} for media in accepts}
    if CONTENT_JSON in accepts:
        content[CONTENT_JSON]["schema"] = {
            "type": "object",
            "required": ["params"],
            "properties": {"params": schemas.of(kind)},
            "additionalProperties": False,
        }
    return {"required": True, "content": content}


def _responses(
    method: str, template: str, handler: type[DtsHandler], declaration: Declaration, schemas: _Schemas
) -> Json:
    responses: Json = {}
    for code in sorted(_errors(method, template, handler, declaration), key=lambda code: code.status):
        response = responses.setdefault(
            str(code.status),
            {"description": "", "content": {CONTENT_JSON: {"schema": {"$ref": _REFERENCE.format(name="Error")}}}},
        )
        response["description"] += f"{', ' if response['description'] else ''}`{code.code}`"
        if code in (ErrorCode.LIMIT_EXCEEDED, ErrorCode.STORE_UNAVAILABLE):
            response["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    for status in declaration.statuses:
        responses[str(status)] = _success(_resolved(declaration.answer, handler), declaration, schemas)
    return dict(sorted(responses.items()))


def _success(answer: Any, declaration: Declaration, schemas: _Schemas) -> Json:
    content: Json = {media: {} for media in declaration.gives}
    if answer is not None and CONTENT_JSON in content:
        content[CONTENT_JSON]["schema"] = {
            "type": "object",
            "required": ["result"],
            "properties": {"result": schemas.of(answer)},
        }
    response: Json = {"description": "done", "content": content}
    if declaration.headers:
        response["headers"] = {name: {"schema": {"type": "string"}} for name in declaration.headers}
    return response


def _errors(method: str, template: str, handler: type[DtsHandler], declaration: Declaration) -> set[ErrorCode]:
    """All errors that a method may answer with; and that of the methods that its path does not have."""
    errors = {*declaration.errors, ErrorCode.METHOD_NOT_ALLOWED}
    if method in ("PATCH", "DELETE"):
        errors.update(getattr(getattr(handler, "resource", None), "conflicts", ()))
    if template not in PUBLIC:
        errors.update(_SIGNED_ERRORS)
    if "{" in template:
        errors.update((ErrorCode.NOT_FOUND, ErrorCode.ARGUMENT_INVALID))
    if declaration.body is not None:
        errors.update((ErrorCode.ARGUMENT_MISSING, ErrorCode.JSON_INVALID, ErrorCode.TOO_LARGE))
        errors.update((ErrorCode.NAME_INVALID,) if CONTENT_JSON in declaration.accepts else (ErrorCode.BODY_INVALID,))
    return errors
