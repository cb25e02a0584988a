"""Scenarios of `velo bench faults` that damage a file, one for each kind of file in a store."""

import shutil
from pathlib import Path
from typing import Any, Final

from benchmarks import fault_harness
from benchmarks.fault_harness import NOTHING, Recovery, Sandbox, recovered_by, refused
from velo.feature_repo.catalogue.families import BY_VIEW
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect
from velo.feature_repo.stores.redis_layout import Layout
from velo.storage import table_versions
from velo.storage.log.format import segments
from velo.training import bundle

LONGER_THAN_ANY_VALUE: Final = 2**14
"""Bytes to damage in Redis's file, so that the damage is not within a single value, where only an audit would find it."""


def torn_tail(sandbox: Sandbox) -> Recovery:
    """Half a record at the log's end, from a write that was never acknowledged."""
    last = segments(sandbox.home)[-1].path
    line = last.read_bytes().splitlines(keepends=True)[-1]
    with last.open("ab") as file:
        file.write(line[: len(line) // 2])
    result = sandbox.velo("log", "check", "--json")
    if result.code != 1 or "a write was interrupted" not in result.out:
        raise RuntimeError(f"log check missed a torn tail: {result.out}")
    return Recovery(
        "`velo log check`: `… not a whole record (a write was interrupted)`", NOTHING, "the next writer removes it", 0.0
    )


def lost_tail(sandbox: Sandbox) -> Recovery:
    """The last acknowledged record cut short. No crash does this, only a faulty disk."""
    fault_harness.cut(segments(sandbox.home)[-1].path, 40)
    seen = refused(sandbox, "build")
    lost = "that record, unless its file or feed is still there"
    return recovered_by(sandbox, seen, ("ingest", "runners", sandbox.first), ("build",), lost=lost)


def changed_record(sandbox: Sandbox) -> Recovery:
    """One digit of a record in the middle changed: it is still valid JSON, and only the checksum differs."""
    path = segments(sandbox.home)[0].path
    lines = path.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    lines[middle] = lines[middle].replace(b'"position":2', b'"position":3', 1)
    path.write_bytes(b"".join(lines))
    seen = refused(sandbox, "build", "--whole")
    sandbox.restore(f"log/{path.name}")
    return recovered_by(sandbox, seen, ("build", "--whole"), first="restore the segment from the backup",
                 lost="nothing with a backup, else that record")  # fmt: skip


def changed_part(sandbox: Sandbox) -> Recovery:
    """Bytes within a page of a table changed: it is readable and holds other values."""
    fault_harness.change(_part(sandbox, "trainer_velocity"), 0.4)
    return recovered_by(sandbox, refused(sandbox, "audit"), ("build", "--whole"))


def cut_part(sandbox: Sandbox) -> Recovery:
    """A table cut short: it is unreadable."""
    fault_harness.cut(_part(sandbox, "horse_form"), 500)
    sandbox.succeed("ingest", "runners", sandbox.later)
    return recovered_by(sandbox, refused(sandbox, "build"), ("build", "--whole"))


def changed_manifest(sandbox: Sandbox) -> Recovery:
    """The manifest of a generation overwritten."""
    (sandbox.home.offline / table_versions.MANIFEST).write_bytes(b"\0" * 200)
    return recovered_by(sandbox, refused(sandbox, "stream", "--once"), ("build", "--whole"))


def changed_cache(sandbox: Sandbox) -> Recovery:
    """The build's cache of measured starts damaged."""
    fault_harness.change(next(sandbox.home.batch.glob("starts-*.parquet")), 0.4)
    sandbox.succeed("ingest", "runners", sandbox.later)
    return recovered_by(sandbox, refused(sandbox, "build"), ("build", "--whole"))


def changed_recovery(sandbox: Sandbox) -> Recovery:
    """Bytewax's recovery store overwritten."""
    folder = next(sandbox.home.recovery.iterdir())
    for path in folder.iterdir():
        path.write_bytes(b"\0" * 4096)
    seen = refused(sandbox, "stream", "--once")
    shutil.rmtree(folder)
    return recovered_by(sandbox, seen, ("stream", "--once"), first="remove that folder")


def changed_bundle(sandbox: Sandbox) -> Recovery:
    """One byte of the serving model changed."""
    fault_harness.change(sandbox.home.models / bundle.current(sandbox.home) / "model.txt", 0.5, 1)
    seen = refused(sandbox, "score", "any race")
    return recovered_by(sandbox, seen, ("models", "rollback"))


def changed_redis(sandbox: Sandbox) -> Recovery:
    """The data of the store's own Redis damaged while its server is down."""
    data = embedded_redis.data_path(sandbox.home)
    fault_harness.change(_largest(data), 0.5, LONGER_THAN_ANY_VALUE)
    seen = refused(sandbox, "online", "rebuild")
    fault_harness.remove(data)
    return recovered_by(sandbox, seen, ("online", "rebuild"), first="remove it")


def changed_value(sandbox: Sandbox) -> Recovery:
    """One byte of a row in the data of the store's own Redis changed. Redis starts, since its file has no checksums."""
    client: Any = connect(sandbox.home)
    layout = Layout.of(BY_VIEW["horse_form"])
    rows = [client.hget(key, layout.packed_field) for key in client.scan_iter(_type="hash") if layout.owns(key)]
    client.close()
    embedded_redis.down(sandbox.home)
    path = _largest(embedded_redis.data_path(sandbox.home))
    content = bytearray(path.read_bytes())
    row = next(row for row in rows if row and content.count(row) == 1)
    content[content.index(row) + len(row) - 1] ^= 0x40
    path.write_bytes(content)
    result = sandbox.velo("audit")
    if result.code != 1:
        raise RuntimeError(f"the audit missed a changed value in Redis: {result.out}")
    return recovered_by(
        sandbox, f"`velo audit` (exits 1): `{result.line('difference')}`", ("online", "rebuild", "--clear")
    )


def changed_registry(sandbox: Sandbox) -> Recovery:
    """Feast's registry overwritten."""
    entities = sandbox.backup.root / "entities.csv"
    entities.write_text("horse_id,event_timestamp\nnobody,2024-02-01T12:00:00Z\n")
    command = ("features", "--entities", entities, "--out", sandbox.backup.root / "out.parquet")
    sandbox.home.registry.write_bytes(b"\0" * 200)
    seen = refused(sandbox, *command)
    sandbox.home.registry.unlink()
    recovery = recovered_by(sandbox, seen, command, first="remove that file")
    return Recovery(recovery.seen, recovery.lost, "remove that file, and the same command again", recovery.back_seconds)


def changed_identity(sandbox: Sandbox) -> Recovery:
    """The file with the store's time zone, keys and epochs overwritten."""
    sandbox.home.identity.write_bytes(b"{")
    seen = refused(sandbox, "status")
    sandbox.restore("store.json")
    return recovered_by(sandbox, seen, ("status",), first="restore it from the backup")


def _largest(data: Path) -> Path:
    """Redis's data file, or the largest one of its folder."""
    return max(data.iterdir(), key=lambda path: path.stat().st_size) if data.is_dir() else data


def _part(sandbox: Sandbox, view: str) -> Path:
    return next((sandbox.home.offline / view).glob("batch-*.parquet"))
