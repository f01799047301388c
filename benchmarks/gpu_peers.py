"""PyTorch peers of `gpu.py`: the same networks and steps, written and compiled as one would for speed.

`torch.compile`, `scaled_dot_product_attention`, fused optimizers, channels last, cuDNN's GRU and LSTM; automatic mixed
precision on float32 weights. A `Peer` runs one step; on a GPU it can also be replayed as a CUDA graph, which spares
PyTorch the launches where kernels are short.
Shapes: b batch, t queries, s keys, d dimension, h heads, e size of a head, v vocabulary, k masked positions.
"""

import functools
import gc
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Runtime:
    """How PyTorch runs here: its device, precision and compiler."""

    def __init__(self, mixed=True):
        self.device, self.mixed = "cuda" if torch.cuda.is_available() else "cpu", mixed
        self.cuda = self.device == "cuda"
        self.backend = "inductor" if self.cuda else "eager"  # on a CPU: traced alone, which is quick
        if not self.cuda:
            torch.set_num_threads(1)  # sizes are tiny there
        torch.set_float32_matmul_precision("high")  # TF32
        torch.backends.cudnn.benchmark = True
        if hasattr(torch._dynamo.config, "fail_on_recompile_limit_hit"):
            torch._dynamo.config.fail_on_recompile_limit_hit = True  # rather than go on uncompiled

    def card(self):
        return torch.cuda.get_device_name() if self.cuda else "cpu"

    def compile(self, function):
        """`function` under automatic mixed precision, compiled for static shapes."""

        def mixed(*args):
            with torch.autocast(self.device, torch.bfloat16, self.mixed, cache_enabled=False):
                return function(*args)

        return torch.compile(mixed, dynamic=False, backend=self.backend)

    def put(self, array):
        """An array on the device; whole numbers become int64."""
        array = np.asarray(array)
        array = array.astype(np.int64) if array.dtype.kind in "iu" else np.float32(array)
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize()

    def reset(self):
        """Forget what was compiled, and give memory back."""
        torch._dynamo.reset()
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def allocated(self, peak=False):
        """Bytes of GPU memory now, or at most since the last call with `peak=False`, which starts the peak anew."""
        if not self.cuda:
            return None
        self.wait()
        if peak:
            return torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()


