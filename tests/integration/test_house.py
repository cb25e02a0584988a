"""The house stands: what is installed is pinned, what the README shows exists, and the parts keep to their rooms."""

import ast
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

REPO = Path(__file__).resolve().parents[2]
STAGES = ("feature_repo", "streams", "training", "serving")
PACKAGES = ("velo", *STAGES)
LOCKS = ("requirements.lock", "requirements-dev.lock")
HAS_CLI = (REPO / "velo" / "cli.py").exists() or (REPO / "velo" / "cli").is_dir()
needs_cli = pytest.mark.skipif(not HAS_CLI, reason="velo.cli is not built yet")


def text(name: str) -> str:
    """The text of a file of the repository."""
    return (REPO / name).read_text(encoding="utf-8")


def pyproject() -> dict[str, Any]:
    """The parsed pyproject.toml."""
    return tomllib.loads(text("pyproject.toml"))


def tracked() -> list[Path]:
    """Every file that git tracks or would: the skip is for an unpacked archive."""
    if shutil.which("git") is None or not (REPO / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files are the project's own")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := REPO / name).is_file()]


def pins(lock: str) -> set[Requirement]:
    """The pinned requirements of a lock file."""
    return {Requirement(line.rstrip(" \\")) for line in text(lock).splitlines() if re.match(r"[A-Za-z]", line)}


# What is installed


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_index_and_no_host(lock: str) -> None:
    """A lock installs from whatever index the machine is set up with, or from none."""
    for line in text(lock).splitlines():
        assert "://" not in line, line
        assert not re.search(r"--(extra-)?index|--find-links|--trusted-host", line), line


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_is_exact_and_hashed(lock: str) -> None:
    entries = re.split(r"\n(?=[A-Za-z])", text(lock))[1:]
    assert len(entries) > 50
    for entry in entries:
        first = entry.splitlines()[0]
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^ ]+", first), first
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), first


def test_developers_run_the_versions_that_users_run() -> None:
    """Every runtime pin stands in the development lock, at the same version."""
    developing = {(pin.name, str(pin.specifier)) for pin in pins("requirements-dev.lock")}
    assert {(pin.name, str(pin.specifier)) for pin in pins("requirements.lock")} <= developing


def test_the_locks_satisfy_the_project() -> None:
    """A dependency added to pyproject.toml without `make lock` is noticed here, not at a user's install."""
    project = pyproject()["project"]
    for lock, wanted in (
        ("requirements.lock", project["dependencies"]),
        ("requirements-dev.lock", project["dependencies"] + project["optional-dependencies"]["dev"]),
    ):
        versions: dict[str, list[str]] = {}
        for pin in pins(lock):
            (exact,) = pin.specifier
            versions.setdefault(re.sub(r"[-_.]+", "-", pin.name).lower(), []).append(exact.version)
        for line in wanted:
            requirement = Requirement(line)
            found = versions.get(re.sub(r"[-_.]+", "-", requirement.name).lower(), [])
            assert found, f"{requirement.name} is not in {lock}: run make lock"
            assert all(requirement.specifier.contains(version, prereleases=True) for version in found), (lock, line)


def test_the_build_backend_is_locked_so_that_nothing_is_fetched_unpinned() -> None:
    backend = {Requirement(line).name for line in pyproject()["build-system"]["requires"]}
    unconditional = {pin.name for pin in pins("requirements-dev.lock") if pin.marker is None}
    assert backend | {"wheel"} <= unconditional


def test_every_file_a_package_needs_is_installed_with_it() -> None:
    """A query, a definition or a page beside the code is package data: an install holds what a checkout holds."""
    globs = pyproject()["tool"]["setuptools"]["package-data"]["*"]
    for path in tracked():
        if path.relative_to(REPO).parts[0] in PACKAGES and path.suffix not in {".py", ".md"} and not path.is_symlink():
            assert any(fnmatch.fnmatch(path.name, glob) for glob in globs), f"{path} is in no package-data glob"


def test_setup_without_a_python_says_what_to_install(tmp_path: Path) -> None:
    place = tmp_path / "a b"
    place.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements-dev.lock"):
        shutil.copy(REPO / name, place / name)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "setup", "PYTHON="], cwd=place, env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    printed = done.stderr.splitlines()
    assert printed[0].startswith("Python 3.11 or 3.12 with venv is needed and none was found on PATH: install it")
    assert not (place / ".venv").exists()


# What the documents show


