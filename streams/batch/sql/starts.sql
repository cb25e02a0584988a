-- one row per start of each result message: its keys and its integer measures, the twin of velo.racing.measures
WITH results AS (
    SELECT
        seq, known_at, race_id, result_version, race_date, off_time, course, surface, going, race_class, distance_m,
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
                THEN 1000000000000 // CAST(floor(1000 * one.sp_decimal + 0.5) AS BIGINT) END) AS inverses
    FROM results
), ranked AS (
    SELECT
        *,
        list_transform(positions, lambda one: len(list_filter(positions, lambda other: other = one))) AS sharings,
        CASE WHEN len(list_filter(draws, lambda one: one IS NULL)) = 0
            THEN list_transform(draws, lambda one: 1 + len(list_filter(draws, lambda other: other < one))) END AS ranks,
        CASE WHEN len(list_filter(inverses, lambda one: one IS NULL)) = 0
            THEN nullif(CAST(list_sum(inverses) AS BIGINT), 0) END AS book
    FROM books
), ran AS (
    SELECT
        * EXCLUDE (starters, positions, draws, inverses, sharings, ranks),
        unnest(starters) AS runner,
        CAST(unnest(positions) AS BIGINT) AS position,
        unnest(inverses) AS inverse,
        unnest(sharings) AS sharing,
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
        (position IS NOT DISTINCT FROM 1)::BIGINT AS win,
        coalesce(position <= CASE WHEN field <= 4 THEN 1 WHEN field <= 7 THEN 2 ELSE 3 END, false)::BIGINT AS place,
        CASE
            WHEN field = 1 THEN NULL
            WHEN position IS NULL THEN 0
            ELSE greatest(0, 1000000000 * (2 * field - 2 * position - sharing + 1) // (2 * (field - 1)))
        END AS prb_e9,
        (field > 1)::BIGINT AS prb_known,
        inverse * 1000000000 // book AS exp_e9,
        CASE WHEN book IS NULL THEN 0 ELSE win END AS win_priced,
        1000000000 // field AS uni_e9,
        exp_e9 * field AS market_e9,
        CAST(floor(
            CASE WHEN runner.beaten_lengths > $lengths_cap THEN $lengths_cap ELSE runner.beaten_lengths END * 1e9 + 0.5
        ) AS BIGINT) AS lengths_e9,
        position, field,
        race_date - DATE '1970-01-01' AS race_day,
        race_class, distance_m, runner.weight_lbs, runner.official_rating
    FROM ran LEFT JOIN goings USING (going)
)
SELECT
    * EXCLUDE (ground, draw_third),
    concat_ws('|', course, ground, distance_band, going_group, draw_third) AS draw_cell
FROM measured
