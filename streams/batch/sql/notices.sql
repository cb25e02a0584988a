-- one row per message about a declared race that is neither a card nor a result
SELECT seq, known_at, type, race_id, horse_id, jockey_id, jockey, going, reason, prices, source$volumes_name$factor_name
FROM log
WHERE type IN ('non_runner', 'reinstated', 'jockey_change', 'going_change', 'market')
