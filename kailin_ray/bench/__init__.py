"""Measure the throughput of a configuration, beside what the bare engine gives."""
