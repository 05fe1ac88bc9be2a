"""`/docs`: a page made from the schema, whole in itself, because many servers run where nothing else can be reached."""

import json
from collections import defaultdict
from collections.abc import Mapping
from html import escape
from string import Template
from typing import Any

from fastapi import FastAPI, Response

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
code, pre { font: 14px/1.5 ui-monospace, monospace; }
pre { background: #f3f3f3; border-radius: 4px; overflow-x: auto; padding: .5rem; }
summary { cursor: pointer; padding: .2rem 0; }
b.method { display: inline-block; min-width: 4rem; }
@media (prefers-color-scheme: dark) { body { background: #16181d; color: #e6e6e6; } pre { background: #24272e; } }
</style>
</head>
<body>
<h1>$title $version</h1>
<p>The REST form of the inference protocol, as this server has it. A program reads the same at
<a href="openapi.json">openapi.json</a>.</p>
$groups
</body>
</html>
""")
_ROUTE = Template("""<details>
<summary><b class="method">$method</b> <code>$path</code> $summary</summary>
<pre>$call</pre>
</details>
""")


def add_documentation(app: FastAPI) -> None:
    """Add the page; it is made when it is first asked for."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(page_from_schema(app.openapi()), media_type="text/html; charset=utf-8")


def page_from_schema(schema: Mapping[str, Any]) -> str:
    """Render an OpenAPI schema: the routes by their tags, each with a call to copy."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            (tag,) = operation["tags"]
            groups[tag].append(_route(path, method.upper(), operation))
    sections = "".join(f"<h2>{escape(tag)}</h2>\n{''.join(routes)}" for tag, routes in groups.items())
    info = schema["info"]
    return _PAGE.substitute(title=escape(info["title"]), version=escape(info["version"]), groups=sections)


def _route(path: str, method: str, operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    example = content.get("application/json", {}).get("example")
    call = f"curl -X {method} localhost:8000{path}"
    if example is not None:
        call += f" \\\n  -d '{json.dumps(example)}'"
    return _ROUTE.substitute(
        method=method, path=escape(path), summary=escape(operation.get("summary", ""), quote=False), call=escape(call)
    )
