"""Make Feast's objects from the catalogue: entities, feature views, the on-demand view, the feature service."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Final

from feast import Entity, FeatureService, FeatureView, Field, FileSource, OnDemandFeatureView, RequestSource, ValueType
from feast.base_feature_view import BaseFeatureView
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.types import Float64, Int32, Int64, String, UnixTimestamp

from velo.errors import UserError
from velo.feature_repo.catalogue import request_time
from velo.feature_repo.catalogue.described import OURS, FeatureDescription, described, described_request
from velo.feature_repo.catalogue.families import FAMILIES, Family
from velo.feature_repo.catalogue.request_view import RequestView
from velo.settings import FEATURE_CONFIG
from velo.storage.store import Home

SERVICE: Final = "velo_v1"
TTL: Final = timedelta(days=36_500)
"""A changelog's row holds until the key's next row, however old. With 0, Feast's first incremental materialisation would
reach back only a year; a longer one, subtracted from today, would be out of range for Feast's dates, which begin in 1677."""

_KEYS: Final = {
    "trainer_id": "a trainer",
    "jockey_id": "a jockey",
    "horse_id": "a horse",
    "course": "a racecourse, as the results name it",
    "distance_band": "sprint, mile, middle, staying or unknown",
    "going_group": "fast, good, easy, soft or unknown",
    "draw_cell": "course|surface|distance_band|going_group|draw_third",
}
_STORED_TYPES: Final = {"int": Int32, "float": Float64}
_REQUEST_TYPES: Final = {"int": Int64, "float": Float64, "text": String}


def table_options(family: Family) -> dict[str, Any]:
    """The arguments that every kind of Feast source takes for the changelog of a family."""
    return {
        "name": f"{family.view}_table",
        "timestamp_field": "event_timestamp",
        "created_timestamp_column": "created_timestamp",
        "description": f"changelog of {family.view}: a row holds from its event_timestamp until the key's next row",
    }


def file_table(family: Family, home: Home) -> DataSource:
    """The changelog of a family as Parquet files."""
    return FileSource(path=str(home.offline / family.view), file_format=ParquetFormat(), **table_options(family))


def feast_objects(
    home: Home, families: Sequence[Family] = FAMILIES, source: Callable[[Family, Home], DataSource] = file_table
) -> list[Any]:
    """Everything `feast apply` registers for the store of a home, in display order.

    `source` makes the Feast source of a family's table, for the offline store that reads it.
    """
    keys = entities()
    views = [_view(family, keys, source(family, home)) for family in families]
    request = RequestSource(
        name="race_asked_about",
        schema=[
            Field(name=column.name, dtype=_REQUEST_TYPES[column.kind], description=column.words)
            for column in request_time.REQUEST
        ],
        description="the race in question: local day since 1970, class, distance, weight, rating",
    )
    by_name = {view.name: view for view in views}
    on_demand = [_on_demand(view, by_name, request) for view in request_time.VIEWS if by_name.keys() >= {*view.views}]
    service = FeatureService(
        name=SERVICE,
        features=[*views, *on_demand],
        description="every feature of the catalogue, for training and serving alike",
    )
    return [*keys.values(), *(view.batch_source for view in views), request, *views, *on_demand, service]


def entities() -> dict[str, Entity]:
    """Feast's entities by name; every key is text."""
    return {
        name: Entity(name=name, join_keys=[name], value_type=ValueType.STRING, description=about)
        for name, about in _KEYS.items()
    }


def _view(family: Family, keys: dict[str, Entity], source: DataSource) -> FeatureView:
    features = [Field(**_words(feature, _STORED_TYPES)) for feature in described(family)]
    until = Field(
        name="valid_until",
        dtype=UnixTimestamp,
        description="the local midnight from which the row is stale: a window loses a start; null if none does",
    )
    return FeatureView(
        name=family.view,
        entities=[keys[key] for key in family.keys],
        ttl=TTL,
        schema=[*(Field(name=key, dtype=String, description=_KEYS[key]) for key in family.keys), *features, until],
        source=source,
        online=True,
        description=family.about,
        owner=family.owner or OURS,
        tags={
            "computed": "batch and stream",
            "windows": ", ".join(f"{days} days" for days in family.windows) or "none",
        },
    )


def _words(feature: FeatureDescription, types: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a field: its name, type and what it means."""
    tags = {"formula": feature.formula, "unit": feature.unit, "window": feature.window, "null": feature.null}
    description = f"{feature.formula}; {feature.null}"
    return {"name": feature.name, "dtype": types[feature.kind], "description": description, "tags": tags}


def _on_demand(view: RequestView, stored: dict[str, FeatureView], request: RequestSource) -> OnDemandFeatureView:
    sources = [
        stored[name][[feature.feature for feature in view.stored if feature.view == name]] for name in view.views
    ]
    text = f"""def {view.name}(inputs):
    from velo.feature_repo.catalogue.request_time import listed_of

    return listed_of("{view.name}", inputs)
"""
    words = described_request(view)
    # Feast rebuilds the function from its text, without this module around it, and pickles it where it cannot
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(text, scope)  # noqa: S102  the name of a declared view is an identifier
    return OnDemandFeatureView(
        name=view.name,
        sources=[*sources, request],
        schema=[Field(name=feature.name, dtype=_REQUEST_TYPES[feature.kind]) for feature in words],
        mode="python",
        udf=scope[view.name],
        udf_string=text,
        description=view.about,
        owner=view.owner or OURS,
        # Feast 0.67 reads the fields of an on-demand view without their words, and then refuses those of the service
        tags={feature.name: f"{feature.formula}; unit: {feature.unit}; {feature.null}" for feature in words},
    )


FOLDER: Final = "feast_objects"
"""The folder, beside `velo.toml`."""
_KINDS: Final = (DataSource, Entity, BaseFeatureView, FeatureService)


def own_objects(folder: Path | None = None) -> list[Any]:
    """The Feast objects that the folder's files define at their top level, by file name; without a folder none.

    Raises `UserError` for a file that does not import.
    """
    if folder is None:
        config = FEATURE_CONFIG.read()
        if config is None:
            return []
        beside = config.parent / FOLDER
        # the velo.toml of an environment is a link
        folder = beside if beside.is_dir() else config.resolve().parent / FOLDER
    found: dict[int, Any] = {}
    for path in sorted(folder.glob("*.py")):
        spec = spec_from_file_location(f"own_feast_objects_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as broken:  # noqa: BLE001  a user's file may raise anything
            said = " ".join(f"{type(broken).__name__}: {broken}".split())
            raise UserError(f"{path} does not import ({said}): correct it, or take it out") from None
        found |= {id(value): value for value in vars(module).values() if isinstance(value, _KINDS)}
    return list(found.values())
