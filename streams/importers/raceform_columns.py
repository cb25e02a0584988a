"""The columns of rpscrape's older releases under the names that today's release gives them.

| release | what it writes otherwise |
|---|---|
| 2018 | `time` for the off, `name` for the horse, `distance`, `weight`, `gear`, `fin_time`; its header lacks the comma between `dec` and `age` |
| 2019 | `horse_name`, `dist(f)`, and `dist(m)`, which takes a furlong for 200 metres |
| 2019 to 2021 | capitals, `Name` for the race's name, courses as in addresses (`kempton-aw`), no region |

`btn` of 2018 and 2019 is not the distance behind the winner and stays unused.
"""

from collections.abc import Sequence
from typing import Final

_HORSE_NAMED: Final = ("horse_name", "name")
_RENAMED: Final = {
    "fin_time": "time",
    "race": "race_name",
    "distance": "dist",
    "dist(f)": "dist_f",
    "weight": "wgt",
    "gear": "hg",
    "prize(£)": "prize",
}


def todays_names(header: Sequence[str]) -> list[str]:
    """Column names (casefolded) as today's release has them; a name that today's column has already is left alone."""
    names = [part for name in header for part in (name.split('"') if '"' in name else [name])]
    old: dict[str, str] = {}
    if "off" not in names and "time" in names:
        old["time"] = "off"
    horse = next((name for name in _HORSE_NAMED if name in names), None)
    if horse is not None and "horse" not in names:
        old[horse] = "horse"
    elif "name" in names and "race_name" not in names:
        old["name"] = "race_name"
    left = {name for name in names if name not in old}
    old |= {name: today for name, today in _RENAMED.items() if name in left and today not in left | set(old.values())}
    return [old.get(name, name) for name in names]


def release(header: Sequence[str]) -> str | None:
    """Return the years of the release of rpscrape that wrote these (casefolded) column names; None for today's or another exporter's."""
    if "off" in header:
        return "2019–21" if "name" in header and "race_name" not in header else None
    return "2019" if "horse_name" in header else "2018" if "name" in header else None
