"""Downloads, cached by Keras."""

from homl_models.errors import UserError


def download(name, url, otherwise):
    """Path of the file `name` in Keras' cache, downloaded from `url` if it is not there.

    otherwise: what to do without cache and network, for the message of the `UserError`.
    """
    import keras

    try:
        return keras.utils.get_file(name, url)
    except Exception as error:
        raise UserError(
            f"cannot fetch {url} and it is not cached as {name} in the `datasets` folder of KERAS_HOME: "
            f"go online once, or {otherwise}"
        ) from error
