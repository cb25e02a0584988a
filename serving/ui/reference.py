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
        _route(method, path, told)
        for path, of_path in document["paths"].items()
        for method, told in of_path.items()
        if method in METHODS
    )
    schemas = "".join(_schema(name, one) for name, one in sorted(document["components"]["schemas"].items()))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        '<link rel="icon" href="/desk/icon.svg"><link rel="stylesheet" href="/desk/reference.css">'
        f"<main><h1>{title}</h1><p>{escape(info['description'])}"
        ' The document itself: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"{routes}<h2>Schemas</h2>{schemas}</main></html>"
    )


def _route(method: str, path: str, told: Mapping[str, Any]) -> str:
    head = f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(told.get('description', ''))}</p>"
    given = [
        (one["name"], one["in"], _kind(one["schema"]), one.get("description", "")) for one in told.get("parameters", [])
    ]
    if body := told.get("requestBody"):
        given.append(("body", "body", ", ".join(_kind(one["schema"]) for one in body["content"].values()), ""))
    answers = [
        (
            status,
            one["description"],
            ", ".join(_kind(held.get("schema", {})) for held in one.get("content", {}).values()),
        )
        for status, one in told["responses"].items()
    ]
    asked = _table(("what is sent", "in", "type", "meaning"), given) if given else ""
    return head + asked + _table(("status", "meaning", "answer"), answers)


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    fields = [
        (field, _kind(one), "required" if field in required else "", one.get("description", ""))
        for field, one in schema.get("properties", {}).items()
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
        return " or ".join(_kind(one) for one in choices)
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return " ".join(str(schema[name]) for name in ("type", "format") if name in schema) or _NONE


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def cells(kind: str, row: tuple[str, ...]) -> Iterator[str]:
        return (f"<{kind}>{escape(cell)}</{kind}>" for cell in row)

    body = "".join(f"<tr>{''.join(cells('td', row))}</tr>" for row in rows)
    return f"<table><thead><tr>{''.join(cells('th', heads))}</tr></thead><tbody>{body}</tbody></table>"
