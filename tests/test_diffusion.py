"""Noise schedules and samplers: against closed forms, a known optimal prediction, and the package diffusers."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from homl_models import diffusion
from homl_models.errors import UserError
from homl_models.layers.gaussian import normal
from tests import checks

COSINE = diffusion.Schedule(diffusion.cosine_betas(1000))
LINEAR = diffusion.Schedule(diffusion.linear_betas(1000))
BOTH = pytest.mark.parametrize("schedule", [COSINE, LINEAR], ids=["cosine", "linear"])
RNG = np.random.default_rng(0)
MEAN, VARIANCE = 0.3, 0.25  # of pixels that are normal and independent, whose optimal denoiser is known


def optimal(schedule, scale=1.0):
    """E[x0 | x_t] for normal pixels, what a perfect network predicts."""
    alpha, sigma = schedule.sqrt_alpha_bar, schedule.sqrt_one_minus_alpha_bar
    gain = np.float32(VARIANCE * alpha / (VARIANCE * alpha**2 + sigma**2))

    def predict_x0(x, t):
        k, signal = (tf.reshape(tf.gather(np.float32(table), t), (-1, 1)) for table in (gain, alpha))
        return MEAN + k * (x - signal * MEAN) * scale

    return predict_x0


def test_cosine_schedule_is_equation_17_7():
    """Pixel by pixel of the formula, and the book's figure: T = 4000, betas cut at 0.999."""
    T, s = 4000, 0.008
    betas = diffusion.cosine_betas(T)
    f = [np.cos((t / T + s) / (1 + s) * np.pi / 2) ** 2 for t in range(T + 1)]
    expected = [min(1 - f[t] / f[t - 1], 0.999) for t in range(1, T + 1)]
    np.testing.assert_allclose(betas, expected, rtol=1e-12)
    assert betas[-1] == 0.999
    schedule = diffusion.Schedule(betas)
    np.testing.assert_allclose(schedule.alpha_bar[:-1], np.divide(f, f[0])[:-1], rtol=1e-9)
    np.testing.assert_allclose(schedule.sqrt_alpha_bar**2 + schedule.sqrt_one_minus_alpha_bar**2, 1, rtol=1e-12)
    assert schedule.num_steps == T
    assert schedule.alpha_bar[0] == 1


@BOTH
def test_q_sample_in_one_jump_has_the_moments_of_all_the_small_steps(schedule):
    """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) e_t, from an image of 0.7: mean and variance, step by step."""
    mean, variance = 0.7, 0.0
    for t in range(1, 1001):
        beta = schedule.beta[t]
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        if t in (1, 2, 10, 500, 999):
            x0, e = np.full((2, 3), 0.7, "float32"), RNG.normal(size=(2, 3)).astype("float32")
            expected = mean + np.sqrt(variance) * e
            checks.close(schedule.q_sample(x0, np.array([t, t]), e), expected)


@BOTH
@pytest.mark.parametrize("prediction_type", ["noise", "x0", "velocity"])
def test_a_right_prediction_of_any_type_gives_the_image_back(schedule, prediction_type):
    x0, e = RNG.uniform(-1, 1, (4, 5)).astype("float32"), RNG.normal(size=(4, 5)).astype("float32")
    t = np.array([1, 10, 200, 600])
    x_t = schedule.q_sample(x0, t, e)
    target = schedule.target(prediction_type, x0, t, e)
    checks.close(schedule.predict_x0(prediction_type, target, x_t, t), x0, 1e-3 if prediction_type == "noise" else 1e-5)
    if prediction_type == "velocity":  # the derivative of x_t along the circle
        alpha, sigma = schedule.sqrt_alpha_bar[t][:, None], schedule.sqrt_one_minus_alpha_bar[t][:, None]
        checks.close(target, alpha * e - sigma * x0)
    checks.close(schedule.predict_noise(x0, x_t, t), e, 1e-3)


@pytest.mark.parametrize(
    ("count", "spacing"), [(1000, "even"), (50, "even"), (7, "quadratic"), (999, "quadratic"), (1, "even")]
)
def test_timesteps_go_from_the_first_to_zero_without_repeating(count, spacing):
    timesteps = diffusion.timesteps(1000, count, spacing)
    assert len(timesteps) == count + 1
    assert (timesteps[0], timesteps[-1]) == (1000, 0)
    assert (np.diff(timesteps) < 0).all()
    assert diffusion.timesteps(1000, 40, start=400)[0] == 400


