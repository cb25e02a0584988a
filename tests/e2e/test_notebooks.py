"""The notebooks run, open in Jupyter, keep no outputs, and their pages in the docs are what they print now."""

import difflib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import OURS, velo
from tests.support.shared import REPO

FOLDER = REPO / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_notebooks_and_each_has_its_page() -> None:
    assert NOTEBOOKS
    assert {path.stem for path in NOTEBOOKS} == {path.stem for path in FOLDER.glob("*.md")}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_of_jupyters_format_4_and_keeps_no_outputs(notebook: Path) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert content["metadata"]["kernelspec"]["language"] == "python"
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_page_of_a_notebook_is_what_it_prints_now(notebook: Path, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    try:
        done = subprocess.run(
            [sys.executable, FOLDER / "run.py", notebook],
            cwd=tmp_path,
            env=kept | {"PYTHONPATH": str(REPO)},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    finally:
        velo("down", home=tmp_path / "store")
    assert done.returncode == 0, done.stderr[-3000:]
    page = notebook.with_suffix(".md").read_text(encoding="utf-8")
    changed = "\n".join(difflib.unified_diff(page.splitlines(), done.stdout.splitlines(), lineterm=""))
    assert not changed, f"run `make notebooks`:\n{changed}"
