"""The stream: a Bytewax dataflow from the log to both stores.

`graph` is the whole of it at a glance, `operators` its steps around the aggregation, `log_source` and `sinks` its ends,
`bootstrap` the state it starts with, `runtime` how it is started, stopped and resumed.

A checkpoint has only the position in the log: a shard's state is a function of the log up to there, so each start computes
it again (`bootstrap`).
"""
