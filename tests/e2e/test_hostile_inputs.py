"""Input that is made to do harm: each is refused or taken as what it is, the log stays whole, and the rest goes on.

What is a gigabyte long is in `test_gigabyte.py`.
"""

import ast
import gzip
import re
import resource
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.builders import a_race, a_runner, write_csv, write_runner_table
from tests.support.cli import velo
from tests.support.shared import REPO
from velo.errors import UserError
from velo.streams.importers import rpscrape_tree, tables
from velo.streams.importers.csv_files import csv_rows

PACKAGES = ("velo", "feature_repo", "streams", "training", "serving", "benchmarks", "docs")
LONG = "x" * 10_000
NAMES = (
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    "two\nlines",
    "carriage\rreturn",
    "tab\tbed",
    "'; DROP TABLE runners; --",
    '"quoted"',
    "[red]markup[/red]",
    "{braces} %s $HOME `id`",
    "\u202eright to left",
    "e\u0301 combined",
    "\U0001f40e",
    LONG,
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    velo("down", home=home)


def whole(home: Path) -> None:
    """The log is what it says it is, nothing was written outside the home, and the tables can be made of it."""
    checked = velo("log", "check", home=home)
    assert checked.code == 0, checked
    assert velo("build", home=home).code == 0
    assert velo("status", home=home).code == 0
    assert {path.name for path in home.parent.iterdir()} <= {home.name, "in"}


def put_in(home: Path) -> Path:
    folder = home.parent / "in"
    folder.mkdir(exist_ok=True)
    return folder


def id_of(name: str) -> str:
    """A race id as hostile as a name, without what no race id may hold."""
    return "".join(each if unicodedata.category(each) != "Cc" else "_" for each in name)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_name_is_a_name_whatever_is_in_it(home: Path, kind: str) -> None:
    rows = [
        row
        for number, name in enumerate(NAMES)
        for row in a_race(
            a_runner(name, 1, trainer=name, jockey=name),
            a_runner("Arkle", 2),
            race_id=id_of(name),
            course=name,
            race_date=f"2024-05-{number + 1:02d}",
        )
    ]
    path = put_in(home) / f"rows.{kind}"
    (write_csv if kind == "csv" else write_runner_table)(path, rows)
    ran = velo("ingest", "runners", path, "--json", home=home)
    assert ran.code == 0, ran
    assert velo("dead-letters", home=home).code == 0
    whole(home)
    held = velo("sql", "select count(distinct horse_id) as horses from horse_form", "--json", home=home)
    assert held.document[0]["horses"] == len(NAMES) + 1


HOSTILE_MESSAGES: dict[str, bytes] = {
    "no JSON": b"{",
    "nothing": b"null",
    "a list": b"[" * 10_000 + b"]" * 10_000,
    "deep": b'{"type":"result","schema_version":2,"race_id":"D","x":' + b"[" * 900 + b"]" * 900 + b"}",
    "deeper than any parser": b'{"x":' * 100_000 + b"1" + b"}" * 100_000,
    "NaN": b'{"type":"market","schema_version":2,"race_id":"N","source":"s","prices":{"a":NaN}}',
    "Infinity": b'{"type":"market","schema_version":2,"race_id":"N","source":"s","prices":{"a":Infinity}}',
    "past all doubles": b'{"type":"market","schema_version":2,"race_id":"N","source":"s","prices":{"a":1e999}}',
    "many digits": b'{"type":"result","schema_version":2,"race_id":"N","race_no":' + b"9" * 5_000 + b"}",
    "half a character": b'{"type":"going_change","schema_version":2,"race_id":"H","going":"\\ud800"}',
    "no UTF-8": b'{"type":"going_change","schema_version":2,"race_id":"\xff\xfe","going":"Good"}',
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x93\x94.",
    "YAML": b"!!python/object/apply:os.system ['true']",
}
"""Each is refused; none of them is a line of the log."""


def a_result(race_id: str, horse: str, **more: Any) -> bytes:
    race = {"race_date": "2024-05-01", "off_time": "2024-05-01T13:30:00Z", "course": "Ascot"}
    winner = {"horse": horse, "trainer": horse, "status": "FINISHED", "position": 1}
    return orjson.dumps(
        {"type": "result", "schema_version": 2, "race_id": race_id, "result_version": 1, **race, "runners": [winner]}
        | more
    )


def test_a_feed_of_hostile_messages_is_put_aside_and_the_good_one_after_it_is_taken(home: Path) -> None:
    """Names of a feed may hold what those of files may, and a zero character besides; race ids no control character."""
    named = [a_result(id_of(name), name) for name in (*NAMES, "zero\0character")]
    twice = b'{"race_id":"first",' + a_result("second", "Twice Told")[1:]
    day = put_in(home) / "day.jsonl"
    day.write_bytes(b"\n".join([*HOSTILE_MESSAGES.values(), *named, twice, a_result("good", "Arkle")]) + b"\n")
    sent = velo("feed", "redis", day, "--key", "a feed\nof two lines", "--json", home=home)
    assert sent.code == 0, sent
    ran = velo("ingest", "--follow", "--redis", "a feed\nof two lines", "--once", "--json", home=home)
    assert ran.code == 0, ran
    refused = sum(ran.document["refused"].values())
    assert refused >= len(HOSTILE_MESSAGES)
    assert ran.document["taken"] == refused + ran.document["appended"]
    assert ran.document["appended"] >= len(NAMES) + 2
    assert velo("dead-letters", home=home).code == 0
    whole(home)
    races = velo("sql", "select race_id from runners where race_id in ('first', 'second', 'good')", "--json", home=home)
    assert sorted(each["race_id"] for each in races.document) == ["good", "second"], (
        "of a name given twice the last counts"
    )


def test_compressed_input_that_unpacks_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    """Many rows, or one line; 64 MB of either pack to some hundred kilobytes."""
    for name, content in (("rows", b"1,2\n" * 2**18), ("line", b"x" * 2**20)):
        path = tmp_path / f"{name}.csv.gz"
        path.write_bytes(gzip.compress(b"a,b\n" + content * 64))
        assert path.stat().st_size < 2**18
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError, match=r"a line of more than|unpacks to more than"):
            for _ in csv_rows(path, ["a"], "a test"):
                pass
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17, "in KB"


