"""Serving an agent: finding and sizing its model, the vLLM engine, and the engine's account."""
