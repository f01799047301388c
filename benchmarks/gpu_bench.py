"""Measuring of `gpu.py`: claims, their sides, and rows of what was measured; see there for the fields of a row.

A side is called with n, runs n times and waits: `Step` and `Call` are ours, `gpu_peers.Peer` is PyTorch's.
"""

import dataclasses
import functools
import math
import traceback

import numpy as np
import timing

CLAIMS = {}
GIB = 2**30


def claim(seconds):
    """Register a claim: (bench) -> row. seconds: what it takes on a GPU, roughly, compilation included."""

    def register(function):
        CLAIMS[function.__name__] = function, seconds
        return function

    return register


@dataclasses.dataclass
class Bench:
    """Settings of all claims: sizes, precision, PyTorch's runtime (None where there is none) and the product's rate."""

    small: bool
    precision: str
    no_peer: bool = False
    rate: float = 0.0
    failed: bool = False
    missing: str = "no peer: "

    def __post_init__(self):
        import jax

        self.card = self.our_card = jax.devices()[0].device_kind
        self.runtime = None if self.no_peer else self.torch()
        if self.runtime and self.runtime.cuda != (jax.default_backend() == "gpu"):
            self.missing += f"PyTorch runs on {self.runtime.card()}, JAX on {self.card}"
            self.runtime = None
        self.missing += "left out by --no-peer" if self.no_peer else ""

    def torch(self):
        try:
            import gpu_peers
        except ImportError as error:
            self.missing += f"{error}"
            return None
        return gpu_peers.Runtime(self.precision != "float32")

    @property
    def rounds(self):
        return 2 if self.small else 5

    def pick(self, full, small):
        return small if self.small else full

    def calls(self, seconds):
        """How many calls of so many seconds make a round."""
        return 1 if self.small else max(1, min(100, int(0.4 / seconds)))


# Our sides. Calling one with n runs it n times and waits.


def planned_gib(program):
    """Peak memory of a compiled program as XLA plans it; None where it does not say."""
    found = program.memory_analysis()
    if found is None:
        return None
    size = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return (size - found.alias_size_in_bytes) / GIB


class Step:
    """A training step of a built and compiled model on one batch, as `fit` runs it; see the module."""

    def __init__(self, model, batch):
        import jax

        model._symbolic_build(data_batch=batch)  # the metrics' variables
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        self.count = sum(math.prod(v.shape) for v in model.trainable_variables)
        self.batch, self.first = jax.device_put(batch), None
        kinds = model.trainable_variables, model.non_trainable_variables
        kinds += model.optimizer.variables, model.metrics_variables
        self.state = tuple([variable.value for variable in kind] for kind in kinds)
        self.program = jax.jit(model.train_step, donate_argnums=0).lower(self.state, self.batch).compile()
        self.gib = planned_gib(self.program)

    def __call__(self, n):
        import jax

        for _ in range(n):
            self.last, self.state = self.program(self.state, self.batch)
            self.first = self.losses() if self.first is None else self.first
        jax.block_until_ready(self.state)

    def losses(self):
        """Means of the losses since the first step; of a GAN the discriminator's and the generator's."""
        return [float(value) for name, value in self.last.items() if name.endswith("loss")]


class Call:
    """A function of arrays that reads a model's variables, jitted with them as arguments."""

    def __init__(self, model, function, *arguments):
        import jax
        import keras

        variables = model.variables

        def pure(values, *arguments):
            with keras.StatelessScope(state_mapping=list(zip(variables, values))):
                return function(*arguments)

        self.given = jax.device_put(([variable.value for variable in variables], *arguments))
        self.program = jax.jit(pure).lower(*self.given).compile()
        self.gib = planned_gib(self.program)

    def __call__(self, n):
        import jax

        for _ in range(n):
            self.last = self.program(*self.given)
        jax.block_until_ready(self.last)

    def once(self):
        self(1)
        return self.last


# Measuring.


def with_peer(bench, build):
    """(peer or None, the same as a CUDA graph or None, fields of the row) of `build(gpu_peers, runtime)`."""
    if bench.runtime is None:
        return None, None, {"note": bench.missing}
    import gpu_peers

    try:
        before = bench.runtime.allocated()
        peer = build(gpu_peers, bench.runtime)
        peer.checked = peer.check() if peer.check and bench.small else None
        peer(2)
        fields = {"peer": peer.named}
        if before is not None:
            fields["peer_peak_gib"] = (bench.runtime.allocated(peak=True) - before) / GIB
    except Exception as error:  # ours is measured all the same
        traceback.print_exc()
        bench.failed = True
        return None, None, {"error": f"peer: {type(error).__name__}: {error}"[:300]}
    if not bench.runtime.cuda:
        return peer, None, fields | {"note": f"torch.compile(backend={bench.runtime.backend!r})"}
    try:
        return peer, peer.graphed(), fields
    except Exception as error:
        return peer, None, fields | {"note": f"no CUDA graph: {type(error).__name__}: {error}"[:200]}


