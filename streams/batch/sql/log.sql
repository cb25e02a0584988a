-- one row per log record, typed; fields of other messages are null
SELECT *
FROM read_json(
    $files,
    format = 'newline_delimited',
    maximum_object_size = 67108864,
    columns = {
        seq: 'BIGINT', known_at: 'TIMESTAMPTZ', type: 'VARCHAR', race_id: 'VARCHAR', result_version: 'INTEGER',
        race_date: 'DATE', off_time: 'TIMESTAMPTZ', race_no: 'INTEGER', course: 'VARCHAR', country: 'VARCHAR',
        race_name: 'VARCHAR', race_type: 'VARCHAR', race_class: 'INTEGER', rating_band: 'VARCHAR', handicap: 'BOOLEAN',
        surface: 'VARCHAR', course_config: 'VARCHAR', going: 'VARCHAR', distance_m: 'DOUBLE',
        runners: 'STRUCT(runner_no INTEGER, draw INTEGER, horse_id VARCHAR, horse VARCHAR, jockey_id VARCHAR,
            jockey VARCHAR, trainer_id VARCHAR, trainer VARCHAR, age INTEGER, sex VARCHAR, weight_lbs DOUBLE,
            body_weight_lbs DOUBLE, official_rating INTEGER, headgear VARCHAR, status VARCHAR, "position" INTEGER, beaten_lengths DOUBLE,
            finish_time_s DOUBLE, sp_decimal DOUBLE, non_runner VARCHAR$in_running_columns$own_columns)[]',
        horse_id: 'VARCHAR', jockey_id: 'VARCHAR', jockey: 'VARCHAR', reason: 'VARCHAR',
        prices: 'MAP(VARCHAR, DOUBLE)', source: 'VARCHAR'$volumes_column$factor_column, midnight: 'TIMESTAMPTZ'
    }
)
WHERE seq >= $begun AND seq < $ended
