"""What every stage stores by: the log, table versions, whole files, the home. Imports no stage."""
