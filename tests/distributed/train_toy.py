"""scripts/train.py with a toy in the place of the network, which compiles at once.

python tests/distributed/train_toy.py ARGUMENTS
"""

import sys
from pathlib import Path

from cfg_jax import cli


def main(argv):
    sys.path.append(str(Path(__file__).parents[1]))
    from support import script, toy_instead_of_networks  # while the log is shown as commands do

    with toy_instead_of_networks():
        script('train.py').main(argv)


if __name__ == '__main__':
    cli.run(main)
