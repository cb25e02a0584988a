-- one row per runner of each result and racecard message, as told (every version); a card's non-runners have status NR,
-- which older logs mark in a field of the source
SELECT
    * EXCLUDE (non_runner$in_running_names$own_names) REPLACE (
        CASE WHEN type = 'racecard' AND status IS NULL AND non_runner = 'true' THEN 'NR' ELSE status END AS status)
FROM (
    SELECT
        seq, known_at, type, race_id, result_version, race_date, off_time, race_no, course, country, race_name,
        race_type, race_class, rating_band, handicap, surface, course_config, going, distance_m,
        unnest(runners, max_depth := 2)
    FROM (SELECT * EXCLUDE (horse_id, jockey_id, jockey) FROM log WHERE type IN ('result', 'racecard'))
)