class Peer:
    """One side in PyTorch: calling it with n runs `function` n times and waits.

    named: what it is. count: trainable parameters. check: () -> outputs without dropout, to be compared. eager: the
    function uncompiled, to count its operations.
    """

    named, first = "plain PyTorch", None

    def __init__(self, runtime, function, count=None, check=None, eager=None):
        self.runtime, self.function, self.count, self.check, self.eager = runtime, function, count, check, eager

    def __call__(self, n):
        for _ in range(n):
            self.last = self.function()
            self.first = _kept(self.last) if self.first is None else self.first
        self.runtime.wait()

    def graphed(self):
        """The same side replayed as a CUDA graph, captured after a warm-up on a stream of its own."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                out = self.function()
        except Exception:  # leave a generator behind that knows of no capture
            fresh = torch.Generator(device="cuda").graphsafe_get_state()
            torch.cuda.default_generators[torch.cuda.current_device()].graphsafe_set_state(fresh)
            raise

        def replay():
            graph.replay()
            return out

        return Peer(self.runtime, replay)


def _kept(out):
    """A copy of losses (a tensor of few numbers); nothing of what is larger."""
    return out.detach().float().cpu().numpy() if torch.is_tensor(out) and out.numel() < 10 else ()


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def trainer(runtime, loss, batch, modules, optimizer, clip=1.0, after=None):
    """A function that takes one training step and returns the loss.

    loss: (*batch) -> scalar, compiled here. clip: largest global norm of the gradients. after: called after the step.
    """
    compiled, parameters = runtime.compile(loss), [p for module in modules for p in module.parameters()]

    def step():
        optimizer.zero_grad(set_to_none=True)
        value = compiled(*batch)
        value.backward()
        if clip:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        if after:
            after()
        return value.detach()

    return step


def adam(runtime, parameters, learning_rate, kind=torch.optim.Adam, **settings):
    """A fused optimizer that a CUDA graph can hold."""
    return kind(parameters, learning_rate, fused=True, capturable=runtime.cuda, **settings)


def ema(average, network, decay=0.999):
    """A function that moves the weights of `average` towards those of `network`, in one fused operation."""
    pairs = list(zip(average.state_dict().values(), network.state_dict().values()))
    old, new = zip(*(pair for pair in pairs if pair[0].is_floating_point()))

    def follow():
        with torch.no_grad():
            torch._foreach_lerp_(list(old), list(new), 1 - decay)

    return follow


# Weights of Keras layers.


def copy(module, *layers):
    """Weights of a Keras layer, or of several one after the other (a fused projection), into a module."""
    arrays = zip(*(layer.get_weights() for layer in layers))
    for parameter, parts in zip(module.parameters(), arrays, strict=True):
        array = np.concatenate([np.asarray(part, np.float32) for part in parts], axis=-1)
        array = array.T if isinstance(module, nn.Linear) else array
        parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def copy_block(block, ours):
    """Weights of a Transformer block of `layers.attention` or `models.bert`."""
    found = [getattr(ours, a) if isinstance(a, str) else a for a in ours.attentions]
    for attention, theirs in zip([block.attention, block.cross], found):
        copy(attention.inputs, *theirs.projections[:3])
        copy(attention.out, theirs.projections[3])
    copy(block.feed[0], ours.hidden)
    copy(block.feed[2], ours.output_dense)
    for norm, theirs in zip(block.norms, ours.norms, strict=True):
        copy(norm, theirs)


# Transformers.


class Attention(nn.Module):
    """Multi-head attention: (b, t, d) over itself or a memory (b, s, d); one product for queries, keys and values."""

    def __init__(self, dim, heads, dropout=0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.inputs, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def split(self, x, first=0, last=3):
        """The projections first <= i < last of query, key, value, each (b, h, t, e)."""
        d = x.shape[-1]
        y = F.linear(x, self.inputs.weight[first * d : last * d], self.inputs.bias[first * d : last * d])
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in y.chunk(last - first, -1)]

    def attend(self, query, key, value, mask=None, causal=False):
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, mask, rate, causal)
        return self.out(y.transpose(1, 2).flatten(2))

    def forward(self, x, memory=None, mask=None, causal=False):
        if memory is None:
            return self.attend(*self.split(x), mask, causal)
        return self.attend(*self.split(x, 0, 1), *self.split(memory, 1, 3), mask, causal)


class Block(nn.Module):
    """A Transformer block: self-attention, attention over a memory if `cross`, feed-forward; (b, t, d) -> (b, t, d)."""

    def __init__(self, dim, heads, hidden, activation, dropout, attention_dropout=0.0, pre_norm=False, cross=False,
                 eps=1e-5):  # fmt: skip
        super().__init__()
        self.pre_norm, self.dropout = pre_norm, nn.Dropout(dropout)
        self.attention = Attention(dim, heads, attention_dropout)
        self.cross = Attention(dim, heads, attention_dropout) if cross else None
        self.feed = nn.Sequential(nn.Linear(dim, hidden), activation(), nn.Linear(hidden, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps) for _ in range(2 + cross))

    def sublayer(self, i, x, function):
        if self.pre_norm:
            return x + self.dropout(function(self.norms[i](x)))
        return self.norms[i](x + self.dropout(function(x)))

    def forward(self, x, mask=None, causal=False, memory=None, memory_mask=None):
        x = self.sublayer(0, x, lambda y: self.attention(y, mask=mask, causal=causal))
        if self.cross is not None:
            x = self.sublayer(1, x, lambda y: self.cross(y, memory, memory_mask))
        return self.sublayer(-1, x, self.feed)


class Bert(nn.Module):
    """BERT with its masked-language-model head, as one would write it: ids, token types (b, t) -> hidden (b, t, d)."""

    named = "a plain PyTorch BERT (SDPA)"

    def __init__(self, ours):
        super().__init__()
        bert, config, n = ours.backbone, ours.backbone.config, ours.backbone.config.hidden_size
        self.word, self.position = nn.Embedding(config.vocab_size, n), nn.Embedding(config.max_position_embeddings, n)
        self.token_type, self.norm = nn.Embedding(config.type_vocab_size, n), nn.LayerNorm(n, 1e-12)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        rates = config.hidden_dropout_prob, config.attention_probs_dropout_prob
        sizes = n, config.num_attention_heads, config.intermediate_size
        self.blocks = nn.ModuleList(Block(*sizes, nn.GELU, *rates, eps=1e-12) for _ in bert.blocks)
        self.head = nn.Sequential(nn.Linear(n, n), nn.GELU(), nn.LayerNorm(n, 1e-12))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        for name in ("word", "position", "token_type", "norm"):
            copy(getattr(self, name), getattr(bert.embeddings, name))
        for block, theirs in zip(self.blocks, bert.blocks):
            copy_block(block, theirs)
        copy(self.head[0], ours.transform)
        copy(self.head[2], ours.norm)

    def hidden(self, ids, types):
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.dropout(self.norm(self.word(ids) + self.token_type(types) + self.position(places)))
        for block in self.blocks:
            x = block(x)
        return x

    def logits(self, x):
        return F.linear(self.head(x), self.word.weight, self.bias)


class TransformersBert(nn.Module):
    """`BertForMaskedLM` of `transformers` with SDPA; its encoder is given no mask, since no text has padding."""

    def __init__(self, ours):
        import transformers

        from homl_models.checkpoints.huggingface import state_dict

        super().__init__()
        names = "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"
        settings = {name: getattr(ours.backbone.config, name) for name in (*names, "max_position_embeddings")}
        config = transformers.BertConfig(**settings)
        self.model = transformers.AutoModelForMaskedLM.from_config(config, attn_implementation="sdpa")
        state = {name: torch.from_numpy(np.array(w)) for name, w in state_dict(ours).items()}
        unknown = self.model.load_state_dict(state, strict=False).unexpected_keys
        assert not unknown, unknown
        self.named = f"transformers {transformers.__version__} (SDPA)"

    def hidden(self, ids, types):
        return self.model.bert.encoder(self.model.bert.embeddings(input_ids=ids, token_type_ids=types))[0]

    def logits(self, x):
        return self.model.cls(x)


def bert(runtime, ours):
    """The peer of a `BertForMaskedLM`, with its weights: that of `transformers`, or `Bert` where there is none."""
    try:
        return TransformersBert(ours).to(runtime.device)
    except ImportError:
        return Bert(ours).to(runtime.device)


def masked_lm_loss(network, ids, types, positions, labels):
    """Cross-entropy of the words at the masked positions (b, k) alone, as ours."""
    hidden = network.hidden(ids, types)
    picked = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
    return F.cross_entropy(network.logits(picked).flatten(0, 1), labels.flatten())


def bert_step(runtime, ours, batch):
    """A step of masked language modelling: AdamW, no decay of biases and normalizations, global norm 1."""
    network, batch = bert(runtime, ours).train(), [runtime.put(x) for x in batch]
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in network.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = adam(runtime, groups, 1e-4, torch.optim.AdamW, eps=1e-6)

    def check():
        with torch.no_grad():
            found = network.eval().logits(network.hidden(*batch[:2]))
        network.train()
        return found.float().cpu().numpy()

    step = trainer(runtime, functools.partial(masked_lm_loss, network), batch, [network], optimizer)
    peer = Peer(runtime, step, count(network), check)
    peer.named = network.named
    return peer


def bert_forward(runtime, ours, batch):
    """Hidden states (b, t, d)."""
    network, batch = bert(runtime, ours).eval(), [runtime.put(x) for x in batch]
    compiled = runtime.compile(network.hidden)

    def forward():
        with torch.no_grad():
            return compiled(*batch)

    peer = Peer(runtime, forward)
    peer.named = network.named
    return peer


class Translator(nn.Module):
    """A pre-norm encoder-decoder with one embedding matrix for source, target and output; weights of `ours`."""

    def __init__(self, ours, smoothing=0.1, length=256):
        super().__init__()
        from homl_models.layers.positional import sinusoids

        self.dim, self.smoothing, vocab = ours.dim, smoothing, len(ours.target_vocabulary)
        self.embedding, self.dropout = nn.Embedding(vocab, ours.dim), nn.Dropout(ours.dropout)
        places = np.asarray(sinusoids(np.arange(length), ours.dim), np.float32)
        self.register_buffer("places", torch.from_numpy(places.copy()))
        sizes = ours.dim, ours.num_heads, ours.hidden_units, nn.ReLU, ours.dropout
        self.encoder = nn.ModuleList(Block(*sizes, pre_norm=True) for _ in ours.encoder)
        self.decoder = nn.ModuleList(Block(*sizes, pre_norm=True, cross=True) for _ in ours.decoder)
        self.norms = nn.ModuleList(nn.LayerNorm(ours.dim) for _ in range(2))
        copy(self.embedding, ours.target_embedding)
        for block, theirs in zip([*self.encoder, *self.decoder], [*ours.encoder, *ours.decoder]):
            copy_block(block, theirs)
        for norm, theirs in zip(self.norms, ours.norms):
            copy(norm, theirs)

    def embed(self, ids, places):
        return self.dropout(self.embedding(ids) * self.dim**0.5 + places)

    def encode(self, source):
        """Ids (b, s) -> memory (b, s, d), mask (b, 1, 1, s), True where there is a token."""
        mask, x = (source != 0)[:, None, None], self.embed(source, self.places[: source.shape[1]])
        for block in self.encoder:
            x = block(x, mask)
        return self.norms[0](x), mask

    def logits(self, source, target):
        (memory, mask), x = self.encode(source), self.embed(target, self.places[: target.shape[1]])
        for block in self.decoder:
            x = block(x, causal=True, memory=memory, memory_mask=mask)
        return F.linear(self.norms[1](x), self.embedding.weight)

    def forward(self, source, target, labels):
        logits = self.logits(source, target).flatten(0, 1)
        return F.cross_entropy(logits, labels.flatten(), ignore_index=0, label_smoothing=self.smoothing)


def translation_step(runtime, ours, batch):
    """A training step on (source, target, labels), each (b, t): Adam, global norm 1, label smoothing."""
    network, batch = Translator(ours).to(runtime.device).train(), [runtime.put(x) for x in batch]
    optimizer = adam(runtime, network.parameters(), 1e-3)

    def check():
        with torch.no_grad():
            found = network.eval().logits(*batch[:2])
        network.train()
        return found.float().cpu().numpy()

    return Peer(runtime, trainer(runtime, network, batch, [network], optimizer), count(network), check)


class Decoder:
    """Greedy decoding with a static key-value cache: `encode`, then `step` as often as there are tokens to write.

    All that a step reads and writes stays where it is, so that a CUDA graph can hold it.
    """

    def __init__(self, runtime, network, source, length, start, forbidden):
        self.network, self.source, self.length, self.start = network, runtime.put(source), length, start
        b, heads = len(source), network.decoder[0].attention.heads
        half = {"dtype": torch.bfloat16 if runtime.mixed else torch.float32, "device": runtime.device}

        def pairs(size):
            shape = b, heads, size, network.dim // heads
            return [[torch.zeros(shape, **half) for _ in "kv"] for _ in network.decoder]

        self.cache, self.memory = pairs(length), pairs(source.shape[1])
        self.mask = (self.source != 0)[:, None, None]
        whole = {"dtype": torch.int64, "device": runtime.device}
        self.token, self.place = torch.full((b,), start, **whole), torch.zeros(1, **whole)
        self.tokens, self.order = torch.zeros((b, length), **whole), torch.arange(length, device=runtime.device)
        self.bias = torch.zeros(network.embedding.num_embeddings, device=runtime.device)
        self.bias[list(forbidden)] = -math.inf

    def encode(self):
        memory, _ = self.network.encode(self.source)
        for block, pair in zip(self.network.decoder, self.memory):
            for kept, new in zip(pair, block.cross.split(memory, 1, 3)):
                kept.copy_(new)
        self.token.fill_(self.start)
        self.place.zero_()

    def step(self):
        network, seen = self.network, (self.order <= self.place)[None, None, None]
        x = network.embed(self.token[:, None], network.places[self.place])
        for block, cache, memory in zip(network.decoder, self.cache, self.memory):

            def attention(y, block=block, cache=cache):
                query, *new = block.attention.split(y)
                for kept, part in zip(cache, new):
                    kept.index_copy_(2, self.place, part.to(kept.dtype))
                return block.attention.attend(query, *cache, seen)

            def cross(y, block=block, memory=memory):
                return block.cross.attend(*block.cross.split(y, 0, 1), *memory, self.mask)

            x = block.sublayer(0, x, attention)
            x = block.sublayer(1, x, cross)
            x = block.sublayer(2, x, block.feed)
        logits = F.linear(network.norms[1](x[:, 0]), network.embedding.weight).float() + self.bias
        self.token.copy_(logits.argmax(-1))
        self.tokens.index_copy_(1, self.place, self.token[:, None])
        self.place.add_(1)


def decoding(runtime, ours, source, length, start, forbidden):
    """`length` tokens for each source (b, s), greedily -> (b, length)."""
    decoder = Decoder(runtime, Translator(ours).to(runtime.device).eval(), source, length, start, forbidden)
    encode, step = runtime.compile(decoder.encode), runtime.compile(decoder.step)

    def decode():
        with torch.no_grad():
            encode()
            for _ in range(length):
                step()
        return decoder.tokens

    return Peer(runtime, decode)


# Recurrent networks.


class CharRNN(nn.Module):
    """Ids (b, t) -> logits (b, t, v): embedding, cuDNN's GRU or LSTM, dropout after each layer, a dense layer."""

    def __init__(self, ours):
        super().__init__()
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[ours.cell]
        self.embedding = nn.Embedding(len(ours.vocabulary), ours.embed_dim)
        settings = {"num_layers": ours.num_layers, "batch_first": True, "dropout": ours.dropout}
        self.rnn, self.dropout = kind(ours.embed_dim, ours.units, **settings), nn.Dropout(ours.dropout)
        self.head, self.mixed = nn.Linear(ours.units, len(ours.vocabulary)), True
        copy(self.embedding, ours.embedding)
        copy(self.head, ours.head)
        for i, layer in enumerate(ours.recurrent):
            self.copy_layer(i, [np.asarray(w) for w in layer.get_weights()])

    def copy_layer(self, i, weights):
        """Keras has a GRU's gates as update, reset, candidate, PyTorch as reset, update, candidate."""
        kernel, recurrent, bias = weights
        gru = isinstance(self.rnn, nn.GRU)
        biases = bias if gru else np.stack([bias, np.zeros_like(bias)])
        for name, array in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), (kernel.T, recurrent.T, *biases)):
            parts = np.split(array, 3 if gru else 4)
            array = np.concatenate([parts[1], parts[0], parts[2]] if gru else parts)
            getattr(self.rnn, f"{name}_l{i}").data.copy_(torch.from_numpy(np.float32(array)))

    def logits(self, ids):
        x = self.embedding(ids)
        with torch.autocast(x.device.type, torch.bfloat16, self.mixed and torch.is_autocast_enabled(x.device.type)):
            x = self.rnn(x)[0]
        return self.head(self.dropout(x))

    def forward(self, ids, labels):
        return F.cross_entropy(self.logits(ids).flatten(0, 1), labels.flatten())