def test_quadratic_timesteps_are_dense_where_there_is_little_noise():
    timesteps = diffusion.timesteps(1000, 20, "quadratic")
    np.testing.assert_allclose(timesteps, 1000 * np.linspace(1, 0, 21) ** 2, atol=1)


# Steps of the samplers, against formulas in double precision that start from beta alone.

X_T, PREDICTION, NOISE = np.random.default_rng(2).normal(size=(3, 5))  # x_t, a predicted noise or x0, new noise
STEPS = pytest.mark.parametrize(
    ("t", "t_prev"), [(1000, 999), (999, 998), (500, 460), (20, 5), (2, 1), (1, 0), (300, 0)]
)


def products(schedule, t, t_prev):
    """alpha_bar_t, alpha_bar_{t_prev}, and the product of alpha over the step, each multiplied out."""
    alpha = [1 - beta for beta in schedule.beta.tolist()]
    return math.prod(alpha[: t + 1]), math.prod(alpha[: t_prev + 1]), math.prod(alpha[t_prev + 1 : t + 1])


@BOTH
@pytest.mark.parametrize("t", [1000, 999, 500, 2, 1])
def test_ddpm_step_is_the_books_equation_17_8(schedule, t):
    """x_{t-1} = (x_t - beta_t / sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_t) + sqrt(beta_t) z, without z for t = 1."""
    beta, alpha_bar = schedule.beta[t], products(schedule, t, t - 1)[0]
    z = NOISE if t > 1 else 0
    expected = 1 / (1 - beta) ** 0.5 * (X_T - beta / (1 - alpha_bar) ** 0.5 * PREDICTION) + beta**0.5 * z
    found = diffusion.ddpm_step(X_T, PREDICTION, t, t - 1, NOISE, schedule, variance="beta")
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@BOTH
@STEPS
def test_ddpm_step_is_bayes_rule(schedule, t, t_prev):
    """The posterior of x_{t_prev}: the product of two normal densities, that given x0 and that of x_t given it."""
    alpha_bar_t, alpha_bar_prev, alpha = products(schedule, t, t_prev)
    x0 = (X_T - (1 - alpha_bar_t) ** 0.5 * PREDICTION) / alpha_bar_t**0.5
    expected = x0
    if t_prev:
        variance = 1 / (1 / (1 - alpha_bar_prev) + alpha / (1 - alpha))
        mean = variance * (alpha_bar_prev**0.5 * x0 / (1 - alpha_bar_prev) + alpha**0.5 * X_T / (1 - alpha))
        expected = mean + variance**0.5 * NOISE
    found = diffusion.ddpm_step(X_T, PREDICTION, t, t_prev, NOISE, schedule)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@BOTH
@STEPS
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_step_keeps_the_marginals_and_is_ancestral_for_eta_1(schedule, t, t_prev, eta):
    """Equation 7 of the paper: sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar - sigma^2) eps + sigma z at the new timestep."""
    alpha_bar_t, alpha_bar_prev, alpha = products(schedule, t, t_prev)
    variance = eta**2 * (1 - alpha_bar_prev) / (1 - alpha_bar_t) * (1 - alpha)
    x0 = (X_T - (1 - alpha_bar_t) ** 0.5 * PREDICTION) / alpha_bar_t**0.5
    expected = alpha_bar_prev**0.5 * x0 + (1 - alpha_bar_prev - variance) ** 0.5 * PREDICTION + variance**0.5 * NOISE
    found = diffusion.ddim_step(X_T, PREDICTION, t, t_prev, NOISE, schedule, eta)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    if eta == 1:
        ancestral = diffusion.ddpm_step(X_T, PREDICTION, t, t_prev, NOISE, schedule)
        np.testing.assert_allclose(found, ancestral, rtol=1e-6, atol=1e-12)


