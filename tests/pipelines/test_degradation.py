"""Real-ESRGAN's degradation: each operation against an independent formula, the whole by what it draws."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, special, stats

from homl_models.pipelines import degradation
from homl_models.pipelines.degradation import Degradation, blur, resize
from homl_models.pipelines.super_resolution import crops, read_pairs


@pytest.fixture(scope="module")
def image():
    generator = np.random.default_rng(0)
    return np.float32(
        ndimage.gaussian_filter(generator.uniform(size=(37, 48, 3)), (2, 2, 0), mode="wrap") * 4 - 1.5
    ).clip(0, 1)


def covariance(first, second, angle):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn @ np.diag([first**2, second**2]) @ turn.T


def points(size):
    """(k, k, 2) of (x, y) from the centre."""
    axis = np.arange(size) - (size - 1) / 2
    return np.stack(np.meshgrid(axis, axis), axis=-1)


@pytest.mark.parametrize("sigmas", [(1.3, 1.3, 0.0), (2.5, 0.7, 0.6), (0.4, 3.0, -2.0)])
def test_kernels(sigmas):
    places = points(15)
    gaussian = stats.multivariate_normal(cov=covariance(*sigmas)).pdf(places)
    np.testing.assert_allclose(degradation.gaussian_kernel(15, *sigmas), gaussian / gaussian.sum(), atol=1e-12)
    inverse = np.linalg.inv(covariance(*sigmas))
    for beta in (0.5, 1.7):
        power = np.einsum("ijk,kl,ijl->ij", places, inverse, places) ** beta
        for made, expected in (
            (degradation.gaussian_kernel(15, *sigmas, beta), np.exp(-power / 2)),
            (degradation.plateau_kernel(15, *sigmas, beta), 1 / (1 + power)),
        ):
            np.testing.assert_allclose(made, expected / expected.sum(), atol=1e-12)


@pytest.mark.parametrize(("size", "cutoff"), [(7, np.pi / 3), (21, np.pi), (21, 1.0)])
def test_the_sinc_filter_is_made_of_bessel_functions(size, cutoff):
    radius = np.linalg.norm(points(size), axis=-1)
    with np.errstate(invalid="ignore"):
        expected = cutoff * special.j1(cutoff * radius) / (2 * np.pi * radius)
    expected[size // 2, size // 2] = cutoff**2 / (4 * np.pi)  # the limit
    np.testing.assert_allclose(degradation.sinc_kernel(size, cutoff), expected / expected.sum(), atol=1e-12)


@pytest.mark.parametrize("size", [7, 21])
def test_blur_is_a_convolution_with_a_mirrored_border(image, size):
    kernel = np.random.default_rng(1).uniform(size=(size, size))
    expected = ndimage.convolve(np.float64(image), kernel[..., None], mode="mirror")
    np.testing.assert_allclose(blur(image, kernel), expected, atol=2e-6 * expected.max())
    assert blur(image[:5, :4], kernel).shape == (5, 4, 3)


SIZES = [(20, 60), (37, 13), (74, 48), (1, 5)]


@pytest.mark.parametrize("size", SIZES)
def test_resizing(image, size):
    height, width = image.shape[:2]
    rows, columns = ((np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip((height, width), size))
    for channel in range(2):
        plane = np.float64(image[..., channel])
        expected = ndimage.map_coordinates(plane, np.meshgrid(rows, columns, indexing="ij"), order=1, mode="nearest")
        np.testing.assert_allclose(resize(image, *size, "bilinear")[..., channel], expected, atol=1e-5)
        area = [
            [
                plane[
                    i * height // size[0] : -(-(i + 1) * height // size[0]),
                    j * width // size[1] : -(-(j + 1) * width // size[1]),
                ].mean()
                for j in range(size[1])
            ]
            for i in range(size[0])
        ]
        np.testing.assert_allclose(resize(image, *size, "area")[..., channel], area, atol=1e-5)
        kernel = np.zeros((size[0], height)), np.zeros((size[1], width))
        for matrix, centers in zip(kernel, (rows, columns)):
            for i, center in enumerate(centers):
                for tap in range(int(np.floor(center)) - 1, int(np.floor(center)) + 3):
                    x = abs(center - tap)
                    near, far = 1.25 * x**3 - 2.25 * x**2 + 1, -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3
                    matrix[i, min(max(tap, 0), matrix.shape[1] - 1)] += near if x <= 1 else far
        expected = kernel[0] @ plane @ kernel[1].T
        np.testing.assert_allclose(resize(image, *size, "bicubic")[..., channel], expected, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("mode", degradation.MODES)
@pytest.mark.parametrize("size", SIZES)
def test_resizing_is_that_of_pytorch(image, size, mode):
    torch = pytest.importorskip("torch")
    x = torch.tensor(image).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(x, size=size, mode=mode)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(resize(image, *size, mode), expected, atol=1e-5)


def test_gaussian_noise():
    noise = degradation.gaussian_noise((100, 100, 3), 25, False, np.random.default_rng(0))
    assert stats.kstest(noise.ravel() * 255 / 25, "norm").pvalue > 0.01
    assert abs(np.corrcoef(noise.reshape(-1, 3).T)[0, 1]) < 0.05
    grey = degradation.gaussian_noise((100, 100, 3), 25, True, np.random.default_rng(0))
    assert (grey == grey[..., :1]).all()
    np.testing.assert_allclose(grey.std() * 255, 25, rtol=0.03)


def test_poisson_noise_grows_with_the_level():
    """5 levels: counted with 8 photons."""
    levels = np.float32([0, 51, 102, 153, 255]) / 255
    image = np.broadcast_to(levels[None, :, None], (20000, 5, 3))
    noise = degradation.poisson_noise(image, 2.0, False, np.random.default_rng(0))
    np.testing.assert_allclose(noise.mean((0, 2)), 0, atol=0.02)
    np.testing.assert_allclose(noise.var((0, 2)), 4 * levels / 8, rtol=0.05)
    whole = (noise / 2 + image) * 8
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-4)
    grey = degradation.poisson_noise(image, 1.0, True, np.random.default_rng(0))
    assert np.broadcast_to(grey, image.shape).shape == image.shape
    assert grey.shape[-1] == 1
    np.testing.assert_allclose(grey.var((0, 2)), levels / 8, rtol=0.05)


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L")])
def test_jpeg_is_that_of_pillow(image, channels, mode):
    image = image[..., :channels]
    file = io.BytesIO()
    Image.fromarray(np.uint8(np.round(image * 255)).squeeze(), mode).save(file, "JPEG", quality=40)
    expected = np.asarray(Image.open(file)).reshape(image.shape)
    np.testing.assert_array_equal(np.round(degradation.jpeg(image, 40.3) * 255), expected)
    assert np.abs(degradation.jpeg(image, 95) - image).mean() < np.abs(degradation.jpeg(image, 10) - image).mean()


def test_sharpening_is_unsharp_masking(image):
    def blurred(x):
        return ndimage.gaussian_filter(np.float64(x), (8, 8, 0), mode="mirror", radius=(25, 25, 0))

    residual = image - blurred(image)
    mask = blurred(np.abs(residual) > 10 / 255)
    expected = mask * np.clip(image + 0.5 * residual, 0, 1) + (1 - mask) * image
    made = degradation.sharpen(image)
    np.testing.assert_allclose(made, expected, atol=1e-5)
    assert made.std() > image.std()
    flat = np.full((20, 20, 3), 0.5, np.float32)
    np.testing.assert_allclose(degradation.sharpen(flat), flat, atol=1e-6)


def test_the_whole_is_a_function_of_the_generator_and_of_bytes(image):
    degrade = Degradation(scale=4)
    made = [degrade(image, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(made[0], made[1])
    assert (made[0] != made[2]).any()
    for x in made:
        assert x.shape == (9, 12, 3)
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, np.float32(np.round(x * 255)) / np.float32(255))
    assert degrade(image[..., :1], np.random.default_rng(0)).shape == (9, 12, 1)


COUNT = 1500


@pytest.fixture(scope="module")
def calls():
    """{(number of the round, operation): its arguments, () where it was left out, for each of 1,500 images}.

    Of an image of 200 rows. The second round has number 1, the sinc filter at the end 2. Operations do nothing here.
    """
    log, found, generator = [], {}, np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:

        def record(name, result):
            patch.setattr(degradation, name, lambda *args: log.append((name, args)) or result(*args))

        for name in ("gaussian_kernel", "plateau_kernel", "sinc_kernel"):
            record(name, lambda size, *_: np.zeros((size, size)))
        record("resize", lambda x, height, width, mode: np.zeros((height, width, 3), np.float32))
        record("gaussian_noise", lambda shape, *_: np.zeros(shape))
        for name in ("blur", "poisson_noise", "jpeg"):
            record(name, lambda x, *_: x)
        names = [
            "gaussian_kernel",
            "plateau_kernel",
            "sinc_kernel",
            "blur",
            "resize",
            "gaussian_noise",
            "poisson_noise",
            "jpeg",
        ]
        for _ in range(COUNT):
            log.clear()
            Degradation(scale=4)(np.zeros((200, 8, 3), np.float32), generator)
            order = [name for name, _ in log]
            first, second, _ = (i for i, name in enumerate(order) if name == "resize")
            ends = {name: (first + 1, second + 1, len(log)) for name in names[:5]}
            ends |= {name: (second, len(log), len(log)) for name in names[5:]}
            for name in names:
                starts = 0, *ends[name][:2]
                for number, (start, end) in enumerate(zip(starts, ends[name])):
                    args = [args for each, args in log[start:end] if each == name]
                    assert len(args) <= 1
                    found.setdefault((number, name), []).append(args[0] if args else ())
            found.setdefault("order", []).append(order)
    return found


def spans(values, low, high):
    return low <= min(values) and max(values) <= high and np.ptp(values) > 0.9 * (high - low)


def has_share(found, expected):
    return abs(np.mean(found) - expected) <= 4 * np.sqrt(expected * (1 - expected) / len(found))


# Of a round: standard deviation, Gaussian and Poisson noise, blur, size, shares of enlarging and reducing, rows.
ROUNDS = [
    (0, (0.2, 3), (1, 30), (0.05, 3), 1, (0.15, 1.5), (0.2, 0.7), 200),
    (1, (0.2, 1.5), (1, 25), (0.05, 2.5), 0.8, (0.3, 1.2), (0.3, 0.4), 50),
]


@pytest.mark.parametrize(("number", "sigma", "noise", "poisson", "blurred", "factors", "shares", "rows"), ROUNDS)
def test_every_range_is_that_of_the_paper(calls, number, sigma, noise, poisson, blurred, factors, shares, rows):
    def of(name):
        return [args for args in calls[number, name] if args]

    gaussian, plateau, sinc = (of(f"{kind}_kernel") for kind in ("gaussian", "plateau", "sinc"))
    bells = gaussian + plateau
    assert len(bells) + len(sinc) == len(of("blur"))
    assert has_share([len(args) > 0 for args in calls[number, "blur"]], blurred)
    assert has_share([True] * len(sinc) + [False] * len(bells), 0.1)
    assert {args[0] for args in bells} == {args[0] for args in sinc} == {7, 9, 11, 13, 15, 17, 19, 21}
    assert spans([args[1] for args in bells], *sigma)
    assert spans([args[2] for args in bells], *sigma)
    turned = [args for args in bells if args[1] != args[2]]
    assert has_share([args[1] != args[2] for args in bells], 0.25 + 0.03 + 0.03)
    assert spans([args[3] for args in turned], -np.pi, np.pi)
    assert has_share([True] * len(plateau) + [False] * len(gaussian), 0.15)
    assert spans([args[4] for args in plateau], 1, 2)
    betas = [args[4] for args in gaussian if args[4] != 1]
    assert has_share([args[4] != 1 for args in gaussian], 0.15 / 0.85)
    assert spans(betas, 0.5, 4)
    assert has_share([beta < 1 for beta in betas], 0.5)
    assert spans([cutoff for size, cutoff in sinc if size < 13], np.pi / 3, np.pi)
    assert spans([cutoff for size, cutoff in sinc if size >= 13], np.pi / 5, np.pi)

    sizes = [args[1] / rows for args in of("resize")]
    assert spans(sizes, factors[0] - 1 / rows, factors[1])
    assert has_share([size < 1 for size in sizes], shares[1])
    assert has_share([size > 1 for size in sizes], shares[0] - (shares[0] / 10 if number else 0.002))  # some round to 1
    assert {args[3] for args in of("resize")} == {"area", "bilinear", "bicubic"}

    assert has_share([len(args) > 0 for args in calls[number, "gaussian_noise"]], 0.5)
    assert len(of("gaussian_noise")) + len(of("poisson_noise")) == COUNT
    assert spans([args[1] for args in of("gaussian_noise")], *noise)
    assert spans([args[1] for args in of("poisson_noise")], *poisson)
    assert has_share([args[2] for args in of("gaussian_noise") + of("poisson_noise")], 0.4)
    assert len(of("jpeg")) == COUNT
    assert spans([args[1] for args in of("jpeg")], 30, 95)


def test_the_end_is_a_sinc_filter_before_or_after_the_last_compression(calls):
    assert has_share([order[-1] == "jpeg" for order in calls["order"]], 0.5)
    assert {tuple(args[1:3]) for args in calls[2, "resize"]} == {(50, 2)}
    last = calls[2, "sinc_kernel"]
    assert has_share([len(args) > 0 for args in last], 0.8)
    assert spans([args[1] for args in last if args], np.pi / 3, np.pi)


def test_crops_are_degraded_by_seed_and_step(image, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    (tmp_path / "images").mkdir()
    Image.fromarray(np.uint8(image * 255)).save(tmp_path / "images" / "a.png")
    pairs = read_pairs(tmp_path / "images", 4)
    dataset = crops(pairs, 4, 8, 2, 0, Degradation(scale=4), degradation.sharpen)
    ((low, (high, sharp)),) = dataset.dataset(1, 2)
    (_, (again, (same, _))) = crops(pairs, 4, 8, 2, 0, Degradation(scale=4), degradation.sharpen).dataset(0, 2)
    np.testing.assert_array_equal(low, again)
    np.testing.assert_array_equal(high, same)
    np.testing.assert_allclose(sharp[2], degradation.sharpen(high[2].numpy()), atol=1e-6)
    assert low.shape == (4, 8, 8, 3)
