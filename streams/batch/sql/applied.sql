-- one row per result message that took effect: its version is higher than every earlier one of its race;
-- retracted_at is when the next one that takes effect replaces it
WITH ranked AS (
    SELECT
        seq, known_at, race_id, result_version,
        max(result_version) OVER (PARTITION BY race_id ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
            AS highest_before
    FROM results
)
SELECT seq, known_at, lead(known_at) OVER (PARTITION BY race_id ORDER BY seq) AS retracted_at
FROM ranked
WHERE highest_before IS NULL OR result_version > highest_before
