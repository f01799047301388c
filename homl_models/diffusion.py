"""Diffusion: noise schedules, the steps of three samplers, and the compiled sampling loop; knows no network.

The forward process turns an image x0 into noise in T steps, x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise
with noise ~ N(0, I) and alpha_bar_0 = 1 (Ho et al., 2020, DDPM, https://arxiv.org/abs/2006.11239, equation 4;
equations 17-5 and 17-6 of the book). A sampler reverses it, along all timesteps or a few of them. One step of each
reads as in its paper: `ddpm_step`, `ddim_step`, `dpm_solver_step`.

The compiled loop does not call them: every one of these steps is linear,

    x_prev = a * x_t + b * x0 + c * x0_before + d * noise

with the x0 predicted at this step and at the one before, so `step_coefficients` tabulates (a, b, c, d) of all the
steps ahead and `sample_loop` serves every sampler. Tests hold both forms equal.
Tables are float64, states float32. Shapes: b batch, ... those of an image, n sampling steps.
"""

import math

import numpy as np
from keras import ops

from homl_models.errors import UserError
from homl_models.layers.gaussian import normal

# Noise schedules.


def cosine_betas(num_steps, offset=0.008, max_beta=0.999):
    """Cosine schedule (equation 17-7; Nichol & Dhariwal, 2021, https://arxiv.org/abs/2102.09672).

    Returns beta_t (T,) for t = 1 to T = `num_steps`.
    """
    f = np.cos((np.arange(num_steps + 1) / num_steps + offset) / (1 + offset) * math.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], max_beta)


def linear_betas(num_steps, first=1e-4, last=0.02, max_beta=0.999):
    """Linear schedule (Ho et al., 2020): beta_t (T,), from `first` to `last` for T = 1,000.

    For another T they are scaled by 1,000 / T, so that as little is left of an image after T steps (as in the code of
    Nichol & Dhariwal, 2021).
    """
    return np.minimum(np.linspace(first, last, num_steps) * (1000 / num_steps), max_beta)


SCHEDULES = {"cosine": cosine_betas, "linear": linear_betas}


class Schedule:
    """Noise schedule: tables (T + 1,) in float64, indexed by the timestep t, and the forward process.

    Tables: `beta`, `alpha_bar`, `sqrt_alpha_bar`, `sqrt_one_minus_alpha_bar`, where t = 0 is the image itself.

    Args:
        betas: beta_t (T,) for t = 1 to T; `UserError` unless all lie in (0, 1).
    """

    def __init__(self, betas):
        self.beta = np.append(0.0, np.asarray(betas, np.float64))
        if self.beta.ndim != 1 or len(self.beta) < 2 or not (0 < self.beta[1:].min() <= self.beta.max() < 1):
            raise UserError("betas must be one or more numbers in (0, 1)")
        self.alpha_bar = np.cumprod(1 - self.beta)
        self.sqrt_alpha_bar, self.sqrt_one_minus_alpha_bar = np.sqrt(self.alpha_bar), np.sqrt(1 - self.alpha_bar)
        self.num_steps = len(self.beta) - 1

    def q_sample(self, x0, t, noise):
        """Sample of q(x_t | x0) (equation 17-6): images (b, ...), timesteps (b,), noise (b, ...) -> x_t (b, ...)."""
        return _gather(self.sqrt_alpha_bar, t, x0) * x0 + _gather(self.sqrt_one_minus_alpha_bar, t, x0) * noise

    def target(self, prediction_type, x0, t, noise):
        """Training target of a network: the "noise", "x0", or the "velocity".

        v = sqrt(alpha_bar_t) noise - sqrt(1 - alpha_bar_t) x0 (Salimans & Ho, 2022, https://arxiv.org/abs/2202.00512).
        """
        if prediction_type == "noise":
            return noise
        if prediction_type == "x0":
            return x0
        return _gather(self.sqrt_alpha_bar, t, x0) * noise - _gather(self.sqrt_one_minus_alpha_bar, t, x0) * x0

    def predict_x0(self, prediction_type, prediction, x_t, t):
        """The x0 implied by a network's prediction (b, ...) of that type at timesteps (b,) -> (b, ...)."""
        alpha, sigma = _gather(self.sqrt_alpha_bar, t, x_t), _gather(self.sqrt_one_minus_alpha_bar, t, x_t)
        if prediction_type == "noise":
            return (x_t - sigma * prediction) / alpha
        if prediction_type == "x0":
            return prediction
        return alpha * x_t - sigma * prediction

    def predict_noise(self, x0, x_t, t):
        """The noise implied by a predicted x0 (b, ...) at timesteps (b,), t >= 1 -> (b, ...)."""
        alpha, sigma = _gather(self.sqrt_alpha_bar, t, x_t), _gather(self.sqrt_one_minus_alpha_bar, t, x_t)
        return (x_t - alpha * x0) / sigma

    def timestep_of_noise(self, stddev):
        """First timesteps (b,) with noise of that standard deviation (b,) or more, relative to x0; else T."""
        ratios = ops.cast(self.sqrt_one_minus_alpha_bar[1:] / self.sqrt_alpha_bar[1:], "float32")  # rising
        t = ops.searchsorted(ratios, stddev) + 1
        return ops.minimum(ops.cast(t, "int32"), self.num_steps)


