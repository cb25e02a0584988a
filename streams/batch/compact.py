"""Compaction: merge each view's parts into one file, published as a new generation, so that readers are not disturbed."""

from collections.abc import Callable

from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES
from velo.storage import table_versions
from velo.storage.store import Store
from velo.streams.batch import staging
from velo.streams.batch.build import MEMORY_LIMIT


def compact(
    store: Store, *, progress: Callable[[str, int, int], None] = lambda step, done, steps: None
) -> dict[str, int]:
    """Merge the parts of every view, in order of key and time; returns the former number of parts by view.

    The rows stay the same to the bit. Raises `UserError` before the first build.
    """
    home = store.home
    with table_versions.sole_publisher(home), staging.scratch_connection(home, MEMORY_LIMIT) as connection:
        before = table_versions.current(home)
        if before is None:
            raise UserError(f"there are no tables at {home.offline}: run `velo build` first")
        table_versions.refuse_damaged(before)
        folder = table_versions.begin(home, before)
        merged = {}
        manifest = table_versions.manifest_of(before)
        for done, family in enumerate(FAMILIES):
            progress(f"compact {family.view}", done, len(FAMILIES))
            parts = sorted((folder / family.view).rglob("*.parquet"))
            merged[family.view] = len(parts)
            if len(parts) > 1:
                target = folder / family.view / f"compact-{manifest.next_seq:012d}.parquet"
                order = ", ".join((*family.keys, "event_timestamp"))
                ordered = f"SELECT * FROM {staging.parquet(parts)} ORDER BY {order}"  # noqa: S608 our own names
                staging.keep(connection, ordered, target)
                for part in parts:
                    # a part compacted before at the same position has the new part's name
                    if part != target:
                        part.unlink()
        table_versions.publish(home, folder, manifest)
        return merged
