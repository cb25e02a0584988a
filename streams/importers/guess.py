"""Guess what the columns of an unknown file mean, by their names and their values, and draft a mapping to correct.

A guess is a proposal: the draft says what was found, and leaves out what values do not show. No zone of a clock is guessed.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from velo.racing.messages import STATUSES
from velo.streams.importers import parsers
from velo.streams.importers.columns import COLUMNS, value_of
from velo.streams.importers.frame import Column, Frame
from velo.streams.importers.off_clock import written_off
from velo.streams.importers.units import UNITS, date_reader

FINISH: Final = "finish"
"""The meaning of a column of positions and codes, which a mapping declares in [[finish]]."""
OFF: Final = "off"
"""The meaning of a column of times of day, which a mapping declares in [clock]."""
_NAMED: Final[dict[str, str]] = {
    "race_id": "raceid rid racekey marketid winmarketid レースid",
    "race_date": "date racedate meetingdate day localmeetingdate eventdate 日付 レース日付 日期",
    "race_no": "raceno racenumber racenum r",
    "course": "course track venue racecourse meeting coursename trackname 競馬場 競馬場名 馬場",
    "country": "country countrycode region",
    "race_name": "racename title racetitle race",
    "race_type": "racetype type",
    "race_class": "class raceclass rclass",
    "rating_band": "ratingband band",
    "surface": "surface",
    "going": "going ground trackcondition condition goingdescription 場地狀況",
    "distance_m": "distance dist distancem distm distf distancef disty distancey distanceyards distancefurlongs metric 距離 途程",
    "horse_id": "horseid runnerid selectionid",
    "horse": "horse horsename runner runnername selectionname name 馬名",
    "jockey_id": "jockeyid riderid",
    "jockey": "jockey jockeyname rider 騎手 騎師",
    "trainer_id": "trainerid",
    "trainer": "trainer trainername 調教師 練馬師",
    "runner_no": "number num no saddle saddlecloth saddleclothno horseno runnerno tabno tabnumber program 馬番 馬號",
    "draw": "draw stall barrier post postposition gate dr 枠番 檔位",
    "age": "age horseage",
    "sex": "sex gender horsesex",
    "weight_lbs": "weight wgt lbs weightlbs weightcarried carriedweight kg weightkg actualweight 斤量 實際負磅",
    "body_weight_lbs": "bodyweight declaredweight horseweight 馬体重 排位體重",
    "official_rating": "or officialrating rating ofr",
    "headgear": "headgear gear hg equipment",
    "beaten_lengths": "ovrbtn beatenlengths lengthsbehind lbw btnlengths distbeaten 頭馬距離",
    "finish_time_s": "finishtime finishtimes winningtime secs 完成時間 タイム",
    "sp_decimal": "sp odds price winodds bsp winbsp dec decimalodds decimalprice startingprice spdec oddsdecimal 單勝 単勝 獨贏賠率",
    FINISH: "pos position place placing result finish fin finishpos finishposition finishingposition rank pla plc winresult 着順 名次",
    OFF: "off offtime racetime starttime posttime scheduledtime time 発走時刻",
}
"""Names of columns by meaning, letters and digits alone."""
_MEANING: Final = {name: meaning for meaning, names in _NAMED.items() for name in names.split()}
_FORMATS: Final = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d.%m.%Y",
    "%d-%m-%Y",
    "%Y%m%d",
    "%y/%m/%d",
    "%Y年%m月%d日",
)
_RANGES: Final[dict[tuple[str, str], tuple[float, float]]] = {
    ("distance_m", "m"): (200, 12_000),
    ("distance_m", "furlongs"): (3, 60),
    ("weight_lbs", "lb"): (90, 190),
    ("weight_lbs", "kg"): (40, 85),
    ("body_weight_lbs", "lb"): (600, 1500),
    ("body_weight_lbs", "kg"): (270, 690),
    ("sp_decimal", "probability"): (0, 1),
    ("sp_decimal", "decimal"): (1, 5000),
}
"""What numbers a unit writes for racehorses; in order of preference within a column's units."""
_LOOKED_AT: Final = 400
_ENOUGH: Final = 0.9


