"""The batch twin: every feature table from the log, in SQL."""
