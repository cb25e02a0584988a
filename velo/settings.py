"""Where a store lives and how it is reached: read from the environment once, at the edge."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast
from zoneinfo import ZoneInfo

from velo.errors import UserError

KeyPolicy = Literal["name", "id"]
_PATTERN = frozenset("*?[]")
DEFAULT_TIMEZONE = "Europe/London"
INSTALLED = frozenset(("site-packages", "dist-packages"))


@dataclass(frozen=True, slots=True)
class Settings:
    """One store's settings.

    `home` holds all state (absolute). `timezone` is what "local" means and `keys` the key policy; both are None
    where not asked for, and then the store's own hold. `redis_url` is the online store, None for the embedded one.
    """

    home: Path
    timezone: ZoneInfo | None = None
    redis_url: str | None = None
    keys: KeyPolicy | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> "Settings":
        """Settings from VELO_HOME, VELO_TIMEZONE, VELO_KEYS and REDIS_URL; raises `UserError` for a bad value."""
        env = os.environ if environ is None else environ
        keys = env.get("VELO_KEYS") or None
        if keys not in (None, "name", "id"):
            raise UserError(
                f"VELO_KEYS is {keys!r}, but keys are made by 'name' or by 'id': set one of these or unset it"
            )
        home = _home(env.get("VELO_HOME"), Path.cwd() if cwd is None else cwd)
        if _PATTERN & set(str(home)):
            raise UserError(
                f"VELO_HOME is {str(home)!r}, but {' '.join(sorted(_PATTERN))} are read as a pattern in the paths of "
                "tables: use a folder without them"
            )
        return cls(
            home=home,
            timezone=zone_named(env["VELO_TIMEZONE"]) if env.get("VELO_TIMEZONE") else None,
            redis_url=env.get("REDIS_URL") or None,
            keys=cast("KeyPolicy | None", keys),
        )


def installed(folder: Path) -> bool:
    """Whether a folder is among installed packages, where no store may be."""
    return not INSTALLED.isdisjoint(folder.parts)


def _home(named: str | None, cwd: Path) -> Path:
    """VELO_HOME, else `data` beside the nearest feature_repo/ at or above `cwd`, else `./data`; absolute.

    Raises `UserError` for a home among installed packages: the next upgrade would delete it.
    """
    cwd = cwd.resolve()
    # the package itself has a feature_repo too
    projects = (
        folder
        for folder in (cwd, *cwd.parents)
        if (folder / "feature_repo" / "feature_store.yaml").is_file() and not (folder / "__init__.py").exists()
    )
    home = cwd / Path(named).expanduser() if named else next(projects, cwd) / "data"
    home = home.resolve()
    if installed(home):
        raise UserError(
            f"the home would be {home}, among installed packages: set VELO_HOME to the folder of your store"
        )
    return home


def zone_named(name: str) -> ZoneInfo:
    """The IANA time zone of a name; raises `UserError` where there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as unknown:
        raise UserError(
            f"VELO_TIMEZONE is {name!r}, which is no IANA time zone: use one such as 'Europe/London' or 'Asia/Hong_Kong'"
        ) from unknown
