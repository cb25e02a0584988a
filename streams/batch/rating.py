"""The one step of the batch that is not SQL: a start's Elo gain depends on every earlier result, in order.

The starts that a build has just measured get their gains as columns beside their measures. Keys are numbered part by part, in
arrays; then races are rated one after another on lists of integers, which takes some two microseconds per start. The stream's
own `velo.streams.aggregation.ratings.Elo` is the plain twin, and earns the same bits.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from velo.errors import UserError
from velo.racing.elo import E9, EVEN, HORSE, PARTS, Earned, RatedPart
from velo.streams.aggregation.ratings import MEASURES, Entry, Starter, earned_before
from velo.streams.batch.arrow_numbers import Numbers, column_of_numbers, in_one_chunk, known_in, numbers_of
from velo.streams.batch.measured_starts import FOREVER, KEYS, Keys, MeasuredStarts, WholeColumns, applied, joined, read

if TYPE_CHECKING:
    import duckdb

BUILD_AGAIN: Final = "make room there and repeat the build; where a file is damaged or gone, run `velo build --whole`"
UNKNOWN: Final = 0
"""The number of an unknown key; its rating stays 0."""
_EVEN_E9: Final = EVEN * E9
_HORSE, _JOCKEY, _TRAINER, _DRAW, _SUITED = (part.permille for part in PARTS)
ROW_GROUP: Final = 20_000
"""Starts of a row group: a build after a race day reads those that have its horses."""
RATED_KINDS: Final = ("results", "starts")
"""The kinds of files of a part that ratings read."""
_RESULT_COLUMNS: Final = ("seq", "known_at", "race_id", "result_version", "race_date", "off_time")
_COURSE_BITS: Final = 20
_BAND_BITS: Final = 12


class RatedBefore(NamedTuple):
    """The parts of the results and of the starts that are rated already."""

    results: Sequence[Path]
    starts: Sequence[Path]


class _Result(NamedTuple):
    """A result in the log."""

    seq: int
    race_id: str
    result_version: int


class _RatedStart(NamedTuple):
    """A start of a race that may have a later version: its starter, the numbers of its keys, what it earned."""

    starter: Starter
    numbers: tuple[int, ...]
    earned: Earned


def rate(folder: Path, before: RatedBefore | None, new: Iterable[str], columns: WholeColumns) -> list[str]:
    """Add the gains to the starts of `new` parts, named in the log's order, as each is written; returns the names.

    `before` is None where nothing is rated; `columns` takes those that are read of all its starts. Memory holds two parts, and a rating for each key. Parts are replaced atomically.
    Raises `UserError` where a file in `folder` cannot be read or written.
    """
    rated: list[str] = []
    try:
        races = _Races()
        if before is not None:
            # the ratings of the keys of all new parts are read at once
            new = [*new]
            races.take_over(before, [_paths(folder, part) for part in new], columns)
        with ThreadPoolExecutor(1) as writer:
            written = writer.submit(lambda: None)
            for part in new:
                results, starts = _paths(folder, part)
                # one part is written while the next is rated; a later version of a race may need what the one before earned
                table = read(starts, ["seq", *Starter._fields])
                order = np.argsort(numbers_of(table["seq"]), kind="stable")
                in_order = table.take(column_of_numbers(order))
                gains = races.rate(_results_of(results), in_order, written.result)
                races.rated_parts.append(starts)
                written.result()
                written = writer.submit(_add_gains, starts, order, gains)
                rated.append(part)
            written.result()
    except (OSError, pa.ArrowInvalid) as failed:
        raise UserError(f"cannot rate the starts kept at {folder} ({failed}): {BUILD_AGAIN}") from failed
    return rated


def _paths(folder: Path, part: str) -> tuple[Path, Path]:
    results, starts = (folder / f"{kind}-{part}.parquet" for kind in RATED_KINDS)
    return results, starts


@dataclass(slots=True)
class _Accounts:
    """The ratings of one of `PARTS` in billionths, by the number of the key."""

    numbers: dict[str | int, int] = field(default_factory=dict)
    ratings: list[int] = field(default_factory=lambda: [0])

    def number(self, keys: Sequence[str | int | None]) -> Numbers:
        """The number of each key; new keys are rated 0."""
        numbers = self.numbers
        found = [UNKNOWN if key is None else numbers.setdefault(key, len(numbers) + 1) for key in keys]
        self.ratings += [0] * (len(numbers) + 1 - len(self.ratings))
        return np.array(found, np.int64)

    def number_column(self, column: pa.ChunkedArray) -> Numbers:
        """The number of each value of a column of keys."""
        encoded = in_one_chunk(column.cast(pa.string())).dictionary_encode()
        of_value = np.append(self.number(encoded.dictionary.to_pylist()), UNKNOWN)
        return of_value[np.where(known_in(encoded.indices), numbers_of(encoded.indices), -1)]


class _Races:
    """The ratings as of the last rated result. `rated_parts` are the parts of starts whose gains are written, or will be next."""

    def __init__(self) -> None:
        self.rated_parts: list[Path] = []
        # the results of each race that are still to be rated in the current part
        self._unread = Counter[str]()
        self._versions: dict[str, int] = {}
        # of the races that are rated: the number of the part, and the first and the last row
        self._places: dict[str, tuple[int, int, int]] = {}
        self._accounts = [_Accounts() for _ in PARTS]
        self._rated = [0]
        self._courses, self._bands = _Accounts(), _Accounts()
        # of the races that have another result in the current part
        self._earned: dict[str, list[_RatedStart]] = {}

    def take_over(self, before: RatedBefore, new: Sequence[tuple[Path, Path]], columns: WholeColumns) -> None:
        """Load what was rated before: the ratings of the keys of the new starts, and what the races of the new results earned.

        `new` pairs parts of results with parts of starts.
        """
        results, starts = applied(before.results), MeasuredStarts(before.starts, columns)
        seq = starts.numbers("seq")
        in_force, at = results.of(seq)
        in_force &= results.retracted_us[at] == FOREVER
        is_rated = in_force & (starts.numbers(MEASURES[0]) == 1)
        names = [*dict.fromkeys(key for part in PARTS for key in part.keys)]
        keys = Keys.among(starts, joined(read(part, names) for _, part in new))
        for place, part in enumerate(PARTS):
            rows, codes = keys.codes(part.keys)
            rows, codes = rows[is_rated[rows]], codes[is_rated[rows]]
            distinct, first, of_row = np.unique(codes, return_index=True, return_inverse=True)
            ratings, counts = np.zeros(distinct.size, np.int64), np.bincount(of_row, minlength=distinct.size)
            np.add.at(ratings, of_row, numbers_of(starts.take(rows, [part.measure])[part.measure]) - _EVEN_E9)
            found = pa.table(keys.values(part.keys, rows[first]), names=part.keys)
            numbers = zip(self._numbered(found, place).tolist(), ratings.tolist(), counts.tolist(), strict=True)
            for number, rating, count in numbers:
                self._accounts[place].ratings[number] = rating
                if part is HORSE:
                    self._rated[number] = count
        asked = [*{result.race_id for part, _ in new for result in _results_of(part)}]
        held: dict[str, _Result] = {}
        for result in sorted(result for part in before.results for result in _results_of(part, asked)):
            if result.race_id not in held or result.result_version > held[result.race_id].result_version:
                held[result.race_id] = result
        self._versions = {race_id: result.result_version for race_id, result in held.items()}
        rated = np.flatnonzero(is_rated)
        again = rated[np.isin(seq[rated], [result.seq for result in held.values()])]
        if again.size:
            self._recall(starts, again)

    def _recall(self, starts: MeasuredStarts, rows: Numbers) -> None:
        """Load what some races earned, given the rows of their starts."""
        entries = starts.take(rows, ["race_id", *Starter._fields, *MEASURES[1:]])
        numbers = zip(*(column.tolist() for column in self._numbers(entries)), strict=True)
        earned = zip(*(entries[name].to_pylist() for name in MEASURES[1:]), strict=True)
        rated = map(_RatedStart, _starters(entries), numbers, earned)
        for race_id, start in zip(entries["race_id"].to_pylist(), rated, strict=True):
            self._earned.setdefault(race_id, []).append(start)

    def _recall_rated(self, written: Callable[[], None]) -> None:
        """Load what races of the current part earned in parts before; `written` waits until those are on disk."""
        places = sorted(
            place
            for race_id in self._unread
            if race_id not in self._earned and (place := self._places.get(race_id)) is not None
        )
        if places:
            written()
        for number, of_part in groupby(places, key=lambda place: place[0]):
            rows = np.concatenate([np.arange(begin, end) for _, begin, end in of_part])
            self._recall(MeasuredStarts([self.rated_parts[number]]), rows)

    def _numbers(self, starts: pa.Table) -> list[Numbers]:
        """The number of the key of each start, for each of `PARTS`."""
        return [self._numbered(starts, place) for place in range(len(PARTS))]

    def _numbered(self, starts: pa.Table, place: int) -> Numbers:
        accounts, keys = self._accounts[place], PARTS[place].keys
        if len(keys) == 1:
            numbers = accounts.number_column(starts[keys[0]])
            if PARTS[place] is HORSE:
                self._rated += [0] * (len(accounts.ratings) - len(self._rated))
            return numbers
        horses = self._numbered(starts, PARTS.index(HORSE))
        courses = self._courses.number_column(starts["course"])
        bands = self._bands.number_column(starts["distance_band"])
        assert len(self._courses.ratings) <= 1 << _COURSE_BITS
        assert len(self._bands.ratings) <= 1 << _BAND_BITS
        packed = (horses << (_COURSE_BITS + _BAND_BITS)) + (courses << _BAND_BITS) + bands
        distinct, of_start = np.unique(packed, return_inverse=True)
        return accounts.number(distinct.tolist())[of_start]

    def rate(self, results: Sequence[_Result], starts: pa.Table, written: Callable[[], None]) -> list[pa.Array]:
        """Rate the results of a part in order; returns the columns of `MEASURES` for its starts.

        `written` waits until the parts before are on disk.
        """
        self._unread = Counter(result.race_id for result in results)
        self._recall_rated(written)
        part = _Part(starts, self._numbers(starts))
        rows = {seq: (begin, end) for seq, begin, end in _runs(numbers_of(starts["seq"]))}
        for seq, race_id, version in results:
            self._unread[race_id] -= 1
            held = self._versions.get(race_id)
            if held is not None and version <= held:
                continue
            self._versions[race_id] = version
            begin, end = rows.get(seq, (0, 0))
            if race_id in self._earned or self._unread[race_id]:
                is_rated = self._rate_version(race_id, part, begin, end)
            else:
                is_rated = self._rate_race(part, begin, end)
            if is_rated:
                self._places[race_id] = len(self.rated_parts), begin, end
            else:
                self._places.pop(race_id, None)
            if not self._unread[race_id]:
                self._earned.pop(race_id, None)
        return part.gains()

    def _rate_version(self, race_id: str, part: "_Part", begin: int, end: int) -> bool:
        """Rate a version of a race that has several: what the version before earned is taken back; False if it is not rated.

        A version with the same starters at the same odds earns what that one did, even if some have another key now.
        """
        starters, before = part.starters(begin, end), self._earned.pop(race_id, [])
        entries = [Entry(start.starter, start.earned) for start in before]
        same = earned_before(entries, starters) if before else None
        self._add(before, -1)
        if same is not None:
            numbers = zip(*(column[begin:end] for column in part.numbers), strict=True)
            self._earned[race_id] = list(map(_RatedStart, starters, numbers, same))
            self._add(self._earned[race_id], 1)
            part.copied += enumerate(same, begin)
        elif self._rate_race(part, begin, end):
            self._earned[race_id] = list(map(_RatedStart, starters, *part.rated(begin, end)))
        return race_id in self._earned

    def _add(self, starts: Sequence[_RatedStart], times: int) -> None:
        """Add what some starts earned to the ratings, or take it back (`times` is -1)."""
        for _, numbers, earned in starts:
            self._rated[numbers[0]] += times
            for accounts, number, gain in zip(self._accounts, numbers, earned, strict=True):
                accounts.ratings[number] += times * (gain - _EVEN_E9)
        self._clear_unknown()

    def _rate_race(self, part: "_Part", begin: int, end: int) -> bool:
        """Rate the starts of a race; False for a race with an unpriced starter, and for a walkover."""
        logs, starters = part.market[begin:end], end - begin
        if starters < 2 or None in logs:
            return False
        numbers = [column[begin:end] for column in part.numbers]
        horse, jockey, trainer, draw, suited = (accounts.ratings for accounts in self._accounts)
        rated, surprises, shares = self._rated, part.surprises, part.shares
        before = [
            (rated[h] + 1, horse[h] + jockey[j] + trainer[t] + draw[d] + suited[s])
            for h, j, t, d, s in zip(*numbers, strict=True)
        ]
        means = sum([foretold for _, foretold in before]) // starters - sum(logs) // starters
        row = begin
        for log, (seen, foretold), h, j, t, d, s in zip(logs, before, *numbers, strict=True):
            surprise = max(-_EVEN_E9, min(_EVEN_E9, log - foretold + means))
            share = surprise // seen if seen * _HORSE < 1000 else surprise * _HORSE // 1000
            rated[h] += 1
            horse[h] += share
            jockey[j] += surprise * _JOCKEY // 1000
            trainer[t] += surprise * _TRAINER // 1000
            draw[d] += surprise * _DRAW // 1000
            suited[s] += surprise * _SUITED // 1000
            surprises[row], shares[row] = surprise, share
            row += 1
        part.is_rated[begin:end] = True
        self._clear_unknown()
        return True

    def _clear_unknown(self) -> None:
        for accounts in self._accounts:
            accounts.ratings[UNKNOWN] = 0


class _Part:
    """The starts of a part while they are rated: their keys, their market, and each one's surprise and its horse's share."""

    def __init__(self, starts: pa.Table, numbers: Sequence[Numbers]) -> None:
        self._starts = starts
        self.numbers: list[list[int]] = [column.tolist() for column in numbers]
        self.market: list[int] = starts.column("market_log_e9").to_pylist()
        self.surprises = [0] * starts.num_rows
        self.shares = [0] * starts.num_rows
        self.is_rated = np.zeros(starts.num_rows, np.bool_)
        self.copied: list[tuple[int, Earned]] = []

    def starters(self, begin: int, end: int) -> list[Starter]:
        """The starters of some rows."""
        return _starters(self._starts.slice(begin, end - begin))

    def rated(self, begin: int, end: int) -> tuple[list[tuple[int, ...]], list[Earned]]:
        """The numbers of the keys of some rated rows, and what each earned."""
        numbers = list(zip(*(column[begin:end] for column in self.numbers), strict=True))
        gains = _gains(np.array(self.surprises[begin:end], np.int64), np.array(self.shares[begin:end], np.int64))
        return numbers, list(zip(*(column.tolist() for column in gains), strict=True))

    def gains(self) -> list[pa.Array]:
        """The columns of `MEASURES`: null where a start is not rated."""
        columns = _gains(np.array(self.surprises, np.int64), np.array(self.shares, np.int64))
        for row, earned in self.copied:
            self.is_rated[row] = True
            for column, gain in zip(columns, earned, strict=True):
                column[row] = gain
        rated = column_of_numbers(self.is_rated.astype(np.int64))
        return [rated, *(column_of_numbers(column, self.is_rated) for column in columns)]


def _gains(surprises: Numbers, shares: Numbers) -> list[Numbers]:
    """What starts earn for each of `PARTS`, given their surprises and the shares of their horses."""
    return [(shares if part is HORSE else surprises * part.permille // 1000) + _EVEN_E9 for part in PARTS]


def _starters(starts: pa.Table) -> list[Starter]:
    return [Starter(*row) for row in zip(*(starts[name].to_pylist() for name in Starter._fields), strict=True)]


def _results_of(part: Path, races: Sequence[str] | None = None) -> list[_Result]:
    """The results of a part in order: of all its races or of some."""
    table = read(part, _Result._fields)
    if races is not None:
        table = table.filter(pc.is_in(table["race_id"], value_set=pa.array(races, pa.string())))
    return sorted(map(_Result, *(table[name].to_pylist() for name in _Result._fields)))


def _add_gains(part: Path, order: Numbers, gains: Sequence[pa.Array]) -> None:
    """Write the starts of a part in the log's `order`, which a join of SQL need not keep, with their gains."""
    starts = read(part)
    if (order[1:] < order[:-1]).any():
        starts = starts.take(column_of_numbers(order))
    for name, column in zip(MEASURES, gains, strict=True):
        starts = starts.append_column(name, column)
    aside = part.with_name("." + part.name)
    repeating = [*KEYS, *_RESULT_COLUMNS]
    pq.write_table(starts, aside, row_group_size=ROW_GROUP, compression="lz4", use_dictionary=repeating)
    aside.replace(part)


