"""The one exception for what a user can put right."""


class UserError(ValueError):
    """A mistake of the user's; its message is one line that says what to do.

    The commands print it on stderr and exit with 2. Everything else keeps its traceback.
    """

    _keras_call_info_injected = True  # so Keras adds nothing to it, which otherwise lists a layer's arguments
