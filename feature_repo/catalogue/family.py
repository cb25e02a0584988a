"""A family: the declaration of one feature view. Batch, stream, Feast, training and serving all follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from velo.errors import UserError
from velo.feature_repo.catalogue.aggregates import STARTS_OF_A_HORSE, STARTS_OF_A_KEY, Aggregate, Kind, faults
from velo.feature_repo.catalogue.recent_aggregates import Recent, recent_faults
from velo.racing.measures import MEASURES, Measure


@dataclass(frozen=True, slots=True)
class Feature:
    """One stored column: its name in its view, and whether it counts or measures."""

    name: str
    kind: Kind
    calendar: bool = False
    """Whether it mostly says when a start was: models do not see it."""


@dataclass(frozen=True, slots=True)
class Family:
    """One feature view: one row per change of a key's values.

    `career` aggregates cover all known starts of the key; `windowed` ones the starts within each of `windows` (days);
    `recent` ones the latest starts in the order of `start_order`. `measures` are measures of a user's own that they use beside
    those of `velo.racing.measures`. `owner` is who to ask about it: by default the module that declares it.
    """

    view: str
    keys: tuple[str, ...]
    about: str
    career: tuple[Aggregate, ...] = ()
    recent: tuple[Recent, ...] = ()
    windows: tuple[int, ...] = ()
    windowed: tuple[Aggregate, ...] = ()
    measures: tuple[Measure, ...] = ()
    owner: str = ""
    features: tuple[Feature, ...] = field(init=False, repr=False, compare=False)
    """Its columns in order: career, recent, then the windows, shortest first as declared."""

    def __post_init__(self) -> None:
        """Raise `UserError` for what batch and stream could not both work out exactly."""
        # a user may write lists; what is made of a family is kept by it, so it must never change
        for name in ("keys", "career", "recent", "windows", "windowed", "measures"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        starts = STARTS_OF_A_HORSE if "horse_id" in self.keys else STARTS_OF_A_KEY
        for aggregate in (*self.career, *self.windowed):
            for fault in faults(aggregate, starts, self.known_measures):
                raise UserError(f"feature {self.view}.{aggregate.name}: {fault}")
        for recent in self.recent:
            for fault in recent_faults(recent, self.known_measures):
                raise UserError(f"feature {self.view}.{recent.name}: {fault}")
        # made once: every row that is read asks for it
        object.__setattr__(self, "features", self._features())
        if len(set(names := [feature.name for feature in self.features])) < len(names):
            raise UserError(f"view {self.view}: two features have one name: {', '.join(sorted(names))}")

    @property
    def known_measures(self) -> Mapping[str, Measure]:
        """Every measure that its features may use, by name."""
        return {**MEASURES, **{measure.name: measure for measure in self.measures}}

    @property
    def used_measures(self) -> frozenset[str]:
        """The measures that its features are made of."""
        totals = (measure for aggregate in (*self.career, *self.windowed) for measure in aggregate.measures)
        return frozenset((*totals, *(aggregate.measure for aggregate in self.recent)))

    @property
    def feature_measures(self) -> dict[str, tuple[str, ...]]:
        """The measures that each feature is made of."""
        return {
            **{aggregate.name: aggregate.measures for aggregate in self.career},
            **{recent.name: (recent.measure,) for recent in self.recent},
            **{f"{each.name}_{days}d": each.measures for days in self.windows for each in self.windowed},
        }

    def _features(self) -> tuple[Feature, ...]:
        known = self.known_measures

        def feature(name: str, kind: Kind, *measures: str) -> Feature:
            return Feature(name, kind, any(known[measure].is_calendar for measure in measures))

        return (
            *(feature(aggregate.name, aggregate.kind, *aggregate.measures) for aggregate in self.career),
            *(feature(aggregate.name, aggregate.kind, aggregate.measure) for aggregate in self.recent),
            *(
                feature(f"{aggregate.name}_{days}d", aggregate.kind, *aggregate.measures)
                for days in self.windows
                for aggregate in self.windowed
            ),
        )

    @property
    def start_order(self) -> tuple[str, ...]:
        """The columns that order a key's starts, oldest first; no two starts of a key are equal in all of them.

        A race gives a horse one start. It can give a trainer, a jockey or a cell of the draw several.
        """
        return ("off_time", "race_id") if "horse_id" in self.keys else ("off_time", "race_id", "horse_id")

    @property
    def formulas(self) -> tuple[str, ...]:
        """The formula of each of `features`, in words."""
        known = self.known_measures
        over_time = [
            f"{aggregate.describe(known)}, last {days} days" for days in self.windows for aggregate in self.windowed
        ]
        career = [f"{aggregate.describe(known)}, all known starts" for aggregate in self.career]
        return (*career, *(aggregate.describe(known) for aggregate in self.recent), *over_time)