def _runs(seqs: Numbers) -> Iterator[tuple[int, int, int]]:
    """Yield each seq with the begin and end of its rows, which are contiguous."""
    begins = np.flatnonzero(np.r_[True, seqs[1:] != seqs[:-1]]) if seqs.size else np.array([], dtype=np.intp)
    yield from zip(seqs[begins].tolist(), begins.tolist(), np.append(begins, seqs.size)[1:].tolist(), strict=True)


def hold_versions(connection: "duckdb.DuckDBPyConnection", results: str, starts: str) -> None:
    """Create `held_versions`, the current version of each race, and `rated`, its rated starts."""
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE held_versions AS
        SELECT race_id, result_version, min(seq) AS seq FROM {results} GROUP BY race_id, result_version
        QUALIFY row_number() OVER (PARTITION BY race_id ORDER BY result_version DESC) = 1"""  # noqa: S608 our own parts
    )
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW rated AS "  # noqa: S608
        f"SELECT starts.* FROM {starts} AS starts SEMI JOIN held_versions USING (seq) WHERE elo_rated = 1"
    )


def ratings_of(part: RatedPart, keys: str) -> str:
    """The query of each key of a part with the sum of its gains in billionths and its number of rated starts."""
    known = " AND ".join(f"{key} IS NOT NULL" for key in part.keys)
    return (
        f"SELECT {keys}, (sum({part.measure}) - {_EVEN_E9} * count(*))::BIGINT AS rating, count(*) AS starts "  # noqa: S608
        f"FROM rated WHERE {known} GROUP BY {keys}"
    )
