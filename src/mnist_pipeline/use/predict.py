"""Say which digit is on a picture.

python -m mnist_pipeline predict PICTURE...
"""

import argparse
import json
import sys
from pathlib import Path

from mnist_pipeline.files import InputError
from mnist_pipeline.use import network
from mnist_pipeline.use.digit import read_digit

WORDS = "{picture}: {digit} ({probability:.1%}), else {runner_up} ({runner_up_probability:.1%})"


def main() -> None:
    """Print a line a picture; exit status 2 where one could not be read."""
    parser = argparse.ArgumentParser(description="Say which digit is on each picture.")
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    parser.add_argument("--json", action="store_true", help="a line of JSON a picture")
    network.add_options(parser)
    options = parser.parse_args()
    net, refused = network.choose(options), False
    for picture in options.pictures:
        try:
            probabilities = net.probabilities(read_digit(picture))
        except InputError as error:
            print(f"error: {picture}: {error}", file=sys.stderr)
            refused = True  # the others are answered all the same
            continue
        second, first = (int(digit) for digit in probabilities.argsort()[-2:])
        answer = {
            "picture": str(picture),
            "digit": first,
            "probability": round(float(probabilities[first]), 6),
            "runner_up": second,
            "runner_up_probability": round(float(probabilities[second]), 6),
        }
        print(json.dumps(answer) if options.json else WORDS.format(**answer))
    sys.exit(2 if refused else 0)
