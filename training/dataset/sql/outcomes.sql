-- one row per runner of version 1 of each result with starters: what became of it, and what the market made of it
WITH results AS (
    SELECT
        seq, race_id, horse_id, status, list_contains($started, status) AS started,
        CASE WHEN status = 'FINISHED' THEN "position" END AS position,
        coalesce(status IN ('FINISHED', 'RAN') AND "position" = 1, false) AS won,
        CASE WHEN sp_decimal > 1 THEN sp_decimal END AS sp_decimal
    FROM runners
    WHERE type = 'result' AND result_version = 1
), books AS (
    -- whole numbers, so that the sum is the same in any order: a trillion over the odds in thousandths
    SELECT
        *,
        CASE WHEN started THEN 1000000000000 // CAST(floor(1000 * sp_decimal + 0.5) AS BIGINT) END AS inverse,
        count(*) FILTER (started AND sp_decimal IS NULL) OVER race AS unpriced,
        count(*) FILTER (won) OVER race AS winners,
        count(*) FILTER (started) OVER race AS starters
    FROM results
    WINDOW race AS (PARTITION BY seq)
)
SELECT
    seq AS result_seq, horse_id, status, started, position, sp_decimal, starters,
    CASE WHEN NOT started THEN NULL WHEN won THEN 1.0::DOUBLE / winners ELSE 0.0 END AS win_share,
    CASE WHEN started AND unpriced = 0
        THEN CAST(inverse AS DOUBLE) / CAST(sum(inverse) OVER (PARTITION BY seq) AS DOUBLE) END AS market_pi
FROM books
