"""Schedules and samplers of diffusion: against closed forms, a known optimal denoiser, and the package diffusers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from homl_models import diffusion
from homl_models.errors import UserError
from tests import checks

COSINE = diffusion.Schedule(diffusion.cosine_betas(1000))
LINEAR = diffusion.Schedule(diffusion.linear_betas(1000))
BOTH = pytest.mark.parametrize("schedule", [COSINE, LINEAR], ids=["cosine", "linear"])
RNG = np.random.default_rng(0)
MEAN, VARIANCE = 0.3, 0.25  # of pixels that are normal and independent, whose best denoiser is known


def best(schedule, scale=1.0):
    """E[x0 | x_t] for normal pixels."""
    gain = np.float32(VARIANCE * schedule.signal / (VARIANCE * schedule.signal**2 + schedule.noise**2))

    def denoise(x, t):
        k, signal = (tf.reshape(tf.gather(np.float32(table), t), (-1, 1)) for table in (gain, schedule.signal))
        return MEAN + k * (x - signal * MEAN) * scale

    return denoise


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
    np.testing.assert_allclose(schedule.signal**2 + schedule.noise**2, 1, rtol=1e-12)
    assert schedule.steps == T
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
def test_q_posterior_is_bayes_rule(schedule):
    """The product of two normal densities of x_{t-1}: given x0, and of x_t given it."""
    x0, x_t = RNG.normal(size=(2, 4, 3)).astype("float32")
    t = np.array([1, 2, 300, 900])
    mean, variance = schedule.q_posterior(x0, x_t, t)
    for i, k in enumerate(t):
        beta, before = schedule.beta[k], schedule.alpha_bar[k - 1]
        if k == 1:
            expected, v = x0[i], 0.0
        else:
            precision = 1 / (1 - before) + (1 - beta) / beta
            v = 1 / precision
            expected = v * (np.sqrt(before) * x0[i] / (1 - before) + np.sqrt(1 - beta) * x_t[i] / beta)
        checks.close(mean[i], expected)
        checks.close(variance[i], np.full((1,), v), 1e-6)


@BOTH
@pytest.mark.parametrize("kind", ["noise", "x0", "velocity"])
def test_a_right_prediction_of_any_kind_gives_the_image_back(schedule, kind):
    x0, e = RNG.uniform(-1, 1, (4, 5)).astype("float32"), RNG.normal(size=(4, 5)).astype("float32")
    t = np.array([1, 10, 200, 600])
    x_t = schedule.q_sample(x0, t, e)
    target = schedule.target(kind, x0, t, e)
    checks.close(schedule.predict_x0(kind, target, x_t, t), x0, 1e-3 if kind == "noise" else 1e-5)
    if kind == "velocity":  # the derivative of x_t along the circle
        checks.close(target, schedule.signal[t][:, None] * e - schedule.noise[t][:, None] * x0)


@pytest.mark.parametrize(
    ("count", "spacing"), [(1000, "even"), (50, "even"), (7, "quadratic"), (999, "quadratic"), (1, "even")]
)
def test_times_go_from_the_first_to_zero_without_repeating(count, spacing):
    times = diffusion.times(1000, count, spacing)
    assert len(times) == count + 1
    assert (times[0], times[-1]) == (1000, 0)
    assert (np.diff(times) < 0).all()
    assert diffusion.times(1000, 40, first=400)[0] == 400


def test_quadratic_times_are_dense_where_there_is_little_noise():
    times = diffusion.times(1000, 20, "quadratic")
    np.testing.assert_allclose(times, 1000 * np.linspace(1, 0, 21) ** 2, atol=1)


@BOTH
def test_an_ancestral_step_is_the_books_equation_17_8(schedule):
    """x0 from the noise e, then the table: (x - beta / sqrt(1 - alpha_bar) e) / sqrt(alpha) + sqrt(beta) z."""
    times = np.arange(1000, -1, -1)
    table = diffusion.sampler(schedule, times, "ancestral", variance="beta")
    for t in (999, 500, 2, 1):
        a, b, c, d = table[1000 - t]
        x, e = 0.8, -0.3
        x0 = (x - schedule.noise[t] * e) / schedule.signal[t]
        alpha = 1 - schedule.beta[t]
        expected = (x - schedule.beta[t] / np.sqrt(1 - schedule.alpha_bar[t]) * e) / np.sqrt(alpha)
        assert a * x + b * x0 == pytest.approx(expected, rel=1e-6)
        assert c == 0
        assert d == pytest.approx(np.sqrt(schedule.beta[t]) if t > 1 else 0)
    posterior = diffusion.sampler(schedule, times)
    mean, variance = schedule.q_posterior(np.full((1, 1), 0.5, "float32"), np.full((1, 1), 0.8, "float32"), [700])
    a, b, _, d = posterior[300]
    assert a * 0.8 + b * 0.5 == pytest.approx(float(mean[0, 0]), rel=1e-5)
    assert d**2 == pytest.approx(float(variance[0, 0]), rel=1e-5)


def test_ddim_with_eta_1_is_ancestral_and_with_0_draws_nothing():
    times = diffusion.times(1000, 60)
    np.testing.assert_allclose(
        diffusion.sampler(COSINE, times, "ddim", eta=1.0), diffusion.sampler(COSINE, times), atol=1e-12
    )
    assert (diffusion.sampler(COSINE, times, "ddim")[:, 3] == 0).all()
    assert (diffusion.sampler(COSINE, times, "dpm_solver")[:, 3] == 0).all()


@pytest.mark.parametrize("spacing", ["even", "quadratic"])
@pytest.mark.parametrize("method", diffusion.METHODS)
def test_tables_come_out_the_same_in_a_graph_that_does_not_know_the_number_of_steps(method, spacing):
    @tf.function(input_signature=[tf.TensorSpec((), tf.int32), tf.TensorSpec((), tf.float64)])
    def graph(count, eta):
        times = diffusion.times(1000, count, spacing, xp=keras.ops)
        return times, diffusion.sampler(COSINE, times, method, eta, xp=keras.ops)

    for count in (1, 2, 7, 600):
        times = diffusion.times(1000, count, spacing)
        found, table = graph(count, 0.3)
        np.testing.assert_array_equal(found, times)
        np.testing.assert_allclose(table, diffusion.sampler(COSINE, times, method, 0.3), rtol=1e-9, atol=1e-12)


def drawn(schedule, count, method, n=10_000, **more):
    times = diffusion.times(1000, count)
    table = diffusion.sampler(schedule, times, method, **more)
    x = np.random.default_rng(1).normal(size=(n, 1)).astype("float32")
    walk = tf.function(lambda x: diffusion.walk(best(schedule), x, times, table, seed=3, clip=False)[0])
    return walk(x).numpy()


@BOTH
@pytest.mark.parametrize(
    ("count", "method", "more"),
    [
        (1000, "ancestral", {}),
        (1000, "ancestral", {"variance": "beta"}),
        (500, "ddim", {"eta": 1.0}),
        (500, "ddim", {}),
        (200, "dpm_solver", {}),
    ],
)
def test_every_sampler_returns_the_moments_of_normal_data(schedule, count, method, more):
    x = drawn(schedule, count, method, **more)
    error = 4 * np.sqrt(VARIANCE / len(x))
    assert abs(x.mean() - MEAN) < error + 2e-3
    assert abs(x.var() / VARIANCE - 1) < 0.05


@pytest.mark.parametrize(("method", "order"), [("ddim", 1), ("dpm_solver", 2)])
def test_samplers_without_draws_converge_at_their_order(method, order):
    """To the flow that takes noise towards the image, known for normal data; each time with twice the steps."""
    schedule = diffusion.Schedule(diffusion.cosine_betas(20_000)[:19_000])  # up to where some signal is left
    x = np.linspace(-2, 2, 9)[:, None].astype("float32")
    first, last = 19_000, 2_000
    (signal, end_signal), (noise, end_noise) = schedule.signal[[first, last]], schedule.noise[[first, last]]
    spread = np.sqrt((VARIANCE * end_signal**2 + end_noise**2) / (VARIANCE * signal**2 + noise**2))
    exact = end_signal * MEAN + spread * (np.float64(x) - signal * MEAN)
    errors = []
    for count in (20, 40, 80, 160):
        times = np.round(np.linspace(first, last, count + 1)).astype(int)
        table = diffusion.sampler(schedule, times, method)
        found = diffusion.walk(best(schedule), x, times, table, seed=0, clip=False)[0]
        errors.append(np.abs(np.float64(found) - exact).max())
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.abs(slopes - order).max() < 0.25, (errors, slopes)


def test_the_loop_compiles_for_any_number_of_steps_and_images_and_repeats_itself():
    scalar, rows = tf.TensorSpec((), tf.int32), tf.TensorSpec((None,), tf.int32)

    @tf.function(input_signature=[tf.TensorSpec((None, 3)), rows, tf.TensorSpec((None, 4)), scalar])
    def compiled(x, times, table, seed):
        return diffusion.walk(best(COSINE), x, times, table, seed)[0]

    for n, count in ((5, 10), (2, 25)):
        times = diffusion.times(1000, count)
        table = np.float32(diffusion.sampler(COSINE, times))
        x = RNG.normal(size=(n, 3)).astype("float32")
        eager = diffusion.walk(best(COSINE), x, times, table, 7)[0]
        checks.close(compiled(x, np.int32(times), table, 7), eager)
        assert np.abs(compiled(x, np.int32(times), table, 8) - eager).max() > 0.01
        assert np.abs(eager).max() <= 1


def test_what_is_known_stays_and_the_rest_fits_to_it():
    """Normal pixels of the same value: the best denoiser sees them all, so a known one decides the unknown."""
    gain = np.float32(COSINE.signal / (COSINE.signal**2 + COSINE.noise**2 / 8))

    def denoise(x, t):  # x0 is one number, of variance 1, shown 8 times
        k = tf.reshape(tf.gather(gain, t), (-1, 1))
        return tf.broadcast_to(k * tf.reduce_mean(x, axis=1, keepdims=True), tf.shape(x))

    known, mask = np.full((3, 8), 0.6, "float32"), np.float32([1, 1, 1, 1, 1, 1, 1, 0])
    times = diffusion.times(1000, 250)
    x = RNG.normal(size=(3, 8)).astype("float32")
    table = diffusion.sampler(COSINE, times)

    @tf.function
    def walk(*given):
        return diffusion.walk(denoise, x, times, table, 5, *given)[0]

    found = walk(known, mask, COSINE).numpy()
    checks.close(found[:, :7], known[:, :7])
    assert np.abs(found[:, 7] - 0.6).max() < 0.15
    free = walk().numpy()
    assert np.abs(free - 0.6).max() > 0.15


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: diffusion.Schedule([0.1, 1.0]), "betas must be"),
        (lambda: diffusion.Schedule([]), "betas must be"),
        (lambda: diffusion.times(100, 101), "steps must lie in 1 to 100"),
        (lambda: diffusion.times(100, 0), "steps must lie in"),
        (lambda: diffusion.times(100, 10, first=200), "first time must lie in"),
        (lambda: diffusion.sampler(COSINE, diffusion.times(1000, 5), "euler"), "method must be"),
        (lambda: diffusion.sampler(COSINE, diffusion.times(1000, 5), "ddim", eta=2), "eta must lie"),
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
@pytest.mark.parametrize("kind", ["noise", "x0", "velocity"])
@pytest.mark.parametrize("method", ["ddim", "dpm_solver"])
@pytest.mark.parametrize("name", ["linear", "squaredcos_cap_v2"])
def test_trajectories_are_those_of_diffusers(diffusers, kind, method, name):
    """With the best denoiser in both, its x0 given as a prediction of each kind."""
    import torch

    schedule = {"linear": LINEAR, "squaredcos_cap_v2": COSINE}[name]
    settings = {"beta_schedule": name, "timestep_spacing": "trailing"}
    settings["prediction_type"] = {"noise": "epsilon", "x0": "sample", "velocity": "v_prediction"}[kind]
    if method == "ddim":
        theirs = diffusers.DDIMScheduler(1000, clip_sample=False, **settings)
    else:
        theirs = diffusers.DPMSolverMultistepScheduler(1000, final_sigmas_type="zero", **settings)
    theirs.set_timesteps(25)
    denoise = best(schedule, 0.9)
    times = diffusion.times(1000, 25)
    assert [int(t) + 1 for t in theirs.timesteps] == times[:-1].tolist()
    x = start = RNG.normal(size=(6, 1)).astype("float32")
    for t in theirs.timesteps:
        at = np.full(6, int(t) + 1)
        x0 = np.float64(denoise(x, at))
        signal, noise = schedule.signal[at][:, None], schedule.noise[at][:, None]
        prediction = {"x0": x0, "noise": (x - signal * x0) / noise, "velocity": (signal * x - x0) / noise}[kind]
        x = theirs.step(torch.tensor(np.float64(prediction)), t, torch.tensor(np.float64(x))).prev_sample.numpy()
    ours = diffusion.walk(denoise, start, times, diffusion.sampler(schedule, times, method), 0, clip=False)[0]
    checks.close(ours, x, 2e-4 if kind == "noise" else 1e-4)


@pytest.mark.parity
def test_an_ancestral_step_is_that_of_diffusers(diffusers):
    import torch

    theirs = diffusers.DDPMScheduler(1000, beta_schedule="linear", prediction_type="sample", clip_sample=False)
    x, x0 = RNG.normal(size=(2, 4, 3)).astype("float32")
    for t in (1000, 700, 2, 1):
        mean, variance = LINEAR.q_posterior(x0, x, np.full(4, t))
        torch.manual_seed(0)
        found = theirs.step(torch.tensor(x0), t - 1, torch.tensor(x)).prev_sample.numpy()
        torch.manual_seed(0)
        e = torch.randn((4, 3)).numpy() if t > 1 else 0
        tolerance = 1e-5 if t > 100 else 5e-4  # their tables are of single precision
        checks.close(found, np.float64(mean) + np.sqrt(np.float64(variance)) * e, tolerance)
