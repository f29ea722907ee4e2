"""Graphs: what is read of them, what the network makes of them, and what is refused."""

from pathlib import Path

import pytest
import torch

from rootfree.data.graphs import GraphSplits, digit_graphs, tu_graphs
from rootfree.models.gin import GIN

RING, PATH = "3 {}\n5 2 1 2\n5 2 0 2\n9 2 0 1\n", "2 {}\n9 1 1\n5 1 0\n"  # label; tags 5 and 9


def read(folder: Path, *graphs: str) -> GraphSplits:
    (folder / "some.txt").write_text(f"{len(graphs)}\n{''.join(graphs)}")
    return tu_graphs(str(folder), "some")


def test_a_file_is_read_as_written_and_labels_are_classes_in_their_order(tmp_path: Path) -> None:
    data = read(tmp_path, *[RING.format(2), PATH.format(-1)] * 20)
    assert data.classes == ("-1", "2")
    assert data.for_model == {"num_classes": 2, "node_features": 2}
    assert [len(part) for part in (data.train, data.val, data.test)] == [32, 4, 4]
    ring = [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 1]]
    path = [[1, 1, 0, 0, 1], [1, 1, 0, 1, 0], [0, 0, 0, 0, 0]]
    for inputs, target in zip(data.val.inputs, data.val.targets, strict=True):
        assert inputs.tolist() == (ring if target == 1 else path)


def test_the_network_sees_neither_the_order_of_nodes_nor_padding() -> None:
    torch.manual_seed(0)
    data = digit_graphs()
    assert [len(part) for part in (data.train, data.val, data.test)] == [1079, 359, 359]
    net, graphs, most = GIN(**data.for_model), data.val.inputs[:8], data.val.inputs.shape[1]
    order = torch.cat([torch.randperm(most), torch.arange(most, most + 3)])
    wide = torch.zeros(8, most + 2, most + 5, dtype=torch.uint8)
    wide[:, :most, :most], wide[:, :most, most + 2 :] = graphs[:, :, :most], graphs[:, :, most:]
    logits = net(graphs)
    torch.testing.assert_close(net(graphs[:, order[:most]][:, :, order]), logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(net(wide), logits, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(net(graphs.flip(0)), logits, atol=0.1)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("0 1\n", "graph 40 of some has no node"),
        ("1 1\n5 0\n", "graph 40 of some has no edge"),
        ("2 1\n5 1 7\n5 0\n", "graph 40 of some has an edge to node 7, and 2 nodes"),
        ("2 1\n5 1 1\n", "graph 40 is not a line 'nodes label' and a line"),
        ("2 one\n5 1 1\n5 1 0\n", "all whole numbers"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, graph: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, *[RING.format(0), PATH.format(1)] * 20, graph)
    with pytest.raises(FileNotFoundError, match=r"has no other\.txt: there is some"):
        tu_graphs(str(tmp_path), "other")
