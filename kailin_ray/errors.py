"""What a user is told in one line."""


class ConfigError(ValueError):
    """A wrong configuration, path or model. Its message is one line for the user."""


class CommandFailedError(RuntimeError):
    """The command did not do all it was asked; its message is one line."""


class CommandStoppedError(RuntimeError):
    """The command was asked to stop, and did in good order; the same one goes on."""


STOPPED = "stopped; what is done is kept, and the same command goes on from there"


class TooManyFailuresError(RuntimeError):
    """More of a run's rows failed than the configuration allows, or its engines only die; what is done is kept."""


class StoppedError(RuntimeError):
    """The run was asked to stop, or its time is over; what is done is kept, and the same command goes on."""
