"""All tiny checkpoints, texts and runs of the tests: made here, in seconds, without a hub."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    GPT2Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

NOUNS = "matrix tensor graph file path list node value string number".split()
VERBS = "return compute read write sort merge remove update".split()
POSITIONS, WIDTH, LAYERS, HEADS = 64, 32, 2, 4


def pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows with a document and its summary; the summary can be read off the document."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        verb, noun, other = draw.choice(VERBS), draw.choice(NOUNS), draw.choice(NOUNS)
        filler = " ".join(draw.choice(NOUNS) for _ in range(draw.randint(1, 12)))
        document = f"The {noun} is given. Use this to {verb} the {noun} of a {other}. {filler}."
        rows.append({"key": f"row-{seed}-{number}", "document": document, "summary": f"{verb} the {noun}"})
    return rows


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    """A jsonl file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def corpus() -> list[str]:
    return [text for row in pairs(200, seed=99) for text in (row["document"], row["summary"])]


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's kind of tokenizer: [CLS] text [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word for text in corpus() for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    signs = sorted({sign for word in words for sign in word})
    pieces = [*signs, *(f"##{sign}" for sign in signs)]
    pieces += [part for word in words for part in ([word] if len(word) < 6 else [word[:3], f"##{word[3:]}"])]
    pieces += sorted({f"##{word[at : at + 2]}" for word in words for at in range(1, len(word) - 1)})
    # Not trained: the trainer breaks ties at random, so that one process in ten would get another vocabulary.
    vocabulary = {piece: number for number, piece in enumerate(list(dict.fromkeys([*special, *pieces]))[:123])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **names)


def byte_pairs(roberta: bool) -> PreTrainedTokenizerFast:
    """RoBERTa's tokenizer, <s> text </s>, or GPT-2's: one special token, no padding."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if roberta else ["<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(corpus(), trainer)
    if not roberta:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[0])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", mask_token="<mask>", **names)


def config(family: str, vocab_size: int, width: int = WIDTH, layers: int = LAYERS) -> PretrainedConfig:
    """A tiny config of a family."""
    if family == "gpt2":
        return GPT2Config(
            vocab_size=vocab_size, n_embd=width, n_layer=layers, n_head=HEADS, n_positions=POSITIONS,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "intermediate_size": 2 * width,
    }
    if family == "roberta":
        return RobertaConfig(**sizes, max_position_embeddings=POSITIONS + 2, type_vocab_size=1, pad_token_id=1)
    return BertConfig(**sizes, max_position_embeddings=POSITIONS)


SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "emb_dim", "dim", "n_embd"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads", "attention_heads"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_key_value_heads"), HEADS),
    **dict.fromkeys(("head_dim", "d_kv"), WIDTH // HEADS),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "n_inner", "d_ff"), 2 * WIDTH),
    **dict.fromkeys(("ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 2 * WIDTH),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), POSITIONS + 2),
}
"""What the sizes of tiny models are called in one family or another."""
PECULIAR: dict[str, dict[str, object]] = {
    "albert": {"embedding_size": 16},
    "electra": {"embedding_size": 16},
    "gpt-sw3": {"model_type": "gpt-sw3"},
    "gptj": {"rotary_dim": 4},
    "llama": {"num_key_value_heads": 2},
    "longformer": {"attention_window": 8},
    "mobilebert": {
        "embedding_size": 16,
        "true_hidden_size": WIDTH,
        "intra_bottleneck_size": WIDTH,
        "num_feedforward_networks": 1,
    },
    "opt": {"word_embed_proj_dim": WIDTH},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "roformer": {"embedding_size": WIDTH},
    "squeezebert": {"embedding_size": WIDTH},
    "xlm": {"n_langs": 2},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}
"""Sizes that only one family has."""


def family_config(family: str, vocab_size: int) -> PretrainedConfig:
    """A tiny config of any family, with RoBERTa's special tokens."""
    kind = CONFIG_MAPPING[family]
    names, aliases = kind().to_dict().keys() | kind.attribute_map, kind.attribute_map
    sizes = {name: size for name, size in SIZES.items() if name in names and aliases.get(name) not in SIZES}
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    special = {name: number for name, number in special.items() if name in names}
    return kind(**{**sizes, **special, "vocab_size": vocab_size, **PECULIAR.get(family, {})})