def recurrent_step(runtime, ours, batch):
    """A training step on (ids, labels), each (b, t): Adam, global norm 1."""
    network, batch = CharRNN(ours).to(runtime.device).train(), [runtime.put(x) for x in batch]
    if runtime.mixed:
        try:  # whether cuDNN's layers take part in mixed precision here
            with torch.autocast(runtime.device, torch.bfloat16):
                network(*batch).backward()
        except RuntimeError:
            network.mixed = False
    optimizer = adam(runtime, network.parameters(), 3e-3)

    def check():
        with torch.no_grad():
            found = network.eval().logits(batch[0])
        network.train()
        return found.float().cpu().numpy()

    peer = Peer(runtime, trainer(runtime, network, batch, [network], optimizer), count(network), check)
    peer.named = f"torch.nn.{type(network.rnn).__name__} (cuDNN on a GPU)"
    peer.named += "" if network.mixed else " in TF32: it takes no bfloat16 here"
    return peer


# Images.


def unet(runtime, ours):
    """A `torch_unet.UNet`, channels last, with the weights of a `models.unet.UNet`."""
    from torch_unet import UNet

    settings = {"filters": ours.filters, "num_blocks": ours.num_blocks, "attention_levels": ours.attention_levels}
    settings |= {"heads": ours.num_heads, "patch": ours.patch, "channels": ours.channels, "classes": ours.num_classes}
    return UNet(**settings).load_keras_weights(ours).to(runtime.device, memory_format=torch.channels_last)


