"""Diffusion: schedules of noise, steps from an image to noise and back, samplers; knows no network.

An image x0 becomes noise in T steps: x_t = signal[t] * x0 + noise[t] * e, where e is standard normal,
signal[t]^2 + noise[t]^2 = 1, and t = 0 is the image itself (Ho et al., 2020, https://arxiv.org/abs/2006.11239;
equations 17-5 and 17-6 of the book). A sampler goes back, through all of the steps or a few of them. Whatever its
name, from time t to time u it computes

    x_u = a * x_t + b * x0 + c * x0_before + d * e

with the x0 that a network sees in x_t, the one that it saw a step earlier, and a new draw e: so a sampler is a
table of four numbers a step (`sampler`), and one loop serves all (`walk`). Tables are float64, states float32.
Shapes: b batch, ... those of an image, n steps of a sampler.
"""

import math

import numpy as np
from keras import ops

from homl_models.errors import UserError
from homl_models.layers.gaussian import normal


def cosine_betas(steps, offset=0.008, largest=0.999):
    """Equation 17-7 (Nichol & Dhariwal, 2021, https://arxiv.org/abs/2102.09672) -> (steps,), for t = 1 to T."""
    f = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * math.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], largest)


def linear_betas(steps, first=1e-4, last=0.02, largest=0.999):
    """From `first` to `last` in equal steps for T = 1,000 (Ho et al., 2020), 1,000 / T times as much for T -> (steps,).

    So as little is left of an image after fewer or more steps (as in the code of Nichol & Dhariwal, 2021).
    """
    return np.minimum(np.linspace(first, last, steps) * (1000 / steps), largest)


SCHEDULES = {"cosine": cosine_betas, "linear": linear_betas}
METHODS = "ancestral", "ddim", "dpm_solver"


class Schedule:
    """Tables (T + 1,) in float64, indexed by the time t: `beta`, `alpha_bar`, `signal`, `noise`."""

    def __init__(self, betas):
        self.beta = np.append(0.0, np.asarray(betas, np.float64))
        if self.beta.ndim != 1 or len(self.beta) < 2 or not (0 < self.beta[1:].min() <= self.beta.max() < 1):
            raise UserError("betas must be one or more numbers in (0, 1)")
        self.alpha_bar = np.cumprod(1 - self.beta)
        self.signal, self.noise = np.sqrt(self.alpha_bar), np.sqrt(1 - self.alpha_bar)
        self.steps = len(self.beta) - 1

    def q_sample(self, x0, t, e):
        """ImageRecipe (b, ...), times (b,), noise like the images -> x_t, in one jump (equation 17-6)."""
        return _at(self.signal, t, x0) * x0 + _at(self.noise, t, x0) * e

    def q_posterior(self, x0, x_t, t):
        """The mean (b, ...) and variance (b, 1, ...) of x_{t-1}, given x0 and x_t, t >= 1 (Ho et al., equation 7)."""
        before = np.append(1.0, self.alpha_bar[:-1])
        rest = np.append(1.0, 1 - self.alpha_bar[1:])
        of_x0 = np.sqrt(before) * self.beta / rest
        of_x_t = np.sqrt(1 - self.beta) * (1 - before) / rest
        mean = _at(of_x0, t, x0) * x0 + _at(of_x_t, t, x0) * x_t
        return mean, _at(self.beta * (1 - before) / rest, t, x0)

    def target(self, kind, x0, t, e):
        """What a network of that kind is to predict: the "noise" e, "x0", or the "velocity" signal * e - noise * x0.

        (Salimans & Ho, 2022, https://arxiv.org/abs/2202.00512, for the velocity.)
        """
        if kind == "noise":
            return e
        if kind == "x0":
            return x0
        return _at(self.signal, t, x0) * e - _at(self.noise, t, x0) * x0

    def predict_x0(self, kind, prediction, x_t, t):
        """The x0 that a prediction (b, ...) of that kind amounts to."""
        signal, noise = _at(self.signal, t, x_t), _at(self.noise, t, x_t)
        if kind == "noise":
            return (x_t - noise * prediction) / signal
        if kind == "x0":
            return prediction
        return signal * x_t - noise * prediction


def _at(table, t, x):
    """The entries of a table at times (b,), shaped to be multiplied with x (b, ...)."""
    picked = ops.take(ops.convert_to_tensor(np.float32(table)), t)
    return ops.cast(ops.reshape(picked, (-1, *[1] * (len(x.shape) - 1))), x.dtype)


# Samplers. `xp` is NumPy, or `keras.ops` for a graph of TensorFlow's in which the number of steps is a tensor.


