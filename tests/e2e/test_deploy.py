"""What is composed is what runs: Docker is not needed to find a word that is wrong in its files.

Docker itself is not run here. The commands are, as far as a machine without it can: those of velo by the real command
line, the health checks against what they ask, Redis's own with a real server.
"""

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, start_http_server
from redis import Redis

from tests.support.cli import velo
from tests.support.logs import NOON, a_store, told
from tests.support.shared import REPO
from velo.feature_repo.stores.embedded_redis import executable
from velo.serving.api.service import Metrics
from velo.storage.log.writer import LogWriter
from velo.storage.store import Home
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.metrics_server import StoreWatch
from velo.supervisor import STOP_S

DEPLOY = REPO / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
KEYS = set(
    "image build restart init environment volumes read_only cap_drop security_opt command depends_on healthcheck ports "
    "profiles tmpfs user stop_grace_period mem_limit pids_limit logging".split()
)
"""The keys of a service that this file uses, of those that the Compose Specification has."""
HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period"}
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|KEY$")


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    written: dict[str, Any] = yaml.safe_load((REPO / "docker-compose.yml").read_text(encoding="utf-8"))
    return written


def ours(composed: dict[str, Any]) -> dict[str, Any]:
    """The services that run velo."""
    return {name: service for name, service in composed["services"].items() if service["image"].startswith("velo:")}


