"""Incremental aggregation: from results in log order to feature rows, bit for bit as the batch makes them.

`result_delta` turns each result into the starts it retracts and those it adds; `ratings` gives each start what it earned by
the results before it; `routing` sends the starts to the shards of each family, key by key; `window_state` keeps a shard's
running sums and makes its rows; `vectorized` makes the columns of many rows. The code is plain Python made from the
catalogue. It reads no clock and opens no file but the one it spills to (`spill`). The Bytewax dataflow runs it.

Instants are whole microseconds since 1970-01-01 UTC (`*_us`), local dates whole days since then (`*_day`).
"""
