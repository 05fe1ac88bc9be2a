"""The transformer that two examples train: attention written out in single steps, as exporters see it."""

from typing import Any

import torch
from torch import nn


class Block(nn.Module):  # type: ignore[misc]  # PyTorch is untyped here
    """One layer of Vaswani et al., "Attention Is All You Need" (2017), with the normalization before each part."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.mixed = nn.Linear(width, width)
        self.before_feed_forward = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Any, bias: Any = None) -> Any:
        """`bias` is added to the scores, such as to leave padding out."""
        states = states + self.dropout(self.attention(self.before_attention(states), bias))
        return states + self.dropout(self.feed_forward(self.before_feed_forward(states)))

    def attention(self, states: Any, bias: Any) -> Any:
        query, key, value = (self.split(part(states)) for part in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if bias is not None:
            scores = scores + bias
        mixed = torch.softmax(scores, -1) @ value
        return self.mixed(mixed.transpose(1, 2).flatten(2))

    def split(self, states: Any) -> Any:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class ImageEncoder(nn.Module):  # type: ignore[misc]
    """Reads an image row by row, each row one token."""

    def __init__(self, rows: int, columns: int, classes: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.token = nn.Linear(columns, width)
        self.place = nn.Parameter(torch.randn(rows, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, 4, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes)

    def forward(self, pixels: Any) -> Any:
        states = self.token(pixels.flatten(1, 2)) + self.place
        for block in self.blocks:
            states = block(states)
        return self.classify(self.norm(states).mean(1))


class TextEncoder(nn.Module):  # type: ignore[misc]
    """Reads up to `longest` tokens; token 0 is padding, which nothing attends to and which is left out of the mean."""

    def __init__(self, words: int, longest: int, classes: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.word = nn.Embedding(words, width)
        self.place = nn.Parameter(torch.randn(longest, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, 4, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(width, classes)

    def forward(self, tokens: Any) -> Any:
        is_word = (tokens != 0).float()
        bias = (1 - is_word)[:, None, None] * torch.finfo(torch.float32).min
        states = self.dropout(self.word(tokens) + self.place[: tokens.shape[1]])
        for block in self.blocks:
            states = block(states, bias)
        share = is_word / is_word.sum(1, keepdim=True).clamp(min=1)
        return self.classify(self.dropout((self.norm(states) * share[..., None]).sum(1)))
