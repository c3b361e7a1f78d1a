"""How much of a language model's generation is the reading of sources, and how much of that is padding.

`python experiments/generation/prefix.py`: GPT-2s of MiniLM's and BERT-base's size with random weights read debsum's
lengths as their prefix, and write 24 tokens or one token; what one token takes is the reading.
"""

from __future__ import annotations

import setting
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from encdec_lightning import Generation, PrefixDecoder
from encdec_lightning.composition.prefix import prefix_decoder
from encdec_lightning.generation import engine


def model(size: str) -> PrefixDecoder:
    """A GPT-2 with random weights."""
    torch.manual_seed(0)
    shape = setting.SIZES[size]
    ends = {"bos_token_id": setting.START, "eos_token_id": setting.END, "pad_token_id": setting.PAD}
    layers, width, heads = (shape[name] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    config = GPT2Config(vocab_size=setting.VOCABULARY, n_layer=layers, n_embd=width, n_head=heads, **ends)
    made = prefix_decoder(GPT2LMHeadModel(config), {})
    for each in (made.config, made.generation_config):
        each.decoder_start_token_id, each.eos_token_id, each.pad_token_id = setting.START, setting.END, setting.PAD
    return made.eval()


def seconds(made: PrefixDecoder, sources: list[torch.Tensor], beams: int, length: int) -> float:
    """The least of three runs."""
    options = Generation(num_beams=beams, min_length=length, max_length=length)
    at_once = setting.AT_ONCE * beams
    made_ready: engine.Engine[int] = engine.Engine(
        made, options, length, targets=at_once, dtype=torch.bfloat16, scores=False
    )
    return min(setting.timed(lambda: dict(made_ready.stream(enumerate(sources)))) for _ in range(3))


def padding(sources: list[torch.Tensor]) -> float:
    """The share of the tokens read that are padding, where all places are free at once."""
    read = real = 0
    for at in range(0, len(sources), setting.AT_ONCE):
        for group in engine._by_length(list(enumerate(sources[at : at + setting.AT_ONCE])), padded=True):
            lengths = [len(ids) for _, ids in group]
            read, real = read + max(lengths) * len(lengths), real + sum(lengths)
    return 1 - real / read


def main() -> None:
    """Print a line for each size and number of beams."""
    for size, count in (("minilm", 128), ("base", 32)):
        made, texts = model(size), [torch.tensor(each) for each in setting.sources(count)]
        read = padding(texts)
        for beams in (1, 4):
            reading, all_of_it = (seconds(made, texts, beams, length) for length in (1, setting.TARGET))
            print(
                f"{size}, beam {beams}: {all_of_it:.2f} s, of which reading {reading / all_of_it:.0%}; "
                f"padding {read:.0%} of that: {read * reading / all_of_it:.1%} of all",
                flush=True,
            )


if __name__ == "__main__":
    main()
