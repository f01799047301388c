"""python -m homl_models.export RUN [--to FOLDER]: a SavedModel of a run or preset, with strings or images in and out.

It needs neither Keras nor this package: `tf.saved_model.load(folder).generate(tf.constant(["To be"]), ...)`.
Beside the endpoints it holds `assets.extra/endpoints.json`: what they take and give, their documentation and defaults.
With --to FILE.onnx: an RRDBNet or SRVGGNetCompact, which enlarge images, as a graph of ONNX for images of any size.
With --hub: the encoder of a BERT or an ELECTRA, also of a Hugging Face folder, as a module of TensorFlow Hub, which can
be trained on: `homl_models.layers.HubLayer(folder, trainable=True)` and `hub.KerasLayer` take texts to vectors.
"""

import sys
from pathlib import Path

from homl_models import cli, environment, loading
from homl_models.errors import UserError
from homl_models.training.saved_model import export


def main(argv=None):
    """The command: returns the exit status."""
    return cli.run_command(lambda: _export_command(argv))


def parser():
    parser = cli.Parser(prog="python -m homl_models.export", description=__doc__)
    parser.add_argument("run", help="a run folder, a preset, or a .keras file")
    parser.add_argument("--to", type=Path, help="folder, or .onnx file; default: saved_model in the run folder")
    parser.add_argument("--hub", action="store_true", help="write a module of TensorFlow Hub")
    return parser


def _export_command(argv):
    args = parser().parse_args(argv)
    run, to = args.run, args.to
    if run.endswith(".keras") and not Path(run).is_file():
        raise UserError(f"cannot read {run}: there is no such file; check the path")
    if not run.endswith(".keras") and not args.hub:
        to = to or loading.find(run) / "saved_model"
    if to is None:
        raise UserError("say where to write it: --to FOLDER")
    if to.exists():
        raise UserError(f"{to} is there already; choose another --to")
    environment.check_backend()
    cli.import_tensorflow()
    if args.hub:
        from homl_models.training.hub_module import export_hub

        export_hub(run, to)
    elif to.suffix == ".onnx":
        from homl_models.checkpoints.onnx import export_onnx

        export_onnx(loading.load(run), to)
    else:
        export(run, to)


if __name__ == "__main__":
    sys.exit(main())
