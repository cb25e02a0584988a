"""Models: trees, logit, their ensemble, and adapters of a user's model."""
