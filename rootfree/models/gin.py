"""A graph isomorphism network (Xu et al. 2019, "How powerful are graph neural networks?"), on padded graphs."""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

Positive = Annotated[int, Gt(0)]


class GIN(nn.Module):
    """Layers that send each node's sum over itself and its neighbours (epsilon = 0) through two linear maps.

    Maps graphs (B, N, N + node_features), an adjacency matrix with ones on the diagonal for nodes that are there and
    the features beside it, to logits (B, num_classes): the sum over layers of linear maps of the sum over nodes.

    Args:
        num_classes: number of logits.
        node_features: numbers that each node starts with.
        width: numbers per node.
        depth: number of layers.
    """

    def __init__(self, num_classes: int, node_features: int, width: Positive = 32, depth: Positive = 4) -> None:
        super().__init__()
        self.node_features = node_features
        widths = [node_features, *[width] * depth]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(before, width), nn.BatchNorm1d(width), nn.ReLU(),
                          nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())
            for before in widths[:-1]
        )  # fmt: skip
        self.heads = nn.ModuleList(nn.Linear(size, num_classes) for size in widths)

    def forward(self, graphs: Tensor) -> Tensor:
        """Return the logits of each graph."""
        sizes = [graphs.shape[2] - self.node_features, self.node_features]
        adjacency, nodes = graphs.to(next(self.parameters()).dtype).split(sizes, 2)
        there = adjacency.diagonal(dim1=1, dim2=2) > 0  # batch statistics are those of real nodes
        logits = self.heads[0](nodes.sum(1))
        for layer, head in zip(self.layers, self.heads[1:], strict=True):
            found = layer((adjacency @ nodes)[there])
            nodes = torch.zeros(*there.shape, found.shape[1], dtype=found.dtype, device=found.device)
            nodes[there] = found
            logits = logits + head(nodes.sum(1))
        return logits
