"""Execute a notebook without Jupyter, and print it as Markdown with its outputs: `python run.py NOTEBOOK.ipynb`.

The cells run in the working folder, in one namespace. The last expression of a cell is shown as text. An error of a cell
ends the run with its traceback.
"""

import ast
import contextlib
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any


def rendered(notebook: Path) -> str:
    """Return a notebook as Markdown: its text, its code, and what each cell prints and shows."""
    names: dict[str, Any] = {"__name__": "__main__"}
    parts = [f"<!-- made from {notebook.name} by `make notebooks`: edit the notebook -->"]
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"], start=1):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        shown = run(source, names, f"<cell {number}>")
        if shown:
            parts.append(f"```text\n{shown}\n```")
    return "\n\n".join(parts) + "\n"


def run(source: str, names: dict[str, Any], where: str) -> str:
    """Run a cell; return what it prints and the value of its last expression, without trailing spaces."""
    body = ast.parse(source, where).body
    last = ast.Expression(body.pop().value) if body and isinstance(body[-1], ast.Expr) else None  # type: ignore[attr-defined]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body, []), where, "exec"), names)  # noqa: S102 the notebook's own code
        value = eval(compile(last, where, "eval"), names) if last is not None else None  # noqa: S307 the same
        if value is not None:
            print(value)
    return "\n".join(line.rstrip() for line in printed.getvalue().rstrip().splitlines())


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    sys.path[0] = str(Path.cwd())  # as in Jupyter, where a module beside the notebook is found
    sys.stdout.write(rendered(Path(sys.argv[1]).resolve()))
