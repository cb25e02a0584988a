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
        list_transform(starters, lambda one:
            CASE WHEN one.sp_decimal > 1
                THEN 1000000000000 // CAST(floor(1000 * one.sp_decimal + 0.5) AS BIGINT) END) AS inverses
    FROM results
), raced AS (
    SELECT
        * EXCLUDE (starters, inverses),
        CASE WHEN len(list_filter(inverses, lambda one: one IS NULL)) = 0
            THEN nullif(CAST(list_sum(inverses) AS BIGINT), 0) END AS book,
        unnest(starters) AS runner,
        unnest(inverses) AS inverse
    FROM books
), ran AS (
    SELECT
        * EXCLUDE (runner),
        runner.horse_id, runner.trainer_id, runner.jockey_id, runner.weight_lbs, runner.official_rating,
        CAST(floor(CASE WHEN runner.beaten_lengths > $lengths_cap THEN $lengths_cap ELSE runner.beaten_lengths END * 1e9
            + 0.5) AS BIGINT) AS lengths_e9,
        nullif(runner.draw, 0) AS draw,
        CASE WHEN runner.status = 'FINISHED' THEN CAST(runner."position" AS BIGINT) END AS position
    FROM raced
), placed AS (
    SELECT
        *,
        count(*) OVER (PARTITION BY seq, position) AS sharing,
        rank() OVER (PARTITION BY seq ORDER BY draw) AS draw_rank,
        count(draw) OVER (PARTITION BY seq) AS draws
    FROM ran
), measured AS (
    SELECT
        seq, known_at, race_id, result_version, race_date, off_time,
        trainer_id, jockey_id, horse_id, course,
        $distance_band AS distance_band,
        coalesce(going_group, 'unknown') AS going_group,
        coalesce(nullif(surface, ''), 'unknown') AS ground,
        CASE WHEN draws = field THEN (3 * draw_rank + field - 1) // field ELSE 0 END AS draw_third,
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
        lengths_e9, position, field,
        race_date - DATE '1970-01-01' AS race_day,
        race_class, distance_m, weight_lbs, official_rating
    FROM placed LEFT JOIN goings USING (going)
)
SELECT
    * EXCLUDE (ground, draw_third),
    concat_ws('|', course, ground, distance_band, going_group, draw_third) AS draw_cell
FROM measured