def ddpm_step(runtime, ours, images, labels):
    """A step on images (b, h, w) in [0, 1]: stratified timesteps, velocities, label dropout, Adam, global norm 1."""
    network, average = unet(runtime, ours.network), unet(runtime, ours.network)
    schedule = ours.noise_schedule
    signal, noise_level = map(runtime.put, (schedule.sqrt_alpha_bar, schedule.sqrt_one_minus_alpha_bar))
    x0, labels = runtime.put(2 * images - 1)[:, None], runtime.put(labels)
    b, steps, rate, nothing = len(images), ours.num_steps, ours.label_dropout, ours.num_classes

    def loss(x0, labels):
        uniform = torch.rand(2, b, device=x0.device)
        timesteps = (((torch.arange(b, device=x0.device) + uniform[0]) / b * steps).long() + 1).clamp(max=steps)
        a, s = (table[timesteps][:, None, None, None] for table in (signal, noise_level))
        noise = torch.randn_like(x0)
        given = torch.where(uniform[1] < rate, nothing, labels)
        return F.mse_loss(network(a * x0 + s * noise, timesteps, given).float(), a * noise - s * x0)

    def check():
        timesteps = torch.arange(1, b + 1, device=x0.device).clamp(max=steps)
        with torch.no_grad():
            return network(x0, timesteps, labels).float().permute(0, 2, 3, 1).cpu().numpy()

    optimizer = adam(runtime, network.parameters(), 1e-3)
    step = trainer(runtime, loss, [x0, labels], [network], optimizer, after=ema(average, network))
    return Peer(runtime, step, count(network), check, lambda: loss(x0, labels).backward())


