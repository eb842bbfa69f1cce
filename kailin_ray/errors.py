"""What a user is told in one line."""


class ConfigError(ValueError):
    """A wrong configuration, path or model. Its message is one line for the user."""
