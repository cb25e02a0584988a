-- one row per runner priced before a race asked about was off: its odds in the last snapshot known at decision time
-- (taken), and in the last one known before the off (last_shown); null where that snapshot has none of it.
-- A race decided earlier than its off says was off by $lead after its decision time: its result was known by then.
WITH snapshots AS (
    SELECT races.race_id, notices.seq, notices.prices, notices.known_at <= races.decision_time AS in_time
    FROM notices JOIN races ON races.race_id = notices.race_id
    WHERE notices.type = 'market' AND notices.known_at < least(races.off_time, races.decision_time + $lead)
), latest AS (
    SELECT race_id, arg_max(prices, seq) FILTER (in_time) AS taken, arg_max(prices, seq) AS last_shown
    FROM snapshots
    GROUP BY race_id
), shown AS (
    SELECT DISTINCT race_id, unnest(map_keys(prices)) AS horse_id
    FROM snapshots
)
SELECT
    race_id, horse_id,
    CASE WHEN taken[horse_id] > 1 THEN CAST(taken[horse_id] AS DOUBLE) END AS taken,
    CASE WHEN last_shown[horse_id] > 1 THEN CAST(last_shown[horse_id] AS DOUBLE) END AS last_shown
FROM shown JOIN latest USING (race_id)
