"""From files of others to messages of the log."""
