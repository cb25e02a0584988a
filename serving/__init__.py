"""Score the runners of a race, serve the scores over HTTP and at the desk, and bet on them without money.

`scoring` scores a race as of now from Redis, or as of an instant from the tables; `api` serves it, `ui` holds the desk's
files, and `paper_trading` records bets and settles them.
"""
