"""The stream: a Bytewax dataflow from the log to both stores, as each message arrives.

`graph` is the whole of it at a glance, `steps` its thin logic around the pure fold, `source` and the two sinks its
ends, `ground` how it begins in the middle of a log, `run` how it is started, stopped and resumed.

Of its own state the stream keeps nothing but how far it came: what a shard knows is a function of the log up to
there, so a restart works it out again (`ground`), and neither a snapshot nor a hand-over from a build carries it.
"""
