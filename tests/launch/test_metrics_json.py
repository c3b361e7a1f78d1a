"""What `metrics.json` says of a training."""

from __future__ import annotations

from types import SimpleNamespace

from encdec_lightning.launch.job.metrics_json import training_metrics
from encdec_lightning.training.callbacks.throughput import Throughput, Totals


def test_what_a_training_has_cost_is_what_was_counted() -> None:
    throughput = Throughput()
    throughput.totals = Totals(2.0, 300, 30, flops=8.0, peak_flops=20.0, target_tokens=90)
    counts = {"examples": 1, "fingerprint": "f", "skipped": 2, "dropped_by_preprocessing": 3, "too_long_dropped": 4}
    data = SimpleNamespace(examples=lambda split: SimpleNamespace(meta=counts), micro_batches=1)
    model = SimpleNamespace(composition=SimpleNamespace(encoder=None, decoder=None))
    module = SimpleNamespace(named_parameters=lambda: [], model=model)
    trainer = SimpleNamespace(
        global_step=1, precision="32-true", world_size=1, callbacks=[throughput], checkpoint_callbacks=[]
    )
    found = training_metrics(trainer, module, data)
    names = ("seconds", "examples", "tokens_per_second", "flops", "mfu")
    assert [found[f"train/{name}"] for name in names] == [2.0, 30, 150.0, 8.0, 0.4]
    assert {name: found[f"data/train_{name}"] for name in counts} == counts
