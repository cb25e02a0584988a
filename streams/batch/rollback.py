"""`velo rollback`: make the tables of the formulas before current again, without computing any."""

import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES, Family
from velo.feature_repo.stores.fills import refuse_numberless_fills
from velo.racing.jurisdiction import DEFAULT, Jurisdiction
from velo.storage import part_sums, table_versions
from velo.storage.log.format import generation as log_generation
from velo.storage.log.reader import end
from velo.storage.store import Home, Store
from velo.storage.table_versions import Manifest
from velo.streams.batch.formulas import differing_views, fingerprint, view_formulas


@dataclass(frozen=True, slots=True)
class RollbackReport:
    """The outcome of a rollback: the views whose formulas changed back, the tables' epoch and position in the log.

    `messages_behind` counts the messages of the log that the restored batch does not have; a stream or a build adds them.
    `seconds` is how long the switch took after the files were checked.
    """

    views: tuple[str, ...]
    epoch: int
    next_seq: int
    known_at: datetime
    messages_behind: int
    seconds: float
    generation: Path


def rollback(
    store: Store, *, families: tuple[Family, ...] = FAMILIES, jurisdiction: Jurisdiction = DEFAULT
) -> RollbackReport:
    """Publish the kept tables of the formulas before again, in one step, under a new epoch.

    Their values in Redis then replace those of the formulas left, also at the same instant. Raises `UserError` where no such
    tables are kept, where the catalogue of this process has other formulas than they have, where a file of theirs is damaged,
    or where a build runs.
    """
    home = store.home
    with table_versions.sole_publisher(home):
        target = table_versions.rollback_target(home)
        if target is None:
            raise UserError(
                f"no tables of other formulas are kept at {home.generations}: edit the catalogue, then run `velo apply`"
            )
        before, now = table_versions.manifest_of(target), _current(home)
        if before.log_generation != log_generation(home):
            raise UserError(
                f"the tables at {home.offline} are of a log since replaced: run `velo build`, which has no rollback"
            )
        mark, views = fingerprint(families, jurisdiction), view_formulas(families, jurisdiction)
        if before.fingerprint != mark:
            raise UserError(
                f"the tables kept for a rollback have other formulas than the catalogue ({differing_views(before, families)}): "
                "edit the catalogue back to those, then run `velo rollback` again"
            )
        part_sums.refuse_damaged(target)
        folder = table_versions.begin(home, target)
        begun = time.perf_counter()
        epoch = store.with_epoch_of(mark)[1]
        unchanged = now.unchanged(mark, views)
        restored = {
            view: replace(formulas, epoch=now.epoch_of(view) if view in unchanged else epoch)
            for view, formulas in views.items()
        }
        refuse_numberless_fills(home, restored.keys() - unchanged)
        manifest = replace(before, epoch=epoch, views=restored)
        folder = table_versions.publish(home, folder, manifest, restored=target)
        seconds = time.perf_counter() - begun
    changed = tuple(sorted((views.keys() | now.rows.keys()) - unchanged))
    behind = end(home).next_seq - manifest.next_seq
    return RollbackReport(changed, epoch, manifest.next_seq, manifest.known_at, behind, seconds, folder)


def _current(home: Home) -> Manifest:
    folder = table_versions.current(home)
    assert folder is not None, "a rollback's target is older than the current tables"
    return table_versions.manifest_of(folder)
