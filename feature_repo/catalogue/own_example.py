"""The example that `velo features new` writes: a module of own features, its test, and `velo.toml` that names the module."""

import re
from pathlib import Path
from typing import Final

from velo.errors import UserError
from velo.settings import CONFIG

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
EXAMPLE: Final = '''"""Own features, named in velo.toml. After a change run `velo features test`, then `velo build`."""

from velo.features import (
    Ewma, Family, LastKnown, Measure, RequestFeature, RequestView, Sum, asked, case, column, extra, stored,
)

# A measure is a whole number of one start, from least to most. Unknown is null.
WIN_DAY = Measure("win_day", "day of a win", -719_162, 2_932_896, case((column("won"), column("race_day"))))

# A column that only your own files have is an `extra`. A real number becomes a whole one in small units: _e9 is billionths.
SECTIONAL = Measure(
    "sectional_e9", "seconds of the last sectional", 0, 60 * 10**9, (extra("sectional_last_s", least=0, most=60) * 1e9).rounded
)

# A family is one feature view. Each needs a Sum, by which a missing row is known.
FAMILIES = (
    Family(
        "trainer_wins",
        ("trainer_id",),
        "when a trainer last had a winner",
        career=(Sum("runs", "one"),),
        recent=(LastKnown("last_win_day", "win_day"),),
        measures=(WIN_DAY,),
    ),
    Family(
        "horse_sectional",
        ("horse_id",),
        "how fast a horse finishes",
        career=(Sum("runs", "one"),),
        recent=(Ewma("sectional_ewma", "sectional_e9"),),
        measures=(SECTIONAL,),
    ),
)

# A feature of the race asked about: what it says of a runner, compared with a stored value.
REQUEST_VIEWS = (
    RequestView(
        "since_trainer_won",
        "how long ago the trainer last had a winner",
        (RequestFeature("days_since_win", "int", asked("race_day") - stored("trainer_wins", "last_win_day")),),
    ),
)
'''
TEST: Final = '''"""Run with `velo features test FILE` or pytest."""

from NAME import FAMILIES

from velo.testing import check

TRAINER_WINS, HORSE_SECTIONAL = FAMILIES


def test_an_amended_result_takes_the_trainers_win_back():
    check(
        TRAINER_WINS,
        """
        race  version  known_at          horse   trainer  position
        R1    1        2024-05-01T15:00  Arkle   Dreaper  1
        R1    1        2024-05-01T15:00  Enable  Gosden   2
        R1    2        2024-05-03T09:00  Arkle   Dreaper  2
        R1    2        2024-05-03T09:00  Enable  Gosden   1
        """,
        {
            ("Dreaper",): {
                "2024-05-02T00:00": {"runs": 1, "last_win_day": 19_844},  # days since 1970-01-01
                "2024-05-03T09:00": {"runs": 1, "last_win_day": None},
            },
            ("Gosden",): {"2024-05-03T09:00": {"last_win_day": 19_844}},
        },
    )


def test_a_sectional_that_is_no_number_is_unknown():
    check(
        HORSE_SECTIONAL,
        """
        race  known_at          horse  position  sectional_last_s
        R1    2024-05-01T15:00  Arkle  1         33.5
        R2    2024-05-08T15:00  Arkle  1         n/a
        """,
        {("Arkle",): {"2024-05-08T15:00": {"runs": 2, "sectional_ewma": 33.5}}},
    )
'''


def write_example(folder: Path, name: str) -> list[Path]:
    """Write `NAME.py`, `test_NAME.py` and, where there is none, `velo.toml`; returns the files written.

    Raises `UserError` for a name that cannot name a module, and for a file that exists: then nothing is written.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be a module's name: use small letters, digits and _, as in my_features")
    config = folder / CONFIG
    texts = {folder / f"{name}.py": EXAMPLE, folder / f"test_{name}.py": TEST.replace("NAME", name)}
    for path in texts:
        if path.exists():
            raise UserError(f"{path} exists already: choose another name")
    if not config.exists():
        texts[config] = f'[features]\nmodules = ["{name}"]\n'
    elif name not in config.read_text():
        raise UserError(f'{config} exists already: add "{name}" to its features.modules first')
    for path, text in texts.items():
        path.write_text(text)
    return list(texts)
