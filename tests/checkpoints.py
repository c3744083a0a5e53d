"""Checkpoints with random weights that tests of several folders write."""

from __future__ import annotations

from pathlib import Path

import torch


def save_cross_encoder(folder: Path, tiny_backbone: Path, seed: int = 0, labels: int = 1) -> Path:
    """A ModernBERT with random weights that judges pairs."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_backbone, num_labels=labels)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_backbone).save_pretrained(folder)
    return folder
