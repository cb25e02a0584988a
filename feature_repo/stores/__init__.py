"""The online and offline stores: Feast plug-ins, and where a home keeps what.

Feast calls `offline` (its answers are an `offline_job`), `online`, `engine` and `registry`, each for the store of its `home`.
The point-in-time `join` reads each view's `history` out of its `parts`: `keys` numbers the keys, `search` finds the rows, `gather`
takes their values; other queries are `changelog`'s, in DuckDB. In Redis a row lies as `redis_layout` says; `redis_writer` offers
it, `redis_rows` reads it. Races to come are `race_cards`. `embedded_redis` is the store's own server.
"""
