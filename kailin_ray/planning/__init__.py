"""Agents to stages, stages to replicas, replicas to machines. Arithmetic only."""
