"""What serves an agent: a model found and measured, the vLLM engine, its account."""
