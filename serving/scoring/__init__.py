"""Score a race: `scorer` is the entry, and each other module does one part of it.

`history` reads a race as of an instant from the tables and the log (`race_messages`, `feature_matrix`). `read_plan` says what
to read for now, `redis_reader` reads it in one round trip within a `request_deadline`, and `read_consistency` checks that it
saw whole results. `scored` applies one of the `bundles`; `drivers` explains the result. `score_log` logs what was served,
and `score_audit` computes it again.
"""
