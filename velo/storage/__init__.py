"""What every stage stores by: the log, table versions, checksummed JSON lines, locks, atomic files, the home. Imports no stage."""
