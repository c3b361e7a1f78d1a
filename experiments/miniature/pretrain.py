"""Pretrain a small BERT, RoBERTa, GPT-2 or Llama: one size, one text and one number of tokens for all four.

`python experiments/miniature/pretrain.py bert --data FOLDER` makes the checkpoint `miniature/bert`, an ordinary folder
of transformers in the cache folder, which `checkpoints=miniature` names. `bert_masks` is a BERT that guesses masked
tokens from the first update on, for the block masks-alone. FOLDER holds the tasks' folders, such as
debsum/train.jsonl.gz. Without a family it makes all that are not there yet. A start that was interrupted goes on.
`miniature/debsum_vocabulary` is a tokenizer of the task's own words, for the rows with a new vocabulary.
What was learnt is measured on texts that were held out, and written to pretraining.json beside this file, where each
processor has a place of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from filelock import FileLock
from ngrams import ngram_perplexities
from small_models import FAMILIES, HIDDEN, Family, new_model
from text import Text, collect, task_texts
from torch import Tensor
from vocabularies import tokenizer_of, wordpiece

from encdec_lightning.cache.folder import cache_folder
from encdec_lightning.progress import Progress
from encdec_lightning.training.product_speeds import faster_precision, processor

RESULTS = Path(__file__).with_name("pretraining.json")
TOKENS, BATCH_TOKENS, LONGEST = 6_000_000, 1024, 256
"""Tokens in all and in each update, padding not counted; tokens of a text that are read."""
LEARNING_RATE, WARMUP, WEIGHT_DECAY, BETAS, CLIP = 3e-3, 0.1, 0.01, (0.9, 0.98), 1.0
EVERY = 1000
"""Updates between two checkpoints."""
MASKED = 0.3
"""Share of the tokens that a masked model guesses; of these 80% are masked, 10% another word, 10% as they are.

BERT guesses 15%; with so few tokens read, twice as many guesses teach sooner (Wettig et al., 2023, find 40% best).
"""

Batch = list[list[int]]


def batches(examples: list[list[int]], tokens: int, seed: int) -> list[tuple[int, Batch]]:
    """(pass, texts) of every update until all tokens are read; texts of about one length are together."""
    drawn = random.Random(seed)
    planned: list[tuple[int, Batch]] = []
    total, number = 0, 0
    while total < tokens:
        order = sorted(examples, key=lambda ids: len(ids) + drawn.random() * 8)
        of_pass: list[Batch] = [[]]
        size = 0
        for ids in order:
            if size + len(ids) > BATCH_TOKENS:
                of_pass.append([])
                size = 0
            of_pass[-1].append(ids)
            size += len(ids)
        drawn.shuffle(of_pass)
        for batch in of_pass:
            if total < tokens:
                planned.append((number, batch))
                total += sum(map(len, batch))
        number += 1
    return planned


def masked(batch: Batch, number: int, family: Family, tokenizer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, attention mask and labels (-100 where nothing is guessed) of a masked model.

    A static mask is drawn from the text alone, so that each pass over it has the same one, as the first BERT's files
    had; a dynamic one from the pass as well, as RoBERTa's.
    """
    inputs, mask = padded(batch, tokenizer.pad_token_id)
    labels = torch.full_like(inputs, -100)
    for row, ids in enumerate(batch):
        drawn = random.Random(hashlib.sha256(repr((ids, number if family.dynamic else 0)).encode()).hexdigest())
        inner = range(1, len(ids) - 1)  # not the two special tokens
        for at in drawn.sample(inner, max(1, round(MASKED * len(inner)))) if inner else ():
            labels[row, at] = ids[at]
            kind = drawn.random()
            if kind < 0.8:
                inputs[row, at] = tokenizer.mask_token_id
            elif kind < 0.9:
                inputs[row, at] = drawn.randrange(len(tokenizer))
    return inputs, mask, labels


def causal(batch: Batch, tokenizer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, attention mask and labels of a language model: each position guesses the next token."""
    inputs, mask = padded(batch, tokenizer.pad_token_id)
    labels = inputs.masked_fill(mask == 0, -100).roll(-1, 1)
    labels[:, -1] = -100
    return inputs, mask, labels


def causal_mask(mask: Tensor) -> Tensor:
    """(texts, 1, longest, longest): each position attends to itself and those before that are no padding."""
    longest = mask.shape[1]
    return (torch.ones(longest, longest).tril() * mask[:, None, None, :]).bool()


def padded(batch: Batch, padding: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (texts, longest)."""
    longest = max(map(len, batch))
    inputs = torch.tensor([ids + [padding] * (longest - len(ids)) for ids in batch])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in batch])
    return inputs, mask


def loss_sum(model: Any, family: Family, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, int]:
    """The summed cross-entropy of a batch and how many tokens were guessed; logits are computed at these alone."""
    inputs, mask, labels = batch
    hidden = family.body(model)(inputs, attention_mask=mask).last_hidden_state
    guessed = labels != -100
    logits = family.head(model)(hidden[guessed])
    return torch.nn.functional.cross_entropy(logits.float(), labels[guessed], reduction="sum"), int(guessed.sum())


