"""Scoring the runners of a race, on race day and as of any instant; and what is made of the scores.

`score` assembles a `scorer`, which asks for a race of now: `reading` says what to read, `wire` reads it in one round trip
within its `patience`, `settled` tells whether it saw whole results. A race of the past is `history`'s, by what was `told` and the
`vectors` of then. Either is `scored` by one of the `bundles`, with its `drivers` in words. `score_log` keeps what was served,
`score_audit` makes it again. `days` and `curves` are what `api` and `desk` show besides; `paper…` bets without money.
"""
