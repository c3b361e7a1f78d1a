"""The code of a model card: it loads an exported folder and writes texts as the run did, by stock transformers."""

from __future__ import annotations

from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from encdec_lightning.composition.adapter.t5gemma import MODEL_TYPE as T5GEMMA
from encdec_lightning.composition.architectures import architecture_of
from encdec_lightning.composition.checkpoints import load_config
from encdec_lightning.composition.cross_attending import MODEL_TYPE as ADDED
from encdec_lightning.composition.tokenizers import DECODER_FOLDER, Tokenizers
from encdec_lightning.data.options import Extraction, Task
from encdec_lightning.generation.options import LACKING, Generation

FOLDER = 'folder = "."  # this folder, or the id of its repository on the Hub'
TEXTS = 'texts = ["A text to be read."]'
PREFIX = """\
start = torch.full((len(texts), 1), model.generation_config.bos_token_id)
ids = model.generate(
    input_ids=start,  # the source is given as embeddings, so that lengths and repeats are those of the target alone
    inputs_embeds=model.get_input_embeddings()(torch.cat([inputs.input_ids, start], dim=1)),
    attention_mask=torch.cat([inputs.attention_mask, torch.ones_like(start)], dim=1),
)"""
MARKED = """\
rows = [torch.tensor(ids) for ids in tokenizers.encode_sources(texts, {longest})]
ids = pad_sequence(rows, batch_first=True, padding_value=tokenizers.source_pad_id)
mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
for text in tokenizers.decode(model.generate(ids, attention_mask=mask)):
    print(text)"""
"""For sources whose sentences are marked, which the tokenizer alone does not do."""
EXTRACT = """\
from pathlib import Path

import torch
from encdec_lightning import SentenceScorer, Tokenizers
from encdec_lightning.evaluation.extraction import choose

{folder}
model = SentenceScorer.from_pretrained(folder)
tokenizers = Tokenizers.load(Path(folder))

{texts}
for text, sentences in zip(texts, tokenizers.source_in_bulk.sentences(texts)):
    ids = tokenizers.encode_sources([text], {longest})
    with torch.inference_mode():
        scores = model(torch.tensor(ids)).logits[0].sigmoid().tolist()
    kept = sentences[: len(scores)]
    print(" ".join(kept[number] for number in {chosen}))"""
"""For a model that scores sentences."""
PAIR = "ids = model.generate(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)"


def extract_code(task: Task, extraction: Extraction) -> str:
    """The same for a model that scores sentences."""
    chosen = f"choose(kept, scores, {extraction.sentences}, block_trigrams={extraction.block_trigrams})"
    lines = [
        *EXTRACT.format(
            folder=FOLDER.partition("  #")[0], texts=TEXTS, longest=task.max_source_length, chosen=chosen
        ).splitlines()
    ]
    remark = "Stock transformers opens the encoder alone, so `encdec_lightning` must be installed; it reads a folder."
    return "\n\n".join(["```python\n" + "\n".join(lines) + "\n```", remark])


def code(folder: Path, task: Task, generation: Generation) -> str:
    """A block of Python and what must be said about it; `folder` holds the exported model and its tokenizers."""
    config = load_config("model", str(folder))
    tokenizers = Tokenizers.load(folder)
    if tokenizers.sentences is not None:
        return _with_remarks(_marked(task), "encdec_lightning", generation)
    kind, source = _class(config)
    two = tokenizers.target is not tokenizers.source
    writer = "writer" if two else "reader"
    lines = [
        *(["import torch"] if not config.is_encoder_decoder else []),
        *(
            [f"from transformers import {kind}, AutoTokenizer"]
            if source == "transformers"
            else [f"from {source} import {kind}", "from transformers import AutoTokenizer"]
        ),
        "",
        FOLDER,
        f"model = {kind}.from_pretrained(folder)",
        "reader = AutoTokenizer.from_pretrained(folder)",
        *([f'writer = AutoTokenizer.from_pretrained(folder, subfolder="{DECODER_FOLDER}")'] if two else []),
        *_padding(tokenizers.source, "right" if config.is_encoder_decoder else "left"),
        "",
        TEXTS,
        "inputs = reader(",
        f'    texts, padding=True, truncation=True, max_length={task.max_source_length}, return_tensors="pt"',
        ")",
        PAIR if config.is_encoder_decoder else PREFIX,
        f"for text in {writer}.batch_decode(ids, skip_special_tokens=True):",
        "    print(text.strip())",
    ]
    return _with_remarks(lines, source, generation)


def _marked(task: Task) -> list[str]:
    return [
        "from pathlib import Path",
        "",
        "import torch",
        "from torch.nn.utils.rnn import pad_sequence",
        "",
        "from encdec_lightning import EncoderDecoder, Tokenizers",
        "",
        FOLDER,
        "model = EncoderDecoder.from_pretrained(folder).eval()",
        "tokenizers = Tokenizers.load(Path(folder))",
        "",
        TEXTS,
        MARKED.format(longest=task.max_source_length),
    ]


def _with_remarks(lines: list[str], source: str, generation: Generation) -> str:
    return "\n\n".join(["```python\n" + "\n".join(lines) + "\n```", *_remarks(source, generation)])


def _class(config: PretrainedConfig) -> tuple[str, str]:
    """What opens the folder, and the package it comes from."""
    if not config.is_encoder_decoder:
        return "AutoModelForCausalLM", "transformers"
    if config.model_type == T5GEMMA:
        return "AutoModelForSeq2SeqLM", "transformers"
    if not architecture_of(config.encoder).opens_in_stock or config.decoder.model_type == ADDED:
        return "EncoderDecoder", "encdec_lightning"
    return "AutoModelForSeq2SeqLM", "transformers"


def _padding(tokenizer: PreTrainedTokenizerBase, side: str) -> list[str]:
    """How sources are padded, where the tokenizer itself does not say so."""
    lines = []
    if tokenizer.pad_token is None:
        token = "sep_token" if tokenizer.sep_token is not None else "eos_token"
        lines.append(f"reader.pad_token = reader.{token}")
    if tokenizer.padding_side != side:
        lines.append(f'reader.padding_side = "{side}"')
    return lines


def _remarks(source: str, generation: Generation) -> list[str]:
    remarks = ["`generation_config.json` holds the lengths and the search with which the scores were made."]
    if source != "transformers":
        remarks.append(f"Stock transformers cannot run this model by itself, so `{source}` must be installed.")
    remarks += [LACKING[field].remark for field in generation.beyond_transformers()]
    if generation.do_sample:
        remarks.append("Texts are drawn at random, so those of this code are others each time.")
    return [" ".join(remarks)]
