"""Exceptions for faults that a user can fix, one-line summaries, and masking of passwords."""

import re
from collections.abc import Sequence

LOGIN = re.compile(
    r"""(\b[a-z][a-z0-9+.\-]*://)        # of an address
    (?:[^\s/@'"<>]+@(?:[^\s/@'"<>]+@)*  # the login, which may have a stray @
    |[^\s/@:'"<>]*:(?!\d+(?:[/\s'"?\#<>)\],;]|$))[^\s'"<>]*@)  # or a stray /, but no port
    """,
    re.IGNORECASE | re.VERBOSE,
)
SECRET = re.compile(r"([?&][^=&\s]*(?:password|passwd|secret|token|access_key)[^=&\s]*=)[^&\s'\"<>]+", re.IGNORECASE)


def masked(text: str) -> str:
    """Text without the logins and passwords of addresses.

    >>> masked("no answer from postgresql://me:secret@host:5432/runs?sslpassword=1234")
    'no answer from postgresql://***@host:5432/runs?sslpassword=***'
    """
    return SECRET.sub(r"\1***", LOGIN.sub(r"\1***@", text))


class SuiteError(Exception):
    """Invalid input: the message names the file, key or class at fault, `fix` a remedy."""

    def __init__(self, message: str, fix: str = "") -> None:
        message, fix = masked(message), masked(fix)
        super().__init__(f"{message}\n  fix: {fix}" if fix else message)
        self.message = message
        self.fix = fix


class TrackingAway(SuiteError):
    """The MLflow tracking server does not answer."""


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop: as Ctrl-C raises, with the signal's number in `signal`."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


def summary(error: BaseException) -> str:
    """An exception in one line: type and first line, or a SuiteError's message and fix."""
    if isinstance(error, SuiteError):
        text = f"{error.message} (fix: {error.fix})" if error.fix else error.message
        return " ".join(text.split())
    lines = [line.strip() for line in masked(str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else f"{type(error).__name__} (no message)"


def some(items: list[str], most: int = 3) -> str:
    """The first items, and how many more there are."""
    return ", ".join(items[:most]) + f" and {len(items) - most} more" * (len(items) > most)


def joined(errors: Sequence[SuiteError], what: str) -> SuiteError:
    """One error of several faults of `what`: by remedy their number and the first few; a single one as it is."""
    if len(errors) == 1:
        return errors[0]
    by_fix: dict[str, list[str]] = {}
    for error in errors:
        by_fix.setdefault(error.fix, []).append(error.message)
    lines = [
        line
        for messages in by_fix.values()
        for line in messages[:3] + [f"and {len(messages) - 3:,} more of this kind"] * (len(messages) > 3)
    ]
    return SuiteError("\n  ".join([f"{len(errors):,} {what} cannot be used:", *lines]), "; ".join(by_fix))
