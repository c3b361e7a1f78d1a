"""With dropout on, our training loss and its gradient have the distribution that torch's dropout gives them."""

from __future__ import annotations

import pytest
import tiny
import torch

from encdec_lightning import compose
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.kernels.attention_interface import use_attention
from encdec_lightning.training.loss import TrainingLoss, token_losses

DRAWS = 400


@pytest.mark.slow
def test_losses_and_gradients_are_distributed_as_torchs(files: tiny.Files) -> None:
    torch.manual_seed(5)
    model = compose(files.bert, files.bert, dropout=0.3).train()
    ids, targets = torch.randint(5, 40, (3, 9)), torch.randint(5, 40, (3, 5))
    lengths, target_lengths = torch.tensor([9, 7, 4]), torch.tensor([5, 4, 2])
    batch = Batch((), 3, ids, lengths, targets, targets, target_lengths, 11, 31)
    probe = model.encoder.encoder.layer[0].attention.self.value.weight

    def draws(loss) -> torch.Tensor:
        """(DRAWS, 2): the loss, and one element of a gradient."""
        rows = []
        for _ in range(DRAWS):
            value = loss()
            (gradient,) = torch.autograd.grad(value, probe)
            rows.append(torch.stack([value.detach(), gradient[0, 0]]))
        return torch.stack(rows).double()

    theirs = draws(lambda: token_losses(model, batch).sum())
    use_attention(model)
    fast = TrainingLoss(model)
    ours = draws(lambda: fast(batch))
    error = ((ours.var(0) + theirs.var(0)) / DRAWS).sqrt()
    assert (ours.var(0) > 0).all()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * error).all()
    ratio = ours.var(0) / theirs.var(0)
    assert ((ratio > 0.6) & (ratio < 1.7)).all()  # five standard errors of a ratio of variances
    model.eval()
    sure = token_losses(model, batch).sum().item()
    assert abs(float(ours[:, 0].mean()) - sure) < 0.2 * sure  # neither is far from no dropout
