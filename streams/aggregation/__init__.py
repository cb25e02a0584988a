"""Incremental aggregation: from results in log order to feature rows, bit for bit as the batch makes them.

`result_delta` turns each result into the starts it retracts and those it adds; `ratings` gives each start what it earned by
the results before it; `delta_batch` makes columns of the starts of many messages; `array_fold` adds them to the state of each
family and makes its rows (`key_codes`, `window_arrays`, `history_arrays`); `vectorized` makes the columns of rows. `routing`,
`window_state` and `key_history` are the plain twin, key by key. The code is made from the catalogue. It reads no clock and opens no
file but the one it spills to (`spill`). The Bytewax dataflow runs it.

Instants are whole microseconds since 1970-01-01 UTC (`*_us`), local dates whole days since then (`*_day`).
"""
