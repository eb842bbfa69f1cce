"""The retrieval agent: the actor, its client, its encoders."""
