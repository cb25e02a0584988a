"""The documents are true: commands run as printed, and links, paths, modules and step names exist."""

import os
import pkgutil
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.support import forked
from tests.support.cli import OURS, velo
from tests.support.shared import REPO
from velo.cli import app
from velo.streams.dataflow.cards_sink import CardsSink
from velo.streams.dataflow.parquet_sink import ParquetSink
from velo.streams.dataflow.redis_sink import RedisSink
from velo.streams.dataflow.sinks import DeadLetterSink
from velo.streams.importers import registry

DOCS = sorted((REPO / "docs").glob("*.md"))
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")
WITH_COMMANDS = [doc for doc in DOCS if BLOCK.search(doc.read_text(encoding="utf-8"))]
EXEMPT = re.compile(r"^```console$|^# not run:", re.MULTILINE)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `velo`, `feast` and `python` for a shell's path."""
    with forked.programs(tmp_path_factory.mktemp("bin")) as folder:
        yield folder


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small made-up season."""
    path = tmp_path_factory.mktemp("season") / "season.parquet"
    options = ("--days", 40, "--races-per-year", 900, "--start", "2024-01-01")
    assert velo("simulate", path, *options, home=path.parent).code == 0
    return path


@pytest.mark.parametrize("doc", WITH_COMMANDS, ids=lambda doc: doc.stem)
def test_the_commands_of_a_page_run_from_top_to_bottom(doc: Path, tmp_path: Path, programs: Path, season: Path) -> None:
    """In a folder with a made-up season, as if it were the checkout; the store is the page's own."""
    home = tmp_path / "data"
    shutil.copy(season, tmp_path)
    for folder in ("feature_repo", "docs"):
        (tmp_path / folder).symlink_to(REPO / folder)
    text = doc.read_text(encoding="utf-8")
    script = "".join(
        f"echo '## line {text[: block.start()].count(chr(10)) + 2}' >&2\n{block[1]}" for block in BLOCK.finditer(text)
    )
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    environ = {
        **kept,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
        "VELO_HOME": str(home),
    }
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
    finally:
        for store in (home, tmp_path / "store"):
            velo("down", home=store)
    assert done.returncode == 0, f"{doc.name}: {done.stderr[-2000:]}"
    assert "## line" in done.stderr
    for shown in PRINTED.findall(text):
        assert shown in done.stdout, f"{doc.name} shows what its commands do not print:\n{shown}"


PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WITH_PYTHON = [REPO / "README.md", REPO / "docs" / "python.md"]


@pytest.mark.parametrize("doc", WITH_PYTHON, ids=lambda doc: doc.stem)
def test_the_python_of_a_page_runs_from_top_to_bottom(doc: Path, tmp_path: Path) -> None:
    blocks = PYTHON.findall(doc.read_text(encoding="utf-8"))
    assert blocks
    (tmp_path / "page.py").write_text("\n".join(blocks))
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    code, out, err = forked.ran("page", (), cwd=tmp_path, environ=kept, seconds=300.0)
    assert code == 0, err[-2000:]
    assert out
    assert {path.name for path in tmp_path.iterdir()} - {"page.py", "__pycache__"} == {"store"}


@pytest.mark.parametrize("doc", [REPO / "README.md", *DOCS], ids=lambda doc: doc.stem)
def test_links_lead_somewhere_and_what_is_not_run_is_rare(doc: Path) -> None:
    text = doc.read_text(encoding="utf-8")
    for target in LINK.findall(text):
        assert (doc.parent / target).exists(), f"{doc.name} links to {target}"
    assert len(EXEMPT.findall(text)) <= 2


@cache
def velo_command() -> Any:
    """The command line of `velo`, made once."""
    return typer.main.get_command(app)


def subcommands(command: Any) -> dict[str, Any]:
    """The commands of a group by name; the group of the importers lists them when asked."""
    context = typer.Context(command)
    listed: list[str] = getattr(command, "list_commands", lambda _: [])(context)
    return {name: command.get_command(context, name) for name in listed}


