"""MNIST: its images' size and mean, its classes, its four files with their published SHA-256."""

from pathlib import Path

SIDE = 28  # pixels
SHAPE = (SIDE, SIDE)  # of an image
CLASSES = 10  # the digits 0-9
MEAN, DEVIATION = 0.1307, 0.3081  # of the training images' bytes divided by 255

# Where torchvision.datasets.MNIST(root="data") finds them.
RAW = Path("data/MNIST/raw")
TRAIN_IMAGES = RAW / "train-images-idx3-ubyte.gz"
TRAIN_LABELS = RAW / "train-labels-idx1-ubyte.gz"
TEST_IMAGES = RAW / "t10k-images-idx3-ubyte.gz"
TEST_LABELS = RAW / "t10k-labels-idx1-ubyte.gz"

SHA256 = {
    TRAIN_IMAGES.name: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    TRAIN_LABELS.name: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    TEST_IMAGES.name: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    TEST_LABELS.name: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