def sampling(runtime, ours, noise, labels, timesteps, table):
    """From noise (b, h, w, c) to images (b, h, w) along `timesteps`, by the coefficients (n, 4) of a sampler."""
    network, start = unet(runtime, ours.ema_network).eval(), runtime.put(np.asarray(noise).transpose(0, 3, 1, 2))
    timesteps, schedule = timesteps[:-1], ours.noise_schedule
    of_x0 = np.stack([schedule.sqrt_alpha_bar[timesteps], schedule.sqrt_one_minus_alpha_bar[timesteps]], axis=1)
    labels, timesteps = runtime.put(labels), runtime.put(timesteps).split(1)
    rows = runtime.put(np.concatenate([of_x0, table], axis=1)).unbind()

    def step(x, before, t, row):
        velocity = network(x, t.expand(len(x)), labels).float()
        x0 = (row[0] * x - row[1] * velocity).clamp(-1, 1)
        return row[2] * x + row[3] * x0 + row[4] * before, x0

    compiled = runtime.compile(step)

    def sample():
        with torch.no_grad():
            x, before = start, torch.zeros_like(start)
            for t, row in zip(timesteps, rows):
                x, before = compiled(x, before, t, row)
            return ((x + 1) / 2).clamp(0, 1)[:, 0]

    return Peer(runtime, sample, eager=lambda: [step(start, start, t, row) for t, row in zip(timesteps, rows)])


