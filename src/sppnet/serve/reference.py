"""The API described on a page of its own, out of its OpenAPI document, with nothing from elsewhere."""

from html import escape
from typing import Any

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API of sppnet</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/page.css">
<main class="reference">
<h1>API of sppnet {version}</h1>
<p>{description} Answers are JSON; the full description is <a href="/openapi.json">openapi.json</a>, and
the <a href="/">page</a> uses nothing else. Errors are <code>{{"error": …}}</code>; with 429 and 503,
<code>Retry-After</code> says in how many seconds to come back.</p>
{operations}
</main>
</html>
"""


def reference_page(document: dict[str, Any]) -> str:
    """HTML."""
    operations = [
        _section(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    info = document["info"]
    return PAGE.format(
        version=escape(info["version"]),
        description=escape(info["description"]),
        operations="\n".join(operations),
    )


def _section(method: str, path: str, operation: dict[str, Any]) -> str:
    lines = [f"<h2><code>{method.upper()} {escape(path)}</code></h2>"]
    lines += [f"<p>{escape(part)}</p>" for part in operation.get("description", "").split("\n\n")]
    for parameter in operation.get("parameters", []):
        default = parameter["schema"].get("default", "the model's")
        lines.append(f"<p><code>?{escape(parameter['name'])}=</code> by default {escape(str(default))}</p>")
    kinds = [f"<code>{escape(kind)}</code>" for kind in operation.get("requestBody", {}).get("content", {})]
    lines += [f"<p>Body: {' or '.join(kinds)}</p>"] if kinds else []
    return f"<section>{''.join(lines)}</section>"
