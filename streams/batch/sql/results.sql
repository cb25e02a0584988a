-- one row per result message
SELECT seq, known_at, race_id, result_version, race_date
FROM log
WHERE type = 'result'