def encoded(texts: list[str], family: Family, tokenizer: Any) -> list[list[int]]:
    """Token ids of each text with what its family puts around it, cut to `LONGEST`."""
    if family.masked:
        return tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"]
    end = tokenizer.eos_token_id
    read = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=LONGEST - 2)["input_ids"]
    return [[end, *ids, end] for ids in read]


def pretrain(name: str, text: Text, tokens: int) -> dict[str, Any]:
    """Make a family's checkpoint, and return what it has learnt and cost."""
    family, folder = FAMILIES[name], cache_folder() / "checkpoints" / f"miniature--{name}"
    work = folder.with_name(f".{folder.name}.training")
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_of(name, text.training)
    plan = batches(encoded(text.training, family, tokenizer), tokens, seed=1)

    next_token_first = round(family.next_token_first * len(plan))

    def batch_of(batch: Batch, number: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        if family.masked and step >= next_token_first:
            return masked(batch, number, family, tokenizer)
        inputs, mask, labels = causal(batch, tokenizer)
        return inputs, causal_mask(mask) if family.masked else mask, labels

    precision, _ = faster_precision(HIDDEN, BATCH_TOKENS, cache_folder())
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision=precision)
    lightning.seed_everything(1, verbose=False)
    model = new_model(name, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    warmup = round(WARMUP * len(plan))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (len(plan) - step) / (len(plan) - warmup))
    )
    model, optimizer = fabric.setup(model, optimizer)
    state = {"model": model, "optimizer": optimizer, "schedule": schedule, "step": 0, "seconds": 0.0, "loss": 0.0}
    if (work / "last.ckpt").exists():
        fabric.load(work / "last.ckpt", state, weights_only=True)
    with Progress(f"pretraining {name}", len(plan), "updates", begin=state["step"]) as progress:
        for step in range(state["step"], len(plan)):
            began = time.perf_counter()
            number, batch = plan[step]
            total, guessed = loss_sum(model, family, batch_of(batch, number, step))
            fabric.backward(total / guessed)
            fabric.clip_gradients(model, optimizer, max_norm=CLIP)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            state["step"] = step + 1
            state["seconds"] += time.perf_counter() - began
            state["loss"] = 0.98 * state["loss"] + 0.02 * (total.item() / guessed) if step else total.item() / guessed
            progress.update(step + 1, f"loss {state['loss']:.2f}")
            if state["step"] % EVERY == 0:
                fabric.save(work / "fresh.ckpt", state)
                (work / "fresh.ckpt").replace(work / "last.ckpt")
    model.eval()
    held_out = encoded(text.held_out, family, tokenizer)
    with torch.inference_mode():
        losses = [loss_sum(model, family, batch_of([ids], 0, len(plan))) for ids in held_out if len(ids) > 2]
    learnt = torch.stack([loss for loss, _ in losses]).double().sum() / sum(count for _, count in losses)
    shutil.rmtree(folder, ignore_errors=True)
    model.module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(work)
    return {
        "perplexity": round(learnt.exp().item(), 2),
        "guessed": sum(count for _, count in losses),
        **ngram_perplexities(encoded(text.training, family, tokenizer), held_out, ends=not family.masked),
        "parameters": sum(each.numel() for each in model.parameters()),
        "updates": len(plan),
        "tokens": sum(len(ids) for _, batch in plan for ids in batch),
        "minutes": round(state["seconds"] / 60, 1),
        "precision": precision,
        "processor": processor(),
        "text_sha256": text.sha256,
        "weights_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
    }


def main() -> None:
    """Pretrain what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}; all if none is given")
    parser.add_argument("--data", type=Path, required=True, help="the folder of debsum, debmt and wikifusion")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"read in all, {TOKENS:,} by default")
    given = parser.parse_args()
    if unknown := set(given.families) - set(FAMILIES):
        parser.error(f"no such family: {', '.join(sorted(unknown))}; there are {', '.join(FAMILIES)}")
    text = collect(given.data)
    vocabulary = cache_folder() / "checkpoints" / "miniature--debsum_vocabulary"
    if not (vocabulary / "tokenizer_config.json").exists():
        wordpiece(task_texts(given.data, "debsum")).save_pretrained(vocabulary)
    for name in given.families or FAMILIES:
        if not given.families and (cache_folder() / "checkpoints" / f"miniature--{name}" / "config.json").exists():
            continue
        found = pretrain(name, text, given.tokens)
        with FileLock(cache_folder() / "pretraining.lock"):
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            others = [each for each in results.get(name, []) if each["processor"] != found["processor"]]
            RESULTS.write_text(json.dumps(results | {name: [*others, found]}, indent=1) + "\n")
        print(name, found, flush=True)


if __name__ == "__main__":
    main()