class Generator(nn.Module):
    """Codings (b, k) -> images (b, c, h, w) in [-1, 1] of a convolutional `gan_networks.Generator`."""

    def __init__(self, ours):
        super().__init__()
        height, width, n = ours.inner
        self.inner, sizes = (n, height, width), [*ours.filters, ours.image_shape[-1]]
        self.dense = nn.Linear(ours.dense[0].kernel.shape[0], height * width * n)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n, 1e-3, 0.01) for n in ours.filters)
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 5, 2, padding=2, output_padding=1) for a, b in zip(sizes, sizes[1:])
        )
        kernel, bias = (np.asarray(w).reshape(-1, height, width, n) for w in ours.dense[0].get_weights())
        kernel, bias = (w[:, ::-1, ::-1].transpose(0, 3, 1, 2).reshape(len(w), -1) for w in (kernel, bias))
        self.dense.weight.data.copy_(torch.from_numpy(kernel.T.copy()))
        self.dense.bias.data.copy_(torch.from_numpy(bias[0].copy()))
        for norm, layer in zip(self.norms, ours.norms):
            for mine, theirs in zip((norm.weight, norm.bias), layer.get_weights()):
                mine.data.copy_(torch.from_numpy(np.array(theirs)))
        for conv, layer in zip(self.convs, [*ours.transposed, ours.last]):
            copy_mirrored(conv, layer)

    def forward(self, codings):
        x = self.dense(codings).view(-1, *self.inner)
        for i, (norm, conv) in enumerate(zip(self.norms, self.convs)):
            x = conv(norm(x))
            x = F.relu(x) if i + 1 < len(self.convs) else torch.tanh(x.float())
        return x


