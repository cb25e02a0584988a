"""The words in which features are declared, for modules outside the package (`velo.toml`) and for the catalogue alike."""

from velo.feature_repo.catalogue.aggregates import OffsetSum, Ratio, Sum
from velo.feature_repo.catalogue.family import Family
from velo.feature_repo.catalogue.recent_aggregates import Ewma, Last, LastKnown, Max, Slope, Variance
from velo.feature_repo.catalogue.request_view import RequestFeature, RequestView, asked, stored
from velo.racing.expressions import Expression, banded, case, largest, literal, log2_e9, smallest
from velo.racing.measures import Measure
from velo.racing.start_columns import column, extra

__all__ = [
    "Ewma",
    "Expression",
    "Family",
    "Last",
    "LastKnown",
    "Max",
    "Measure",
    "OffsetSum",
    "Ratio",
    "RequestFeature",
    "RequestView",
    "Slope",
    "Sum",
    "Variance",
    "asked",
    "banded",
    "case",
    "column",
    "extra",
    "largest",
    "literal",
    "log2_e9",
    "smallest",
    "stored",
]