def test_a_table_that_claims_more_rows_than_there_are_races_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    group = pa.table(
        {"race_id": pa.array(["r"], pa.string()).dictionary_encode().take(pa.array([0] * 2**20, pa.int32()))}
    )
    with pq.ParquetWriter(path, group.schema, compression="zstd") as writer:
        for _ in range(tables._MOST_ROWS // 2**20 + 1):
            writer.write_table(group)
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match="rows, but a runner table has"):
        tables.read_table(path)


def same_text(text: str, rows: int) -> pa.Array:
    """A column that holds a text once, and names it in every row."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        (lambda: pa.array(["x" * 2**28], pa.large_string()), "bytes in the column note of 1 rows"),
        (lambda: same_text("x" * 2**23, 4000), "a text of 8,388,608"),
        (lambda: same_text("x" * 2**20, 2**14), "bytes of text"),
    ],
    ids=["one long text", "one in every row", "one as long as may be, in too many rows"],
)
def test_a_table_that_unpacks_to_texts_out_of_proportion_is_refused_before_they_are_unpacked(
    tmp_path: Path, notes: Callable[[], pa.Array], said: str
) -> None:
    """Some ten kilobytes each, that are a quarter of a gigabyte, 32 and 16 of them."""
    path = tmp_path / "bomb.parquet"
    note = notes()
    required = {name: ["1"] * len(note) for name in ("race_id", "race_date", "course", "horse", "status")}
    pq.write_table(pa.table({**required, "note": note}), path, compression="zstd", write_statistics=False)
    del note
    assert path.stat().st_size < 2**17
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=said):
        tables.read_table(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17, "in KB"


def test_a_header_or_a_card_file_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = tmp_path / "header.csv"
    header.write_bytes(b"x" * 2**23)
    with pytest.raises(UserError, match="cannot be read"):
        tables.read_table(header)
    cards = tmp_path / "cards.json"
    cards.write_bytes(b'{"GB":' * 200_000)
    with pytest.raises(UserError, match="is no JSON"):
        list(rpscrape_tree.races(cards))
    monkeypatch.setattr(rpscrape_tree, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="has more than 1,000 bytes"):
        list(rpscrape_tree.races(cards))


@pytest.mark.parametrize("folder", ["two\nlines 'quoted'", "{brace} %s $HOME"])
def test_a_home_and_a_file_may_have_any_name_that_is_no_pattern(tmp_path: Path, folder: str) -> None:
    home = tmp_path / folder / "home"
    home.parent.mkdir()
    path = write_csv(home.parent / f"{folder}.csv", a_race())
    commands = (("ingest", "runners", path), ("log", "check"), ("build",), ("sql", "select * from horse_form"))
    for argv in commands:
        ran = velo(*argv, home=home)
        assert ran.code == 0, (argv, ran)


def test_a_home_that_would_be_read_as_a_pattern_is_refused(tmp_path: Path) -> None:
    for name in ("a [b] c", "a*", "a?"):
        velo("init", home=tmp_path / name).told("pattern", "without them")
        assert not (tmp_path / name).exists()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("built") / "home"
    assert velo("ingest", "runners", write_csv(put_in(home) / "rows.csv", a_race()), home=home).code == 0
    assert velo("build", home=home).code == 0
    yield home
    velo("down", home=home)


@pytest.mark.parametrize(
    "argv",
    [
        ("models", "promote", "../../../tmp"),
        ("models", "promote", ".."),
        ("score", "../../etc/passwd"),
        ("score", LONG),
        ("explain", "a\nb", "c\0d"),
        ("dead-letters", "replay", "--file", "../nowhere/x.csv"),
        ("ingest", "runners", "no\0file"),
        ("ingest", "runners", "../../no\nfile.csv"),
        ("sql", "select * from read_csv('/etc/passwd')"),
        ("sql", "copy (select 1) to 'out.csv'"),
        ("sql", "attach 'x.db'"),
        ("sql", "install httpfs"),
    ],
    ids=lambda argv: " ".join(argv)[:30],
)
def test_an_argument_leads_nowhere_outside_the_store(built: Path, argv: tuple[str, ...]) -> None:
    """Refused in one line, and nothing is written."""
    before = {path for path in built.parent.rglob("*") if path.is_file()}
    velo(*argv, home=built).told()
    assert {path for path in built.parent.rglob("*") if path.is_file()} == before
    assert velo("log", "check", home=built).code == 0


# What the code itself never does

FORBIDDEN_IMPORTS = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "telnetlib",
}
FORBIDDEN_CALLS = {
    "yaml.load": "yaml.safe_load",
    "yaml.load_all": "yaml.safe_load_all",
    "yaml.unsafe_load": "yaml.safe_load",
    "yaml.full_load": "yaml.safe_load",
    "os.system": "subprocess.run of a list",
    "os.popen": "subprocess.run of a list",
    "subprocess.getoutput": "subprocess.run of a list",
    "pd.read_pickle": "Parquet",
    "pandas.read_pickle": "Parquet",
    "tempfile.mktemp": "tempfile.mkdtemp",
}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((REPO / package).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def test_nothing_is_unpickled_no_yaml_makes_objects_and_no_shell_is_built() -> None:
    for path, tree in sources():
        for node in ast.walk(tree):
            where = f"{path.relative_to(REPO)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                names = {(module or alias.name).split(".")[0] for alias in node.names}
                assert not names & FORBIDDEN_IMPORTS, where
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in FORBIDDEN_CALLS, f"{where}: use {FORBIDDEN_CALLS[called]}"
                for keyword in node.keywords:
                    given = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                    assert keyword.arg not in ("shell", "allow_pickle") or given, f"{where}: {keyword.arg}"


def test_a_secret_comes_from_the_environment_alone() -> None:
    """No file of the project has a word that looks like one, beside the names of variables and those that tests make up."""
    for path, tree in sources():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                named = " ".join(ast.unparse(target) for target in node.targets).casefold()
                if re.fullmatch(r"[A-Z_]+", node.value.value):
                    continue
                assert not any(word in named for word in ("password", "secret", "token")), f"{path}:{node.lineno}"
