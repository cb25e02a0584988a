"""Watch what is served: `served_races` reads back the scores and their features, `score_quality` settles them, `report` compares."""
