"""Features of a user's own that are as honest as the file behind them: `leaking_features_program` gives them files that are not."""

from velo.features import Family, Last, Measure, RequestFeature, RequestView, Sum, asked, extra, stored

NOTED = Measure("noted", "place noted in the file", 1, 40, extra("noted_place", "whole", least=1, most=40))
FAMILIES = (
    Family(
        "horse_noted",
        ("horse_id",),
        "the place that the user's file notes beside a start",
        career=(Sum("runs", "one"),),
        recent=(Last("noted_last", "noted", "int"),),
        measures=(NOTED,),
    ),
)
REQUEST_VIEWS = (
    RequestView(
        "rated_above",
        "how far the rating is above that of the last start",
        (RequestFeature("rise", "float", asked("official_rating") - stored("horse_form", "last_rating")),),
    ),
)
