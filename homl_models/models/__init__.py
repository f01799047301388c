"""Models, one file per system, imported lazily."""

import importlib

_PUBLIC = {
    "CharRNN": "char_rnn",
    "SentimentRNN": "sentiment",
    "NBSVM": "nbsvm",
    "Seq2Seq": "seq2seq",
    "Transformer": "transformer",
    "StackedAutoencoder": "autoencoders",
    "GreedyAutoencoder": "autoencoders",
    "ConvAutoencoder": "autoencoders",
    "RecurrentAutoencoder": "autoencoders",
    "VAE": "vae",
    "DVAE": "dvae",
    "ConvEncoder": "dvae_networks",
    "ConvDecoder": "dvae_networks",
    "DalleEncoder": "dvae_networks",
    "DalleDecoder": "dvae_networks",
    "FeatureNet": "feature_net",
    "GAN": "gan",
    "DDPM": "ddpm",
    "UNet": "unet",
    "SeparableUNet": "unet",
    "ESRGAN": "esrgan",
    "VGGDiscriminator": "sr_discriminators",
    "UNetDiscriminator": "sr_discriminators",
    "Bert": "bert",
    "BertConfig": "bert_config",
    "BertForMaskedLM": "bert_pretraining",
    "BertForPreTraining": "bert_pretraining",
    "BertForNextSentencePrediction": "bert_pretraining",
    "BertForSequenceClassification": "bert_heads",
    "BertForMultipleChoice": "bert_heads",
    "BertForTokenClassification": "bert_heads",
    "BertForQuestionAnswering": "bert_heads",
    "BertLMHeadModel": "bert_generation",
    "TextEmbedder": "bert_heads",
    "HubClassifier": "sentiment_hub",
    "Electra": "electra",
    "ElectraConfig": "bert_config",
    "ElectraForPreTraining": "electra",
    "ElectraForMaskedLM": "electra",
    "ElectraForSequenceClassification": "electra",
    "ElectraForTokenClassification": "electra",
    "ElectraForQuestionAnswering": "electra",
    "ElectraPretrainer": "electra",
    "DistilBert": "distilbert",
    "DistilBertConfig": "bert_config",
    "DistilBertForMaskedLM": "distilbert",
    "DistilBertForSequenceClassification": "distilbert",
    "DistilBertForMultipleChoice": "distilbert",
    "DistilBertForTokenClassification": "distilbert",
    "DistilBertForQuestionAnswering": "distilbert",
    "Distiller": "distillation",
    "Beit": "beit",
    "BeitConfig": "vit_config",
    "BeitForImageClassification": "beit",
    "BeitForMaskedImageModeling": "beit",
    "BeitPretrainer": "beit_pretraining",
    "BeitForSemanticSegmentation": "beit_segmentation",
    "BeitBackbone": "beit_segmentation",
    "ViT": "vit",
    "ViTConfig": "vit_config",
    "ViTForImageClassification": "vit",
    "DeiT": "vit",
    "DeiTConfig": "vit_config",
    "DeiTForImageClassification": "vit",
    "DeiTForImageClassificationWithTeacher": "vit",
    "RRDBNet": "rrdb",
    "SRVGGNetCompact": "srvgg",
    "SRResNet": "srresnet",
    "MSRResNet": "srresnet",
    "SRCNN": "srcnn",
    "VDSR": "vdsr",
    "DnCNN": "vdsr",
}
__all__ = list(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__():
    return sorted({*globals(), *_PUBLIC})
