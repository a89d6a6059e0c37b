"""The exceptions that the suite raises for what a user can mend, and an exception in one line."""


class SuiteError(Exception):
    """Bad input: the message names the file, key or class at fault, `mend` what to do about it."""

    def __init__(self, message: str, mend: str = "") -> None:
        super().__init__(f"{message}\n  mend: {mend}" if mend else message)
        self.message = message
        self.mend = mend


class TrackingAway(SuiteError):
    """The MLflow tracking server does not answer."""


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop: what Ctrl-C raises, with the signal's number in `signal`."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


def summary(error: BaseException) -> str:
    """An exception in one line: its type and the first line it says, or for a SuiteError its message and mend."""
    if isinstance(error, SuiteError):
        said = f"{error.message} (mend: {error.mend})" if error.mend else error.message
        return " ".join(said.split())
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else f"{type(error).__name__} (no message)"
