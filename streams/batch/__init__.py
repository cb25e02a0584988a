"""The batch twin: every feature table from the log, in SQL; Elo ratings alone by the fold's own book (`rating`)."""
