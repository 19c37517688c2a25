"""What a person gave that cannot be used."""


class InputError(ValueError):
    """A file, a folder or a setting that cannot be used; the message says what, where and what to do. It ends a command
    with that one line, while any other ValueError is a mistake of the program and shows its traceback."""
