"""The network of the notes, and its weights' file."""

import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from mnist_pipeline.files import InputError
from mnist_pipeline.model import Dropout, Net, Provenance, predict, read_weights, write_weights

ORIGIN = Provenance(dry_run=False, parameters={"seed": 1, "lr": 1.0}, data={"a.gz": "00"})
METADATA = {"provenance": ORIGIN.model_dump_json()}
SHAPES = {
    "conv1.weight": (32, 1, 3, 3),
    "conv1.bias": (32,),
    "conv2.weight": (64, 32, 3, 3),
    "conv2.bias": (64,),
    "fc1.weight": (128, 9216),
    "fc1.bias": (128,),
    "fc2.weight": (10, 128),
    "fc2.bias": (10,),
}


def plain(net: Net, x: Tensor) -> Tensor:
    """The forward pass by sums over windows, in float64, without dropout."""
    state = {name: tensor.double() for name, tensor in net.state_dict().items()}
    x = x.double()
    for layer in ("conv1", "conv2"):
        kernel, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        windows = x.unfold(2, 3, 1).unfold(3, 3, 1)  # (N, C, H, W, 3, 3)
        x = torch.einsum("nchwij,ocij->nohw", windows, kernel) + bias[:, None, None]
        x = x.clamp(min=0)
    x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)).reshape(len(x), -1)
    x = (x @ state["fc1.weight"].T + state["fc1.bias"]).clamp(min=0)
    x = x @ state["fc2.weight"].T + state["fc2.bias"]
    return x - x.exp().sum(1, keepdim=True).log()


def test_tensors_are_the_notes_own():
    """Names and shapes of the classic state_dict; 1,199,882 parameters."""
    net = Net()
    assert {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()} == SHAPES
    assert sum(tensor.numel() for tensor in net.parameters()) == 1_199_882


def test_forward_is_the_notes_formula():
    """Log-probabilities equal those of sums written out, to float32 rounding."""
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(net(x).double(), plain(net, x), rtol=1e-5, atol=1e-5)


def test_dropout_as_in_the_notes():
    """A quarter before the first linear layer and half before the second, in training only."""
    assert [m.p for m in Net().modules() if isinstance(m, nn.Dropout)] == [0.25, 0.5]
    torch.manual_seed(0)
    net, x = Net(), torch.randn(1, 1, 28, 28)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_dropout_zeroes_its_share_and_scales_the_rest():
    """The mean stays, elements are 0 or scaled, the share is p, and the seed decides which."""
    x = torch.ones(4, 25_001)
    for p in (0.25, 0.5):
        torch.manual_seed(0)
        y = Dropout(p)(x)
        assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
        share = (y == 0).double().mean().item()
        assert abs(share - p) < 4 * (p * (1 - p) / x.numel()) ** 0.5
        torch.manual_seed(0)
        assert torch.equal(Dropout(p)(x), y)
        assert not torch.equal(Dropout(p)(x), y)


def test_dropout_of_neighbours_is_independent():
    """Elements that share a random word are zeroed independently of each other."""
    torch.manual_seed(0)
    zeroed = (Dropout(0.5)(torch.ones(100_000, 8)) == 0).double()
    correlation = torch.corrcoef(zeroed.T) - torch.eye(8)
    assert zeroed.mean(0).sub(0.5).abs().max() < 0.01
    assert correlation.abs().max() < 0.02


def test_predict_goes_through_all_images_in_order():
    """Batches of any size give the same answers, on the CPU, in evaluation mode."""
    torch.manual_seed(0)
    net, images = Net(), torch.randint(256, (10, 28, 28), dtype=torch.uint8)
    whole = predict(net, images, batch_size=10)
    assert whole.shape == (10, 10)
    assert not net.training
    torch.testing.assert_close(predict(net, images, batch_size=3), whole)


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


def saved(state: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    return safetensors.torch.save(state, METADATA if metadata is None else metadata)


def state(**changes: Tensor) -> dict[str, Tensor]:
    """A state_dict of Net with some tensors changed: conv1__bias for conv1.bias."""
    changed = {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor.contiguous() for name, tensor in Net().state_dict().items()} | changed


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


NAN = torch.full((10,), torch.nan)
BAD = {
    "truncated": (saved(state())[:-100], "expected weights written by train, found: "),
    "empty": (b"", "expected weights written by train, found: "),
    "pickle": (pickle.dumps(Bomb()), "expected weights written by train, found: "),
    "no metadata": (saved(state(), {}), "expected weights written by train, found: "),
    "NaN": (saved(state(fc2__bias=NAN)), "fc2.bias: expected finite numbers, found NaN"),
    "shape": (saved(state(fc2__bias=torch.zeros(11))), "size mismatch for fc2.bias"),
    "one more": (saved(state(bn=torch.zeros(1))), 'Unexpected key(s) in state_dict: "bn"'),
    "one less": (
        saved({k: v for k, v in state().items() if k != "conv1.bias"}),
        'Missing key(s) in state_dict: "conv1.bias"',
    ),
}


@pytest.mark.parametrize(("content", "says"), BAD.values(), ids=list(BAD))
def test_bad_weights_are_refused(tmp_path, monkeypatch, content, says):
    """File, tensor, expectation and finding; and a pickle by another name never runs."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_weights(path)
    assert str(error.value).startswith(f"{path}: ")
    assert says in str(error.value)
    assert not Path("exploded").exists()


def test_metadata_has_one_key(tmp_path):
    """With several, safetensors writes them in another order in each process."""
    write_weights(tmp_path / "w", Net(), ORIGIN)
    with safetensors.safe_open(tmp_path / "w", framework="pt") as file:
        metadata = file.metadata()
    assert list(metadata) == ["provenance"]
    assert json.loads(metadata["provenance"])["dry_run"] is False
