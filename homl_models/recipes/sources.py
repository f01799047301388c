"""Where a recipe's data set comes from: Keras' cache or the network, or TensorFlow Datasets."""

import dataclasses

from homl_models.errors import UserError

TFDS_NAMES = {
    "imdb": "imdb_reviews",
    "fashion_mnist": "fashion_mnist",
    "mnist": "mnist",
    "shakespeare": "tiny_shakespeare",
    "spa-eng": "",  # TFDS does not have it
}


@dataclasses.dataclass(frozen=True)
class Sourced:
    """Mixin of recipes with `data`: the flag --source."""

    source: str = "keras"
    """`keras`: Keras' cache or the network. `tfds`: the same data set of TensorFlow Datasets, from TFDS_DATA_DIR or the
    network. `tfds:NAME`, `tfds:NAME/CONFIG`: another of its data sets. `tfds:FOLDER`: one that lies there, prepared."""

    def check_source(self, **own_files):
        """`UserError` for a --source that is none, or that does not go with --data or with files of one's own."""
        if self.source == "keras":
            return
        if self.source != "tfds" and self.source.removeprefix("tfds:") in ("", self.source):
            raise UserError(f"--source must be keras, tfds, tfds:NAME or tfds:FOLDER, not {self.source!r}")
        for name, value in own_files.items():
            if value:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"--source is not for data of your own, {flag}: leave one of them out")
        if self.data not in TFDS_NAMES:
            raise UserError(f"--source is not for --data {self.data}, which needs no file")
        if not self.tfds_name:
            raise UserError(f"TensorFlow Datasets does not have {self.data}: name one that it has, --source tfds:NAME")

    def reviews(self, split):
        """Texts and labels of the film reviews of IMDb, or of the labelled texts of --source."""
        from homl_models.pipelines import text_files, tfds

        return tfds.labelled_texts(self.tfds_name, split) if self.tfds_name else text_files.imdb(split)

    @property
    def tfds_name(self):
        """Name, or folder, of the data set of TensorFlow Datasets; "" for none."""
        if self.source == "keras":
            return ""
        return self.source.removeprefix("tfds").removeprefix(":") or TFDS_NAMES[self.data]