@BOTH
@STEPS
def test_dpm_solver_step_is_an_exponential_integrator_of_second_order(schedule, t, t_prev):
    """sigma x_t / sigma_t + alpha (1 - e^-h) (x0 + h / (2 h_before) (x0 - x0_before)), h from the noise-to-signal."""
    alpha_bar_t, alpha_bar_prev, _ = products(schedule, t, t_prev)
    t_before = min(t + 30, 1000)
    first = diffusion.dpm_solver_step(X_T, PREDICTION, t, t_prev, NOISE, schedule)
    eps = (X_T - alpha_bar_t**0.5 * PREDICTION) / (1 - alpha_bar_t) ** 0.5
    np.testing.assert_allclose(first, diffusion.ddim_step(X_T, eps, t, t_prev, NOISE, schedule), rtol=1e-6, atol=1e-9)
    if t == t_before:
        return
    second = diffusion.dpm_solver_step(X_T, PREDICTION, t, t_prev, NOISE, schedule, (t_before, NOISE))
    if t_prev == 0:
        np.testing.assert_array_equal(second, PREDICTION)
        return
    alpha_bar_before = products(schedule, t_before, t)[0]
    ratio_prev, ratio_t, ratio_before = ((1 - a) / a for a in (alpha_bar_prev, alpha_bar_t, alpha_bar_before))
    h, h_before = np.log(ratio_t / ratio_prev) / 2, np.log(ratio_before / ratio_t) / 2
    d = PREDICTION + h / h_before / 2 * (PREDICTION - NOISE)
    decay = (ratio_prev / ratio_t) ** 0.5  # e^-h
    expected = ((1 - alpha_bar_prev) / (1 - alpha_bar_t)) ** 0.5 * X_T + alpha_bar_prev**0.5 * (1 - decay) * d
    np.testing.assert_allclose(second, expected, rtol=1e-6)


# The compiled form.

SETTINGS = [
    ("ancestral", {"variance": "posterior"}),
    ("ancestral", {"variance": "beta"}),
    ("ddim", {"eta": 0.0}),
    ("ddim", {"eta": 0.3}),
    ("ddim", {"eta": 1.0}),
    ("dpm_solver", {}),
]


def one_step(schedule, method, timesteps, i, **setting):
    """Coefficients (4,) of step i by the step functions: what they make of four unit vectors, as they are linear."""
    x_t, x0, x0_before, noise = np.eye(4)
    t, t_prev = timesteps[i : i + 2]
    if method == "dpm_solver":
        before = (timesteps[i - 1], x0_before) if i else None
        return diffusion.dpm_solver_step(x_t, x0, t, t_prev, noise, schedule, before)
    eps = (x_t - schedule.sqrt_alpha_bar[t] * x0) / schedule.sqrt_one_minus_alpha_bar[t]
    step = {"ancestral": diffusion.ddpm_step, "ddim": diffusion.ddim_step}[method]
    return step(x_t, eps, t, t_prev, noise, schedule, **setting)


