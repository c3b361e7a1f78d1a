"""What libraries say that a user of a command can do nothing about, silenced."""

from __future__ import annotations

import logging
import warnings

import transformers


def quiet() -> None:
    """Silence what libraries say that a user of a command can do nothing about."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a run continues
    warnings.filterwarnings("ignore", message="Precision .* is not supported by the model summary.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")  # nobody writes into it
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # the module gathers by itself
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")  # mlflow uses it
    warnings.filterwarnings("ignore", message="The .srun. command is available")  # a login node's, say
