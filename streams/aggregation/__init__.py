"""The incremental fold: from results in log order to feature rows, exactly as the batch has them.

`versions` turns each result into what it takes back and what it adds, `routing` sends that to the shards of each
family, `roll` keeps a shard's running totals and gives the rows; `elo` rates each race by those before it. All of it is
plain Python made from the catalogue: it reads no clock, opens nothing but a file to put things aside in (`shelf`), and is
what the Bytewax dataflow runs.

Inside the fold an instant is a whole number of microseconds since 1970-01-01 UTC (`*_us`), and a local date is a whole
number of days since then (`*_day`): both are what the stores keep and what compares fastest.
"""