def documents() -> list[Path]:
    """The documents a reader follows."""
    return [REPO / "README.md", REPO / "CHANGELOG.md", *sorted((REPO / "docs").rglob("*.md"))]


def test_every_make_target_that_the_documents_name_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), flags=re.MULTILINE))
    for document in [*documents(), REPO / ".ci" / "run"]:
        named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", document.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert named <= targets, f"{document.name} names {sorted(named - targets)}"
    assert {"setup", "demo", "test", "check"} <= targets


def test_the_readme_opens_with_one_command_for_the_job_and_one_for_the_tests() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", text("README.md"), flags=re.MULTILINE | re.DOTALL)
    assert blocks[:2] == ["make demo\n", "make test\n"]
    assert text("README.md").index("make test\n```") < text("README.md").index("\n## ")


@needs_cli
def test_every_velo_command_that_the_documents_name_exists(tmp_path: Path) -> None:
    from tests.support.cli import velo

    named: set[tuple[str, ...]] = set()
    for document in documents():
        for line in re.findall(
            r"(?:^|`)velo ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)?)", document.read_text(encoding="utf-8")
        ):
            named.add(tuple(line.split()))
    assert ("demo",) in named
    for command in sorted(named):
        shown = velo(*command, "--help", home=tmp_path)
        assert shown.code == 0, f"velo {' '.join(command)}: {shown.err}"


def test_every_environment_variable_that_the_code_reads_is_in_the_readme() -> None:
    read: set[str] = set()
    for package in PACKAGES:
        for path in (REPO / package).rglob("*.py"):
            read |= set(re.findall(r"""["'](VELO_[A-Z_]+|REDIS_URL)["']""", path.read_text(encoding="utf-8")))
    found = set(re.findall(r"^\| `([A-Z_]+)` \|", text("README.md"), flags=re.MULTILINE))
    assert {"VELO_HOME", "VELO_TIMEZONE", "VELO_KEYS", "REDIS_URL"} <= found
    assert read <= found, f"not in README.md: {sorted(read - found)}"


def test_the_composed_redis_has_a_password_and_is_not_open_to_the_network() -> None:
    composed = yaml.safe_load(text("docker-compose.yml"))
    redis = composed["services"]["redis"]
    assert redis["ports"] == ["127.0.0.1:${REDIS_PORT:-6379}:6379"]
    assert redis["environment"]["REDIS_PASSWORD"].startswith("${REDIS_PASSWORD:?"), "no password, no start"
    assert '--requirepass "$$REDIS_PASSWORD"' in redis["command"][-1]
    assert "redis-cli ping" in redis["healthcheck"]["test"][-1]
    volume, mounted = redis["volumes"][0].split(":")
    assert mounted == "/data"
    assert volume in composed["volumes"]


def test_the_composed_broker_starts_only_when_asked_for_and_is_not_open_to_the_network() -> None:
    composed = yaml.safe_load(text("docker-compose.yml"))
    broker = composed["services"]["redpanda"]
    assert broker["profiles"] == ["kafka", "ingest"]
    assert broker["ports"] == ["127.0.0.1:${KAFKA_PORT:-19092}:19092"]
    assert re.fullmatch(r"redpandadata/redpanda:v\d+\.\d+\.\d+", broker["image"]), "a version, not the latest"
    assert "--set=redpanda.auto_create_topics_enabled=false" in broker["command"], "a made-up topic has its partitions"
    volume, mounted = broker["volumes"][0].split(":")
    assert mounted == "/var/lib/redpanda/data"
    assert volume in composed["volumes"]
    assert all(service["image"] for service in composed["services"].values())


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    """A path or a host that holds on one machine alone has no place in the project."""
    hosts = ["py" + "pi.org", "python" + "hosted.org", "registry.npm" + "js", "deb.deb" + "ian.org"]
    unwelcome = re.compile(r"(?<![\w.$}])/(?:home|root|Users|work|opt)/\w|" + "|".join(map(re.escape, hosts)))
    for path in tracked():
        content = path.read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode("utf-8").splitlines(), start=1):
            assert not unwelcome.search(line), f"{path.relative_to(REPO)}:{number}: {line.strip()}"


# What may import what


