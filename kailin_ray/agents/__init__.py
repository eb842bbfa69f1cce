"""The agents: functions that build messages and check replies. They are pure and use no engine."""
