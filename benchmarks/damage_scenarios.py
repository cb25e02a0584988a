"""Scenes of `velo bench faults` in which a file is damaged: of each kind that a store has."""

import shutil
from pathlib import Path
from typing import Any, Final

from benchmarks import fault_harness
from benchmarks.fault_harness import Scene
from benchmarks.fault_report import NOTHING, Recovery, recovered_by, refused
from velo.feature_repo.catalogue.families import BY_VIEW
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect
from velo.feature_repo.stores.redis_layout import Layout
from velo.storage import table_versions
from velo.storage.log.format import segments
from velo.training import bundle

LONGER_THAN_ANY_VALUE: Final = 2**14
"""Bytes of Redis's file that hold more than values: within one alone, only an audit would see a change."""


def torn_tail(scene: Scene) -> Recovery:
    """Half a record at the log's end: of a write that was never acknowledged."""
    last = segments(scene.home)[-1].path
    line = last.read_bytes().splitlines(keepends=True)[-1]
    with last.open("ab") as file:
        file.write(line[: len(line) // 2])
    said = scene.velo("log", "check", "--json")
    if said.code != 1 or "a write was cut short" not in said.out:
        raise RuntimeError(f"a torn tail went unseen: {said.out}")
    return Recovery(
        "`velo log check`: `… no whole record (a write was cut short)`", NOTHING, "the next writer cuts it", 0.0
    )


def lost_tail(scene: Scene) -> Recovery:
    """The last acknowledged record cut short: worse than any crash does, and so a disk's doing."""
    fault_harness.cut(segments(scene.home)[-1].path, 40)
    seen = refused(scene, "build")
    lost = "that record, unless its file or feed is still there"
    return recovered_by(scene, seen, ("ingest", "runners", scene.first), ("build",), lost=lost)


def changed_record(scene: Scene) -> Recovery:
    """One digit of a record in the middle: JSON as good as before, and only its checksum knows."""
    path = segments(scene.home)[0].path
    lines = path.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    lines[middle] = lines[middle].replace(b'"position":2', b'"position":3', 1)
    path.write_bytes(b"".join(lines))
    seen = refused(scene, "build", "--whole")
    scene.restore(f"log/{path.name}")
    return recovered_by(scene, seen, ("build", "--whole"), first="restore the segment from the backup",
                 lost="nothing with a backup, else that record")  # fmt: skip


def changed_part(scene: Scene) -> Recovery:
    """Bytes within a page of a table: it can be read, and says something else."""
    fault_harness.change(_part(scene, "trainer_velocity"), 0.4)
    return recovered_by(scene, refused(scene, "audit"), ("build", "--whole"))


def cut_part(scene: Scene) -> Recovery:
    """A table's end gone: nobody can read it."""
    fault_harness.cut(_part(scene, "horse_form"), 500)
    scene.succeed("ingest", "runners", scene.later)
    return recovered_by(scene, refused(scene, "build"), ("build", "--whole"))


def changed_manifest(scene: Scene) -> Recovery:
    """What the tables are of cannot be read."""
    (scene.home.offline / table_versions.MANIFEST).write_bytes(b"\0" * 200)
    return recovered_by(scene, refused(scene, "stream", "--once"), ("build", "--whole"))


def changed_cache(scene: Scene) -> Recovery:
    """Measured starts, kept between builds."""
    fault_harness.change(next(scene.home.batch.glob("starts-*.parquet")), 0.4)
    scene.succeed("ingest", "runners", scene.later)
    return recovered_by(scene, refused(scene, "build"), ("build", "--whole"))


def changed_recovery(scene: Scene) -> Recovery:
    """Bytewax's own store of where the stream was."""
    folder = next(scene.home.recovery.iterdir())
    for path in folder.iterdir():
        path.write_bytes(b"\0" * 4096)
    seen = refused(scene, "stream", "--once")
    shutil.rmtree(folder)
    return recovered_by(scene, seen, ("stream", "--once"), first="remove that folder")


def changed_bundle(scene: Scene) -> Recovery:
    """One byte of the model that serves."""
    fault_harness.change(scene.home.models / bundle.current(scene.home) / "model.txt", 0.5, 1)
    seen = refused(scene, "score", "any race")
    return recovered_by(scene, seen, ("models", "rollback"))


def changed_redis(scene: Scene) -> Recovery:
    """What the store's own Redis kept on the disk, its server down."""
    kept = embedded_redis.data_path(scene.home)
    fault_harness.change(_largest(kept), 0.5, LONGER_THAN_ANY_VALUE)
    seen = refused(scene, "online", "rebuild")
    fault_harness.remove(kept)
    return recovered_by(scene, seen, ("online", "rebuild"), first="remove it")


def changed_value(scene: Scene) -> Recovery:
    """One byte of a row that the store's own Redis kept: it starts as if nothing were, for it sums what it keeps nowhere."""
    client: Any = connect(scene.home)
    layout = Layout.of(BY_VIEW["horse_form"])
    rows = [client.hget(key, layout.packed_field) for key in client.scan_iter(_type="hash") if layout.owns(key)]
    client.close()
    embedded_redis.down(scene.home)
    path = _largest(embedded_redis.data_path(scene.home))
    content = bytearray(path.read_bytes())
    row = next(one for one in rows if one and content.count(one) == 1)
    content[content.index(row) + len(row) - 1] ^= 0x40
    path.write_bytes(content)
    said = scene.velo("audit")
    if said.code != 1:
        raise RuntimeError(f"a changed value in Redis went unseen: {said.out}")
    return recovered_by(scene, f"`velo audit` (exits 1): `{said.line('difference')}`", ("online", "rebuild", "--clear"))


def changed_registry(scene: Scene) -> Recovery:
    """Feast's registry."""
    asked = scene.backup.root / "asked.csv"
    asked.write_text("horse_id,event_timestamp\nnobody,2024-02-01T12:00:00Z\n")
    command = ("features", "--entities", asked, "--out", scene.backup.root / "out.parquet")
    scene.home.registry.write_bytes(b"\0" * 200)
    seen = refused(scene, *command)
    scene.home.registry.unlink()
    account = recovered_by(scene, seen, command, first="remove that file")
    return Recovery(account.seen, account.lost, "remove that file, and the same command again", account.back_seconds)


def changed_identity(scene: Scene) -> Recovery:
    """The store's time zone, keys and epochs."""
    scene.home.identity.write_bytes(b"{")
    seen = refused(scene, "status")
    scene.restore("store.json")
    return recovered_by(scene, seen, ("status",), first="restore it from the backup")


def _largest(kept: Path) -> Path:
    """The file, or the largest one of the folder, that Redis reads back when it starts."""
    return max(kept.iterdir(), key=lambda one: one.stat().st_size) if kept.is_dir() else kept


def _part(scene: Scene, view: str) -> Path:
    return next((scene.home.offline / view).glob("batch-*.parquet"))
