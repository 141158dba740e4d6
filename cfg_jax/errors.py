"""The one exception for what a user can cause and mend."""


class UserError(Exception):
    """A failure that one sentence explains: commands print it and exit with status 2."""
