"""Extracts for windows of sources, where a run's model scores sentences."""

from __future__ import annotations

from collections.abc import Callable

from encdec_lightning.config import Config
from encdec_lightning.data.batches.batch import collate
from encdec_lightning.data.batches.plan import evaluation_plan
from encdec_lightning.data.examples.examples import InMemory
from encdec_lightning.prediction.lines import Answer
from encdec_lightning.records import Pair
from encdec_lightning.training.extractive_module import ExtractiveModule
from encdec_lightning.training.precision import autocast


class ExtractPredictor:
    """What `Predictor` is for texts."""

    several = False
    targets = 1
    """Nothing depends on how many are under way."""

    def __init__(self, module: ExtractiveModule, config: Config, scores: bool) -> None:
        self.scores, self._module, self._config = scores, module, config

    def __call__(self, pairs: list[Pair], first: int, advance: Callable[[], None]) -> list[list[Answer]]:
        """The extract of each source, and the mean probability of its sentences; one that is empty has an empty text.

        What is predicted does not depend on `first`, the number of the first source in the input.
        """
        module, task = self._module, self._config.task
        there = [number for number, pair in enumerate(pairs) if pair.source]
        kept = [pairs[number] for number in there]
        sources = module.tokenizers.encode_sources([pair.source for pair in kept], task.max_source_length)
        labels = [[0] * max(1, ids.count(sources[0][0])) for ids in sources]  # every sentence begins with one token
        examples = InMemory(kept, sources, labels)
        budget = self._config.data.evaluation_batch_tokens or self._config.data.batch_tokens
        answers = {}
        plan = evaluation_plan(examples.lengths, budget, world_size=1) if kept else ()
        for update in plan:
            numbers = update.micro_batches[0][0].tolist()
            batch = collate(examples, numbers, module.tokenizers, update_tokens=1).to(module.device)
            with autocast(self._config.trainer.get("precision"), module.device):
                found = module.extracts(batch)
            for number, (text, score) in zip(numbers, found, strict=True):
                answers[there[number]] = [Answer(text, score)]
                advance()
        for _ in range(len(pairs) - len(there)):
            advance()
        return [answers.get(number, [Answer("", 0.0)]) for number in range(len(pairs))]