def merges(family: str) -> bool:
    """Whether a language model's self-attention can read a source as well."""
    from encdec_lightning.composition.architectures import ARCHITECTURES

    layout = ARCHITECTURES[family].layout
    return layout is not None and layout(family_config(family, 300)).merges


def family_checkpoint(folder: Path, family: str, seed: int = 0) -> str:
    """A folder like a Hub checkpoint of any family: the pretraining class's weights, RoBERTa's kind of tokenizer."""
    tokenizer = byte_pairs(roberta=True)
    config = family_config(family, len(tokenizer))
    kinds = (AutoModelForSeq2SeqLM, AutoModelForMaskedLM, AutoModelForCausalLM, AutoModel)
    kind = next(each for each in kinds if type(config) in each._model_mapping)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _noisy(kind.from_config(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def _noisy(model: PreTrainedModel) -> PreTrainedModel:
    """Zeros and ones would hide mistakes; padding's embeddings stay zero, as training leaves them."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def checkpoint(folder: Path, family: str, width: int = WIDTH, layers: int = LAYERS, seed: int = 0) -> str:
    """A folder like a Hub checkpoint: config.json, model.safetensors, tokenizer. bert comes without a head, as MiniLM."""
    tokenizer = wordpiece() if family == "bert" else byte_pairs(roberta=family == "roberta")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = AutoModelForCausalLM if family == "gpt2" else AutoModel
        model = kind.from_config(config(family, len(tokenizer), width, layers))
        with torch.no_grad():
            for parameter in model.parameters():  # zeros and ones would hide mistakes
                parameter.add_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@dataclass(frozen=True)
class Files:
    """Checkpoints by family, and the rows of a small task."""

    bert: str
    roberta: str
    gpt2: str
    llama: str
    presumm: str
    train: str
    validation: str
    test: str

    def overrides(self, *more: str) -> list[str]:
        """Options of a small run on the processor, from these files alone."""
        return [
            "task=jsonl",
            f"task.train={self.train}",
            f"task.validation={self.validation}",
            f"task.test={self.test}",
            "task.source=document",
            "task.target=summary",
            "task.id=key",
            "task.max_source_length=40",
            "task.max_target_length=12",
            "data.batch_tokens=400",
            "hardware=cpu",
            "precision=fp32",
            "trainer.enable_progress_bar=false",
            "trainer.enable_model_summary=false",
            "trainer.max_steps=4",
            "trainer.log_every_n_steps=1",
            f"checkpoints.bert={self.bert}",
            f"checkpoints.roberta={self.roberta}",
            f"checkpoints.gpt2={self.gpt2}",
            f"checkpoints.encoder={self.bert}",
            f"checkpoints.decoder={self.llama}",
            f"checkpoints.presumm={self.presumm}",
            *more,
        ]


def write_all(folder: Path) -> Files:
    """Everything a test of the whole path needs."""
    families = {family: checkpoint(folder / family, family) for family in ("bert", "roberta", "gpt2")}
    families["llama"] = family_checkpoint(folder / "llama", "llama")
    families["presumm"] = str(folder / "presumm")
    presumm = family_config("xglm", 300)
    presumm.max_position_embeddings = 256  # the experiments write up to 200 tokens
    presumm.save_pretrained(folder / "presumm")  # a decoder has a config here and no weights
    splits = {"train": (64, 1), "validation": (16, 2), "test": (12, 3)}
    rows = {name: str(write_rows(folder / f"{name}.jsonl", pairs(*size))) for name, size in splits.items()}
    return Files(**families, **rows)


def checkpoint_activations(model: object, on: bool) -> None:
    """Switch transformers' gradient checkpointing, which has another name since 5.23."""
    end = "enable" if on else "disable"
    name = f"activation_checkpointing_{end}"
    getattr(model, name if hasattr(model, name) else f"gradient_checkpointing_{end}")()


def listed(output: str) -> int:
    """How many runs the one table at the end of a sweep has."""
    assert output.count("Test scores") == 1
    return len(output.partition("The runs are ")[2].splitlines()[0].split(", "))
