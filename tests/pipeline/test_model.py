"""The classic network, and the file of its weights."""

import pytest
import safetensors.torch
import torch

from mnist_pipeline.files import InputError
from mnist_pipeline.model import Net, Provenance, predict, read_weights, write_weights
from mnist_pipeline.parallel import Workers

ORIGIN = Provenance(dry_run=False, parameters={"seed": 1, "lr": 1.0}, data={"a.gz": "00"})
METADATA = {"provenance": ORIGIN.model_dump_json()}


def test_processes_share_the_answers(monkeypatch):
    """Each process answers some batches, zeros elsewhere: the sum is what one alone answers."""
    net, images = Net(), torch.randint(256, (50, 28, 28), dtype=torch.uint8)
    alone = predict(net, images, 8, Workers(1))
    monkeypatch.setattr(Workers, "add", lambda _, parts: parts[0])
    shares = [predict(net, images, 8, Workers(1, rank, 2)) for rank in (0, 1)]
    assert torch.equal(shares[0] + shares[1], alone)
    assert [int((share != 0).any(1).sum()) for share in shares] == [26, 24]


def test_dropout_zeroes_its_share_and_scales_the_rest():
    """A quarter and a half, as in the classic program; the mean stays; the seed decides which."""
    net, x = Net(), torch.ones(4, 25_001)
    for dropout, p in ((net.dropout1, 0.25), (net.dropout2, 0.5)):
        generator = torch.Generator().manual_seed(0)
        y = dropout(x, generator)
        assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
        share = (y == 0).double().mean().item()
        assert abs(share - p) < 4 * (p * (1 - p) / x.numel()) ** 0.5
        assert not torch.equal(dropout(x, generator), y)
        assert torch.equal(dropout(x, generator.manual_seed(0)), y)
        assert torch.equal(dropout.eval()(x, None), x)


def test_weights_come_back_with_their_provenance(tmp_path):
    """Written and read: every tensor and every word; and equal content gives equal bytes."""
    net, path = Net(), tmp_path / "w.safetensors"
    write_weights(path, net, ORIGIN)
    again, provenance = read_weights(path)
    assert provenance == ORIGIN
    for name, tensor in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    write_weights(tmp_path / "other_name", again, provenance)
    assert (tmp_path / "other_name").read_bytes() == path.read_bytes()
    # With several keys, safetensors writes them in another order in each process.
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata() == METADATA


def saved(value: float, size: int = 10, **metadata: str) -> bytes:
    """Weights whose last layer has `size` biases of this value."""
    state = {name: tensor.contiguous() for name, tensor in Net().state_dict().items()}
    return safetensors.torch.save(state | {"fc2.bias": torch.full((size,), value)}, metadata)


BAD = {
    "foreign": (b"weights", "expected weights written by train, found: "),
    "no metadata": (saved(0), "expected weights written by train, found: "),
    "NaN": (saved(torch.nan, **METADATA), "fc2.bias: expected finite numbers, found NaN"),
    "infinity": (saved(torch.inf, **METADATA), "fc2.bias: expected finite"),
    "shape": (saved(0, 11, **METADATA), "size mismatch for fc2.bias"),
}


@pytest.mark.parametrize(("content", "says"), BAD.values(), ids=list(BAD))
def test_bad_weights_are_refused(tmp_path, content, says):
    """File, tensor, expectation and finding."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_weights(path)
    assert str(error.value).startswith(f"{path}: ")
    assert says in str(error.value)
