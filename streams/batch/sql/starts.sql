-- one row per start of each result message: its keys and its integer measures, the twin of velo.racing.measures
WITH results AS (
    SELECT
        seq, known_at, race_id, result_version, race_date, off_time, course, surface, going, race_class, distance_m,
        list_max(list_transform(
            list_filter(regexp_extract_all(rating_band, '[0-9]+'), lambda one: len(one) <= $longest_rating),
            lambda one: CAST(one AS BIGINT))) AS band_top,
        CASE WHEN distance_m >= $shortest_race_m AND distance_m < $longest_race_m
            THEN CAST(floor(distance_m + 0.5) AS BIGINT) END AS run_m,
        list_filter(runners, lambda one: list_contains($started, one.status)) AS starters
    FROM log
    WHERE type = 'result'
), books AS (
    SELECT
        *,
        len(starters)::BIGINT AS field,
        list_transform(starters, lambda one: CASE WHEN one.status = 'FINISHED' THEN one."position" END) AS positions,
        list_transform(starters, lambda one: nullif(one.draw, 0)) AS draws,
        list_transform(starters, lambda one:
            CASE WHEN one.sp_decimal > 1
                THEN 1000000000000 // CAST(floor(1000 * least(one.sp_decimal, $longest_odds) + 0.5) AS BIGINT) END) AS inverses,
        list_transform(starters, lambda one:
            CASE WHEN one.finish_time_s >= 0.001 AND one.finish_time_s < $longest_race_s
                THEN CAST(floor(1000 * one.finish_time_s + 0.5) AS BIGINT) END) AS times,
        list_transform(starters, lambda one:
            CASE WHEN one.weight_lbs >= 0 AND one.weight_lbs < $heaviest_lbs
                THEN CAST(floor(one.weight_lbs * 1e9 + 0.5) AS BIGINT) END) AS weights,
        list_transform(starters, lambda one:
            CASE WHEN one.beaten_lengths >= 0
                THEN CAST(floor(least(one.beaten_lengths, $figure_lengths_cap) * 1e9 + 0.5) AS BIGINT) END) AS behinds
    FROM results
), ranked AS (
    SELECT
        *,
        list_transform(positions, lambda one: len(list_filter(positions, lambda other: other = one))) AS sharings,
        CASE WHEN len(list_filter(draws, lambda one: one IS NULL)) = 0
            THEN list_transform(draws, lambda one: 1 + len(list_filter(draws, lambda other: other < one))) END AS ranks,
        CASE WHEN len(list_filter(inverses, lambda one: one IS NULL)) = 0
            THEN nullif(CAST(list_sum(inverses) AS BIGINT), 0) END AS book,
        -- against itself a runner's chance is a half, taken off below
        CASE WHEN field > 1 AND len(list_filter(inverses, lambda one: one IS NULL)) = 0
            THEN list_transform(inverses, lambda one: CAST(list_sum(list_transform(inverses, lambda other:
                one * 1000000000 // greatest(one + other, 1))) AS BIGINT)) END AS pairings,
        list_count(times) AS timed,
        CAST(list_sum(times) AS BIGINT) AS clocked,
        CASE WHEN list_count(weights) = field THEN band_top * 1000000000 - list_max(weights) END AS scale,
        CAST(list_sum(behinds) AS BIGINT) // nullif(list_count(behinds), 0) * $length_lbs_metres // run_m AS mean_behind
    FROM books
), ran AS (
    SELECT
        * EXCLUDE (starters, positions, draws, inverses, times, weights, behinds, sharings, ranks, pairings),
        unnest(starters) AS runner,
        CAST(unnest(positions) AS BIGINT) AS position,
        unnest(inverses) AS inverse,
        unnest(times) AS time_ms,
        unnest(weights) AS weight,
        unnest(behinds) AS behind,
        unnest(sharings) AS sharing,
        unnest(pairings) AS pairing,
        unnest(ranks) AS draw_rank
    FROM ranked
), measured AS (
    SELECT
        seq, known_at, race_id, result_version, race_date, off_time,
        runner.trainer_id, runner.jockey_id, runner.horse_id, course,
        $distance_band AS distance_band,
        coalesce(going_group, 'unknown') AS going_group,
        coalesce(nullif(surface, ''), 'unknown') AS ground,
        coalesce((3 * draw_rank + field - 1) // field, 0) AS draw_third,
        1::BIGINT AS one,
        (runner.status IN ('FINISHED', 'RAN') AND runner."position" IS NOT DISTINCT FROM 1)::BIGINT AS win,
        -- a RAN start has no known place and no known rivals beaten
        runner.status <> 'RAN' AS placed,
        CASE WHEN placed
            THEN coalesce(position <= $places, false)::BIGINT
        END AS place,
        placed::BIGINT AS place_known,
        CASE
            WHEN field = 1 OR NOT placed THEN NULL
            WHEN position IS NULL THEN 0
            ELSE greatest(0, 1000000000 * (2 * field - 2 * position - sharing + 1) // (2 * (field - 1)))
        END AS prb_e9,
        (prb_e9 IS NOT NULL)::BIGINT AS prb_known,
        inverse * 1000000000 // book AS exp_e9,
        CASE WHEN book IS NULL THEN 0 ELSE win END AS win_priced,
        1000000000 // field AS uni_e9,
        exp_e9 * field AS market_e9,
        CASE WHEN market_e9 IS NOT NULL THEN greatest(market_e9 * $market_log_one // 1000000000, 1) END AS market_count,
        length(bin(market_count)) - 1 AS market_whole,
        market_whole * 1000000000 + (((market_count - (1::BIGINT << market_whole)) * 1000000000) >> market_whole)
            AS market_log_e9,
        (exp_e9 IS NOT NULL)::BIGINT AS priced,
        $par_ms AS par_ms,
        1000000000 + prb_e9 - greatest(pairing - 500000000, 0) // nullif(field - 1, 0) AS over_known_e9,
        CASE WHEN book IS NOT NULL THEN over_known_e9 END AS over_e9,
        (over_e9 IS NOT NULL)::BIGINT AS over_known,
        CASE WHEN timed > 1 AND time_ms IS NOT NULL
            THEN least($pace_cap * 1000000000, clocked * 1000000000 // (timed * time_ms)) END AS pace_e9,
        (pace_e9 IS NOT NULL)::BIGINT AS pace_known,
        CASE WHEN par_ms IS NOT NULL AND time_ms IS NOT NULL
            THEN least($pace_cap * 1000000000, par_ms * 1000000000 // time_ms) END AS speed_e9,
        (speed_e9 IS NOT NULL)::BIGINT AS speed_known,
        scale + weight + mean_behind - behind * $length_lbs_metres // run_m AS figure_e9,
        CAST(floor(CASE
            WHEN runner.beaten_lengths > $lengths_cap THEN $lengths_cap
            WHEN runner.beaten_lengths < $lengths_floor THEN $lengths_floor
            ELSE runner.beaten_lengths
        END * 1e9 + 0.5) AS BIGINT) AS lengths_e9,
        position, field,
        race_date - DATE '1970-01-01' AS race_day,
        -- of a date before 1970 too it is above 0, as what is summed must be
        (race_date - DATE '0001-01-01' + 1) * 1000000000 AS day_e9,
        race_class, distance_m, runner.weight_lbs, runner.official_rating, runner.body_weight_lbs
    FROM ran LEFT JOIN goings USING (going)
)
SELECT
    * EXCLUDE (placed, ground, draw_third, market_count, market_whole, par_ms, over_known_e9),
    concat_ws('|', course, ground, distance_band, going_group, draw_third) AS draw_cell
FROM measured
