-- one row per result message, with the starters it names (void versions have none)
SELECT
    seq, known_at, race_id, result_version, race_date, off_time, course, surface, going, race_class, distance_m,
    list_filter(runners, lambda one: list_contains($started, one.status)) AS starters
FROM log
WHERE type = 'result'