@pytest.mark.parametrize(("method", "setting"), SETTINGS)
@pytest.mark.parametrize("name", diffusion.SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 7, 1000, 4000])
def test_coefficients_are_those_of_the_steps(method, setting, name, num_steps):
    schedule = diffusion.Schedule(diffusion.SCHEDULES[name](num_steps))
    for count in {min(count, num_steps) for count in (1, 2, 25, num_steps)}:
        for spacing in ("even", "quadratic"):
            timesteps = diffusion.timesteps(num_steps, count, spacing)
            table = diffusion.step_coefficients(schedule, timesteps, method, **setting)
            assert table.shape == (count, 4)
            for i in {0, *range(count)[1 :: 1 + count // 20], count - 1}:
                expected = one_step(schedule, method, timesteps, i, **setting)
                np.testing.assert_allclose(table[i], expected, rtol=1e-7, atol=1e-8, err_msg=f"step {i} of {count}")


@pytest.mark.parametrize(("method", "setting"), SETTINGS)
def test_the_loop_takes_the_steps(method, setting):
    """With the same noise, and the predicted x0 clipped before each step."""
    timesteps = diffusion.timesteps(1000, 6)
    x = start = np.random.default_rng(4).normal(size=(6, 1))
    predict_x0, before = optimal(COSINE), None
    for i, (t, t_prev) in enumerate(zip(timesteps, timesteps[1:])):
        noise = np.float64(normal((6, 1), np.array([9, 2 * i], "uint32")))
        x0 = np.clip(np.float64(predict_x0(np.float32(x), np.full(6, t))), -1, 1)
        if method == "dpm_solver":
            x, before = diffusion.dpm_solver_step(x, x0, t, t_prev, noise, COSINE, before), (t, x0)
        else:
            step = {"ancestral": diffusion.ddpm_step, "ddim": diffusion.ddim_step}[method]
            eps = (x - COSINE.sqrt_alpha_bar[t] * x0) / COSINE.sqrt_one_minus_alpha_bar[t]
            x = step(x, eps, t, t_prev, noise, COSINE, **setting)
    table = diffusion.step_coefficients(COSINE, timesteps, method, **setting)
    checks.close(diffusion.sample_loop(predict_x0, np.float32(start), timesteps, table, seed=9)[0], x, 1e-4)


@pytest.mark.parametrize("spacing", ["even", "quadratic"])
@pytest.mark.parametrize("method", diffusion.METHODS)
def test_coefficients_are_the_same_in_a_graph_that_does_not_know_the_number_of_steps(method, spacing):
    @tf.function(input_signature=[tf.TensorSpec((), tf.int32), tf.TensorSpec((), tf.float64)])
    def graph(count, eta):
        timesteps = diffusion.timesteps(1000, count, spacing, xp=keras.ops)
        return timesteps, diffusion.step_coefficients(COSINE, timesteps, method, eta, xp=keras.ops)

    for count in (1, 2, 7, 600):
        timesteps = diffusion.timesteps(1000, count, spacing)
        found, table = graph(count, 0.3)
        np.testing.assert_array_equal(found, timesteps)
        np.testing.assert_allclose(
            table, diffusion.step_coefficients(COSINE, timesteps, method, 0.3), rtol=1e-9, atol=1e-12
        )


def samples(schedule, count, method, n=10_000, **setting):
    timesteps = diffusion.timesteps(1000, count)
    table = diffusion.step_coefficients(schedule, timesteps, method, **setting)
    x = np.random.default_rng(1).normal(size=(n, 1)).astype("float32")
    predict_x0 = optimal(schedule)
    loop = tf.function(lambda x: diffusion.sample_loop(predict_x0, x, timesteps, table, seed=3, clip=False)[0])
    return loop(x).numpy()


@BOTH
@pytest.mark.parametrize(
    ("count", "method", "setting"),
    [
        (1000, "ancestral", {}),
        (1000, "ancestral", {"variance": "beta"}),
        (500, "ddim", {"eta": 1.0}),
        (500, "ddim", {}),
        (200, "dpm_solver", {}),
    ],
)
def test_every_sampler_returns_the_moments_of_normal_data(schedule, count, method, setting):
    x = samples(schedule, count, method, **setting)
    error = 4 * np.sqrt(VARIANCE / len(x))
    assert abs(x.mean() - MEAN) < error + 2e-3
    assert abs(x.var() / VARIANCE - 1) < 0.05


@pytest.mark.parametrize(("method", "order"), [("ddim", 1), ("dpm_solver", 2)])
def test_deterministic_samplers_converge_at_their_order(method, order):
    """To the flow that takes noise towards the image, known for normal data; each time with twice the steps."""
    schedule = diffusion.Schedule(diffusion.cosine_betas(20_000)[:19_000])  # up to where some signal is left
    x = np.linspace(-2, 2, 9)[:, None].astype("float32")
    first, last = 19_000, 2_000
    signal, end_signal = schedule.sqrt_alpha_bar[[first, last]]
    noise, end_noise = schedule.sqrt_one_minus_alpha_bar[[first, last]]
    spread = np.sqrt((VARIANCE * end_signal**2 + end_noise**2) / (VARIANCE * signal**2 + noise**2))
    exact = end_signal * MEAN + spread * (np.float64(x) - signal * MEAN)
    errors = []
    for count in (20, 40, 80, 160):
        timesteps = np.round(np.linspace(first, last, count + 1)).astype(int)
        table = diffusion.step_coefficients(schedule, timesteps, method)
        found = diffusion.sample_loop(optimal(schedule), x, timesteps, table, seed=0, clip=False)[0]
        errors.append(np.abs(np.float64(found) - exact).max())
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.abs(slopes - order).max() < 0.25, (errors, slopes)


def test_the_loop_compiles_for_any_number_of_steps_and_images_and_repeats_itself():
    scalar, rows = tf.TensorSpec((), tf.int32), tf.TensorSpec((None,), tf.int32)

    @tf.function(input_signature=[tf.TensorSpec((None, 3)), rows, tf.TensorSpec((None, 4)), scalar])
    def compiled(x, timesteps, table, seed):
        return diffusion.sample_loop(optimal(COSINE), x, timesteps, table, seed)[0]

    for n, count in ((5, 10), (2, 25)):
        timesteps = diffusion.timesteps(1000, count)
        table = np.float32(diffusion.step_coefficients(COSINE, timesteps))
        x = RNG.normal(size=(n, 3)).astype("float32")
        eager = diffusion.sample_loop(optimal(COSINE), x, timesteps, table, 7)[0]
        checks.close(compiled(x, np.int32(timesteps), table, 7), eager)
        assert np.abs(compiled(x, np.int32(timesteps), table, 8) - eager).max() > 0.01
        assert np.abs(eager).max() <= 1


def test_inpainting_keeps_what_is_known_and_fits_the_rest_to_it():
    """Normal pixels of the same value: the optimal prediction is of their mean, so known ones decide the unknown."""
    gain = np.float32(COSINE.sqrt_alpha_bar / (COSINE.sqrt_alpha_bar**2 + COSINE.sqrt_one_minus_alpha_bar**2 / 8))

    def predict_x0(x, t):  # x0 is one number, of variance 1, shown 8 times
        k = tf.reshape(tf.gather(gain, t), (-1, 1))
        return tf.broadcast_to(k * tf.reduce_mean(x, axis=1, keepdims=True), tf.shape(x))

    known, mask = np.full((3, 8), 0.6, "float32"), np.float32([1, 1, 1, 1, 1, 1, 1, 0])
    timesteps = diffusion.timesteps(1000, 250)
    x = RNG.normal(size=(3, 8)).astype("float32")
    table = diffusion.step_coefficients(COSINE, timesteps)

    @tf.function
    def loop(*given):
        return diffusion.sample_loop(predict_x0, x, timesteps, table, 5, *given)[0]

    found = loop(known, mask, COSINE).numpy()
    checks.close(found[:, :7], known[:, :7])
    assert np.abs(found[:, 7] - 0.6).max() < 0.15
    free = loop().numpy()
    assert np.abs(free - 0.6).max() > 0.15


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: diffusion.Schedule([0.1, 1.0]), "betas must be"),
        (lambda: diffusion.Schedule([]), "betas must be"),
        (lambda: diffusion.timesteps(100, 101), "steps must lie in 1 to 100"),
        (lambda: diffusion.timesteps(100, 0), "steps must lie in"),
        (lambda: diffusion.timesteps(100, 10, start=200), "first timestep must lie in"),
        (lambda: diffusion.step_coefficients(COSINE, diffusion.timesteps(1000, 5), "euler"), "method must be"),
        (lambda: diffusion.step_coefficients(COSINE, diffusion.timesteps(1000, 5), "ddim", eta=2), "eta must lie"),
        (
            lambda: diffusion.step_coefficients(COSINE, diffusion.timesteps(1000, 5), variance="tiny"),
            "variance must be",
        ),
    ],
)
def test_bad_settings_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()


