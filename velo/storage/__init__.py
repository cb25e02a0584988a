"""Storage below every stage: the log, table versions, checksummed JSON lines, locks, atomic files, the home. Imports no stage."""
