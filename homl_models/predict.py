"""python -m homl_models.predict RUN [ENDPOINT [INPUT ...] [--file PATH] [--out PATH] [--NAME VALUE ...]]

RUN is a run folder, a preset, or any SavedModel folder; alone it lists the endpoints. INPUTs are
texts, images (their files) or numbers (JSON), as the endpoint takes them; --file names a file with
one a line. Without either, each line of standard input is a text. An endpoint of several texts (a
source and a target) takes them on one line, with tabs between. Every other input of the endpoint is
a flag: a number, a list as JSON, or an image for all INPUTs, such as a mask. Image files are read as
viewers show them, transparent parts on white. --out names the file for the result: for images one of
the formats .png, .jpg, .gif, .webp, .bmp and .tif, else text.

Texts are UTF-8; only `tf.saved_model` is used, never the models of this package. `upscale` of a run or preset is the
exception: it is `python -m homl_models.upscale`, for images and folders of any size, with its flags; of a SavedModel
folder it enlarges an image as a whole.
"""

import dataclasses
import os
import sys
from pathlib import Path

from homl_models import cli, loading, prediction, recipes, upscale
from homl_models.errors import UserError
from homl_models.serving import SavedModel


def main(argv=None):
    """The command: returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    return cli.run_command(lambda: _predict_command(argv))


def _predict_command(argv):
    run, *rest = argv
    if rest[:1] == ["upscale"] and not (Path(run) / "saved_model.pb").is_file():
        return upscale.run([run, *rest[1:]])
    folder = loading.find_saved_model(run)
    check_files(rest, loading.find(run) if folder is None else None)
    model = SavedModel(folder or loading.export_preset(run))
    if not rest:
        print(model)
        return
    name, inputs, file, out, flags = parse(model, argv)
    if out and any(key in prediction.IMAGES for key in model[name].outputs):
        prediction.image_format(out)  # refused before the work
    results = []
    for given in prediction.batches(model[name], name, inputs, file):
        result = model.call(name, given | prediction.for_batch(flags, model[name], given))
        if out:
            results.append(result)
        else:
            show(result)
    if out:
        prediction.save(results, Path(out))


# Arguments.


def check_files(words, preset):
    """Raise `UserError` for files that are not there, or cannot be written, before any work.

    words: those of the command line after RUN. preset: the folder of one that has to be exported first, or None.
    """
    parser = cli.Parser(prog="python -m homl_models.predict RUN ENDPOINT", add_help=False)
    parser.add_argument("--file")
    parser.add_argument("--out")
    args, others = parser.parse_known_args(words)
    if args.file is not None and not os.access(args.file, os.R_OK):
        raise UserError(f"cannot read {args.file}: there is no such file; check the path")
    if args.out is not None:
        out = Path(args.out)
        if not out.parent.is_dir():
            raise UserError(f"cannot write {out}: there is no folder {out.parent}; make it first")
        if out.is_dir() or not os.access(out.parent, os.W_OK):
            raise UserError(f"cannot write {out}; name another file")
    if preset is not None and hasattr(recipes.of_run(preset)[1], "images"):
        for word in others[1:]:
            if word.lower().endswith(tuple(prediction.FORMATS)) and not Path(word).is_file():
                raise UserError(f"cannot read {word}: there is no such file; check the path")


def parse(model, argv):
    """RUN ENDPOINT ... -> the endpoint's name, INPUTs, --file, --out, and values of the flags; `UserError` if amiss."""
    run, name, *rest = argv
    if name not in model.endpoints:
        raise UserError(f"{run} has no endpoint {name!r}; it has {', '.join(model.endpoints)}")
    endpoint = model[name]
    flags = {key: value for key, value in vars(parser(name, endpoint).parse_args(rest)).items() if value is not None}
    inputs, file, out = flags.pop("INPUT", []), flags.pop("file", None), flags.pop("out", None)
    if inputs and file is not None:
        raise UserError("give INPUTs or --file, not both")
    values = {}
    for key, text in flags.items():
        one = endpoint.inputs[key]
        values[key] = text if one.is_image else dataclasses.replace(one, name=one.flag).parse(text)
    return name, inputs, file, out, values


def parser(name, endpoint):
    """The parser of what follows the endpoint's name."""
    parser = cli.Parser(prog=f"python -m homl_models.predict RUN {name}", description=endpoint.doc)
    main, texts = endpoint.main_input, endpoint.text_inputs
    if main:
        given = ", a tab, ".join(texts or [f"{main} ({endpoint.inputs[main]})"])
        without = "; without any, lines of --file" + (" or standard input" if texts else "")
        parser.add_argument("INPUT", nargs="*", help=given + without)
        parser.add_argument("--file", help="read inputs from this file, one a line")
    parser.add_argument("--out", help="write the result to this file (images: .png, .jpg, ...) and do not print it")
    for key, spec in endpoint.inputs.items():
        if key != main and key not in texts:
            required = key not in endpoint.defaults
            help = str(spec) + ("" if required else f", default {endpoint.defaults[key]!r}")
            parser.add_argument(f"--{key.replace('_', '-')}", dest=key, required=required, help=help)
    return parser


def show(result):
    """Print a result: lines of text for a single output, else JSON; images need --out."""
    if prediction.images_of(result):
        raise UserError("the result is an image; name a file for it with --out PATH.png")
    print(prediction.as_text(result), flush=True)


if __name__ == "__main__":
    sys.exit(main())
