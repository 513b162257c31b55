"""What can go wrong, by who has to act: each class carries the exit code of the command."""


class UserError(ValueError):
    """The user asked for something that cannot be done; nothing was changed. Exit code 2."""

    exit_code = 2


class ConfigError(UserError):
    """The configuration cannot be run; the message lists every problem and what to do."""


class DataError(UserError):
    """The source holds no usable data for this configuration."""


class DamageError(RuntimeError):
    """A file that an earlier step wrote is not what it wrote. Exit code 1."""

    exit_code = 1


class OutageError(RuntimeError):
    """Something outside stayed away for longer than it is waited for: another try may do. Exit code 1."""

    exit_code = 1


class Stopped(Exception):  # noqa: N818  an outcome, not an error
    """The run was asked to stop and saved its state. Exit code 143."""

    exit_code = 143


class Halted(Stopped):
    """The run was asked in its own folder to stop, and saved: nobody is to start it again unasked. Exit code 1."""

    exit_code = 1


class PeerError(RuntimeError):
    """Another rank failed and says why itself; this one only ends. Exit code 1."""

    exit_code = 1


class StaleError(RuntimeError):
    """Weights that should have changed since the last checkpoint are all the same. Exit code 1."""

    exit_code = 1
