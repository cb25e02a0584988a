"""Propose that two keys are one horse, jockey or trainer, with the evidence; apply and undo what a person approved.

Likeness alone proposes nothing. Two keys are proposed where the store has the same race from two sources and each has the other
key in the same place, or where their names are alike and their starts fit: never in one race, and the same year of birth,
the same yard or rider, one that stops where the other begins.
"""

import csv
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import date, timedelta
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from velo.errors import Refused, UserError
from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.aliases import COLUMNS
from velo.racing.messages import STARTED, Alias
from velo.racing.names import tidy
from velo.storage.atomic_files import write_atomically
from velo.storage.log.repeats import races_naming
from velo.storage.log.writer import Appended, Clock, LogWriter
from velo.storage.store import Home, Store

HEADER: Final = ("approve", "of", "key", "same_as", "starts_key", "starts_same_as", "evidence")
APPROVED: Final = frozenset({"yes", "y", "true", "1", "x"})
ONE_RACE: Final = timedelta(minutes=10)
"""Two sources may differ this much about the off of one race."""
LEAST_TWINS: Final = 2
"""Races that two sources must both have before the same places there make two unlike names one."""
LEAST_SHARED: Final = 2
"""Horses that two spellings of a rider or yard must have in common."""
MOST_ALIKE: Final = 12
"""More keys than this with one plain name are a common name, not spellings of one."""
_COUNTRY: Final = re.compile(r"\s*\([a-z]{2,3}\)\s*$")
_TITLES: Final = frozenset({"mr", "mrs", "ms", "miss", "dr", "sir", "lady", "lord", "capt", "captain", "the"})
_FEMALE: Final = frozenset({"f", "m", "filly", "mare"})
_MALE: Final = frozenset({"c", "g", "h", "r", "colt", "gelding", "horse", "rig", "ridgling"})
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Proposal:
    """Two keys that may be one: `key` would mean `same_as`, the key with more starts. `evidence` is in words."""

    of: str
    key: str
    same_as: str
    starts_key: int
    starts_same_as: int
    evidence: str


@dataclass(slots=True)
class _Facts:
    """What the current results say about one key."""

    name: str = ""
    races: set[str] = field(default_factory=set)
    days: list[date] = field(default_factory=list)
    born: Counter[int] = field(default_factory=Counter)
    sexes: set[str] = field(default_factory=set)
    horses: set[str] = field(default_factory=set)
    trainers: dict[str, None] = field(default_factory=dict)
    jockeys: set[str] = field(default_factory=set)
    slots: dict[str, str] = field(default_factory=dict)


Facts = Mapping[str, Mapping[str, _Facts]]


def match(home: Home) -> list[Proposal]:
    """Return the proposals from the tables of the last build, the most starts first. Raises `UserError` without tables."""
    facts, twins = _read(home)
    found: list[Proposal] = []
    for of, by_key in facts.items():
        together = _in_twins(by_key, twins)
        pairs = {pair for pair, races in together.items() if len(races) >= LEAST_TWINS} | set(_alike(of, by_key))
        for key, same_as in sorted(pairs):
            evidence = _evidence(of, by_key, key, same_as, together.get((key, same_as), []), twins)
            if evidence:
                few, many = sorted((key, same_as), key=lambda name: (len(by_key[name].races), max(by_key[name].days)))
                counts = len(by_key[few].races), len(by_key[many].races)
                found.append(Proposal(of, few, many, *counts, "; ".join(evidence)))
    return sorted(found, key=lambda proposal: (-proposal.starts_key, proposal.of, proposal.key))


def write(proposals: Iterable[Proposal], path: Path) -> None:
    """Write proposals as CSV, to be approved with `yes` in the first column."""
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(HEADER)
    lines.writerows(("", *astuple(proposal)) for proposal in proposals)
    write_atomically(path, text.getvalue().encode())


