"""The queries that measure starts, with what is declared elsewhere filled in: measures, rules, constants, a user's columns."""

from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final

from velo.racing.expression_renderers import Sql
from velo.racing.jurisdiction import UNKNOWN, Jurisdiction
from velo.racing.measures import MEASURES, Measure, extra_columns
from velo.racing.messages import IN_RUNNING, STARTED
from velo.racing.race_values import (
    FIGURE_LENGTHS_CAP,
    HEAVIEST_LBS,
    LENGTH_LBS_METRES,
    LONGEST_ODDS,
    LONGEST_RACE_M,
    LONGEST_RACE_S,
    LONGEST_RATING,
    LONGEST_SECTION_MS,
    SHORTEST_RACE_M,
)
from velo.racing.start_columns import sql_of

CONSTANTS: Final = {
    "longest_odds": LONGEST_ODDS,
    "figure_lengths_cap": FIGURE_LENGTHS_CAP,
    "length_lbs_metres": LENGTH_LBS_METRES,
    "heaviest_lbs": HEAVIEST_LBS,
    "shortest_race_m": SHORTEST_RACE_M,
    "longest_race_m": LONGEST_RACE_M,
    "longest_race_s": LONGEST_RACE_S,
    "longest_rating": LONGEST_RATING,
    "longest_section_ms": LONGEST_SECTION_MS,
}
"""The constants of the queries, each by its placeholder."""


@cache
def query(name: str) -> str:
    """The text of a query of `sql/`, as of the first call in this process."""
    return files("velo.streams.batch").joinpath("sql", f"{name}.sql").read_text()


def filled(name: str, values: Mapping[str, str]) -> str:
    """A query with its placeholders filled in, as CREATE TABLE and COPY take no parameters."""
    text = query(name)
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def constants(jurisdiction: Jurisdiction, own: tuple[Measure, ...]) -> dict[str, str]:
    """The SQL of each placeholder that depends on the formulas alone. The measures come first: they have placeholders too."""
    names = dict.fromkeys(extra.name for extra in extra_columns(own))
    return {
        "$measures": measures_sql((*MEASURES.values(), *own)),
        "$own_columns": "".join(f', "{name}" JSON' for name in names),
        "$own_names": "".join(f', "{name}"' for name in names),
        "$in_running_columns": "".join(f', "{name}" JSON' for name in IN_RUNNING),
        "$in_running_names": "".join(f', "{name}"' for name in IN_RUNNING),
        **_rules(jurisdiction),
        **{f"${name}": str(number) for name, number in CONSTANTS.items()},
        "$started": "[" + ", ".join(f"'{status}'" for status in sorted(STARTED)) + "]",
    }


@lru_cache
def measures_sql(measures: tuple[Measure, ...]) -> str:
    """The select list of measures; one that reads another's value names it. What ratings make is added later."""
    sql = Sql(sql_of)
    lines = []
    for measure in measures:
        if measure.value is not None:
            text = sql.of(measure.value)
            # the engine would take a small constant for 32 bits
            lines.append(f"{f'CAST({text} AS BIGINT)' if measure.value.op == 'literal' else text} AS {measure.name}")
            sql.known[measure.value] = measure.name
    return ",\n        ".join(lines)


def _rules(jurisdiction: Jurisdiction) -> dict[str, str]:
    """The SQL expressions of a jurisdiction's rules, each by its placeholder; goings are grouped in Python."""
    bands = " ".join(f"WHEN distance_m < {end_m} THEN '{band}'" for band, end_m in jurisdiction.distance_bands)
    lines = [
        (to_m, f"{from_ms} + (run_m - {from_m}) * {to_ms - from_ms} // {to_m - from_m}")
        for from_m, from_ms, to_m, to_ms in jurisdiction.par_lines
    ]
    pars = " ".join(f"WHEN run_m < {to_m} THEN {par_ms}" for to_m, par_ms in lines)
    terms = " ".join(f"WHEN field <= {field} THEN {places}" for field, places in jurisdiction.place_terms)
    return {
        "$par_ms": f"CASE {pars} ELSE {lines[-1][1]} END",
        "$distance_band": f"CASE WHEN distance_m IS NULL THEN '{UNKNOWN}' {bands} ELSE '{jurisdiction.longest_band}' END",
        "$places": f"CASE {terms} ELSE {jurisdiction.most_places} END",
    }
