"""The online and offline stores, as Feast plug-ins.

Feast calls `offline` (which returns an `offline_job`), `online`, `materialization` and `registry`. The point-in-time join is
`asof_join`: `parts` lists a view's files, `changelog_reader` reads them, `key_encoding` numbers the keys, `asof_search` finds
the rows. Other queries run in DuckDB (`changelog`). `redis_layout` defines a row in Redis, `redis_writer` writes rows and
`redis_rows` reads them. `race_cards` holds future races. `embedded_redis` starts the store's own server.
"""
