"""The reference of the interface as a page (`/docs`): made of the OpenAPI document here, nothing loaded from elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

METHODS: Final = ("get", "post")
_NONE: Final = "–"


def page(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    routes = "".join(
        _route(method, path, operation)
        for path, of_path in document["paths"].items()
        for method, operation in of_path.items()
        if method in METHODS
    )
    schemas = "".join(_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items()))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        '<link rel="icon" href="/desk/icon.svg"><link rel="stylesheet" href="/desk/reference.css">'
        f"<main><h1>{title}</h1><p>{escape(info['description'])}"
        ' The document itself: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"{routes}<h2>Schemas</h2>{schemas}</main></html>"
    )


def _route(method: str, path: str, operation: Mapping[str, Any]) -> str:
    head = f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('description', ''))}</p>"
    given = [
        (parameter["name"], parameter["in"], _kind(parameter["schema"]), parameter.get("description", ""))
        for parameter in operation.get("parameters", [])
    ]
    if body := operation.get("requestBody"):
        given.append(("body", "body", ", ".join(_kind(content["schema"]) for content in body["content"].values()), ""))
    answers = [
        (
            status,
            answer["description"],
            ", ".join(_kind(content.get("schema", {})) for content in answer.get("content", {}).values()),
        )
        for status, answer in operation["responses"].items()
    ]
    asked = _table(("what is sent", "in", "type", "meaning"), given) if given else ""
    return head + asked + _table(("status", "meaning", "answer"), answers)


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    fields = [
        (field, _kind(of_field), "required" if field in required else "", of_field.get("description", ""))
        for field, of_field in schema.get("properties", {}).items()
    ]
    about = schema.get("description", "")
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{escape(about)}</p>' + (
        _table(("field", "type", "", "meaning"), fields) if fields else ""
    )


def _kind(schema: Mapping[str, Any]) -> str:
    """A type in words; a schema's own name where it has one."""
    if reference := schema.get("$ref"):
        return str(reference).rpartition("/")[2]
    if choices := schema.get("anyOf"):
        return " or ".join(_kind(choice) for choice in choices)
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return " ".join(str(schema[name]) for name in ("type", "format") if name in schema) or _NONE


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def cells(kind: str, row: tuple[str, ...]) -> Iterator[str]:
        return (f"<{kind}>{escape(cell)}</{kind}>" for cell in row)

    body = "".join(f"<tr>{''.join(cells('td', row))}</tr>" for row in rows)
    return f"<table><thead><tr>{''.join(cells('th', heads))}</tr></thead><tbody>{body}</tbody></table>"
