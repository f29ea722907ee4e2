"""A recurrent network that says of each symbol which one comes next: torch's own LSTM."""

from typing import Annotated

from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn


class LSTM(nn.Module):
    """Embedding, three layers of LSTM (Hochreiter and Schmidhuber 1997), and a linear map to logits.

    Maps symbols (B, T) int64 to logits (B, vocab_size, T). Each window starts from a state of zeros.

    Args:
        vocab_size: number of symbols.
        context: symbols per window; the network takes any number.
        width: of the embedding and of each layer.
        depth: number of layers.
        dropout: between layers.
    """

    def __init__(
        self,
        vocab_size: int,
        context: int,
        width: Annotated[int, Gt(0)] = 128,
        depth: Annotated[int, Gt(0)] = 3,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.layers = nn.LSTM(width, width, depth, batch_first=True, dropout=dropout)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return the logits of what follows each symbol."""
        return self.head(self.layers(self.embedding(symbols))[0]).transpose(1, 2)
