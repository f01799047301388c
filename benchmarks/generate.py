"""Text generation: `CharRNN.generate` against the book's loop.

Claim: 1,000 characters after one prompt, and after each of 64 prompts, are generated
hundreds of times faster than by the book's chapter 16.
Peer: a Sequential model (Embedding 16, GRU 128, Dense with softmax) with the same
weights, whose `predict` runs over the whole text once for every character; the next one
is sampled from the last prediction with a temperature. Left out is what the book also
does: turning strings into ids (it works on ids throughout), and the progress bar; for
64 prompts it predicts all 64 texts as one batch.
Checked first: with greedy decoding both generate the same characters.
Weights are random, large enough that the texts vary; `--run` takes the weights of a run
or preset of the book's size instead. `first_call_s` is our first call in the process,
tracing and compilation included. `peer_first_character_s` and `peer_last_character_s`
show how the cost of a character grows with the text (means of the first and last tenth).

    python benchmarks/generate.py [--characters 1000] [--run RUN] [--prompts 1 64]

The peer takes minutes; it is timed once unless `--rounds` says otherwise.
"""

import argparse
import time

import keras
import numpy as np
import timing

EMBED_DIM, UNITS = 16, 128
PROMPT = 18  # characters


def random_model():
    """`CharRNN` of the book's size with random weights for which greedy text is neither constant nor chaotic."""
    from homl_models.models.char_rnn import CharRNN
    from homl_models.pipelines import text_windows

    model = CharRNN("".join(sorted(set(text_windows.sonnets().lower()))), EMBED_DIM, UNITS, lowercase=True)
    model.build()
    rng = np.random.default_rng(42)
    model.set_weights([rng.normal(0, 0.3 if len(w.shape) > 1 else 0, w.shape) for w in model.weights])
    return model


def book_model(model):
    """The book's Sequential with the weights of a `CharRNN`."""
    (layer,), vocab_size = model.recurrent, len(model.vocabulary)
    book = keras.Sequential(
        [
            keras.layers.Embedding(vocab_size, model.embed_dim),
            keras.layers.GRU(model.units, return_sequences=True),
            keras.layers.Dense(vocab_size, activation="softmax"),
        ]
    )
    book.compile(jit_compile=False)  # XLA would compile anew for every length
    book.build((None, None))
    for theirs, ours in zip(book.layers, (model.embedding, layer, model.head)):
        theirs.set_weights(ours.get_weights())
    return book


def book_generate(book, ids, length, temperature, ticks=None):
    """The book's loop, ids (b, t) -> (b, t + length): predict on the whole text, sample one character, append it.

    ticks: a list that gets the time after each character.
    """
    import tensorflow as tf

    for _ in range(length):
        p = book.predict(ids, batch_size=len(ids), verbose=0)[:, -1]
        if temperature:
            new = tf.random.categorical(tf.math.log(p) / temperature, num_samples=1).numpy()
        else:
            new = p.argmax(axis=-1)[:, None]
        ids = np.concatenate([ids, new.astype(ids.dtype)], axis=1)
        if ticks is not None:
            ticks.append(time.perf_counter())
    return ids


def check(model, book, prompts, ids, length):
    """Greedy texts of both are the same, for `length` characters (at most 60), and not one repeated character."""
    from homl_models.tokenizers import characters

    count = min(60, length)
    ours = [t[: PROMPT + count] for t in model.generate(prompts, length=length, temperature=0)]
    theirs = [characters.decode(row, model.vocabulary) for row in book_generate(book, ids, count, temperature=0)]
    assert ours == theirs, "the two sides write different texts"
    assert count < 60 or all(len(set(t[PROMPT:])) > 1 for t in ours), "a text of one letter only; nothing to compare"


def compare(model, book, prompts, characters, rounds):
    """Time both sides on these prompts and print the claim."""
    ids = np.concatenate([model.encode([prompt])[0][:, :PROMPT] for prompt in prompts])
    ticks = []

    def ours():
        model.generate(prompts, length=characters, temperature=1.0, seed=1)

    def peer():
        ticks.append([time.perf_counter()])
        book_generate(book, ids, characters, 1.0, ticks[-1])

    first = timing.seconds(ours)
    check(model, book, prompts, ids, characters)
    medians = timing.interleaved({"ours": ours, "peer": peer}, rounds, calls={"ours": 10})
    each, tenth = np.diff(ticks, axis=1).mean(axis=0), max(1, characters // 10)
    after = "one prompt" if len(prompts) == 1 else f"each of {len(prompts)} prompts"
    timing.report(
        f"{characters:,} characters after {after}, against predict on the whole text per character",
        medians["ours"],
        medians["peer"],
        first_call_s=first,
        peer_first_character_s=float(each[:tenth].mean()),
        peer_last_character_s=float(each[-tenth:].mean()),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--characters", type=int, default=1000, help="characters to generate after each prompt")
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 64], help="how many prompts; one claim for each")
    parser.add_argument("--rounds", type=int, default=1, help="times that each side is measured")
    parser.add_argument("--run", help="run or preset whose weights to use (one GRU layer, weights not tied)")
    args = parser.parse_args()

    import homl_models
    from homl_models.pipelines import text_windows

    model = homl_models.load(args.run) if args.run else random_model()
    book = book_model(model)
    text = text_windows.sonnets().lower()
    for count in args.prompts:
        prompts = [text[start : start + PROMPT] for start in range(0, count * PROMPT, PROMPT)]
        compare(model, book, prompts, args.characters, args.rounds)


if __name__ == "__main__":
    main()
