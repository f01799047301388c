"""Families of recipes: system -> paper -> file -> recipes -> notebook -> presets."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Family:
    """A system of the package.

    Args:
        title: its name.
        paper: {authors and year, or a chapter: link}.
        file: of the model, below `homl_models/`.
        notebook: its name, without the suffix.
        recipes: names of the recipes that train it.
        presets: names of the presets that come with the package.
        note: on the results of all of them together, in Markdown.
    """

    title: str
    paper: dict
    file: str
    notebook: str
    recipes: tuple
    presets: tuple = ()
    note: str = ""


def arxiv(number):
    return f"https://arxiv.org/abs/{number}"


BOOK = "https://github.com/ageron/handson-ml3"
FAMILIES = [
    Family(
        "Character RNN",
        {"chapter 16": BOOK},
        "models/char_rnn.py",
        "char_rnn",
        ("char_rnn", "char_rnn_stateful", "char_rnn_large", "char_rnn_reber"),
        ("char_rnn_large",),
    ),
    Family(
        "Text classifiers",
        {"chapter 16": BOOK, "Wang 2012": "https://aclanthology.org/P12-2018"},
        "models/sentiment.py",
        "sentiment",
        (
            "sentiment", "sentiment_unmasked", "sentiment_by_hand", "sentiment_ragged", "sentiment_masking_layer",
            "sentiment_own_layer", "sentiment_attention", "sentiment_ngrams", "reber_classifier",
        ),
    ),
    Family(
        "Encoder-decoder with attention",
        {"Sutskever 2014": arxiv("1409.3215"), "Bahdanau 2014": arxiv("1409.0473"), "Luong 2015": arxiv("1508.04025")},
        "models/seq2seq.py",
        "translation",
        ("seq2seq", "seq2seq_bidirectional", "seq2seq_attention", "seq2seq_bahdanau", "dates"),
        ("dates",),
    ),
    Family(
        "Transformer",
        {"Vaswani 2017": arxiv("1706.03762")},
        "models/transformer.py",
        "translation",
        ("transformer_book", "transformer"),
        ("transformer",),
    ),
    Family(
        "BERT",
        {"Devlin 2018": arxiv("1810.04805"), "Sanh 2019": arxiv("1910.01108")},
        "models/bert.py",
        "bert",
        ("bert_pretrain", "bert_classify", "bert_tag", "bert_answer", "bert_distill"),
    ),
    Family(
        "Classifiers on TensorFlow Hub",
        {"chapter 16": BOOK},
        "models/sentiment_hub.py",
        "bert",
        ("sentiment_hub",),
    ),
    Family(
        "ELECTRA",
        {"Clark 2020": arxiv("2003.10555")},
        "models/electra.py",
        "electra",
        ("electra_pretrain", "electra_classify"),
    ),
    Family(
        "Autoencoders",
        {"chapter 17": BOOK},
        "models/autoencoders.py",
        "autoencoders",
        (
            "autoencoder_linear", "autoencoder_stacked", "autoencoder_tied", "autoencoder_greedy", "autoencoder_conv",
            "autoencoder_recurrent", "autoencoder_denoising", "autoencoder_sparse_l1", "autoencoder_sparse_kl",
            "autoencoder_hashing", "autoencoder_digits",
        ),
    ),
    Family(
        "Variational autoencoder",
        {"Kingma 2013": arxiv("1312.6114")},
        "models/vae.py",
        "vae",
        ("vae", "vae_conv", "vae_digits"),
        ("vae_conv",),
    ),
    Family(
        "Discrete VAE",
        {"Ramesh 2021": arxiv("2102.12092")},
        "models/dvae.py",
        "beit",
        ("dvae",),
    ),
    Family(
        "BEiT, ViT, DeiT",
        {"Bao 2021": arxiv("2106.08254"), "Dosovitskiy 2020": arxiv("2010.11929"), "Touvron 2020": arxiv("2012.12877")},
        "models/beit.py",
        "beit",
        ("beit_pretrain", "beit_classify", "beit_segment"),
    ),
    Family(
        "GANs",
        {
            "Goodfellow 2014": arxiv("1406.2661"),
            "Radford 2015": arxiv("1511.06434"),
            "Gulrajani 2017": arxiv("1704.00028"),
        },
        "models/gan.py",
        "gan",
        ("gan", "dcgan", "dcgan_conditional", "dcgan_replay", "wgan_gp", "dcgan_digits"),
        ("dcgan_conditional",),
    ),
    Family(
        "Diffusion",
        {"Ho 2020": arxiv("2006.11239"), "Song 2020": arxiv("2010.02502"), "Lu 2022": arxiv("2211.01095")},
        "models/ddpm.py",
        "ddpm",
        ("ddpm_book", "ddpm", "ddpm_conditional", "ddpm_digits"),
        ("ddpm_conditional",),
        """Samples take 25 steps here; by the Fréchet distance a thousand are no better: 400 images of
`ddpm_conditional`, without guidance, have 18.4 in 25 steps of DPM-Solver++ and 19.5 in 1,000 ancestral ones, which take
35 times as long (`benchmarks/diffusion.py --claims steps`; of fewer images the distance is larger). Like for like,
diffusion and DCGAN are close: without classes 19.5 and 27.8, with classes 13.0 both, until guidance brings
`ddpm_conditional` to 9.0. 10,000 training images have 0.7, 10,000 images of noise 656.3.""",
    ),
    Family(
        "Super-resolution",
        {"Dong 2014": arxiv("1501.00092"), "Ledig 2016": arxiv("1609.04802"), "Wang 2018": arxiv("1809.00219")},
        "models/esrgan.py",
        "super_resolution",
        ("srcnn", "srresnet", "srresnet_small", "rrdb", "rrdb_small", "esrgan", "esrgan_small"),
        ("rrdb_small",),
    ),
    Family(
        "Image classifiers",
        {"chapter 17": BOOK},
        "models/feature_net.py",
        "autoencoders",
        ("fashion_features", "fashion_few_labels"),
        ("fashion_features",),
    ),
]  # fmt: skip