class Discriminator(nn.Module):
    """Images (b, c, h, w) -> logits (b,) of a convolutional `gan_networks.Discriminator`."""

    def __init__(self, ours):
        super().__init__()
        sizes = [ours.image_shape[-1], *ours.filters]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 5, 2, padding=2) for a, b in zip(sizes, sizes[1:]))
        self.dropout, features = nn.Dropout(ours.dropout), ours.last.kernel.shape[0]
        self.last, side = nn.Linear(features, 1), math.isqrt(features // sizes[-1])
        for conv, layer in zip(self.convs, ours.hidden):
            copy_mirrored(conv, layer)
        kernel, bias = (np.asarray(w) for w in ours.last.get_weights())
        kernel = kernel.reshape(side, side, -1)[::-1, ::-1].transpose(2, 0, 1).reshape(1, -1)
        self.last.weight.data.copy_(torch.from_numpy(kernel.copy()))
        self.last.bias.data.copy_(torch.from_numpy(bias.copy()))

    def forward(self, x):
        for conv in self.convs:
            x = self.dropout(F.leaky_relu(conv(x), 0.2))
        return self.last(x.flatten(1))[:, 0]


def copy_mirrored(conv, layer):
    """Weights of a strided 5x5 convolution: TensorFlow pads at the other end, so images here are mirrored both ways."""
    kernel, bias = (np.asarray(w) for w in layer.get_weights())
    conv.weight.data.copy_(torch.from_numpy(kernel[::-1, ::-1].transpose(3, 2, 0, 1).copy()))
    conv.bias.data.copy_(torch.from_numpy(bias.copy()))


def dcgan_step(runtime, ours, images):
    """A step of the discriminator, then one of the generator, on images (b, h, w) in [0, 1]: Adam, no clipping, EMA."""
    generator, average, discriminator = (
        module.to(runtime.device, memory_format=torch.channels_last).train()
        for module in (Generator(ours.generator), Generator(ours.generator), Discriminator(ours.discriminator))
    )
    real = runtime.put(2 * images - 1).flip(1, 2)[:, None].contiguous()
    shape = len(images), ours.coding_size

    def discriminator_loss(real):
        with torch.no_grad():
            fake = generator(torch.randn(shape, device=real.device))
        return F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake)).mean()

    def generator_loss():
        return F.softplus(-discriminator(generator(torch.randn(shape, device=real.device)))).mean()

    def phase(loss, batch, network):
        optimizer = adam(runtime, network.parameters(), 2e-4, betas=(0.5, 0.999))
        return trainer(runtime, loss, batch, [network], optimizer, clip=None)

    first = phase(discriminator_loss, [real], discriminator)
    second = phase(generator_loss, [], generator)
    follow = ema(average, generator)

    def both(first, second):
        discriminator.requires_grad_(True)
        one = first()
        discriminator.requires_grad_(False)
        return one, second()

    def step():
        losses = both(first, second)
        follow()
        return torch.stack(losses)

    def eager():
        both(lambda: discriminator_loss(real).backward(), lambda: generator_loss().backward())

    def check():
        codings = runtime.put(np.linspace(-2, 2, math.prod(shape)).reshape(shape))
        with torch.no_grad():
            found = discriminator.eval()(generator.eval()(codings))
        discriminator.train(), generator.train()
        return found.float().cpu().numpy()

    return Peer(runtime, step, count(generator, discriminator), check, eager)


def flops(function):
    """Floating-point operations of products and convolutions, forward and backward, that one call takes."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()