@dataclass(frozen=True, slots=True)
class Guess:
    """A column: its meaning (a column of the runner table, `finish` or `off`; None for unknown), unit or date format, and values.

    `readable` is the share of distinct values that the guess reads, `filled` the share of rows that are not blank.
    """

    name: str
    meaning: str | None
    unit: str | None
    values: tuple[str, ...]
    readable: float
    filled: float


def guesses(frame: Frame) -> list[Guess]:
    """Guess every column of a frame, in its order; a meaning is given to one column alone, the one that reads best."""
    found = [_guess(name, column, frame.rows) for name, column in frame.columns.items()]
    best: dict[str, Guess] = {}
    for guess in found:
        if guess.meaning and (guess.meaning not in best or guess.readable > best[guess.meaning].readable):
            best[guess.meaning] = guess
    return [
        guess if guess.meaning is None or best[guess.meaning] is guess
        else Guess(guess.name, None, None, guess.values, 0.0, guess.filled)
        for guess in found
    ]  # fmt: skip


def _guess(name: str, column: Column, rows: int) -> Guess:
    words = [word for word in column.words if word is not None]
    sample = words[:_LOOKED_AT]
    filled = column.filled() / rows
    shown = tuple(islice((word if len(word) <= 24 else f"{word[:23]}…" for word in words), 3))
    parts = ["".join(filter(str.isalnum, part)) for part in name.casefold().split(".")]
    meaning = _MEANING.get("".join(parts[-2:])) or _MEANING.get(parts[-1])
    if (
        meaning == OFF
        and sample
        and _share(sample, parsers.seconds) > _ENOUGH
        and not _share(sample, written_off) > _ENOUGH
    ):
        meaning = "finish_time_s"
    if meaning is None or not sample:
        return Guess(name, None, None, shown, 0.0, filled)
    unit, readable = _unit(meaning, sample, name)
    return Guess(name, meaning if readable >= _ENOUGH / 2 else None, unit, shown, readable, filled)


def _unit(meaning: str, sample: Sequence[str], name: str) -> tuple[str | None, float]:
    """Return the unit or date format that reads most of the values, and the share that it reads."""
    if meaning == "race_date":
        shares = {form: _share(sample, date_reader((form,))) for form in _FORMATS}
        best = max(shares, key=lambda form: shares[form])
        return (None if best == "%Y-%m-%d" else best), shares[best]
    if meaning == OFF:
        return None, _share(sample, written_off)
    if meaning == FINISH:
        return None, _share(sample, _known_finish)
    if meaning not in UNITS:
        kind = COLUMNS[meaning]
        return None, 1.0 if kind == "text" else _share(sample, lambda cell: value_of(cell, kind))
    best_unit, best_share = None, 0.0
    for unit in UNITS[meaning]:
        share = _share(sample, UNITS[meaning][unit]) * _in_range(meaning, unit, sample)
        if re.search(rf"(?:^|_|\b|\(){re.escape(unit[0])}\)?$", name.casefold()) and share:
            share += 0.01
        if share > best_share:
            best_unit, best_share = unit, share
    return best_unit, min(best_share, 1.0)


def _in_range(meaning: str, unit: str, sample: Sequence[str]) -> float:
    """Return the share of the numbers among the values that this unit writes; 1 where it writes no bare numbers."""
    low_high = _RANGES.get((meaning, unit))
    if low_high is None:
        return 0.9 if unit in ("km", "miles", "yards", "tote", "american") else 1.0
    numbers = [float(word) for word in sample if re.fullmatch(r"[+-]?\d+(?:\.\d+)?", word)]
    return sum(low_high[0] <= number <= low_high[1] for number in numbers) / len(numbers) if numbers else 1.0


def _known_finish(cell: str | None) -> None:
    status, _ = parsers.finish(cell)
    if status is not None and status not in STATUSES and status not in ("WINNER", "LOSER", "REMOVED"):
        raise ValueError(cell)


