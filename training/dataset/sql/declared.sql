-- one row per runner declared at the decision time of each race whose version 1 has starters, by race and horse:
-- velo.racing.cards.declared_at for all races at once
WITH messages AS (
    SELECT
        seq, known_at, type, race_id, result_version,
        any_value(race_date) AS race_date, any_value(off_time) AS off_time, any_value(going) AS going,
        bool_or(list_contains($started, status)) AS raced
    FROM runners
    GROUP BY seq, known_at, type, race_id, result_version
), first_results AS (
    SELECT seq, race_id, off_time
    FROM messages
    WHERE type = 'result' AND result_version = 1 AND raced AND race_date BETWEEN $since AND $until
), known_results AS (
    SELECT race_id, min(known_at) AS result_known_at
    FROM messages
    WHERE type = 'result'
    GROUP BY race_id
), timely AS (
    SELECT race_id, arg_max(off_time, seq) AS off_time
    FROM messages JOIN known_results USING (race_id)
    WHERE type = 'racecard' AND known_at <= least(off_time, result_known_at) - $lead
    GROUP BY race_id
), decided AS (
    SELECT
        first_results.race_id, first_results.seq AS result_seq,
        least(coalesce(timely.off_time, first_results.off_time), result_known_at) - $lead AS decision_time
    FROM first_results JOIN known_results USING (race_id) LEFT JOIN timely USING (race_id)
), carded AS (
    SELECT decided.*, cards.seq AS card_seq, cards.known_at AS card_known_at, cards.going AS card_going
    FROM decided LEFT JOIN messages cards
        ON cards.race_id = decided.race_id AND cards.type = 'racecard' AND cards.known_at <= decided.decision_time
    QUALIFY row_number() OVER (PARTITION BY decided.race_id ORDER BY cards.seq DESC NULLS LAST) = 1
), cards_named AS (
    -- the first card of a race, and the first that names each of its horses
    SELECT
        race_id, horse_id,
        arg_min(known_at, seq) AS declared_at, arg_min(off_time, seq) AS declared_off
    FROM runners
    WHERE type = 'racecard'
    GROUP BY GROUPING SETS ((race_id), (race_id, horse_id))
), changes AS (
    -- a notice takes effect at once where what it is about was declared by then, else with the card that declares it
    SELECT
        notices.*, carded.card_known_at, carded.card_going,
        CASE
            WHEN declared_at <= notices.known_at THEN notices.known_at
            WHEN declared_at < declared_off THEN declared_at
        END AS effective_at
    FROM notices
    JOIN carded ON carded.race_id = notices.race_id
    JOIN cards_named
        ON cards_named.race_id = notices.race_id AND cards_named.horse_id IS NOT DISTINCT FROM notices.horse_id
    WHERE
        carded.card_seq IS NOT NULL AND notices.known_at <= carded.decision_time
        AND notices.type IN ('non_runner', 'reinstated', 'jockey_change', 'going_change')
), stated_going AS (
    SELECT race_id, arg_max(going, seq) AS going
    FROM changes
    WHERE type = 'going_change' AND effective_at IS NOT NULL AND (effective_at >= card_known_at OR card_going IS NULL)
    GROUP BY race_id
), ran AS (
    -- who started in a result known by the decision time, whose version was the highest yet
    SELECT runners.race_id, runners.horse_id, 'result' AS type, runners.seq
    FROM runners
    JOIN carded ON carded.race_id = runners.race_id
    JOIN (
        SELECT seq, result_version > coalesce(max(result_version) OVER (
            PARTITION BY race_id ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS applied
        FROM messages
        WHERE type = 'result'
    ) versions ON versions.seq = runners.seq AND versions.applied
    WHERE
        runners.type = 'result' AND list_contains($started, runners.status)
        AND runners.known_at > carded.card_known_at AND runners.known_at <= carded.decision_time
), words AS (
    -- the last word on each horse since its latest card
    SELECT race_id, horse_id, arg_max(type, seq) <> 'non_runner' AS runs
    FROM (
        SELECT race_id, horse_id, type, seq
        FROM changes
        WHERE type IN ('non_runner', 'reinstated') AND effective_at >= card_known_at
        UNION ALL FROM ran
    )
    GROUP BY race_id, horse_id
), named AS (
    SELECT
        runners.race_id, carded.decision_time, carded.result_seq,
        CASE WHEN card_seq IS NULL THEN 'result version 1' ELSE 'racecard' END AS source,
        card_known_at,
        runners.race_date, runners.off_time, runners.course, runners.surface, runners.distance_m, runners.race_class,
        coalesce(stated_going.going, runners.going) AS going,
        runners.horse_id, runners.trainer_id, runners.jockey_id, runners.runner_no, nullif(runners.draw, 0) AS draw,
        runners.weight_lbs, runners.official_rating, runners.body_weight_lbs
    FROM carded
    JOIN runners ON runners.seq = coalesce(carded.card_seq, carded.result_seq)
    LEFT JOIN stated_going ON stated_going.race_id = carded.race_id
    LEFT JOIN words ON words.race_id = runners.race_id AND words.horse_id = runners.horse_id
    WHERE coalesce(
        words.runs, coalesce(list_contains($started, runners.status), false) OR (card_seq IS NOT NULL AND runners.status IS NULL))
), rides AS (
    SELECT changes.race_id, changes.horse_id, changes.jockey_id
    FROM changes JOIN named ON named.race_id = changes.race_id AND named.horse_id = changes.horse_id
    WHERE
        changes.type = 'jockey_change' AND changes.effective_at IS NOT NULL
        AND (changes.effective_at >= changes.card_known_at OR named.jockey_id IS NULL)
    QUALIFY row_number() OVER (PARTITION BY changes.race_id, changes.horse_id ORDER BY changes.seq DESC) = 1
), drawn AS (
    SELECT
        named.* EXCLUDE (jockey_id),
        CASE WHEN rides.horse_id IS NULL THEN named.jockey_id ELSE rides.jockey_id END AS jockey_id,
        count(*) OVER race AS field,
        count(draw) OVER race AS draws,
        rank() OVER (PARTITION BY named.race_id ORDER BY draw) AS draw_rank
    FROM named LEFT JOIN rides ON rides.race_id = named.race_id AND rides.horse_id = named.horse_id
    WINDOW race AS (PARTITION BY named.race_id)
)
SELECT
    race_id, race_date, off_time, decision_time, source, result_seq, runner_no, draw,
    trainer_id, jockey_id, horse_id, course,
    coalesce(band, 'unknown') AS distance_band,
    coalesce(goes, 'unknown') AS going_group,
    concat_ws('|', coalesce(nullif(course, ''), 'unknown'), coalesce(nullif(surface, ''), 'unknown'),
        coalesce(band, 'unknown'), coalesce(goes, 'unknown'),
        CASE WHEN draws = field THEN (3 * draw_rank + field - 1) // field ELSE 0 END) AS draw_cell,
    CAST(race_date - DATE '1970-01-01' AS BIGINT) AS race_day,
    CAST(race_class AS BIGINT) AS race_class, distance_m, weight_lbs, CAST(official_rating AS BIGINT) AS official_rating,
    body_weight_lbs,
    decision_time AS event_timestamp
FROM drawn LEFT JOIN goings USING (going) LEFT JOIN distances USING (distance_m)
ORDER BY race_date, decision_time, race_id, horse_id
