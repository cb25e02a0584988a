-- one row per log record, as the batch reads it; fields of other messages are null
CREATE OR REPLACE TEMP VIEW log AS
SELECT *
FROM read_json(
    $files,
    format = 'newline_delimited',
    maximum_object_size = 67108864,
    columns = {
        seq: 'BIGINT', known_at: 'TIMESTAMPTZ', type: 'VARCHAR', race_id: 'VARCHAR', result_version: 'INTEGER',
        race_date: 'DATE', off_time: 'TIMESTAMPTZ', course: 'VARCHAR', surface: 'VARCHAR', going: 'VARCHAR',
        race_class: 'INTEGER', distance_m: 'DOUBLE',
        runners: 'STRUCT(horse_id VARCHAR, trainer_id VARCHAR, jockey_id VARCHAR, draw INTEGER, status VARCHAR,
            "position" INTEGER, beaten_lengths DOUBLE, sp_decimal DOUBLE, weight_lbs DOUBLE,
            official_rating INTEGER)[]'
    }
)
