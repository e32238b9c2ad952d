"""The error that a user can mend; every domain error of the package derives from it."""


class UserError(Exception):
    """Something that the user can mend.

    The message is one plain sentence that names the file, the row or the field, and the remedy.
    Where several things are wrong it has one line for each. A command prints it without a
    traceback and ends with exit code 1 (`system.console.run`).
    """