def beside(sides):
    """{name: () -> side} -> sides that run, and a note on the others, which do not fail the claim."""
    found, notes = {}, []
    for name, make in sides.items():
        try:
            side = make()
            side(1)
            found[name] = side
        except Exception as error:
            notes.append(f"{name}: {type(error).__name__}: {error}"[:200])
    return found, {"beside": "; ".join(notes)} if notes else {}


def timed(bench, sides):
    """{name: side} -> {name: seconds of one call}, medians of rounds that take turns."""
    for side in sides.values():
        side(2)
    calls = {name: bench.calls(timing.seconds(functools.partial(side, 1))) for name, side in sides.items()}
    turns = {name: functools.partial(side, calls[name]) for name, side in sides.items()}
    return {name: taken / calls[name] for name, taken in timing.interleaved(turns, bench.rounds).items()}


def compare(bench, name, ours, build, gflop=None, others=()):
    """(row of a claim, our side, the peer or None).

    ours: () -> our side, called when the peer has its weights, since a step takes them away. build: (gpu_peers,
    runtime) -> a `Peer`. gflop: None to count the peer's operations. others: {name: () -> a side to time as well}.
    """
    peer, graph, found = with_peer(bench, build)
    if peer and gflop is None and peer.eager:
        import gpu_peers

        gflop = gpu_peers.flops(peer.eager) / 1e9
    ours, (more, notes) = ours(), beside(dict(others))
    sides = {"ours": ours, "peer": peer, "graph": graph} | more
    taken = timed(bench, {key: side for key, side in sides.items() if side is not None})
    ours_s, peer_s = taken["ours"], min((taken[key] for key in ("peer", "graph") if key in taken), default=None)
    row = {"claim": name, "ours_s": ours_s, "peer_s": peer_s, "ratio": peer_s and peer_s / ours_s, "gflop": gflop}
    for key, seconds in (("peak_fraction", ours_s), ("peer_peak_fraction", peer_s)):
        row[key] = gflop * 1e9 / seconds / bench.rate if gflop and seconds and bench.rate else None
    row |= {"ours_peak_gib": ours.gib, "peer_peak_gib": None, "device": bench.card}
    if peer_s and peer_s != taken["peer"]:
        row["peer_launched_s"] = taken["peer"]
    return row | {key: taken[key] for key in more} | found | notes, ours, peer


def alike(bench, ours, peer):
    """Fields of two outputs with the same weights."""
    ours, peer = (np.asarray(x, np.float64) for x in (ours, peer))
    found = float(np.linalg.norm(ours - peer) / np.linalg.norm(peer))
    return {"difference": found, "equal": found < (1e-3 if bench.precision == "float32" else 0.1)}


def step_claim(bench, name, model, batch, build, output, gflop=None, others=()):
    """The row of a training step. output: () -> what the peer's `check` gives, compared where sizes are small."""
    wanted = Call(model, output).once() if bench.small else None  # before the step takes the weights
    row, ours, peer = compare(bench, name, lambda: Step(model, batch), build, gflop, others)
    sides = {"ours": (ours.count, ours.first, ours.losses())}
    if peer:
        sides["peer"] = (peer.count, *(np.atleast_1d(x).tolist() for x in (peer.first, peer.last.float().cpu())))
    row |= {"parameters": [side[0] for side in sides.values()], "losses": [side[1:] for side in sides.values()]}
    row["equal"] = bool(np.isfinite(row["losses"]).all())
    row["equal"] &= np.allclose(
        ours.first, row["losses"][-1][0], rtol=0.15
    )  # each drops other units, draws other noise
    if peer and bench.small:
        same = alike(bench, wanted, peer.checked)
        row |= same | {"equal": same["equal"] and row["equal"]}
    return row


def output_claim(bench, name, ours, build, gflop=None, compared=alike):
    """The row of a claim whose two sides give the same outputs."""
    row, ours, peer = compare(bench, name, ours, build, gflop)
    return row | (compared(bench, np.asarray(ours.last, np.float32), peer.last.float().cpu().numpy()) if peer else {})