def _gather(table, t, x):
    """Entries of a table at timesteps (b,), shaped to broadcast against x (b, ...)."""
    entries = ops.take(ops.convert_to_tensor(np.float32(table)), t)
    return ops.cast(ops.reshape(entries, (-1, *[1] * (len(x.shape) - 1))), x.dtype)


# One step of each sampler, x_t -> x_{t_prev} for timesteps t > t_prev >= 0: whole numbers, the same for all images.
# alpha_bar_t is the papers' \bar\alpha_t. `noise` ~ N(0, I), like x_t.


def ddpm_step(x_t, prediction, t, t_prev, noise, schedule, variance="posterior"):
    """Step of ancestral sampling (DDPM, algorithm 2); equation 17-8 for t_prev = t - 1 and variance "beta".

    A longer step has the alpha_t and beta_t of all that it spans (Nichol & Dhariwal, 2021, equation 19).
    prediction: eps_theta(x_t, t), the predicted noise. variance: sigma_t^2, the "posterior" of equation 7 or "beta".
    """
    alpha_bar_t, alpha_bar_prev = schedule.alpha_bar[t], schedule.alpha_bar[t_prev]
    alpha_t = alpha_bar_t / alpha_bar_prev
    beta_t = 1 - alpha_t
    mean = (x_t - beta_t / np.sqrt(1 - alpha_bar_t) * prediction) / np.sqrt(alpha_t)  # equation 11
    if t_prev == 0:
        return mean  # no noise in the last step
    posterior_variance = (1 - alpha_bar_prev) / (1 - alpha_bar_t) * beta_t  # equation 7
    sigma_t = np.sqrt(beta_t if variance == "beta" else posterior_variance)
    return mean + sigma_t * noise


def ddim_step(x_t, prediction, t, t_prev, noise, schedule, eta=0.0):
    """Step of DDIM (Song et al., 2020, https://arxiv.org/abs/2010.02502, equations 12 and 16).

    Their alpha is alpha_bar here.
    prediction: eps_theta(x_t, t), the predicted noise. eta: 0 is deterministic, 1 ancestral sampling.
    """
    alpha_bar_t, alpha_bar_prev = schedule.alpha_bar[t], schedule.alpha_bar[t_prev]
    sigma_t = eta * np.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar_t)) * np.sqrt(1 - alpha_bar_t / alpha_bar_prev)
    predicted_x0 = (x_t - np.sqrt(1 - alpha_bar_t) * prediction) / np.sqrt(alpha_bar_t)
    direction_to_x_t = np.sqrt(1 - alpha_bar_prev - sigma_t**2) * prediction
    return np.sqrt(alpha_bar_prev) * predicted_x0 + direction_to_x_t + sigma_t * noise


