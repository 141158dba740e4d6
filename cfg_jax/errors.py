"""The one exception for what a user can cause and mend."""


class UserError(Exception):
    """A failure that one sentence explains: commands print it on one line and exit with status 2."""