def apply(store: Store, path: Path, *, clock: Clock, undo: bool = False) -> list[tuple[Alias, Appended | Refused]]:
    """Record the approved aliases of a file, or undo them; returns the outcome of each, in the order of the file.

    Raises `UserError`, and records nothing, for a file of another kind, and for a key that no message names.
    """
    aliases = [Alias(of, key, None if undo else same_as) for of, key, same_as in _approved(path)]
    if not aliases:
        raise UserError(f"{path} approves nothing: write yes in the column approve of each row that is right")
    with LogWriter.open(store, clock=clock) as writer:
        named = races_naming(store.home.log, {key for alias in aliases for key in (alias.key, alias.same_as) if key})
        unknown = sorted(key for key, races in named.items() if not races)
        if unknown:
            raise UserError(f"{path} names {unknown[0]!r}, a key that no message has: correct it, or leave its row out")
        outcomes = writer.apply(aliases)
        writer.sync()
    return list(zip(aliases, outcomes, strict=True))


def _approved(path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as unreadable:
        raise UserError(
            f"{path} cannot be read ({unreadable}): name a file that `velo names match --out` wrote"
        ) from None
    rows = csv.DictReader(text.splitlines())
    missing = [name for name in HEADER[:4] if name not in (rows.fieldnames or ())]
    if missing:
        raise UserError(f"{path} has no column {missing[0]}: name a file that `velo names match --out` wrote")
    for row in rows:
        if (row["approve"] or "").strip().casefold() not in APPROVED:
            continue
        if row["of"] not in COLUMNS:
            raise UserError(
                f"{path}, line {rows.line_num}: of is {row['of']!r}, but must be {', '.join(COLUMNS)}: correct it"
            )
        if not row["key"] or not row["same_as"]:
            raise UserError(f"{path}, line {rows.line_num}: key and same_as must both be given: correct it")
        yield row["of"], row["key"], row["same_as"]


def _read(home: Home) -> tuple[Facts, dict[Pair, None]]:
    """Return the facts of every key, and the pairs of races that are one race from two sources."""
    parts = Snapshot().parts(home.offline / "runners")
    if not parts:
        raise UserError(f"there are no feature tables at {home.offline}: run `velo build` first")
    listed = ", ".join(changelog.text(part) for part in parts)
    started = ", ".join(f"'{status}'" for status in sorted(STARTED))
    query = f"""
        SELECT race_id, race_date, off_time, course, horse_id, horse, jockey_id, jockey, trainer_id, trainer, age, sex, runner_no
        FROM (
            FROM read_parquet([{listed}], union_by_name = true) WHERE type = 'result'
            QUALIFY rank() OVER (PARTITION BY race_id ORDER BY result_version DESC) = 1
        )
        WHERE status IN ({started}) ORDER BY off_time, race_id"""  # noqa: S608 paths are quoted
    facts: dict[str, defaultdict[str, _Facts]] = {of: defaultdict(_Facts) for of in COLUMNS}
    races: dict[tuple[date, str], dict[str, Any]] = defaultdict(dict)
    with changelog.engine("500MB") as connection:
        answer = connection.execute(query)
        names = [column[0] for column in answer.description or ()]
        while rows := answer.fetchmany(20_000):
            for values in rows:
                row = dict(zip(names, values, strict=True))
                races[row["race_date"], _letters(row["course"])][row["race_id"]] = row["off_time"]
                _note(facts, row)
    twins = {
        (one, other): None
        for offs in races.values()
        for one, other in combinations(sorted(offs), 2)
        if abs(offs[one] - offs[other]) <= ONE_RACE
    }
    return facts, twins


def _note(facts: Mapping[str, Mapping[str, _Facts]], row: Mapping[str, Any]) -> None:
    for of, column in COLUMNS.items():
        key = row[column]
        if key is None:
            continue
        held = facts[of][key]
        held.name = row[of] or key
        held.races.add(row["race_id"])
        held.days.append(row["race_date"])
        held.horses.add(row["horse_id"])
        if row["trainer_id"] is not None:
            held.trainers[row["trainer_id"]] = None
        if row["jockey_id"] is not None:
            held.jockeys.add(row["jockey_id"])
        if row["runner_no"] is not None:
            # a yard with two runners in a race has no one place in it
            held.slots[row["race_id"]] = "" if row["race_id"] in held.slots else str(row["runner_no"])
        if of == "horse":
            if row["age"] is not None:
                held.born[row["race_date"].year - row["age"]] += 1
            sex = (row["sex"] or "").strip().casefold()
            held.sexes |= {"female"} if sex in _FEMALE else {"male"} if sex in _MALE else set()


def _in_twins(by_key: Mapping[str, _Facts], twins: Mapping[Pair, None]) -> dict[Pair, list[str]]:
    """Return the pairs of keys with the same number in both of two twin races, and those races; a pair must be each other's only one."""
    in_race: dict[str, dict[str, str]] = defaultdict(dict)
    for key, held in by_key.items():
        for race_id, number in held.slots.items():
            if number:
                in_race[race_id][number] = key
    found: dict[Pair, list[str]] = defaultdict(list)
    partners: dict[str, set[str]] = defaultdict(set)
    for one, other in twins:
        for number in in_race[one].keys() & in_race[other].keys():
            key, same = in_race[one][number], in_race[other][number]
            if key != same:
                found[min(key, same), max(key, same)].append(one)
                partners[key].add(same)
                partners[same].add(key)
    return {pair: races for pair, races in found.items() if all(len(partners[key]) == 1 for key in pair)}


def _alike(of: str, by_key: Mapping[str, _Facts]) -> Iterator[Pair]:
    plain: Callable[[str], str] = _letters if of == "horse" else _person
    groups: dict[str, list[str]] = defaultdict(list)
    for key, held in by_key.items():
        groups[plain(held.name)].append(key)
    for keys in groups.values():
        if len(keys) <= MOST_ALIKE:
            yield from combinations(sorted(keys), 2)


def _evidence(
    of: str, by_key: Mapping[str, _Facts], key: str, other: str, together: Sequence[str], twins: Mapping[Pair, None]
) -> list[str]:
    """Return what speaks for two keys being one, in words; nothing where too little does, or anything speaks against it."""
    one, two = by_key[key], by_key[other]
    if one.races & two.races or (of == "horse" and _two_horses(one, two, twins)):
        return []
    said = [f"{len(together)} races of two sources have them in the same place"] if together else []
    if of == "horse":
        born = one.born.keys() & two.born.keys()
        said += [f"both were born in {min(born)}"] if born else []
        first, second = sorted((one, two), key=lambda held: held.days[0])
        if first.days[-1] < second.days[0]:
            said.append(f"{first.name!r} last ran on {first.days[-1]}, {second.name!r} first on {second.days[0]}")
        shared = one.trainers.keys() & two.trainers.keys()
        said += [f"both were trained by {min(shared)!r}"] if shared else []
        riders = one.jockeys & two.jockeys
        said += [f"both were ridden by {min(riders)!r}"] if riders else []
        enough = bool(together) or (bool(shared) and (bool(born) or first.days[-1] < second.days[0]))
    else:
        horses = one.horses & two.horses
        doing = "rode" if of == "jockey" else "trained"
        said += (
            [f"both {doing} {min(horses)!r}" + (f" and {len(horses) - 1} more horses" if len(horses) > 1 else "")]
            if horses
            else []
        )
        enough = bool(together) or len(horses) >= LEAST_SHARED
    return [*said, f"never in one race in {len(one.races) + len(two.races)} starts"] if enough else []


def _two_horses(one: _Facts, two: _Facts, twins: Mapping[Pair, None]) -> bool:
    """Whether two keys cannot be one horse: another year of birth or sex, or two races on one day."""
    if one.born and two.born and not one.born.keys() & two.born.keys():
        return True
    if one.sexes and two.sexes and not one.sexes & two.sexes:
        return True
    if not set(one.days) & set(two.days):
        return False
    met = sum((min(a, b), max(a, b)) in twins for a in one.races for b in two.races)
    return met < len(set(one.days) & set(two.days))


def _letters(name: str) -> str:
    """Return a name without country, accents, apostrophes and spaces."""
    bare = _COUNTRY.sub("", tidy(name).casefold())
    return "".join(letter for letter in unicodedata.normalize("NFKD", bare) if letter.isalnum())


def _person(name: str) -> str:
    """Return a person's family name and first initial, without titles: `Mr J P O'Brien` and `Joseph O'Brien` are alike."""
    words = [word for word in re.split(r"[\s.]+", tidy(name).casefold()) if word and word not in _TITLES]
    return f"{_letters(words[-1])} {_letters(words[0])[:1]}" if len(words) > 1 else _letters(name)
