"""Translation: `Translator.translate`, against the book's way and against PyTorch.

Claims, for one sentence and for 64:
  - 10 words are written faster than by the book's chapter 16: the same recurrent model (Embedding 128,
    LSTM 512), whose `predict` runs once for every word over the sentence and all that is written, padded
    to 50; 64 sentences one after the other. Strings to strings on both sides. The book's loop is spared
    the progress bar, the list of the vocabulary for every word, and the prediction that ends a sentence.
  - 20 tokens are written faster than by `generate` of `transformers` on PyTorch: an encoder-decoder of
    the size of the recipe `transformer` (a Marian: 3 + 2 blocks of 256, 4 heads, 1,024 hidden units,
    vocabulary of 4,000), greedy and with a beam of 4, cache on. Ids to ids on both sides. Left out
    where torch or transformers is not installed.
  - a beam of 4 costs at most three times as much as greedy search; there `peer` is greedy search, so
    that the ratio is below 1 and should be above 0.33.
Weights are drawn at random, the same for both sides, and the number of words is forced.
Checked first: both sides write the same words; with a beam, the same four hypotheses.
`first_call_s` is our first call for this number of sentences, compilation included.

    python benchmarks/translate.py [--rounds 5] [--sentences 1 64] [--peers book torch beam]
"""

import argparse
import random

import book_translation
import keras
import numpy as np
import timing

WORDS, TOKENS, BEAM = 10, 20, 4
FORBIDDEN = 0, 1, 2, 3  # padding, unknown, start, end: never written by the recurrent models


def vocabulary(size):
    """Made-up words after the special tokens."""
    from homl_models.tokenizers.base import SPECIAL

    return (*SPECIAL, *(f"w{i}" for i in range(size - len(SPECIAL))))


def sentences(count):
    """Sentences of 4 to 8 made-up words."""
    draw = random.Random(count)
    return [" ".join(f"w{draw.randrange(900)}" for _ in range(draw.randint(4, 8))) for _ in range(count)]


# The book.


def recurrent_model():
    """The book's model as a `Seq2Seq`, which never writes a special token of its own accord."""
    from homl_models.models.seq2seq import Seq2Seq

    model = Seq2Seq(vocabulary(1000), vocabulary(1000), embed_dim=128, units=512)
    model.build()
    book_translation.randomized(model, 1.0, 0.0, 2.0)
    bias = np.zeros(1000, np.float32)
    bias[list(FORBIDDEN)] = -1e4
    model.head.bias.assign(bias)
    return model


def book_translate(book, sentence):
    """The book's function."""
    translation = ""
    for i in range(WORDS):
        inputs = (book_translation.strings([sentence]), book_translation.strings(["startofseq " + translation]))
        probabilities = book.model.predict(inputs, verbose=0)[0, i]
        word = book.vocabulary[np.argmax(probabilities)]
        if word == "endofseq":
            break
        translation += " " + word
    return translation.strip()


def against_book(counts, rounds):
    model = recurrent_model()
    book = book_translation.Book("seq2seq", model.source_vocabulary, model.target_vocabulary)
    book.same_weights(model)
    for count in counts:
        given, theirs = sentences(count), []

        def ours(given=given):
            return model.translate(given, min_length=WORDS, max_length=WORDS)

        def peer(given=given, theirs=theirs):  # ours adds the end of a sentence itself
            theirs.append([book_translate(book, f"{sentence} endofseq") for sentence in given])

        first = timing.seconds(ours)
        written = ours()
        assert len({word for text in written for word in text.split()}) > WORDS // 2, "too uniform to compare"
        assert book_translate(book, f"{given[0]} endofseq") == written[0], "the two sides write different words"
        medians = timing.interleaved({"ours": ours, "peer": peer}, 1 if count > 1 else rounds, calls={"ours": 10})
        assert theirs[-1] == written, "the two sides write different words"
        claim = f"{WORDS} words for {named(count)}, LSTM 512, against predict on the whole text per word"
        timing.report(claim, medians["ours"], medians["peer"], first_call_s=first)


# PyTorch.


def transformer_model():
    """A `Transformer` of the size of the recipe, normalized as Marian is (after the residuals)."""
    from homl_models.models.transformer import Transformer

    words = vocabulary(4000)
    model = Transformer(
        words, words, dim=256, num_heads=4, hidden_units=1024, num_encoder_layers=3, share_embeddings=True
    )
    model.build()
    return book_translation.randomized(model, 256**-0.5, 0.6, 6.0)


def marian(model):
    """A `MarianMTModel` with the weights of a `Transformer`."""
    import torch
    from transformers import MarianConfig, MarianMTModel

    from homl_models.layers.positional import sinusoids
    from homl_models.tokenizers.base import END, PAD, START

    sizes = {"d_model": model.dim, "encoder_layers": len(model.encoder), "decoder_layers": len(model.decoder)}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_attention_heads": model.num_heads, f"{side}_ffn_dim": model.hidden_units}
    config = MarianConfig(
        vocab_size=len(model.target_vocabulary),
        max_position_embeddings=128,
        activation_function="relu",
        scale_embedding=True,
        pad_token_id=PAD,
        decoder_start_token_id=START,
        eos_token_id=END,
        forced_eos_token_id=END,
        **sizes,
    )
    peer = MarianMTModel(config).eval()
    state = {f"model.{name}": value for name, value in marian_weights(model).items()}
    positions = keras.ops.convert_to_numpy(sinusoids(np.arange(128), model.dim))
    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weight"] = positions
    state = {name: torch.tensor(keras.ops.convert_to_numpy(value)) for name, value in state.items()}
    unknown = peer.load_state_dict(state, strict=False).unexpected_keys
    assert not unknown, unknown
    peer.tie_weights()
    return peer


