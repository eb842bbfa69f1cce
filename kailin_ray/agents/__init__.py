"""The agents: messages in, parsed value out. Pure functions; they know no engine."""