def _share(sample: Sequence[str], read: Callable[[str | None], object]) -> float:
    readable = 0
    for word in sample:
        try:
            read(word)
        except (ValueError, OverflowError, TypeError):
            continue
        readable += 1
    return readable / len(sample)


def draft(frame: Frame, found: Sequence[Guess], rows_at: str | None) -> str:
    """Return a mapping in TOML of what was guessed. What it lacks is in its comments: it loads once these are settled."""
    by_meaning = {guess.meaning: guess for guess in found if guess.meaning}
    lines = [
        f"# Drafted from {frame.label}: correct it, then try it with velo ingest FILE --as THIS.toml --check",
        'name = "my-source"',
        'help = "Load files of my source."',
        f'keys = "{"id" if "horse_id" in by_meaning else "name"}"',
        f"needs = {json.dumps([guess.name for guess in list(by_meaning.values())[:4]], ensure_ascii=False)}",
        *([f"rows = {json.dumps(rows_at, ensure_ascii=False)}"] if rows_at is not None else []),
        "",
        *_clock(by_meaning),
        "[columns]",
    ]
    if "race_id" not in by_meaning:
        parts = [by_meaning[part].name for part in ("race_date", "course", "race_no", OFF) if part in by_meaning]
        lines.append(
            f"race_id = {{ columns = {json.dumps(parts, ensure_ascii=False)} }}  # made of what tells races apart"
        )
    lines += [_line(guess) for guess in found if guess.meaning in COLUMNS]
    lines += [
        f"# {target} = ???  # every race needs it: say which column has it"
        for target in ("race_date", "course")
        if target not in by_meaning
    ]
    if not {"horse", "horse_id"} & set(by_meaning):
        lines.append("# horse = ???  # every runner needs it: say which column has it")
    return "\n".join([*lines, "", *_finish(frame, by_meaning)]) + "\n"


def _clock(by_meaning: Mapping[str, Guess]) -> list[str]:
    if OFF not in by_meaning:
        return []
    return [
        "# The column has a time of day. Its zone is not guessed: set it and remove the # to read the offs.",
        "# [clock]",
        f"# time = {json.dumps(by_meaning[OFF].name, ensure_ascii=False)}",
        "# hours = 24",
        '# zone = "Europe/London"',
        "",
    ]


def _line(guess: Guess) -> str:
    name = json.dumps(guess.name, ensure_ascii=False)
    remark = f"  # such as {', '.join(guess.values)}" + (
        f"; {1 - guess.readable:.0%} unreadable" if guess.readable < 1 else ""
    )
    if guess.meaning == "race_date":
        form = "" if guess.unit is None else f", format = {json.dumps(guess.unit, ensure_ascii=False)}"
        return f"race_date = {{ column = {name}{form} }}{remark}"
    if guess.unit:
        return f"{guess.meaning} = {{ column = {name}, unit = {json.dumps(guess.unit)} }}{remark}"
    return f"{guess.meaning} = {name}{remark}"


def _finish(frame: Frame, by_meaning: Mapping[str, Guess]) -> list[str]:
    if FINISH not in by_meaning:
        return ["# [[finish]]", "# column = ???  # who won and who ran: say which column has it"]
    name = by_meaning[FINISH].name
    words = [word for word in frame.columns[name].words if word is not None]
    exchange = {"WINNER": "RAN 1", "LOSER": "RAN", "REMOVED": "NR"}
    codes = {word: exchange[word.upper()] for word in words if word.upper() in exchange}
    unknown = [word for word in words if _share([word], _known_finish) == 0][:12]
    lines = ["[[finish]]", f"column = {json.dumps(name, ensure_ascii=False)}"]
    if codes:
        lines.append(
            f"codes = {{ {', '.join(f'{json.dumps(code)} = {json.dumps(status)}' for code, status in codes.items())} }}"
        )
    if unknown:
        listed = ", ".join(f'{json.dumps(code, ensure_ascii=False)} = "DNF"' for code in unknown)
        lines.append(f"# codes = {{ {listed} }}  # say what each means: {', '.join(sorted(STATUSES))}")
    return lines