def marian_weights(model):
    """Weights of a `Transformer` under Marian's names."""
    state = {"shared.weight": model.target_embedding.embeddings}
    for side, blocks in (("encoder", model.encoder), ("decoder", model.decoder)):
        state[f"{side}.embed_tokens.weight"] = model.target_embedding.embeddings
        for i, block in enumerate(blocks):
            parts = {"fc1": block.hidden, "fc2": block.output_dense, "final_layer_norm": block.norms[-1]}
            for named_here, named_there in (("self_attention", "self_attn"), ("cross_attention", "encoder_attn")):
                if named_here in block.attentions:
                    parts[f"{named_there}_layer_norm"] = block.norms[block.attentions.index(named_here)]
                    look = getattr(block, named_here)
                    for letter, dense in zip("qkv", (look.query_dense, look.key_dense, look.value_dense)):
                        parts[f"{named_there}.{letter}_proj"] = dense
                    parts[f"{named_there}.out_proj"] = look.output_dense
            for name, layer in parts.items():
                weight, bias = layer.get_weights()
                state |= {f"{side}.layers.{i}.{name}.weight": weight.T, f"{side}.layers.{i}.{name}.bias": bias}
    return state


def against_torch(counts, rounds):
    try:
        import torch
        import transformers
    except ImportError as error:
        print(f"no comparison with PyTorch: {error} (pip install torch transformers)")
        return
    transformers.logging.set_verbosity_error()
    model = transformer_model()
    peer_model = marian(model)
    for count in counts:
        source = random_source(model, count)
        ids = torch.tensor(source.astype(np.int64))
        for width in (1, BEAM):
            ours = search(model, source, width)

            def peer(width=width, ids=ids, n_best=1):
                with torch.inference_mode():
                    return peer_model.generate(
                        ids,
                        attention_mask=(ids != 0).long(),
                        num_beams=width,
                        num_return_sequences=n_best,
                        do_sample=False,
                        use_cache=True,
                        min_new_tokens=TOKENS,
                        max_new_tokens=TOKENS + 1,
                        suppress_tokens=[0, 2],
                    ).numpy()

            first = timing.seconds(ours)
            everything = search(model, source, width, width)()[0].reshape(count, width, -1)
            assert len(np.unique(everything[:, 0, :TOKENS])) > TOKENS // 4, "too uniform to compare"
            theirs = peer(n_best=width).reshape(count, width, -1)
            for a, b in zip(everything[..., :TOKENS], theirs[..., 1 : TOKENS + 1]):
                assert {*map(tuple, a)} == {*map(tuple, b)}, "the two sides write different tokens"
            medians = timing.interleaved({"ours": ours, "peer": peer}, rounds, calls={"ours": 3})
            how = "greedily" if width == 1 else f"with a beam of {width}"
            claim = f"{TOKENS} tokens for {named(count)} {how}, Transformer 256, against transformers on PyTorch"
            timing.report(claim, medians["ours"], medians["peer"], first_call_s=first)


def random_source(model, count):
    """Ids (count, 16) of 8 to 16 tokens with `END`; of one sentence 16."""
    from homl_models.tokenizers.base import END, PAD, SPECIAL

    rng = np.random.default_rng(count)
    source = rng.integers(len(SPECIAL), len(model.source_vocabulary), (count, 16)).astype(np.int32)
    for row, length in zip(source, rng.integers(8, 17, count) if count > 1 else [16]):
        row[length - 1 :] = [END] + [PAD] * (16 - length)
    return source


def search(model, source, width, n_best=1, count=TOKENS):
    """A function that writes `count` tokens and `END` for each source, by the compiled search of the model."""
    max_new_tokens = np.full(len(source), count + 1, np.int32)
    static = {"length": count + 1, "min_length": count}
    if width == 1:
        return lambda: model._run("greedy", source, max_new_tokens, **static)
    beam = {"beam_width": width, "n_best": n_best}
    return lambda: model._run("beam", source, max_new_tokens, np.float32(1), **static, **beam)


# A beam against greedy search.


def beam_against_greedy(counts, rounds):
    for name, model in {"LSTM 512": recurrent_model(), "Transformer 256": transformer_model()}.items():
        for count in counts:
            source = random_source(model, count)
            sides = {"greedy": search(model, source, 1), "beam": search(model, source, BEAM)}
            for side in sides.values():
                side()
            medians = timing.interleaved(sides, rounds, calls=dict.fromkeys(sides, 5))
            claim = f"{TOKENS} tokens for {named(count)}, {name}, a beam of {BEAM} against greedy search"
            timing.report(claim, medians["beam"], medians["greedy"])


def named(count):
    return "one sentence" if count == 1 else f"{count} sentences"


PEERS = {"book": against_book, "torch": against_torch, "beam": beam_against_greedy}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times that each side is measured (the book's 64: once)")
    parser.add_argument("--sentences", type=int, nargs="+", default=[1, 64], help="how many; a claim for each")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS, help="what to compare with")
    args = parser.parse_args()
    for peer in args.peers:
        PEERS[peer](args.sentences, args.rounds)


if __name__ == "__main__":
    main()
