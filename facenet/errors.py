"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """A mistake the user can mend: one line that names the file, key or flag and the way out. The command line prints it and exits with 2."""
