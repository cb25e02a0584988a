"""Scoring the runners of a race, on race day and as of any instant."""