def dpm_solver_step(x_t, prediction, t, t_prev, noise, schedule, before=None):
    """Step of DPM-Solver++(2M) (Lu et al., 2022, https://arxiv.org/abs/2211.01095, algorithm 2); needs no `noise`.

    prediction: x_theta(x_t, t), the predicted x0. before: (t, prediction) of the step before; None for the first step,
    which is of first order, as is one to t_prev = 0, where lambda is infinite.
    """
    alpha, sigma = schedule.sqrt_alpha_bar, schedule.sqrt_one_minus_alpha_bar
    if t_prev == 0:
        return prediction
    h = _half_log_snr(schedule, t_prev) - _half_log_snr(schedule, t)
    d = prediction
    if before is not None:
        t_before, prediction_before = before
        r = (_half_log_snr(schedule, t) - _half_log_snr(schedule, t_before)) / h
        d = (1 + 1 / (2 * r)) * prediction - 1 / (2 * r) * prediction_before
    return sigma[t_prev] / sigma[t] * x_t - alpha[t_prev] * np.expm1(-h) * d


def _half_log_snr(schedule, t):
    """lambda_t = log(alpha_t / sigma_t), half the logarithm of the signal-to-noise ratio."""
    return np.log(schedule.sqrt_alpha_bar[t] / schedule.sqrt_one_minus_alpha_bar[t])


METHODS = "ancestral", "ddim", "dpm_solver"
VARIANCES = "posterior", "beta"


def guided_prediction(predict, x, t, labels, no_label, guidance):
    """Prediction (b, ...) with classifier-free guidance (Ho & Salimans, 2022, https://arxiv.org/abs/2207.12598).

    unconditional + guidance * (conditional - unconditional): equation 6, where guidance is 1 + w.
    predict: (x (b, ...), t (b,), labels (b,)) -> (b, ...). no_label: the label of images without a class.
    """

    def conditional():
        return predict(x, t, labels)

    def guided():
        twice = [ops.concatenate([tensor, tensor]) for tensor in (x, t)]
        unconditional, conditional = ops.split(predict(*twice, ops.concatenate([none, labels])), 2)
        return unconditional + guidance * (conditional - unconditional)

    none = ops.full_like(t, no_label)
    return ops.cond(ops.equal(guidance, 1.0), conditional, guided)


# The compiled form. `xp` is NumPy, or `keras.ops` for a TensorFlow graph in which the number of steps is a tensor.


def timesteps(num_steps, steps, spacing="even", start=None, xp=np):
    """Timesteps of `steps` sampling steps, from `start` (default T = `num_steps`) down to 0 -> (steps + 1,) int32.

    None comes twice. spacing: "even" ("trailing" in diffusers), or "quadratic" for shorter steps where there is little
    noise. `UserError` for more steps than there are timesteps.
    """
    start = num_steps if start is None else start
    if xp is np and not 1 <= start <= num_steps:
        raise UserError(f"the first timestep must lie in 1 to {num_steps}, not at {start}")
    if xp is np and not 1 <= steps <= start:
        raise UserError(f"steps must lie in 1 to {start}, not {steps}")
    left = xp.array(xp.arange(steps, -1, -1), dtype="int64")  # steps left
    total, start = xp.array(steps, dtype="int64"), xp.array(start, dtype="int64")
    if spacing == "quadratic":
        numerator, denominator = left * left, total * total
    else:
        numerator, denominator = left, total
    rounded = (2 * start * numerator + denominator) // (2 * denominator)  # start * numerator / denominator
    return xp.array(xp.maximum(rounded, left), dtype="int32")  # at least one timestep for each step left


def step_coefficients(schedule, timesteps, method="ancestral", eta=0.0, variance="posterior", xp=np):
    """Coefficients (n, 4) of the steps along `timesteps` (n + 1,); see the module.

    method: "ancestral" (`ddpm_step` with its `variance`), "ddim" (`ddim_step` with its `eta`) or "dpm_solver"
    (`dpm_solver_step`). `UserError` for a setting that is none of theirs.
    """
    if method not in METHODS:
        raise UserError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if variance not in VARIANCES:
        raise UserError(f"variance must be one of {', '.join(VARIANCES)}, not {variance!r}")
    tables = schedule.sqrt_alpha_bar, schedule.sqrt_one_minus_alpha_bar
    alpha, sigma = (xp.take(xp.array(table, dtype="float64"), timesteps) for table in tables)
    ends = alpha[:-1], alpha[1:], sigma[:-1], sigma[1:]
    if method == "dpm_solver":
        return _dpm_solver_coefficients(*ends, xp)
    if xp is np and not 0 <= eta <= 1:
        raise UserError(f"eta must lie in [0, 1], not {eta}")
    return _ddim_coefficients(*ends, 1.0 if method == "ancestral" else eta, method == "ancestral" and variance, xp)


