"""The settings of a store, read from the environment once, at the edge."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast
from zoneinfo import ZoneInfo

from velo.errors import UserError

KeyPolicy = Literal["name", "id"]
_PATTERN = frozenset("*?[]")
DEFAULT_TIMEZONE = "Europe/London"
INSTALLED = frozenset(("site-packages", "dist-packages"))
DISTRIBUTION: Final = "velo-features"
CONFIG: Final = "velo.toml"
"""The file that names the modules of a user's own features."""


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


def config_file(home: Path, cwd: Path | None = None) -> Path | None:
    """The `velo.toml` of a store: that in its home or the nearest folder above it, else in `cwd` or above; None without one."""
    here = (Path.cwd() if cwd is None else cwd).resolve()
    folders = (home, *home.parents, here, *here.parents)
    return next((folder / CONFIG for folder in folders if (folder / CONFIG).is_file()), None)


class FeatureConfig:
    """The `velo.toml` of this process: that of the store opened last before the declared features are read, and then for good.

    Declared features are read once a process, so stores of two `velo.toml` cannot share one.
    """

    def __init__(self) -> None:
        self._file: Path | None = None
        self._chosen = False
        self._read = False

    def choose(self, file: Path | None, home: Path) -> None:
        """Take the `velo.toml` of the store at `home`; raises `UserError` where another one was read already."""
        if self._read and file != self._file:
            raise UserError(
                f"the store at {home} takes its features from {file or 'no velo.toml'}, but this process has read "
                f"{self._file or 'no velo.toml'}: open it in another Python process"
            )
        self._file, self._chosen = file, True

    def read(self) -> Path | None:
        """The file to read, from now on the only one; without an opened store that of the environment's home."""
        if not self._chosen:
            self._file, self._chosen = config_file(Settings.from_env().home), True
        self._read = True
        return self._file


FEATURE_CONFIG: Final = FeatureConfig()


def program_version() -> str:
    """The version that was installed; "unknown" where the program runs from its folder alone."""
    # a tenth of the start of a command, which seldom needs it
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


def lineage_configured(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> bool:
    """Whether OpenLineage is configured, in the ways that its client reads: by a variable `OPENLINEAGE…`, or by a file."""
    env = os.environ if environ is None else environ
    if env.get("OPENLINEAGE_DISABLED", "").lower() in ("true", "1"):
        return False
    folders = (Path.cwd() if cwd is None else cwd, Path(env.get("HOME", "/")) / ".openlineage")
    return any(name.startswith("OPENLINEAGE_") for name in env) or any(
        (folder / "openlineage.yml").is_file() for folder in folders
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
