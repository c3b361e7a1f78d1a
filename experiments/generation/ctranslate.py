"""CTranslate2's side of the benchmark, a process of its own: `convert FOLDER SIZE`, then `serve FOLDER SIZE THREADS`.

`serve` reads lines `TYPE BEAMS` and answers each with the seconds of one run.
"""

from __future__ import annotations

import sys
from pathlib import Path


def convert(folder: Path, size: str) -> None:
    """Write a BART of random weights and convert it."""
    import ctranslate2
    import setting
    import torch
    from tokenizers import Tokenizer, models
    from transformers import BartForConditionalGeneration, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = {f"t{number}": number for number in range(setting.VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t100"))
    names = {"bos_token": "t101", "eos_token": "t102", "pad_token": "t0", "unk_token": "t100"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder / "bart")
    config = setting.bart(size)
    config.normalize_before, config.normalize_embedding = False, True  # the converter reads what transformers 5 dropped
    BartForConditionalGeneration(config).save_pretrained(folder / "bart")
    ctranslate2.converters.TransformersConverter(str(folder / "bart")).convert(str(folder / "ctranslate2"), force=True)


def serve(folder: Path, threads: int) -> None:
    """Answer requests on standard input."""
    import json
    import time

    import ctranslate2

    texts = json.loads((folder / "sources.json").read_text())
    length, at_once = json.loads((folder / "shape.json").read_text())
    texts = [[f"t{token}" for token in text] for text in texts]
    kept: dict[str, ctranslate2.Translator] = {}
    for line in sys.stdin:
        kind, beams = line.split()
        if kind not in kept:
            kept[kind] = ctranslate2.Translator(
                str(folder / "ctranslate2"), device="cpu", compute_type=kind, inter_threads=1, intra_threads=threads
            )
        started = time.perf_counter()
        results = kept[kind].translate_batch(
            texts, beam_size=int(beams), max_batch_size=at_once, min_decoding_length=length, max_decoding_length=length
        )
        seconds = time.perf_counter() - started
        assert all(len(each.hypotheses[0]) == length for each in results)
        print(seconds, flush=True)


if __name__ == "__main__":
    command, folder, rest = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    convert(folder, rest) if command == "convert" else serve(folder, int(rest))