def _ddim_coefficients(alpha_t, alpha_prev, sigma_t, sigma_prev, eta, variance, xp):
    """Coefficients of `ddim_step`, and of `ddpm_step`, which is `eta` 1; alpha and sigma (n,) as in DPM-Solver."""
    beta = 1 - (alpha_t / alpha_prev) ** 2
    stddev = eta * sigma_prev / sigma_t * xp.sqrt(beta)
    direction = xp.sqrt(xp.maximum(sigma_prev**2 - stddev**2, 0.0))
    if variance == "beta":
        stddev = xp.where(sigma_prev > 0, xp.sqrt(beta), 0.0)
    zeros = xp.zeros_like(alpha_t)
    return xp.stack([direction / sigma_t, alpha_prev - direction * alpha_t / sigma_t, zeros, stddev], axis=1)


def _dpm_solver_coefficients(alpha_t, alpha_prev, sigma_t, sigma_prev, xp):
    """Coefficients of `dpm_solver_step`."""
    last = sigma_prev == 0  # a step to timestep 0 returns x0
    sigma_ratio = sigma_t / xp.where(last, 1e-300, sigma_prev)
    h = xp.log(alpha_prev / alpha_t) + xp.log(sigma_ratio)
    h_before = xp.concatenate([xp.full_like(h[:1], np.inf), h[:-1]])  # the first step is of first order
    half_inverse_r = xp.where(last, 0.0, h / h_before / 2)
    gain = alpha_prev * -xp.expm1(-h)
    zeros = xp.zeros_like(alpha_t)
    return xp.stack([sigma_prev / sigma_t, gain * (1 + half_inverse_r), -gain * half_inverse_r, zeros], axis=1)


def sample_loop(
    predict_x0,
    x,
    timesteps,
    coefficients,
    seed,
    known=None,
    mask=None,
    schedule=None,
    clip=True,
    x0_before=None,
    step_range=None,
    row=None,
):
    """Sampling loop: x at the first of `timesteps` (n + 1,) -> x at the last, and the x0 of the last step, (b, ...).

    Args:
        predict_x0: (x (b, ...), timesteps (b,)) -> the predicted x0 (b, ...).
        coefficients: (n, 4), see `step_coefficients`.
        seed: of the noise; a whole number, or a tensor of one.
        known, mask: (b, ...), an image and 1 where it is kept: after each step it is put in there with the noise
            of that timestep by `schedule` (RePaint, Lugmayr et al., 2022, https://arxiv.org/abs/2201.09865, equation 8,
            without resampling).
        clip: whether x0 is clipped to [-1, 1].
        step_range: (first, last), to take only the steps first <= i < last, with `x0_before` of the step before.
        row: index of the first of these images among all that share the seed; None for 0. Noise depends on it.
    """
    timesteps, coefficients = ops.cast(timesteps, "int32"), ops.cast(coefficients, "float32")
    first, last = step_range or (0, ops.shape(coefficients)[0])

    def noise(i, stream):
        key = ops.stack([ops.cast(seed, "uint32"), ops.cast(2 * i + stream, "uint32")])
        return normal(ops.shape(x), key, row=row)

    def step(i, x, x0_before):
        x0 = predict_x0(x, ops.broadcast_to(timesteps[i], ops.shape(x)[:1]))
        x0 = ops.clip(x0, -1.0, 1.0) if clip else x0
        a, b, c, d = ops.unstack(coefficients[i], 4)
        x = a * x + b * x0 + c * x0_before + d * noise(i, 0)
        if known is not None:
            t_prev = ops.broadcast_to(timesteps[i + 1], ops.shape(x)[:1])
            x = mask * schedule.q_sample(known, t_prev, noise(i, 1)) + (1 - mask) * x
        return i + 1, x, x0

    start = ops.convert_to_tensor(first, "int32"), x, ops.zeros_like(x) if x0_before is None else x0_before
    return ops.while_loop(lambda i, *_: i < last, step, start)[1:]