# Against diffusers.


@pytest.mark.parametrize("steps", [10, 50, 200, 1000, 4000])
def test_the_linear_schedule_ends_in_noise_after_any_number_of_steps(steps):
    """As the code of Nichol & Dhariwal (2021) has it: 1,000 / T times 1e-4 to 0.02, of which 4e-5 are left."""
    betas = diffusion.linear_betas(steps)
    left = diffusion.Schedule(betas).alpha_bar[-1]
    assert 0 <= left < 6e-5
    if steps >= 50:
        np.testing.assert_allclose(betas, np.linspace(0.1 / steps, 20 / steps, steps))
        assert left > 1e-7
    assert betas.max() < 1


@pytest.fixture(scope="module")
def diffusers():
    import diffusers

    return diffusers


@pytest.mark.parity
def test_betas_are_those_of_diffusers(diffusers):
    for name, ours in (("squaredcos_cap_v2", diffusion.cosine_betas(1000)), ("linear", diffusion.linear_betas(1000))):
        theirs = diffusers.DDPMScheduler(1000, beta_schedule=name).betas.numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("prediction_type", ["noise", "x0", "velocity"])
@pytest.mark.parametrize("method", ["ddim", "dpm_solver"])
@pytest.mark.parametrize("name", ["linear", "squaredcos_cap_v2"])
def test_trajectories_are_those_of_diffusers(diffusers, prediction_type, method, name):
    """With the optimal prediction in both, its x0 given as a prediction of each type."""
    import torch

    schedule = {"linear": LINEAR, "squaredcos_cap_v2": COSINE}[name]
    settings = {"beta_schedule": name, "timestep_spacing": "trailing"}
    settings["prediction_type"] = {"noise": "epsilon", "x0": "sample", "velocity": "v_prediction"}[prediction_type]
    if method == "ddim":
        theirs = diffusers.DDIMScheduler(1000, clip_sample=False, **settings)
    else:
        theirs = diffusers.DPMSolverMultistepScheduler(1000, final_sigmas_type="zero", **settings)
    theirs.set_timesteps(25)
    predict_x0 = optimal(schedule, 0.9)
    timesteps = diffusion.timesteps(1000, 25)
    assert [int(t) + 1 for t in theirs.timesteps] == timesteps[:-1].tolist()
    x = start = RNG.normal(size=(6, 1)).astype("float32")
    for t in theirs.timesteps:
        at = np.full(6, int(t) + 1)
        x0 = np.float64(predict_x0(x, at))
        signal, noise = schedule.sqrt_alpha_bar[at][:, None], schedule.sqrt_one_minus_alpha_bar[at][:, None]
        predictions = {"x0": x0, "noise": (x - signal * x0) / noise, "velocity": (signal * x - x0) / noise}
        prediction = predictions[prediction_type]
        x = theirs.step(torch.tensor(np.float64(prediction)), t, torch.tensor(np.float64(x))).prev_sample.numpy()
    table = diffusion.step_coefficients(schedule, timesteps, method)
    ours = diffusion.sample_loop(predict_x0, start, timesteps, table, 0, clip=False)[0]
    checks.close(ours, x, 2e-4 if prediction_type == "noise" else 1e-4)