def lint_imports(place: Path) -> "subprocess.CompletedProcess[str]":
    """Run the import contracts of the pyproject.toml in `place` on the packages there."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as c; c()",
            "--no-cache",
            "--no-logo",
        ],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_import_contracts_hold() -> None:
    done = lint_imports(REPO)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def small_house(tmp_path: Path) -> Path:
    """The packages with nothing in them, under the project's own contracts."""
    for package in (
        "velo",
        *(f"velo/{stage}" for stage in STAGES),
        "benchmarks",
        "velo/racing",
        "velo/api",
        "velo/commands",
        "velo/storage",
    ):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    for module in (
        "velo/errors",
        "velo/settings",
        "velo/cli",
        "velo/streams/log",
        "velo/training/model",
        "velo/training/bundle",
        "velo/commands/bench",
    ):
        (tmp_path / f"{module}.py").touch()
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_allow_what_the_layout_allows(small_house: Path) -> None:
    for module, line in (
        ("velo/cli", "import velo.streams, velo.training, velo.serving, velo.feature_repo"),
        ("velo/api/race_store", "import velo.streams, velo.training, velo.serving, velo.feature_repo"),
        ("velo/commands/build", "import velo.streams.batch, velo.training, velo.serving, velo.feature_repo"),
        ("velo/commands/bench", "import benchmarks"),
        ("velo/racing/odds", "import velo.errors, decimal"),
        ("velo/storage/log", "import velo.racing, velo.errors, orjson, pyarrow"),
        ("velo/streams/build", "import velo.feature_repo, velo.racing, duckdb"),
        ("velo/training/dataset", "import velo.feature_repo, velo.training.model"),
        ("velo/serving/score", "import velo.training.bundle, velo.feature_repo"),
        ("benchmarks/build", "import velo.streams.batch, velo.feature_repo, velo.settings"),
    ):
        (small_house / f"{module}.py").write_text(f"{line}\n", encoding="utf-8")
    done = lint_imports(small_house)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_contracts_find_every_import_that_crosses_a_wall(small_house: Path) -> None:
    """Each module has one import too many, and the report names each of them."""
    crossing = (
        ("velo.settings", "velo.streams"),
        ("velo.status", "velo.feature_repo"),
        ("velo.racing.odds", "velo.settings"),
        ("velo.racing.going", "numpy"),
        ("velo.feature_repo.definitions", "velo.streams"),
        ("velo.feature_repo.stores", "velo.training.bundle"),
        ("velo.streams.build", "velo.training"),
        ("velo.streams.sinks", "velo.serving"),
        ("velo.training.dataset", "velo.streams.batch"),
        ("velo.serving.score", "velo.training.model"),
        ("velo.serving.page", "velo.streams.batch"),
        ("velo.streams.batch", "benchmarks"),
        ("velo.storage.tables", "benchmarks"),
        ("velo.storage.log", "velo.streams"),
        ("velo.storage.locks", "velo.feature_repo"),
        ("velo.storage.jsonl", "velo.commands"),
    )
    for importer, imported in crossing:
        (small_house / f"{importer.replace('.', '/')}.py").write_text(f"import {imported}\n", encoding="utf-8")
    done = lint_imports(small_house)
    assert done.returncode == 1, done.stdout + done.stderr
    for importer, imported in crossing:
        assert f"{importer} -> {imported} (l.1)" in done.stdout


@pytest.mark.skipif(not (REPO / "velo" / "racing").is_dir(), reason="velo.racing is not built yet")
def test_racing_imports_the_standard_library_and_the_errors_alone() -> None:
    for path in sorted((REPO / "velo" / "racing").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path.name}:{node.lineno}: a relative import"
                base = str(node.module)
                names = [f"velo.{alias.name}" for alias in node.names] if base == "velo" else [base]
            else:
                continue
            for name in names:
                own = name.startswith("velo.racing") or name == "velo.errors"
                assert own or name.split(".")[0] in sys.stdlib_module_names, f"{path.name}:{node.lineno}: {name}"


@needs_cli
def test_the_command_line_starts_without_feast_and_without_the_stages() -> None:
    """`velo --help` answers at once: feast alone costs seconds to import."""
    asked = f"import sys, velo.cli; print(sorted({{'feast', 'bytewax', 'lightgbm', 'sklearn', *{[f'velo.{stage}' for stage in STAGES]!r}}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", asked], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_no_class_name_occurs_twice() -> None:
    """A name leads to one class, so a reader who searches for it finds it."""
    places: dict[str, list[str]] = {}
    for package in (*PACKAGES, "benchmarks"):
        for path in sorted((REPO / package).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(str(path.relative_to(REPO)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