def asked_for(port: int, test: list[str]) -> list[str]:
    """A health check's own command with another port, this Python for the image's."""
    assert test[:3] == ["CMD", "python", "-c"]
    return [sys.executable, "-c", re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{port}", test[3])]


# The file


def test_every_service_has_known_keys_a_pinned_image_and_a_health_check(composed: dict[str, Any]) -> None:
    assert set(composed) == {"x-velo", "services", "volumes"}
    for name, service in composed["services"].items():
        assert set(service) <= KEYS, name
        assert re.fullmatch(r"[a-z/]+:v?\d+(\.\d+){1,2}(-alpine)?", service["image"]), (
            f"{name}: a version, not the latest"
        )
        assert service["restart"] == "unless-stopped"
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, f"{name}: its log would fill the disk"
        assert set(service.get("healthcheck", {})) <= HEALTH_KEYS
        assert "healthcheck" in service or name == "ingest", f"{name}: the image's own asks the store alone"
        for other in service.get("depends_on", {}):
            profiles = set(service.get("profiles", [])), set(composed["services"][other].get("profiles", []))
            assert profiles[0] <= profiles[1] or not profiles[1], f"{other} is not there when {name} is asked for"


def test_nothing_is_open_to_the_network_and_no_secret_is_in_the_file(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} listens on {port}"
        for variable, value in service.get("environment", {}).items():
            if SECRET.search(variable) and value is not True:
                assert re.match(r"\$\{[A-Z_]+(:[?-][^}]*)?\}$", value) or value == "true", f"{name}: {variable}"
            assert not re.search(r"://[^$]*:[^$@]+@", str(value)), f"{name}: {variable} has a password"
    for path in [*DEPLOY.rglob("*.yml"), *DASHBOARDS]:
        assert not re.search(r"(?i)password|secret|token", path.read_text(encoding="utf-8")), path


def test_what_is_mounted_exists_and_every_volume_is_declared(composed: dict[str, Any]) -> None:
    used = set()
    for service in composed["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (REPO / source).exists(), source
                assert mount.endswith(":ro")
            else:
                used.add(source)
    assert used == set(composed["volumes"])


def test_velo_runs_without_rights_that_it_does_not_need(composed: dict[str, Any]) -> None:
    assert {"velo", "ingest"} == set(ours(composed))
    for each in ours(composed).values():
        assert each["read_only"] is True
        assert each["cap_drop"] == ["ALL"]
        assert each["security_opt"] == ["no-new-privileges:true"]
        assert each["mem_limit"]
        assert each["pids_limit"]
        assert int(each["stop_grace_period"].removesuffix("s")) > STOP_S, "the stream writes its last checkpoint"


# Its commands


def test_every_composed_command_is_one_that_velo_has(composed: dict[str, Any], tmp_path: Path) -> None:
    """By the real command line: it reads all options before it answers `--help`, and refuses one it does not have."""
    assert velo("stream", "--no-such-option", "--help", home=tmp_path).code == 2
    for name, each in ours(composed).items():
        shown = velo(*each["command"], "--help", home=tmp_path)
        assert shown.code == 0, f"{name}: {shown.err}"


def test_the_health_checks_of_velo_say_yes_when_it_answers_and_no_when_it_does_not(composed: dict[str, Any]) -> None:
    server, thread = start_http_server(0, addr="127.0.0.1", registry=Telemetry().registry)
    checks = [asked_for(server.server_port, ours(composed)["velo"]["healthcheck"]["test"])]
    try:
        for check in checks:
            assert subprocess.run(check, check=False, capture_output=True).returncode == 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    for check in checks:
        assert subprocess.run(check, check=False, capture_output=True).returncode != 0


def test_redis_starts_by_its_composed_command_and_keeps_what_it_acknowledged(
    composed: dict[str, Any], tmp_path: Path
) -> None:
    """The same shell line, on a port of its own, where `redis-server` is this machine's."""
    (tmp_path / "redis-server").symlink_to(executable())
    (shell, flag, line), socket = composed["services"]["redis"]["command"], tmp_path / "s"
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDIS_PASSWORD": "made-up"}
    line = line.replace("$$", "$") + f" --port 0 --unixsocket {shlex.quote(str(socket))}"
    with subprocess.Popen([shell, flag, line], cwd=tmp_path, env=environ, stdout=subprocess.DEVNULL) as server:
        client = Redis(unix_socket_path=str(socket), password="made-up")
        try:
            for _ in range(200):
                if socket.exists() or server.poll() is not None:
                    break
                try:
                    server.wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        finally:
            server.terminate()


# The image


def test_the_image_is_pinned_hashed_without_root_and_has_every_package() -> None:
    lines = (REPO / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    bases = [line for line in lines if line.startswith("FROM ")]
    assert all(re.match(r"FROM python:3\.11\.\d+-slim-bookworm( AS \w+)?$", line) for line in bases)
    assert any("--require-hashes --requirement requirements.lock" in line for line in lines)
    assert not re.search(r"://|index-url|trusted-host", "\n".join(lines))
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] not in ("0", "root")
    copied = {line.split()[1] for line in lines if line.startswith("COPY ") and "--from" not in line}
    assert copied == {"requirements.lock", "velo", "feature_repo", "streams", "training", "serving", "benchmarks"}
    kept = (REPO / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{each}" for each in copied} <= set(kept)
    assert kept[1] == "*", "what is not named is not sent to the builder"


def test_the_images_own_health_check_runs(tmp_path: Path) -> None:
    (check,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", (REPO / "Dockerfile").read_text(), flags=re.MULTILINE)
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", (REPO / "Dockerfile").read_text(), flags=re.MULTILINE)
    command = json.loads(check)
    assert command[: len(json.loads(entry))] == json.loads(entry) == ["python", "-m", "velo.cli"]
    assert velo(*command[3:], home=tmp_path / "home").code == 0


def test_systemd_holds_the_socket_of_a_service_that_velo_starts() -> None:
    units = {}
    for kind in ("service", "socket"):
        # an option may be given twice: the last one is read
        units[kind] = configparser.ConfigParser(strict=False, interpolation=None)
        units[kind].read(DEPLOY / f"velo.{kind}", encoding="utf-8")
    assert units["service"]["Unit"]["Requires"] == "velo.socket"
    assert re.fullmatch(r"127\.0\.0\.1:\d+", units["socket"]["Socket"]["ListenStream"])
    _, command, *options = shlex.split(units["service"]["Service"]["ExecStart"])
    assert command == "up"
    assert velo(command, *options, "--help", home=Path("unused")).code == 0


# What is watched


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every figure that velo gives Prometheus, by name as it is asked for, with its labels."""
    registries: list[CollectorRegistry] = [Telemetry().registry]
    watch = CollectorRegistry()
    watch.register(StoreWatch(Home(tmp_path_factory.mktemp("home")), lambda: NOON))
    registries.append(watch)
    registries.append(Metrics().registry)
    found: dict[str, set[str]] = {"up": {"job", "instance"}}
    for registry in registries:
        for collector in registry._collector_to_names:
            own = set(getattr(collector, "_labelnames", ()))
            described = {
                family.name: set(getattr(family, "_labelnames", ()))
                for family in collector.describe()  # type: ignore[attr-defined]  # ours have it
            }
            for name in registry._collector_to_names[collector]:
                found[name] = own | described.get(name, set()) | ({"le"} if name.endswith("_bucket") else set())
    return found


def alerts() -> list[dict[str, Any]]:
    written = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in written["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """Every PromQL expression that is committed, and where."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", target["expr"]


def test_every_figure_that_is_drawn_or_watched_exists_with_its_labels(figures: dict[str, set[str]]) -> None:
    asked = list(queries())
    assert len(asked) > 25
    for where, expr in asked:
        assert expr.count("(") == expr.count(")"), where
        names = set(re.findall(r"\b(?:velo_[a-z_]+|up)\b", expr))
        assert names, where
        assert names <= set(figures), f"{where}: {sorted(names - set(figures))}"
        known = set().union(*(figures[name] for name in names))
        grouped = {label.strip() for by in re.findall(r"by \(([^)]*)\)", expr) for label in by.split(",")}
        chosen = set(re.findall(r"[{,]\s*(\w+)\s*=", expr))
        assert grouped | chosen <= known, f"{where}: {sorted((grouped | chosen) - known)}"


def test_every_alarm_has_its_paragraph_in_the_runbook_and_every_paragraph_its_alarm() -> None:
    paragraphs = re.findall(
        r"^### `([A-Za-z]+)`$", (REPO / "docs" / "runbook.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert sorted(paragraphs) == sorted(rule["alert"] for rule in alerts())
    for rule in alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "look")
        assert rule["annotations"]["summary"]


def test_prometheus_looks_where_the_services_are(composed: dict[str, Any]) -> None:
    written = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    assert written["rule_files"] == ["alerts.yml"]
    for job in written["scrape_configs"]:
        ((target,),) = (config["targets"] for config in job["static_configs"])
        service, port = target.split(":")
        assert service == "velo"
        assert port in composed["services"][service]["command"]


def test_the_dashboard_is_provisioned_from_where_it_is_mounted(composed: dict[str, Any]) -> None:
    mounted = dict(reversed(mount.split(":")[:2]) for mount in composed["services"]["grafana"]["volumes"])
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/velo.yml").read_text())["providers"]
    assert REPO / mounted[provider["options"]["path"]] == DEPLOY / "grafana" / "dashboards"
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    home = composed["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).name in {path.name for path in DASHBOARDS}
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            assert panel["datasource"]["uid"] == source["uid"]


# The watch itself


def test_the_watch_shows_the_stores_ages_in_seconds_and_leaves_out_what_it_does_not_know(tmp_path: Path) -> None:
    store = a_store(tmp_path / "home", "Europe/London")

    def seen(after: timedelta) -> dict[str, float]:
        collected = StoreWatch(store.home, lambda: NOON + after).collect()
        return {sample.name: sample.value for family in collected for sample in family.samples}

    empty = seen(timedelta(0))
    assert empty["velo_store_log_messages"] == 0
    assert empty["velo_store_disk_free_bytes"] > 0
    assert "velo_store_log_silent_seconds" not in empty, "a log without a message was never told anything"
    assert "velo_store_tables_age_seconds" not in empty
    with LogWriter.open(store, clock=lambda: NOON) as writer:
        writer.load([told("R0", NOON - timedelta(hours=1))])
    later, earlier = seen(timedelta(hours=1)), seen(timedelta(hours=-2))
    assert (later["velo_store_log_silent_seconds"], later["velo_store_log_ahead_seconds"]) == (7200, 0)
    assert (earlier["velo_store_log_silent_seconds"], earlier["velo_store_log_ahead_seconds"]) == (0, 3600)
    store.home.dead_letters.write_bytes(b"{}\n")
    assert seen(timedelta(0))["velo_store_dead_letters_bytes"] == 3
