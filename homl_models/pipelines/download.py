"""Data sets from Keras' cache, or else from the network."""

from homl_models.errors import UserError


def download(name, url, otherwise):
    """The path of the file `name` in Keras' cache, fetched from `url` if it is not there.

    otherwise: what a person can do who has neither, for the `UserError`.
    """
    import keras

    try:
        return keras.utils.get_file(name, url)
    except Exception as error:
        raise UserError(
            f"cannot fetch {url} and it is not cached as {name} in the `datasets` folder of KERAS_HOME: "
            f"go online once, or {otherwise}"
        ) from error
