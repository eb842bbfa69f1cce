"""Exceptions whose message is one line for a person."""

STOPPED = "stopped; what is done is kept, and the same command goes on from there"


class ConfigError(ValueError):
    """A wrong configuration, path or model."""


class CommandFailedError(RuntimeError):
    """A job did not do all it was asked to."""


class TooManyFailuresError(CommandFailedError):
    """More of a run's rows failed than the configuration allows, or its engines only die; what is done is kept."""


class StoppedError(RuntimeError):
    """A job was asked to stop, or its time is over; what is done is kept, and the same command goes on."""
