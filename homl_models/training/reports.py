"""Reports of a run: history.csv, TensorBoard, learning curves, tables, attention maps, image grids."""

import contextlib
import csv

from homl_models.training import files


class HistoryLog:
    """history.csv and TensorBoard, kept equal to a run's history.

    Both are written anew when a run resumes, so that no epoch stands there twice, or was never saved.
    """

    def __init__(self, folder, history):
        import tensorflow as tf

        self.folder = folder
        files.remove(folder / "tensorboard")
        self.writer = tf.summary.create_file_writer(str(folder / "tensorboard"))
        for end in range(1, len(history) + 1):
            self.write(history[:end])

    def write(self, history):
        """Add the last epoch of `history`, a list of {"epoch": n, metric: value}.

        Where rows have a "stage", TensorBoard has it before the names of the metrics.
        """
        import tensorflow as tf

        with files.atomic_write(self.folder / "history.csv") as aside, open(aside, "w", newline="") as file:
            writer = csv.DictWriter(file, dict.fromkeys(name for row in history for name in row))
            writer.writeheader()
            writer.writerows(history)
        row = dict(history[-1])
        epoch, stage = row.pop("epoch"), row.pop("stage", "")
        with self.writer.as_default(step=epoch), tf.name_scope(stage) if stage else contextlib.nullcontext():
            for name, value in row.items():
                part, metric = ("validation", name[4:]) if name.startswith("val_") else ("training", name)
                tf.summary.scalar(f"{metric}/{part}", value)
        self.writer.flush()

    def close(self):
        self.writer.close()


def learning_curves(history, path):
    """A panel for each metric, training and validation over the epochs, as a PNG; dotted lines between stages."""
    from matplotlib.figure import Figure

    names = dict.fromkeys(name for row in history for name in row if name not in ("stage", "epoch"))
    metrics = [name for name in names if not name.startswith("val_")]
    stages = [row.get("stage") for row in history]
    begins = [row["epoch"] - 0.5 for row, before, stage in zip(history[1:], stages, stages[1:]) if stage != before]
    figure = Figure(figsize=(4.5 * len(metrics), 3.2), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics):
        for name, label in ((metric, "training"), (f"val_{metric}", "validation")):
            points = [(row["epoch"], row[name]) for row in history if name in row]
            if points:
                axes.plot(*zip(*points), "o-", markersize=3, label=label)
        for begin in begins:
            axes.axvline(begin, color="grey", linestyle=":", linewidth=1)
        axes.set(xlabel="epoch", title=metric)
        axes.grid(alpha=0.3)
        axes.legend()
    with files.atomic_write(path) as aside:
        figure.savefig(aside, dpi=120, format="png")


def table(metrics):
    """Metrics {name: number} as lines of text."""
    width = max(map(len, metrics), default=0)
    return "\n".join(
        f"{k:{width}}  {v:.4f}" if isinstance(v, float) else f"{k:{width}}  {v:,}" for k, v in metrics.items()
    )


def blocks(columns):
    """Columns {name: texts} as text, a block of lines for each example."""
    width = max(map(len, columns))
    rows = zip(*columns.values())
    return "\n\n".join("\n".join(f"{name:{width}}  {text}" for name, text in zip(columns, row)) for row in rows)


def projector(folder, names, vectors):
    """Vectors (n, d) and their names (n,) for TensorBoard's embedding projector, into its log folder.

    vectors.tsv and metadata.tsv are what https://projector.tensorflow.org takes as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        "vectors.tsv": ["\t".join(f"{x:.6g}" for x in vector) for vector in vectors],
        "metadata.tsv": [" ".join(name.split()) or repr(name) for name in names],
        "projector_config.pbtxt": [
            "embeddings {",
            '  tensor_name: "embedding"',
            '  tensor_path: "vectors.tsv"',
            '  metadata_path: "metadata.tsv"',
            "}",
        ],
    }
    for name, some in rows.items():
        with files.atomic_write(folder / name) as aside:
            aside.write_text("\n".join(some) + "\n", encoding="utf-8")


def attention(source, target, weights, path):
    """Weights (t, s) as an image, source tokens across and target tokens down, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 0.35 * len(source), 1.2 + 0.3 * len(target)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(weights, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(source)), source, rotation=60, ha="left")
    axes.set_yticks(range(len(target)), target)
    axes.xaxis.tick_top()
    figure.colorbar(image, ax=axes)
    with files.atomic_write(path) as aside:
        figure.savefig(aside, dpi=120, format="png")


def image_grid(rows, path, scale=2, gap=4):
    """Rows of images (n, h, w) or (n, h, w, c), floats in [0, 1], all of one size -> a PNG, row below row."""
    import numpy as np
    from PIL import Image

    longest = max(map(len, rows))
    rows = [np.concatenate([row, np.ones((longest - len(row), *row.shape[1:]))]) for row in map(np.asarray, rows)]
    rows = [row.repeat(scale, 1).repeat(scale, 2) for row in rows]
    edges = [(0, 0), (0, gap), (0, gap)] + [(0, 0)] * (rows[0].ndim - 3)
    rows = [np.concatenate(list(np.pad(row, edges, constant_values=1)), axis=1) for row in rows]
    pixels = np.uint8(np.round(np.clip(np.concatenate(rows), 0, 1)[:-gap, :-gap] * 255))
    with files.atomic_write(path) as aside:
        Image.fromarray(pixels).save(aside, format="PNG")


def index_colours(count):
    """Colours (count, 3) in [0, 1] of indices: hues by the golden ratio, in three brightnesses; neighbours differ."""
    import numpy as np
    from matplotlib.colors import hsv_to_rgb

    index = np.arange(count)
    hue, value = index * (5**0.5 - 1) / 2 % 1, np.array([1.0, 0.7, 0.45])[index % 3]
    return hsv_to_rgb(np.stack([hue, np.full(count, 0.75), value], axis=-1))


def coding_map(codings, labels, images, path, seed=0):
    """Codings (n, k) in two dimensions, coloured by label, with some of their images, as a PNG -> "by t-SNE" or not.

    t-SNE, except for codings of one or two numbers, fewer than four codings, and codings that do not differ.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage
    from sklearn.manifold import TSNE

    by_tsne = len(codings) > 3 and codings.shape[1] > 2 and len(np.unique(codings, axis=0)) > 3
    if by_tsne:
        perplexity = min(30, (len(codings) - 1) / 3)
        positions = TSNE(init="pca", learning_rate="auto", perplexity=perplexity, random_state=seed).fit_transform(
            codings
        )
    else:
        positions = np.pad(codings[:, :2], [(0, 0), (0, max(0, 2 - codings.shape[1]))])
    positions = (positions - positions.min(0)) / np.maximum(np.ptp(positions, axis=0), 1e-9)
    figure = Figure(figsize=(10, 8), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*positions.T, c=labels, s=6, cmap="tab10")
    axes.axis("off")
    shown = np.full((1, 2), np.inf)
    for position, image in zip(positions, images):
        if np.square(shown - position).sum(1).min() > 0.004:  # far enough from all that are shown
            shown = np.concatenate([shown, position[None]])
            thumbnail = OffsetImage(image, cmap="binary", zoom=28 / max(image.shape))
            axes.add_artist(AnnotationBbox(thumbnail, position, pad=0.1, bboxprops={"lw": 0.5}))
    with files.atomic_write(path) as aside:
        figure.savefig(aside, dpi=100, format="png")
    return "by t-SNE" if by_tsne else "their first two numbers"
