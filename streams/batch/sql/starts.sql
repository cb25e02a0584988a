-- one row per start of each result message: its keys and its measures. The values above `measured` are the twin of
-- velo.racing.race_values; the measures are rendered from velo.racing.measures
WITH results AS (
    SELECT
        seq, known_at, race_id, result_version, race_date, off_time, course, surface, going, race_class, distance_m,
        list_max(list_transform(
            list_filter(regexp_extract_all(rating_band, '[0-9]+'), lambda band: len(band) <= $longest_rating),
            lambda band: CAST(band AS BIGINT))) AS band_top,
        CASE WHEN distance_m >= $shortest_race_m AND distance_m < $longest_race_m
            THEN CAST(floor(distance_m + 0.5) AS BIGINT) END AS run_m,
        list_filter(runners, lambda runner: list_contains($started, runner.status)) AS starters
    FROM log
    WHERE type = 'result'
), books AS (
    SELECT
        *,
        len(starters)::BIGINT AS field,
        list_transform(starters, lambda runner: CASE WHEN runner.status = 'FINISHED' THEN runner."position" END) AS positions,
        list_transform(starters, lambda runner: nullif(runner.draw, 0)) AS draws,
        list_transform(starters, lambda runner:
            CASE WHEN runner.sp_decimal > 1
                THEN 1000000000000 // CAST(floor(1000 * least(runner.sp_decimal, $longest_odds) + 0.5) AS BIGINT) END) AS inverses,
        list_transform(starters, lambda runner:
            CASE WHEN runner.finish_time_s >= 0.001 AND runner.finish_time_s < $longest_race_s
                THEN CAST(floor(1000 * runner.finish_time_s + 0.5) AS BIGINT) END) AS times,
        list_transform(starters, lambda runner:
            CASE WHEN json_type(runner.first_section_ms) IN ('BIGINT', 'UBIGINT')
                    AND TRY_CAST(runner.first_section_ms AS BIGINT) BETWEEN 1 AND $longest_section_ms
                THEN TRY_CAST(runner.first_section_ms AS BIGINT) END) AS firsts,
        list_transform(starters, lambda runner:
            CASE WHEN json_type(runner.last_section_ms) IN ('BIGINT', 'UBIGINT')
                    AND TRY_CAST(runner.last_section_ms AS BIGINT) BETWEEN 1 AND $longest_section_ms
                THEN TRY_CAST(runner.last_section_ms AS BIGINT) END) AS lasts,
        list_transform(starters, lambda runner:
            CASE WHEN runner.weight_lbs >= 0 AND runner.weight_lbs < $heaviest_lbs
                THEN CAST(floor(runner.weight_lbs * 1e9 + 0.5) AS BIGINT) END) AS weights,
        list_transform(starters, lambda runner:
            CASE WHEN runner.beaten_lengths >= 0
                THEN CAST(floor(least(runner.beaten_lengths, $figure_lengths_cap) * 1e9 + 0.5) AS BIGINT) END) AS behinds
    FROM results
), ranked AS (
    SELECT
        *,
        list_transform(positions, lambda place: len(list_filter(positions, lambda other: other = place))) AS sharings,
        CASE WHEN len(list_filter(draws, lambda draw: draw IS NULL)) = 0
            THEN list_transform(draws, lambda draw: 1 + len(list_filter(draws, lambda other: other < draw))) END AS ranks,
        CASE WHEN len(list_filter(inverses, lambda inverse: inverse IS NULL)) = 0
            THEN nullif(CAST(list_sum(inverses) AS BIGINT), 0) END AS book,
        -- against itself a runner's chance is a half, taken off below
        CASE WHEN field > 1 AND len(list_filter(inverses, lambda inverse: inverse IS NULL)) = 0
            THEN list_transform(inverses, lambda inverse: CAST(list_sum(list_transform(inverses, lambda other:
                inverse * 1000000000 // greatest(inverse + other, 1))) AS BIGINT)) END AS pairings,
        list_count(times) AS timed,
        CAST(list_sum(times) AS BIGINT) AS clocked,
        list_count(firsts) AS first_timed,
        CAST(list_sum(firsts) AS BIGINT) AS first_clocked,
        list_count(lasts) AS last_timed,
        CAST(list_sum(lasts) AS BIGINT) AS last_clocked,
        CASE WHEN list_count(weights) = field THEN band_top * 1000000000 - list_max(weights) END AS scale,
        CAST(list_sum(behinds) AS BIGINT) // nullif(list_count(behinds), 0) * $length_lbs_metres // run_m AS mean_behind
    FROM books
), ran AS (
    SELECT
        * EXCLUDE (starters, positions, draws, inverses, times, firsts, lasts, weights, behinds, sharings, ranks, pairings),
        unnest(starters) AS runner,
        CAST(unnest(positions) AS BIGINT) AS position,
        unnest(inverses) AS inverse,
        unnest(times) AS time_ms,
        unnest(firsts) AS first_ms,
        unnest(lasts) AS last_ms,
        unnest(weights) AS weight_e9,
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
        $measures
    FROM ran LEFT JOIN goings USING (going)
)
SELECT
    * EXCLUDE (ground, draw_third),
    concat_ws('|', course, ground, distance_band, going_group, draw_third) AS draw_cell
FROM measured