def test_the_readme_names_every_command() -> None:
    """But for the importers, which `velo ingest --help` lists."""

    def words(command: Any) -> Iterator[str]:
        for name, subcommand in subcommands(command).items():
            yield from words(subcommand) if subcommands(subcommand) else [name]

    text = re.sub(r"```.*?```", "", (REPO / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    named = set(re.findall(r"[a-z-]+", " ".join(re.findall(r"`([^`]+)`", text))))
    importers = {name.removesuffix(registry.CARDS) for name in registry.names()}
    assert sorted(set(words(velo_command())) - named - importers) == []


TYPED = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*velo ([a-z].*?)(?: &)?$", re.MULTILINE)
INLINE = re.compile(r"`(?:[A-Z_]+=\S+ )*velo ([a-z][^`]*)`")
NOT_RUN = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("doc", [REPO / "README.md", *DOCS], ids=lambda doc: doc.stem)
def test_a_command_that_is_named_and_not_run_has_every_word_and_option_it_is_named_with(doc: Path) -> None:
    """In `console` blocks and within sentences: by the command line's own account of itself."""
    text = doc.read_text(encoding="utf-8")
    named = INLINE.findall(text) + [line for block in NOT_RUN.findall(text) for line in TYPED.findall(block)]
    for line in named:
        for typed in re.split(r", (?=velo )", line):
            words = shlex.split(typed.removeprefix("velo ").replace("…", ""))
            command: Any = velo_command()
            while words and words[0] in (inner := subcommands(command)):
                command = inner[words.pop(0)]
            assert not subcommands(command) or not words or words[0].startswith(("-", "…")), (
                f"{doc.name}: `velo {typed}` is not a command"
            )
            known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help"}
            named_options = {word.partition("=")[0] for word in words if word.startswith("--")}
            strange = sorted(named_options - known)
            assert not strange, f"{doc.name}: `velo {typed}` has no {', '.join(strange)}"


FOLDERS = ("velo", "feature_repo", "streams", "training", "serving", "benchmarks", "tests", "docs", "deploy")
INLINE_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
A_PATH = re.compile(rf"^(?:{'|'.join(FOLDERS)})/[\w./-]*$")
A_MODULE = re.compile(rf"^(?!velo\.toml$)(?:{'|'.join(FOLDERS[:6])})(?:\.\w+)+$")
PLACEHOLDER = "test_X"
GUIDES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *DOCS]


def words_in_code(doc: Path) -> set[str]:
    """The words within a document's inline code, without the arguments of a call."""
    return {
        word.partition("(")[0]
        for code in INLINE_CODE.findall(doc.read_text(encoding="utf-8"))
        for word in code.split()
        if PLACEHOLDER not in word
    }


@pytest.mark.parametrize("doc", GUIDES, ids=lambda doc: doc.stem)
def test_every_file_and_folder_that_a_document_names_exists(doc: Path) -> None:
    named = {word for word in words_in_code(doc) if A_PATH.match(word)}
    assert sorted(path for path in named if not (REPO / path).exists()) == []


@pytest.mark.parametrize("doc", GUIDES, ids=lambda doc: doc.stem)
def test_every_module_and_object_that_a_document_names_exists(doc: Path) -> None:
    """A dotted name is a module, or an object in one."""
    for name in sorted(word for word in words_in_code(doc) if A_MODULE.match(word) and word != "velo.toml"):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError) as missing:
            pytest.fail(f"{doc.name} names {name}: {missing}")


def test_the_documents_name_files_and_modules_at_all() -> None:
    """So that the two tests above cannot pass for want of names."""
    named = set().union(*(words_in_code(doc) for doc in GUIDES))
    assert len({word for word in named if A_PATH.match(word)}) > 40
    assert len({word for word in named if A_MODULE.match(word)}) > 10


def test_the_architecture_names_every_step_of_the_dataflow() -> None:
    """By the step ids of the graph itself and of the sinks."""
    graph = (REPO / "streams" / "dataflow" / "graph.py").read_text(encoding="utf-8")
    steps = {*re.findall(r'\bop\.\w+\(\s*"([a-z-]+)"', graph)}
    steps |= {sink.step for sink in (CardsSink, DeadLetterSink, ParquetSink, RedisSink)}
    assert {"log", "version", "resequence", "roll", "to-view"} <= steps
    assert sorted(steps - words_in_code(REPO / "docs" / "architecture.md")) == []