def times(steps, count, spacing="even", first=None, xp=np):
    """`count` steps from time `first` (default T = `steps`) down to 0 -> (count + 1,) whole numbers, none twice.

    spacing: "even", or "quadratic" for shorter steps where there is little noise left.
    `UserError` if there are more steps than times.
    """
    first = steps if first is None else first
    if xp is np and not 1 <= first <= steps:
        raise UserError(f"the first time must lie in 1 to {steps}, not at {first}")
    if xp is np and not 1 <= count <= first:
        raise UserError(f"steps must lie in 1 to {first}, not {count}")
    left = xp.array(xp.arange(count, -1, -1), dtype="int64")
    whole, first = xp.array(count, dtype="int64"), xp.array(first, dtype="int64")
    if spacing == "quadratic":
        share, whole = left * left, whole * whole
    else:
        share = left
    wanted = (2 * first * share + whole) // (2 * whole)  # first * share / whole, rounded
    return xp.array(xp.maximum(wanted, left), dtype="int32")  # a time for each of the steps that are left


def sampler(schedule, times, method="ancestral", eta=0.0, variance="posterior", xp=np):
    """The table (n, 4) of a sampler along `times` (n + 1,); see the module.

    "ancestral": draws from the learned reverse process (equation 17-8). variance: "posterior", that of `q_posterior`,
        or "beta", the larger one of the book's equation.
    "ddim": Song et al., 2020 (https://arxiv.org/abs/2010.02502): no draws for `eta` 0, ancestral for 1.
    "dpm_solver": DPM-Solver++(2M), of second order (Lu et al., 2022, https://arxiv.org/abs/2211.01095).
    """
    if method not in METHODS:
        raise UserError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    signals, noises = (xp.take(xp.array(table, dtype="float64"), times) for table in (schedule.signal, schedule.noise))
    signal_t, signal_u, noise_t, noise_u = signals[:-1], signals[1:], noises[:-1], noises[1:]
    zeros = xp.zeros_like(signal_t)
    if method == "dpm_solver":
        end = noise_u == 0  # a step to time 0 ends in x0
        to_noise = noise_t / xp.where(end, 1e-300, noise_u)
        length = xp.log(signal_u / signal_t) + xp.log(to_noise)  # in log signal-to-noise
        before = xp.concatenate([xp.full_like(length[:1], np.inf), length[:-1]])  # the first step has none
        second = xp.where(end, 0.0, length / before / 2)
        gain = signal_u * -xp.expm1(-length)
        return xp.stack([noise_u / noise_t, gain * (1 + second), -gain * second, zeros], axis=1)
    if xp is np and not 0 <= eta <= 1:
        raise UserError(f"eta must lie in [0, 1], not {eta}")
    forward = 1 - (signal_t / signal_u) ** 2  # the variance that the steps from u to t add
    sigma = (1.0 if method == "ancestral" else eta) * noise_u / noise_t * xp.sqrt(forward)
    of_noise = xp.sqrt(xp.maximum(noise_u**2 - sigma**2, 0.0))
    if method == "ancestral" and variance == "beta":
        sigma = xp.where(noise_u > 0, xp.sqrt(forward), 0.0)
    return xp.stack([of_noise / noise_t, signal_u - of_noise * signal_t / noise_t, zeros, sigma], axis=1)


def walk(
    denoise, x, times, table, seed, known=None, mask=None, schedule=None, clip=True, before=None, part=None, row=None
):
    """Go down `times` (n + 1,) by the `table` (n, 4) of a sampler, from x at the first -> x at the last, (b, ...).

    Beside it, the x0 that the last step saw.
    denoise: (x (b, ...), t (b,)) -> the x0 that it sees. seed: a whole number, or a tensor of one.
    known, mask (b, ...): an image and 1 where it is to stay, which is put in after each step with the noise of
        its time, drawn by `schedule` (Lugmayr et al., 2022, https://arxiv.org/abs/2201.09865, without resampling).
    clip: keep x0 in [-1, 1].
    part: (first, last), to take only the steps first <= i < last, where `before` is the x0 that was seen before.
    row: the number of the first of these images among those of the seed, whose draws it decides; None for 0.
    """
    times, table = ops.cast(times, "int32"), ops.cast(table, "float32")
    first, last = part or (0, ops.shape(table)[0])

    def drawn(i, stream):
        key = ops.stack([ops.cast(seed, "uint32"), ops.cast(2 * i + stream, "uint32")])
        return normal(ops.shape(x), key, row=row)

    def body(i, x, before):
        x0 = denoise(x, ops.broadcast_to(times[i], ops.shape(x)[:1]))
        x0 = ops.clip(x0, -1.0, 1.0) if clip else x0
        row = table[i]
        x = row[0] * x + row[1] * x0 + row[2] * before + row[3] * drawn(i, 0)
        if known is not None:
            at = ops.broadcast_to(times[i + 1], ops.shape(x)[:1])
            x = mask * schedule.q_sample(known, at, drawn(i, 1)) + (1 - mask) * x
        return i + 1, x, x0

    start = ops.convert_to_tensor(first, "int32"), x, ops.zeros_like(x) if before is None else before
    return ops.while_loop(lambda i, *_: i < last, body, start)[1:]
