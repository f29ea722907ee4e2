"""A small GPT: a transformer that says of each symbol which one comes next, and looks only back."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

Positive = Annotated[int, Gt(0)]


class GPT(nn.Module):
    """GPT-2's blocks (Radford et al. 2019) at the size of nanoGPT's recipe for a CPU: 4 layers of width 128, no biases.

    Maps symbols (B, T) int64 to logits (B, vocab_size, T), T up to `context`. As in nanoGPT, the head shares the
    embedding's weights, and weights start with a deviation of 0.02, those that end a branch with less.

    Args:
        vocab_size: number of symbols.
        context: how far it can look back, in symbols.
        width: of a token; a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads per block.

    Raises:
        ValueError: if `heads` does not divide `width`.
    """

    def __init__(
        self, vocab_size: int, context: int, width: Positive = 128, depth: Positive = 4, heads: Positive = 4
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"model.width = {width} is not a multiple of model.heads = {heads}")
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, param in self.named_parameters():
            if param.ndim == 2:
                ends_branch = name.endswith(("project.weight", "narrow.weight"))
                nn.init.normal_(param, std=0.02 / (2 * depth) ** 0.5 if ends_branch else 0.02)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return the logits of what follows each symbol."""
        tokens = self.embedding(symbols) + self.positions[: symbols.shape[1]]
        return F.linear(self.norm(self.blocks(tokens)), self.embedding.weight).transpose(1, 2)


class Block(nn.Module):
    """Causal self-attention, then two layers of four times the width, each on normalised tokens and added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.attend, self.project = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.widen, self.narrow = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, T, width) of that shape."""
        query, key, value = (
            self.attend(self.norm_attention(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        tokens = tokens + self.project(attended.transpose(1, 2).flatten(2))
        return tokens + self.narrow(F.gelu(self.widen(self.norm_mlp(tokens))))
