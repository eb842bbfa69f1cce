"""Exceptions whose message is one line for a person."""

STOPPED = "stopped; finished work is kept, and the same command resumes"


class ConfigError(ValueError):
    """A wrong configuration, path or model."""


class CommandFailedError(RuntimeError):
    """A job did not finish all of its work."""


class TooManyFailuresError(CommandFailedError):
    """More rows of a run failed than the configuration allows, or its engines keep dying; finished work is kept."""


class StoppedError(RuntimeError):
    """A job was asked to stop, or its time is over; finished work is kept, and the same command resumes it."""