@pytest.mark.parity
@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ddpm_step_is_that_of_diffusers(diffusers, variance):
    import torch

    variance_type = {"posterior": "fixed_small", "beta": "fixed_large"}[variance]
    theirs = diffusers.DDPMScheduler(1000, beta_schedule="linear", clip_sample=False, variance_type=variance_type)
    x, eps = RNG.normal(size=(2, 4, 3))
    for t in (1000, 700, 2, 1):
        torch.manual_seed(0)
        expected = theirs.step(torch.tensor(eps), t - 1, torch.tensor(x)).prev_sample.numpy()
        torch.manual_seed(0)
        z = torch.randn((4, 3), dtype=torch.float64).numpy()
        found = diffusion.ddpm_step(x, eps, t, t - 1, z, LINEAR, variance)
        tolerance = 1e-5 if t > 100 else 5e-4  # their tables are of single precision
        checks.close(found, expected, tolerance)


@pytest.mark.parity
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_ddim_step_is_that_of_diffusers(diffusers, eta):
    import torch

    theirs = diffusers.DDIMScheduler(1000, beta_schedule="linear", clip_sample=False, timestep_spacing="trailing")
    theirs.set_timesteps(25)
    x, eps, z = RNG.normal(size=(3, 4, 3))
    for t in (1000, 640, 40):
        expected = theirs.step(*map(torch.tensor, (eps, t - 1, x)), eta=eta, variance_noise=torch.tensor(z)).prev_sample
        found = diffusion.ddim_step(x, eps, t, t - 40, z, LINEAR, eta)
        checks.close(found, expected.numpy(), 1e-4)
