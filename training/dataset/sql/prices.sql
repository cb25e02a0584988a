-- one row per runner priced before a race asked about was off: its odds in the last snapshot known at decision time (taken, from
-- taken_source), in those of the same source 60, 30, 10 and 5 minutes before it, where the last is newer (then_60 …), its stakes (volume),
-- and its odds in the last snapshot known before the off (last_shown); null where that snapshot has none of it:
-- velo.racing.cards.odds_at. when_withdrawn is its last odds in any snapshot before the off, reduction_factor that of its last withdrawal.
-- A race decided earlier than its off says was off by $lead after its decision time: its result was known by then.
WITH snapshots AS (
    SELECT
        races.race_id, notices.seq, notices.source, notices.prices, notices.volumes,
        notices.known_at <= races.decision_time AS in_time,
        date_trunc('minute', races.decision_time) - notices.known_at AS ago
    FROM notices JOIN races ON races.race_id = notices.race_id
    WHERE notices.type = 'market' AND notices.known_at < least(races.off_time, races.decision_time + $lead)
), latest AS (
    SELECT
        race_id,
        arg_max(prices, seq) FILTER (in_time) AS taken, arg_max(source, seq) FILTER (in_time) AS source,
        min(ago) FILTER (in_time) AS last_ago,
        last(volumes ORDER BY seq) FILTER (in_time) AS volumes,
        arg_max(prices, seq) AS last_shown
    FROM snapshots
    GROUP BY race_id
), earlier AS (
    SELECT
        race_id,
        arg_max(prices, seq) FILTER (ago >= INTERVAL 60 MINUTES AND last_ago < INTERVAL 60 MINUTES) AS then_60,
        arg_max(prices, seq) FILTER (ago >= INTERVAL 30 MINUTES AND last_ago < INTERVAL 30 MINUTES) AS then_30,
        arg_max(prices, seq) FILTER (ago >= INTERVAL 10 MINUTES AND last_ago < INTERVAL 10 MINUTES) AS then_10,
        arg_max(prices, seq) FILTER (ago >= INTERVAL 5 MINUTES AND last_ago < INTERVAL 5 MINUTES) AS then_5
    FROM snapshots JOIN latest USING (race_id)
    WHERE in_time AND snapshots.source IS NOT DISTINCT FROM latest.source
    GROUP BY race_id
), shown AS (
    SELECT race_id, horse_id, arg_max(price, seq) FILTER (price > 1) AS when_withdrawn
    FROM (
        SELECT race_id, seq, unnest(map_keys(prices)) AS horse_id, unnest(map_values(prices)) AS price
        FROM snapshots
    )
    GROUP BY race_id, horse_id
), factors AS (
    SELECT race_id, horse_id, arg_max(reduction_factor, seq) AS reduction_factor
    FROM notices SEMI JOIN races USING (race_id)
    WHERE type = 'non_runner' AND reduction_factor IS NOT NULL
    GROUP BY race_id, horse_id
)
SELECT
    race_id, horse_id,
    CASE WHEN taken[horse_id] > 1 THEN CAST(taken[horse_id] AS DOUBLE) END AS taken,
    CASE WHEN last_shown[horse_id] > 1 THEN CAST(last_shown[horse_id] AS DOUBLE) END AS last_shown,
    CAST(then_60[horse_id] AS DOUBLE) AS then_60, CAST(then_30[horse_id] AS DOUBLE) AS then_30,
    CAST(then_10[horse_id] AS DOUBLE) AS then_10, CAST(then_5[horse_id] AS DOUBLE) AS then_5,
    CAST(volumes[horse_id] AS DOUBLE) AS volume,
    latest.source AS taken_source, when_withdrawn, reduction_factor
FROM shown FULL JOIN factors USING (race_id, horse_id) LEFT JOIN latest USING (race_id) LEFT JOIN earlier USING (race_id)
