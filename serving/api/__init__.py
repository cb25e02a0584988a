"""The service: scores, cards and what changes of them, over HTTP."""
