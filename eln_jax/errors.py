"""The one exception that is meant for the person at the keyboard."""

import difflib
import errno
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user asked for or gave cannot be used.

    The message is one sentence that says what is wrong, where, and what to do about it. The
    commands print it without a traceback and exit with code 2.
    """


class DivergedError(UserError):
    """A training's loss or state is no longer finite; another training may do well."""


class StorageError(UserError):
    """An output folder cannot be written to for now; the commands exit with code 3."""


class UnreadableFileError(UserError):
    """A picture is missing, damaged or of a kind that cannot be read; others may be well."""


def is_full(error: OSError) -> bool:
    """Whether there is no room: on the disk, or of what the user may have of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a sentence with the known name nearest to a mistyped one; empty if none is near."""
    known, last = list(known), _last_part(name)
    # "lr" is short for "learning_rate", and nearer to other names.
    close = [k for k in known if len(last) > 1 and _initials(_last_part(k)) == last][:1]
    close = close or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:  # the right last part in the wrong block is a common slip
        close = [k for k in known if _last_part(k) == last][:1]
    return f" Did you mean {close[0]}?" if close else ""


def _last_part(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))
