"""Image store: images of any sizes in one file of bytes, mapped into memory, so that a crop costs a crop.

It lies in the folder `homl_models` of KERAS_HOME and is made once for each state of the files that it was read from.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np

from homl_models.errors import UserError


@dataclasses.dataclass(frozen=True)
class ImageStore:
    """Images of any sizes: `store[i]` is an array (h, w, c) of bytes, to be read only.

    Args:
        pixels: bytes of all images.
        firsts: index of the first byte of each.
        shapes: (h, w, c) of each.
        names: of each.
        digest: SHA-256 of pixels, shapes and names.
        notes: whatever was found on reading, as JSON has it.
    """

    pixels: np.ndarray
    firsts: tuple[int, ...]
    shapes: tuple[tuple[int, int, int], ...]
    names: tuple[str, ...]
    digest: str
    notes: dict

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, i):
        shape = self.shapes[i]
        return self.pixels[self.firsts[i] : self.firsts[i] + math.prod(shape)].reshape(shape)

    def reordered(self, order):
        """The images of these indices, in this order."""
        firsts, shapes, names = (tuple(x[i] for i in order) for x in (self.firsts, self.shapes, self.names))
        return dataclasses.replace(self, firsts=firsts, shapes=shapes, names=names)


def stored(key, read):
    """The `ImageStore` of that key, from the cache, or else made of what `read` gives.

    key: strings and numbers, in tuples, that determine the images.
    read: (notes) -> iterator of (name, (h, w, c) bytes); it may add to the dictionary `notes`.
    `UserError` if the cache cannot be written.
    """
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "homl_models"
    folder = home / f"images-{hashlib.sha256(repr(key).encode('utf-8', 'surrogatepass')).hexdigest()[:20]}"
    if not (folder / "index.json").is_file():
        try:
            _write(folder, read)
        except OSError as error:
            advice = "set KERAS_HOME to a folder that can be written and has room"
            raise UserError(f"cannot write {folder} ({error.strerror}); {advice}") from error
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    shapes = tuple(map(tuple, index["shapes"]))
    pixels = np.memmap(folder / "pixels", np.uint8, "r") if shapes else np.zeros(0, np.uint8)
    firsts = tuple(itertools.accumulate(map(math.prod, shapes), initial=0))[:-1]
    return ImageStore(pixels, firsts, shapes, tuple(index["names"]), index["digest"], index["notes"])


def _write(folder, read):
    """Write the files of a store, whole, whoever else does so meanwhile."""
    aside = folder.with_name(f".aside-{os.getpid()}-{folder.name}")
    aside.mkdir(parents=True, exist_ok=True)
    try:
        names, shapes, notes, found = [], [], {}, hashlib.sha256()
        with open(aside / "pixels", "wb") as file:
            for name, image in read(notes):
                names.append(name)
                shapes.append(image.shape)
                content = np.ascontiguousarray(image).data
                found.update(content)
                file.write(content)
        found.update(repr((names, shapes)).encode("utf-8", "surrogatepass"))
        index = {"names": names, "shapes": shapes, "digest": found.hexdigest(), "notes": notes}
        (aside / "index.json").write_text(json.dumps(index), encoding="utf-8")
        try:
            os.rename(aside, folder)
        except OSError:
            if not (folder / "index.json").is_file():  # or else another process was faster
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
