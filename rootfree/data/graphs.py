"""`digit_graphs` and `tu_graphs`: whole graphs, each of a class.

A graph of up to N nodes with F features is a row of one tensor, (N, N + F) uint8: the adjacency matrix, with a one on
the diagonal for each node that is there, and beside it the features. Smaller graphs are padded with zeros.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, Lt

from rootfree.data.division import hold_out
from rootfree.data.splits import PlainSplits, Split, fingerprint

Graph = tuple[np.ndarray, np.ndarray]  # edges (E, 2), features (nodes, F)
Share = Annotated[float, Gt(0), Lt(0.5)]


@dataclass(frozen=True)
class GraphSplits(PlainSplits):
    """Graphs, (nodes, nodes + features) uint8 each, padded."""

    @property
    def for_model(self) -> dict[str, int]:  # noqa: D102
        nodes, columns = self.train.inputs.shape[1:]
        return {"num_classes": len(self.classes), "node_features": columns - nodes}


def digit_graphs(batch_size: Annotated[int, Gt(0)] = 64, held_out: Share = 0.2) -> GraphSplits:
    """Embedded: scikit-learn's 1,797 digits of 8x8 pixels, whose inked pixels are nodes, 10 classes.

    A node's features are its row, its column and its ink, 1 to 16; edges join neighbours, diagonal ones too.

    Args:
        batch_size: graphs per training step.
        held_out: share of the graphs that is test; as many are val.
    """
    from sklearn.datasets import load_digits  # 2 s to import

    pixels, labels = load_digits(return_X_y=True)
    graphs = []
    for ink in pixels.reshape(-1, 8, 8).astype(np.uint8):
        places = np.argwhere(ink)
        near = np.abs(places[:, None] - places).max(-1) == 1
        graphs.append((np.argwhere(near), np.column_stack([places, ink[tuple(places.T)]])))
    return divided("digit_graphs", graphs, labels, batch_size, held_out)


def tu_graphs(root: str, name: str, batch_size: Annotated[int, Gt(0)] = 64, held_out: Share = 0.1) -> GraphSplits:
    """Graphs of the TU collection (Morris et al. 2020) whose nodes have tags, as one text file, `<root>/<name>.txt`.

    The form is that of github.com/muhanzhang/pytorch_DGCNN: the number of graphs; then for each a line `nodes label`,
    and for each of its nodes a line `tag neighbours ...` with the number of neighbours before them. A node's features
    are its tag as zeros and a one. Labels may be any whole numbers: in their order they are the classes.

    Args:
        root: folder of the file.
        name: of the file, and what records and figures call the data.
        batch_size: graphs per training step.
        held_out: share of the graphs that is test; as many are val.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not of this form, or a graph has no node or no edge.
    """
    file = Path(root).expanduser().resolve() / f"{name}.txt"
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in file.parent.glob("*.txt"))) or "no *.txt at all"
        raise FileNotFoundError(f"dataset.root = {root} has no {name}.txt: there is {there}")
    tags, edges, labels = [], [], []
    try:
        rows = [[int(word) for word in line.split()] for line in file.read_text().splitlines()]
        left = iter(rows[1:])
        for _ in range(rows[0][0]):
            nodes, label = next(left)
            own = [next(left) for _ in range(nodes)]
            tags.append([row[0] for row in own])
            edges.append([(i, j) for i, row in enumerate(own) for j in row[2 : 2 + row[1]]])
            labels.append(label)
    except (ValueError, IndexError, StopIteration) as error:
        raise ValueError(f"{file}: graph {len(labels)} is not a line 'nodes label' and a line 'tag neighbours ...' for "
                         "each node, all whole numbers") from error  # fmt: skip
    known = np.unique(np.concatenate(tags)) if tags else np.empty(0)
    graphs = [(np.array(e).reshape(-1, 2), np.equal.outer(t, known)) for e, t in zip(edges, tags, strict=True)]
    return divided(name, graphs, np.array(labels), batch_size, held_out)


def divided(name: str, graphs: list[Graph], labels: np.ndarray, batch_size: int, held_out: float) -> GraphSplits:
    """Pad graphs to the size of the largest, and cut test and val from them by seeded stratified draws.

    Raises:
        ValueError: if a graph has no node or no edge, an edge leads nowhere, or classes are too few or too small.
    """
    for i, (edges, features) in enumerate(graphs):
        for what, count in {"node": len(features), "edge": len(edges)}.items():
            if not count:
                raise ValueError(f"graph {i} of {name} has no {what}: take it out of the file")
        if edges.min() < 0 or edges.max() >= len(features):
            raise ValueError(f"graph {i} of {name} has an edge to node {edges.max()}, and {len(features)} nodes")
    classes, targets = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"{name} has {len(classes)} classes; at least two are needed")
    most = max(len(features) for _, features in graphs)
    inputs = np.zeros((len(graphs), most, most + graphs[0][1].shape[1]), np.uint8)
    for row, (edges, features) in zip(inputs, graphs, strict=True):
        row[edges[:, 0], edges[:, 1]] = row[edges[:, 1], edges[:, 0]] = 1
        row[range(len(features)), range(len(features))] = 1
        row[: len(features), most:] = features
    whole = Split(torch.from_numpy(inputs), torch.from_numpy(targets.astype(np.int64)))
    count, names = round(held_out * len(whole)), tuple(map(str, classes))
    rest, test = hold_out(whole, count, seed=0)
    train, val = hold_out(rest, count, seed=0)
    splits = {"train": train, "val": val, "test": test}
    return GraphSplits(name, names, **splits, fingerprint=fingerprint(splits, names), batch_size=batch_size)
